"""Facts of picture files: size as seen, brightness, digest, and likeness."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.facts import (
    LIKENESS_SIDE,
    SmallImages,
    count_smaller,
    enlarged_text,
    image_facts,
)
from vizsla.data.images.reader import ImageReader
from vizsla.data.images.sizing import Resize
from vizsla.data.table.check import find_unreadable
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def table_of(*paths: Path) -> ImageTable:
    return ImageTable(
        root=paths[0].parent,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("a",),
        train_rows=torch.arange(len(paths)),
        valid_rows=torch.arange(0),
    )


def test_size_brightness_and_digest_are_those_of_the_file(
    tmp_path: Path, make_image: Callable[..., Path]
):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (30, 20), (51, 51, 51)).save(grey)
    cross = make_image("cross.jpg", size=(48, 64))
    facts = image_facts(table_of(cross, grey), torch.tensor([1, 0]), num_workers=2)
    assert facts.rows.tolist() == [1, 0]
    assert facts.heights.tolist() == [20, 48]
    assert facts.widths.tolist() == [30, 64]
    assert float(facts.brightness[0]) == pytest.approx(0.2)
    assert facts.digests[1] == hashlib.sha256(cross.read_bytes()).hexdigest()
    assert facts.likenesses.shape == (2, LIKENESS_SIDE**2)
    assert facts.likenesses[0].abs().sum() == 0  # no contrast
    assert float(facts.likenesses[1].square().sum()) == pytest.approx(1, abs=1e-5)
    assert float(facts.likenesses[1].sum()) == pytest.approx(0, abs=1e-4)


def test_a_picture_taken_on_its_side_has_its_upright_size(tmp_path: Path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "white").save(path, exif=exif)
    facts = image_facts(table_of(path), torch.tensor([0]), num_workers=0)
    assert (int(facts.heights[0]), int(facts.widths[0])) == (40, 20)


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path):
    empty = tmp_path / "empty.jpg"
    empty.touch()
    seen: list[int] = []
    facts = image_facts(
        table_of(empty, tmp_path / "gone.jpg"),
        torch.tensor([0, 1]),
        num_workers=0,
        on_progress=seen.append,
    )
    assert facts.heights.tolist() == [0, 0]
    assert facts.brightness.isnan().all()
    assert facts.digests == ("", "")
    assert facts.likenesses.abs().sum() == 0
    assert seen == [1, 2]


def test_no_rows_give_empty_facts(tmp_path: Path):
    facts = image_facts(table_of(tmp_path / "a.jpg"), torch.tensor([], dtype=torch.int64))
    assert facts.likenesses.shape == (0, LIKENESS_SIDE**2)
    assert facts.digests == ()


SIZES = [(24, 24), (23, 40), (40, 23), (24, 100), (1, 1), (30, 30)]


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    paths = [tmp_path / f"{number}.png" for number in range(len(SIZES))]
    for path, (height, width) in zip(paths, SIZES, strict=True):
        Image.new("RGB", (width, height)).save(path)
    return ImageTable(
        root=tmp_path,
        paths=(*paths, tmp_path / "gone.png"),
        targets=torch.zeros(7, dtype=torch.int64),
        vocab=("a",),
        train_rows=torch.arange(7),
        valid_rows=torch.zeros(0, dtype=torch.int64),
    )


@pytest.mark.parametrize("num_workers", [0, 2, None])
def test_pictures_with_a_side_shorter_than_the_size_are_counted(
    table: ImageTable, num_workers: int | None
):
    rows = torch.arange(7)
    assert count_smaller(table, rows, size=(24, 24), num_workers=num_workers) == 3
    assert count_smaller(table, rows, size=(1, 1), num_workers=num_workers) == 0
    assert count_smaller(table, rows[3:], size=(24, 24), num_workers=num_workers) == 1
    assert count_smaller(table, rows[:0], size=(24, 24), num_workers=num_workers) == 0


def test_a_picture_that_lies_on_its_side_counts_as_it_will_be_seen(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 20)).save(tmp_path / "0.jpg", exif=exif)
    table = ImageTable(
        root=tmp_path,
        paths=(tmp_path / "0.jpg",),
        targets=torch.zeros(1, dtype=torch.int64),
        vocab=("a",),
        train_rows=torch.arange(1),
        valid_rows=torch.zeros(0, dtype=torch.int64),
    )
    assert count_smaller(table, torch.arange(1), size=(90, 15)) == 0
    assert count_smaller(table, torch.arange(1), size=(15, 90)) == 1


def test_what_was_noted_while_reading_is_not_looked_up_again(table: ImageTable):
    small = SmallImages((24, 24))
    reader = ImageReader(resize=Resize(24), cache=ImageCache(mode="memory"), on_decoded=small.note)
    find_unreadable(table, torch.arange(5), reader=reader)
    for path in table.paths[:5]:
        path.unlink()
    assert count_smaller(table, torch.arange(7), size=(24, 24), noted=small) == 3
    assert count_smaller(table, torch.arange(7), size=(31, 31), noted=small) == 1  # the sixth


def test_a_large_jpeg_that_is_decoded_at_a_scale_is_not_taken_for_a_small_one(tmp_path: Path):
    small = SmallImages((90, 100))
    reader = ImageReader(
        resize=Resize((90, 100)), cache=ImageCache(mode="off"), on_decoded=small.note
    )
    for name, size in (("large.jpg", (1600, 800)), ("narrow.jpg", (99, 800))):
        Image.new("RGB", size).save(tmp_path / name)
        reader.read(tmp_path / name)
    (tmp_path / "large.jpg").unlink()
    assert not small.is_small(tmp_path / "large.jpg")
    assert small.is_small(tmp_path / "narrow.jpg")


def test_the_sentence_agrees_with_its_number():
    assert enlarged_text(0, size=(224, 224)) == ""
    assert enlarged_text(1, size=(224, 200)) == (
        "1 image is smaller than 224 x 200 pixels and will be enlarged."
    )
    assert enlarged_text(1234, size=(9, 9)).startswith("1,234 images are smaller than 9 x 9")
