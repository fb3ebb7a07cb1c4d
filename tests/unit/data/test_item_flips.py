"""FlipItem and DihedralItem: the symmetries of the batch transforms, per picture and epoch, in training only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla.augment.geometry import Dihedral, Flip, Rotate
from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.item_transforms import (
    DihedralItem,
    FlipItem,
    ItemPipeline,
    item_pipeline,
    symmetry,
)
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.errors import ConfigError
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def noise(height: int = 9, width: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("number", range(8))
def test_symmetries_of_an_item_are_those_of_a_batch(number: int):
    pixels = noise()
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    expected = Dihedral(p=1.0, draw=number, mode="nearest")(images) * 255
    found = torch.from_numpy(symmetry(pixels, number).copy()).permute(2, 0, 1)
    assert torch.equal(found, expected.round().to(torch.uint8))


def test_a_flip_acts_as_often_as_it_says():
    pixels = noise()
    assert np.array_equal(FlipItem(p=0.3).view(pixels, draws=[0.29]), pixels[:, ::-1])
    assert np.array_equal(FlipItem(p=0.3).view(pixels, draws=[0.3]), pixels)
    assert np.array_equal(DihedralItem(p=0.5).view(pixels, draws=[0.5, 0.3]), pixels)
    turned = DihedralItem(p=0.5).view(pixels, draws=[0.4, 3 / 8])
    assert np.array_equal(turned, np.rot90(pixels))


def test_called_it_acts_at_once_on_arrays_and_pillow_pictures():
    pixels = noise(6, 8)
    assert np.array_equal(FlipItem(p=1)(pixels), pixels[:, ::-1])
    flipped = FlipItem(p=1)(Image.fromarray(pixels))
    assert np.array_equal(np.asarray(flipped), pixels[:, ::-1])
    torch.manual_seed(0)
    shapes = {DihedralItem()(Image.fromarray(pixels)).size for _ in range(40)}
    assert shapes == {(6, 8), (8, 6)}


def test_flips_follow_the_sizing_wherever_they_are_listed():
    def inverted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return 255 - pixels

    pipeline = item_pipeline([FlipItem(), inverted, Resize(24), inverted, DihedralItem()])
    assert pipeline == ItemPipeline(
        before=(inverted,), sizing=Resize(24), after=(FlipItem(), inverted, DihedralItem())
    )
    assert pipeline.functions == (inverted, inverted)
    assert pipeline.num_draws == 4


def test_validation_is_not_flipped_and_training_differs_by_epoch_and_row(picture_folder: Path):
    paths = tuple(sorted(picture_folder.glob("*/*.jpg")))
    table = PictureTable(
        root=picture_folder,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("picture",),
        train_rows=torch.arange(len(paths)),
        valid_rows=torch.arange(len(paths)),
    )

    def pixels_of(*item_tfms: Any, epoch: int = 0, training: bool = True) -> torch.Tensor:
        loaders = DataLoaders(
            table,
            resize=[Resize((24, 32)), *item_tfms],
            device="cpu",
            cache=PictureCache(mode="memory"),
            num_workers=1,
        )
        loader = loaders.loader_for(table.train_rows, training=training)
        (batch,) = loader.batches(epoch=epoch)
        return batch.images[batch.rows.argsort()]

    plain = pixels_of(training=False)
    assert torch.equal(pixels_of(FlipItem(), training=False), plain)
    first, again, second = (pixels_of(FlipItem(), epoch=epoch) for epoch in (0, 0, 1))
    mirrored = [bool(torch.equal(a, b.flip(2))) for a, b in zip(first, plain, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(first, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 4 <= sum(mirrored) <= 20
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("wrong", [[Resize((24, 32)), DihedralItem()], [Flip()], [Rotate()]])
def test_what_cannot_work_is_refused(wrong: Any):
    with pytest.raises(ConfigError, match=r"needs a square size|item_tfms is one Resize"):
        item_pipeline(wrong)
    with pytest.raises(ConfigError, match=r"FlipItem\(p=...\) must be from 0 to 1"):
        FlipItem(1.5)
