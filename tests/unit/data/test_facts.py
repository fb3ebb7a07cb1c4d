"""Facts of image files: upright size, brightness, digest, likeness; small images; duplicates."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from vizsla import Resize
from vizsla.data.cache import ImageCache
from vizsla.data.images import (
    LIKENESS_SIDE,
    ImageNotes,
    ImageReader,
    count_smaller,
    enlarged_text,
    find_copies,
    find_duplicates,
    image_facts,
)
from vizsla.data.table import find_unreadable
from vizsla.types import ImageTable

TableOf = Callable[..., ImageTable]


def test_size_brightness_and_digest_are_those_of_the_file(tmp_path: Path, make_image, table_of):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (30, 20), (51, 51, 51)).save(grey)
    cross = make_image("cross.jpg", size=(48, 64))
    facts = image_facts(table_of([cross, grey]), torch.tensor([1, 0]), num_workers=2)
    assert facts.rows.tolist() == [1, 0]
    assert facts.heights.tolist() == [20, 48]
    assert facts.widths.tolist() == [30, 64]
    assert float(facts.brightness[0]) == pytest.approx(0.2)
    assert facts.digests[1] == hashlib.sha256(cross.read_bytes()).hexdigest()
    assert facts.likenesses.shape == (2, LIKENESS_SIDE**2)
    assert facts.likenesses[0].abs().sum() == 0  # no contrast
    assert float(facts.likenesses[1].square().sum()) == pytest.approx(1, abs=1e-5)
    assert float(facts.likenesses[1].sum()) == pytest.approx(0, abs=1e-4)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path, table_of: TableOf):
    exif, path = Image.Exif(), tmp_path / "turned.jpg"
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (100, 20)).save(path, exif=exif)
    table = table_of([path])
    facts = image_facts(table, torch.tensor([0]), num_workers=0)
    assert (int(facts.heights[0]), int(facts.widths[0])) == (100, 20)
    assert count_smaller(table, torch.arange(1), size=(90, 15)) == 0
    assert count_smaller(table, torch.arange(1), size=(15, 90)) == 1


def test_an_unreadable_file_has_no_facts(tmp_path: Path, table_of: TableOf):
    empty = tmp_path / "empty.jpg"
    empty.touch()
    seen: list[int] = []
    table = table_of([empty, tmp_path / "gone.jpg"])
    facts = image_facts(table, torch.tensor([0, 1]), num_workers=0, on_progress=seen.append)
    assert facts.heights.tolist() == [0, 0]
    assert facts.brightness.isnan().all()
    assert facts.digests == ("", "")
    assert facts.likenesses.abs().sum() == 0
    assert seen == [1, 2]
    nothing = image_facts(table, torch.tensor([], dtype=torch.int64))
    assert nothing.likenesses.shape == (0, LIKENESS_SIDE**2)
    assert nothing.digests == ()


SIZES = [(24, 24), (23, 40), (40, 23), (24, 100), (1, 1), (30, 30)]


@pytest.fixture
def table(tmp_path: Path, table_of: TableOf) -> ImageTable:
    """Images of ``SIZES``, and a file that is missing."""
    paths = [tmp_path / f"{number}.png" for number in range(len(SIZES))]
    for path, (height, width) in zip(paths, SIZES, strict=True):
        Image.new("RGB", (width, height)).save(path)
    return table_of([*paths, tmp_path / "gone.png"])


def test_images_with_a_short_side_are_counted(table: ImageTable):
    rows = torch.arange(7)
    for num_workers in (0, 2, None):
        for some, size, expected in [
            (rows, (24, 24), 3),
            (rows, (1, 1), 0),
            (rows[3:], (24, 24), 1),
            (rows[:0], (24, 24), 0),
        ]:
            assert count_smaller(table, some, size=size, num_workers=num_workers) == expected


def test_sizes_noted_while_reading_are_used(table: ImageTable):
    small = ImageNotes((24, 24))
    reader = ImageReader(resize=Resize(24), cache=ImageCache(mode="memory"), on_decoded=small.note)
    find_unreadable(table, torch.arange(5), reader=reader)
    for path in table.paths[:5]:
        path.unlink()
    assert count_smaller(table, torch.arange(7), size=(24, 24), noted=small) == 3
    assert count_smaller(table, torch.arange(7), size=(31, 31), noted=small) == 1  # the sixth


def test_a_large_jpeg_decoded_at_a_smaller_scale_is_not_small(tmp_path: Path):
    small = ImageNotes((90, 100))
    reader = ImageReader(
        resize=Resize((90, 100)), cache=ImageCache(mode="off"), on_decoded=small.note
    )
    for name, size in (("large.jpg", (1600, 800)), ("narrow.jpg", (99, 800))):
        Image.new("RGB", size).save(tmp_path / name)
        reader.read(tmp_path / name)
    (tmp_path / "large.jpg").unlink()
    assert not small.is_small(tmp_path / "large.jpg")
    assert small.is_small(tmp_path / "narrow.jpg")


def test_the_sentence_counts_the_images():
    assert enlarged_text(0, size=(224, 224)) == ""
    assert enlarged_text(1, size=(224, 200)).startswith("1 image is smaller than 224 x 200")
    assert enlarged_text(1234, size=(9, 9)).startswith("1,234 images are smaller than 9 x 9")


# ── duplicates ────────────────────────────────────────────────────────────────────────────────────────────────────────


def photo(path: Path, *, seed: int) -> Path:
    """Write an image with large soft shapes, as in photos."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC)
    large.filter(ImageFilter.GaussianBlur(3)).save(path, quality=92)
    return path


