"""A JPEG that ends too early, through the loaders: refused with its name, or taken as far as it goes, everywhere alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vizsla import DataLoaders, PictureError, Resize, aug_transforms
from vizsla.data.cache import CacheMode, ImageCache
from vizsla.data.images import Truncated
from vizsla.types import ImageTable

CUT = 5


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    paths = tuple(sorted(image_folder.glob("*/*.jpg")))
    Image.effect_noise((64, 48), 60).convert("RGB").save(paths[CUT], quality=95)
    data = paths[CUT].read_bytes()
    paths[CUT].write_bytes(data[: len(data) // 2])
    return ImageTable(
        root=image_folder,
        paths=paths,
        targets=torch.arange(len(paths)) % 2,
        vocab=("even", "odd"),
        train_rows=torch.arange(12),
        valid_rows=torch.arange(12),
    )


def loaders_of(
    table: ImageTable,
    truncated: Truncated,
    *,
    cache: CacheMode = "memory",
    folder: Path | None = None,
) -> DataLoaders:
    return DataLoaders(
        table,
        resize=Resize(48),
        transforms=aug_transforms(size=32),
        batch_size=6,
        device="cpu",
        cache=ImageCache(mode=cache, folder=folder),
        truncated=truncated,
    )


def test_strict_loaders_name_the_file_in_training_and_validation(table: ImageTable):
    loaders = loaders_of(table, "strict")
    for loader in loaders:
        with pytest.raises(PictureError) as caught:
            list(loader.batches())
        assert f"{table.paths[CUT]}: damaged: the file is truncated" in str(caught.value)


@pytest.mark.parametrize("cache", ["memory", "disk", "device", "off"])
def test_lenient_loaders_show_what_is_there(table: ImageTable, tmp_path: Path, cache: CacheMode):
    folder = tmp_path / "cache"
    lenient = loaders_of(table, "ok", cache=cache, folder=folder)
    for epoch in (0, 1):
        found = torch.cat([batch.images for batch in lenient.valid.batches(epoch=epoch)])
        shown = found[CUT].permute(1, 2, 0).numpy()
        assert np.ptp(shown[:8]) > 0.3
        assert np.ptp(shown[-4:], axis=(0, 1)).max() < 0.02
        assert len(list(lenient.train.batches(epoch=epoch))) == 2
    others = torch.tensor([row for row in range(12) if row != CUT])
    strict = loaders_of(table, "strict", cache=cache, folder=folder)
    expected = torch.cat([batch.images for batch in strict.loader_for(others).batches()])
    assert torch.equal(found[others], expected)
    with pytest.raises(PictureError, match="the file is truncated"):
        list(
            strict.valid.batches()
        )  # What the lenient loaders have cached is not for the strict ones.
