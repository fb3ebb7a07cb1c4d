"""The solar cells of the package elpv-dataset: counts, split, licence, and what happens without the package."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.metadata import metadata
from typing import TYPE_CHECKING

import pytest

from vizsla.data.table.demo_data import SOLAR_CELLS, solar_cells
from vizsla.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

    from vizsla.types import PictureTable


@pytest.fixture(scope="module")
def cells() -> PictureTable:
    pytest.importorskip("elpv_dataset", reason="the extra demo is not installed")
    return solar_cells(seed=0)


def test_the_cells_are_those_of_the_paper(cells: PictureTable):
    assert cells.vocab == ("defective", "functional")
    assert Counter(map(cells.label, range(len(cells.paths)))) == {
        "functional": 1803,
        "defective": 821,
    }
    assert cells.shown_path(0) == "images/cell0001.png"
    assert all(path.is_file() for path in cells.paths)


def test_a_quarter_is_held_out_with_equal_parts_of_classes_and_cell_types(cells: PictureTable):
    assert (len(cells.train_rows), len(cells.valid_rows)) == (1968, 656)
    assert len({*cells.train_rows.tolist(), *cells.valid_rows.tolist()}) == 2624
    types = [line.split()[2] for line in (cells.root / "labels.csv").read_text().splitlines()]
    strata = Counter((cells.label(row), types[row]) for row in cells.valid_rows.tolist())
    whole = Counter((cells.label(row), types[row]) for row in range(2624))
    assert all(abs(strata[stratum] - count / 4) < 1 for stratum, count in whole.items())


def test_the_split_follows_from_the_seed(cells: PictureTable):
    assert solar_cells(seed=0).valid_rows.equal(cells.valid_rows)
    assert not solar_cells(seed=1).valid_rows.equal(cells.valid_rows)


def test_the_licence_is_the_one_that_the_package_states(cells: PictureTable):
    stated = metadata("elpv-dataset")["License-Expression"]
    assert stated == "CC-BY-NC-SA-4.0 AND Apache-2.0"  # the images, and the code of the package
    assert SOLAR_CELLS.licence == "CC BY-NC-SA 4.0"
    assert "commercial" in SOLAR_CELLS.terms


def test_the_published_results_are_stated():
    assert [result.accuracy for result in SOLAR_CELLS.published] == [0.8244, 0.8842]
    assert "arXiv:1807.02894" in SOLAR_CELLS.citation[-1]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(MissingExtraError, match="pip install elpv-dataset"):
        solar_cells(seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("images/a.png 1.0\n", "three columns"),
        (
            "images/a.png high mono\n",
            "row 1: the defect probability is no number. Received: 'high'",
        ),
    ],
)
def test_a_damaged_package_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
):
    (tmp_path / "elpv_dataset" / "data").mkdir(parents=True)
    (tmp_path / "elpv_dataset" / "__init__.py").touch()
    if text is not None:
        (tmp_path / "elpv_dataset" / "data" / "labels.csv").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with pytest.raises(DataError, match=message):
        solar_cells(seed=0)