Found = Callable[[list[Path], list[Path]], list[tuple[int, int, bool]]]


@pytest.fixture
def duplicates(table_of: TableOf) -> Found:
    """Return a function of validation and training images that finds (position, training row, is exact)."""

    def find(valid: list[Path], train: list[Path]) -> list[tuple[int, int, bool]]:
        table = table_of([*valid, *train])
        rows = torch.arange(len(table.paths))
        found = find_duplicates(
            image_facts(table, rows[: len(valid)], num_workers=0),
            image_facts(table, rows[len(valid) :], num_workers=0),
        )
        return [(each.position, each.train_row, each.is_exact) for each in found]

    return find


def test_copies_and_images_that_were_saved_again_are_found(tmp_path: Path, duplicates: Found):
    train = [photo(tmp_path / f"train_{seed}.jpg", seed=seed) for seed in range(8)]
    valid = [photo(tmp_path / f"valid_{seed}.jpg", seed=100 + seed) for seed in range(3)]
    copy = tmp_path / "copy.jpg"
    shutil.copy(train[5], copy)
    again = tmp_path / "again.jpg"
    with Image.open(train[2]) as image:
        image.resize((130, 98)).save(again, quality=60)
    assert duplicates([*valid, again, copy], train) == [(4, 10, True), (3, 7, False)]


def test_flat_and_unreadable_images_are_not_compared(tmp_path: Path, duplicates: Found):
    flat = [tmp_path / "flat_1.png", tmp_path / "flat_2.png"]
    Image.new("RGB", (30, 30), (90, 90, 90)).save(flat[0])
    Image.new("RGB", (31, 30), (90, 90, 90)).save(flat[1])
    broken = [tmp_path / "broken_1.jpg", tmp_path / "broken_2.jpg"]
    for path in broken:
        path.write_bytes(b"")
    assert duplicates([flat[0], broken[0]], [flat[1], broken[1]]) == []
    assert duplicates([photo(tmp_path / "a.jpg", seed=1)], []) == []


def test_similar_images_are_not_copies(tmp_path: Path, duplicates: Found):
    base = Image.open(photo(tmp_path / "base.png", seed=0)).convert("RGB")
    paths: list[Path] = []
    for number in range(14):
        noise = np.random.default_rng(number).integers(-25, 26, (180, 240, 3))
        pixels = np.clip(np.asarray(base).astype(int) + noise, 0, 255).astype(np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    assert duplicates(paths[:2], paths[2:]) == []


def test_files_with_the_same_bytes_are_found_once_by_their_worst_kind(make_image, table_of):
    files = [make_image(f"{place}/{n}.png", number=n) for place in ("cat", "dog") for n in range(6)]
    same_size = [(b"x" * 9000 + bytes([n]) * 3, b"y" * 9000 + bytes([n]) * 3) for n in range(2)]
    for file, data in zip((*files[1:3], *files[7:9]), (*same_size[0], *same_size[1]), strict=True):
        file.write_bytes(data)  # of one size; two and two have the same end
    for copy, original in ((3, 0), (4, 0), (10, 0), (11, 9)):
        files[copy].write_bytes(files[original].read_bytes())
    files[5].unlink()
    files[6].write_bytes(b"")
    table = table_of(files, train=[0, 1, 2, 3, 9], valid=[4, 7, 8, 11])
    different, across = find_copies(table, num_workers=2)
    assert (different.kind, different.num_images, different.num_files) == ("different labels", 1, 4)
    assert different.examples == (
        (("cat/0.png", "cat"), ("cat/3.png", "cat"), ("cat/4.png", "cat"), ("dog/4.png", "dog")),
    )
    assert (across.kind, across.examples) == (
        "across sets",
        ((("dog/3.png", "dog"), ("dog/5.png", "dog")),),
    )
    assert "'dog/3.png' = 'dog/5.png'" in across.line()
    (within,) = find_copies(table_of([files[0], files[3]], train=[0, 1]), num_workers=0)
    assert (within.kind, within.num_files) == ("within a set", 2)
    assert find_copies(table_of(files[:3], train=[0, 1, 2])) == ()
