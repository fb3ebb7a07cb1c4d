"""Duplicates: copies of files and images that were compressed or scaled anew are found; other images of a class are not."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageFilter

from vizsla.data.images.duplicates import find_duplicates
from vizsla.data.images.facts import image_facts
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from pathlib import Path


def photo(path: Path, *, seed: int) -> Path:
    """Write an image with large soft shapes, as photos have them."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC)
    large.filter(ImageFilter.GaussianBlur(3)).save(path, quality=92)
    return path


def duplicates(valid: list[Path], train: list[Path]) -> list[tuple[int, int, bool]]:
    paths = (*valid, *train)
    table = ImageTable(
        root=paths[0].parent,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("a",),
        train_rows=torch.arange(len(valid), len(paths)),
        valid_rows=torch.arange(len(valid)),
    )
    found = find_duplicates(
        image_facts(table, table.valid_rows, num_workers=0),
        image_facts(table, table.train_rows, num_workers=0),
    )
    return [(each.position, each.train_row, each.is_exact) for each in found]


def test_copies_and_pictures_that_were_saved_anew_are_found(tmp_path: Path):
    train = [photo(tmp_path / f"train_{seed}.jpg", seed=seed) for seed in range(8)]
    valid = [photo(tmp_path / f"valid_{seed}.jpg", seed=100 + seed) for seed in range(3)]
    copy = tmp_path / "copy.jpg"
    shutil.copy(train[5], copy)
    again = tmp_path / "again.jpg"
    with Image.open(train[2]) as image:
        image.resize((130, 98)).save(again, quality=60)
    assert duplicates([*valid, again, copy], train) == [(4, 10, True), (3, 7, False)]


def test_pictures_without_contrast_or_that_cannot_be_read_are_not_compared(tmp_path: Path):
    flat = [tmp_path / "flat_1.png", tmp_path / "flat_2.png"]
    Image.new("RGB", (30, 30), (90, 90, 90)).save(flat[0])
    Image.new("RGB", (31, 30), (90, 90, 90)).save(flat[1])
    broken = [tmp_path / "broken_1.jpg", tmp_path / "broken_2.jpg"]
    for path in broken:
        path.write_bytes(b"")
    assert duplicates([flat[0], broken[0]], [flat[1], broken[1]]) == []


def test_without_training_pictures_there_are_none(tmp_path: Path):
    assert duplicates([photo(tmp_path / "a.jpg", seed=1)], []) == []


def test_pictures_that_are_all_alike_are_no_copies_of_each_other(tmp_path: Path):
    base = Image.open(photo(tmp_path / "base.png", seed=0)).convert("RGB")
    paths: list[Path] = []
    for number in range(14):
        noise = np.random.default_rng(number).integers(-25, 26, (180, 240, 3))
        pixels = np.clip(np.asarray(base).astype(int) + noise, 0, 255).astype(np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    assert duplicates(paths[:2], paths[2:]) == []
