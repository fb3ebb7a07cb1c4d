"""Facts of picture files: size as seen, brightness, digest, and likeness."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla.data.images.facts import LIKENESS_SIDE, picture_facts
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def table_of(*paths: Path) -> PictureTable:
    return PictureTable(
        root=paths[0].parent,
        paths=paths,
        targets=torch.zeros(len(paths), dtype=torch.int64),
        vocab=("a",),
        train_rows=torch.arange(len(paths)),
        valid_rows=torch.arange(0),
    )


def test_size_brightness_and_digest_are_those_of_the_file(
    tmp_path: Path, make_picture: Callable[..., Path]
):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (30, 20), (51, 51, 51)).save(grey)
    cross = make_picture("cross.jpg", size=(48, 64))
    facts = picture_facts(table_of(cross, grey), torch.tensor([1, 0]), num_workers=2)
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
    facts = picture_facts(table_of(path), torch.tensor([0]), num_workers=0)
    assert (int(facts.heights[0]), int(facts.widths[0])) == (40, 20)


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path):
    empty = tmp_path / "empty.jpg"
    empty.touch()
    seen: list[int] = []
    facts = picture_facts(
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
    facts = picture_facts(table_of(tmp_path / "a.jpg"), torch.tensor([], dtype=torch.int64))
    assert facts.likenesses.shape == (0, LIKENESS_SIDE**2)
    assert facts.digests == ()
