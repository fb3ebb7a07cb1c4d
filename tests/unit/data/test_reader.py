"""PictureReader and item transforms through the loaders: what is cached, what is called anew, what an error names."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.table.check import find_unreadable
from vizsla.data.table.factories import ImageDataLoaders
from vizsla.errors import ConfigError, DataError, PictureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.data.images.decode import Truncated
    from vizsla.data.images.item_transforms import ItemTransforms


def reader_of(transforms: ItemTransforms, **options: Any) -> PictureReader:
    return PictureReader(resize=transforms, cache=PictureCache(mode="memory"), **options)


def loaders_of(folder: Path, transforms: ItemTransforms, *, num_workers: int = 2) -> DataLoaders:
    return ImageDataLoaders.from_folder(
        folder,
        valid_pct=0.25,
        seed=1,
        item_tfms=transforms,
        bs=4,
        device="cpu",
        num_workers=num_workers,
    )


def inverted(pixels: np.ndarray) -> np.ndarray:
    return 255 - pixels


class Counter:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.calls += 1
        return pixels


def test_a_function_works_on_validation_and_training_pictures_alike(
    make_picture: Callable[..., Path],
):
    path = make_picture("a.png", size=(30, 40))
    plain, reader = reader_of(Resize(24)), reader_of([Resize(24), inverted])
    assert np.array_equal(reader.read(path), 255 - plain.read(path))
    window = plain.read_window(path, draws=[0.3])
    assert np.array_equal(reader.read_window(path, draws=[0.3]), 255 - window)
    assert np.array_equal(reader.prepare(Image.open(path)), 255 - plain.read(path))


def test_functions_after_the_resize_are_called_anew_and_what_is_cached_stays(
    make_picture: Callable[..., Path],
):
    path, counter = make_picture("a.png"), Counter()
    reader = reader_of([Resize(24), inverted, counter])
    first, second = reader.read(path), reader.read(path)
    assert counter.calls == 2
    assert np.array_equal(first, second)


def test_what_a_function_before_the_resize_makes_is_not_cached(make_picture: Callable[..., Path]):
    path, counter = make_picture("a.png"), Counter()
    reader = reader_of([counter, Resize(24)])
    assert np.array_equal(reader.read(path), reader_of(Resize(24)).read(path))
    reader.read(path)
    assert counter.calls == 2
    assert "0 pictures" in reader.cache.describe()


def test_an_error_of_a_function_names_file_and_function_through_the_threads(picture_folder: Path):
    def careless(pixels: np.ndarray) -> np.ndarray:
        raise RuntimeError("not for me")

    loaders = loaders_of(picture_folder, [Resize(24), careless])
    with pytest.raises(
        ConfigError, match=r"careless failed on the picture .*\d\.jpg: RuntimeError: not for me"
    ):
        list(loaders.valid.batches())


@pytest.mark.parametrize(
    "transforms",
    [
        RandomResizedCrop(24, min_scale=0.3),
        RandomCrop((20, 28)),
        CropPad(70),
        [inverted, Resize(24)],
        [Resize(24), np.ascontiguousarray],
    ],
)
def test_training_views_depend_on_neither_workers_nor_cache_nor_batch_size(
    picture_folder: Path, transforms: ItemTransforms
):
    def by_row(loaders: DataLoaders, epoch: int = 0) -> dict[int, bytes]:
        return {
            row: image.numpy().tobytes()
            for batch in loaders.train.loader.batches(epoch=epoch)
            for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
        }

    loaders = loaders_of(picture_folder, transforms)
    first = by_row(loaders)
    again = by_row(loaders_of(picture_folder, transforms, num_workers=0))
    assert {row: first[row] for row in first.keys() & again.keys()} == {
        row: again[row] for row in first.keys() & again.keys()
    }
    assert by_row(loaders) == first  # this time from the cache


def test_random_resized_crops_move_between_epochs_and_reach_the_network(picture_folder: Path):
    loaders = loaders_of(picture_folder, RandomResizedCrop(24, min_scale=0.3))
    assert loaders.final_size == (24, 24)
    batches = [next(loaders.train.loader.batches(epoch=epoch)) for epoch in (0, 0, 1)]
    assert batches[0].images.shape == (4, 3, 24, 24)
    assert torch.equal(batches[0].images, batches[1].images)
    images, targets = loaders.one_batch()
    assert (images.shape, targets.shape) == ((4, 3, 24, 24), (4,))
    valid = next(loaders.valid.batches())
    expected = RandomResizedCrop(24).centred(Image.open(loaders.table.paths[int(valid.rows[0])]))
    found = (valid.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(found, np.asarray(expected))


def test_ratio_resize_keeps_shapes_so_mixed_batches_are_refused(
    picture_folder: Path, make_picture: Callable[..., Path]
):
    make_picture("pictures/disc/tall.jpg", size=(90, 30))
    loaders = loaders_of(picture_folder, RatioResize(24))
    assert loaders.final_size is None
    with pytest.raises(
        DataError, match=r"18 x 24 .*; 24 x 8 .*tall\.jpg|24 x 8 .*tall\.jpg.*; 18 x 24"
    ):
        list(loaders.loader_for(torch.tensor([0, 24])).batches())


# ── files that end too early ──────────────────────────────────────────────────────────────────────────────────────────


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    return path


def test_truncated_jpegs_are_bad_unless_they_are_wanted(make_picture: Callable[..., Path]):
    path = cut_short(make_picture("a.jpg"))
    with pytest.raises(PictureError, match="truncated"):
        reader_of(Resize(24)).read(path)
    assert reader_of(Resize(24), truncated="ok").read(path).shape == (24, 24, 3)


def test_readers_that_differ_about_truncated_jpegs_share_no_pixels(
    make_picture: Callable[..., Path],
):
    path = cut_short(make_picture("a.jpg"))
    cache = PictureCache(mode="memory")
    PictureReader(resize=Resize(24), cache=cache, truncated="ok").read(path)
    with pytest.raises(PictureError, match="truncated"):
        PictureReader(resize=Resize(24), cache=cache).read(path)


def test_loaders_take_truncated_jpegs_where_asked_to(picture_folder: Path):
    table = loaders_of(picture_folder, Resize(24)).table
    cut_short(table.paths[0])
    rows = torch.arange(len(table.paths))
    expected: dict[Truncated, int] = {"strict": 1, "ok": 0}
    for truncated, number in expected.items():
        loaders = DataLoaders(table, resize=Resize(24), device="cpu", truncated=truncated)
        assert len(find_unreadable(table, rows, reader=loaders.reader)) == number


# ── names and shapes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_odd_names_and_shapes_go_all_the_way_into_a_batch(
    picture_folder: Path, make_picture: Callable[..., Path]
):
    names = ["with space.png", "quo'te\".png", "new\nline.png", "été 犬.png"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"caf\xe9.png"))
    for number, name in enumerate(names):
        make_picture(f"pictures/disc/{name}", number=number)
    for number, size in enumerate([(1, 1), (10, 20_000), (20_000, 10), (3, 5)]):
        make_picture(f"pictures/cross/shape_{number}.png", size=(48, 64))
        Image.new("RGB", (size[1], size[0])).save(picture_folder / f"cross/shape_{number}.png")
    loaders = loaders_of(picture_folder, Resize(24))
    rows = torch.arange(len(loaders.table.paths))
    assert len(rows) == 24 + len(names) + 4
    for training in (False, True):
        batches = list(loaders.loader_for(rows, training=training).batches())
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == rows.tolist()
        assert all(batch.images.shape[1:] == (3, 24, 24) for batch in batches)
