"""The history of a learner, and the file that keeps it."""

from __future__ import annotations

import csv
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from vizsla.errors import OutputError
from vizsla.evaluate.predictions import HistoryPoint
from vizsla.train.recorder import Recorder, save_history

if TYPE_CHECKING:
    from pathlib import Path

POINTS = [
    HistoryPoint(stage="head, 10 pictures", epoch=0, valid_loss=1 / 3, accuracy=0.5, seconds=0.125),
    HistoryPoint(
        stage="end to end",
        epoch=1,
        train_loss=0.1 + 0.2,
        valid_loss=1e-7,
        accuracy=2 / 3,
        seconds=12.5,
    ),
]


def test_every_point_is_a_row_with_numbers_in_full_precision(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", POINTS)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["head, 10 pictures", "end to end"]
    for row, point in zip(rows, POINTS, strict=True):
        assert int(row["epoch"]) == point.epoch
        for name in ("train_loss", "valid_loss", "accuracy", "seconds"):
            value = getattr(point, name)
            assert (float(row[name]) if row[name] else None) == value, name


def test_a_figure_that_a_stage_does_not_have_is_empty(tmp_path: Path):
    lines = save_history(tmp_path / "history.csv", POINTS[:1]).read_text("utf-8").splitlines()
    assert lines[0].split(",") == [column.name for column in fields(HistoryPoint)]
    assert lines[1].startswith('"head, 10 pictures",0,,0.3333333333333333,0.5,0.125')
    assert "None" not in lines[1]


def test_pandas_reads_it(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(save_history(tmp_path / "history.csv", POINTS))
    assert frame["stage"].tolist() == [point.stage for point in POINTS]
    assert frame["train_loss"].isna().tolist() == [True, False]


def test_no_epochs_give_a_header_alone(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", [])
    (line,) = path.read_text("utf-8").splitlines()
    assert line.startswith("stage,epoch,train_loss,valid_loss,accuracy,seconds")


def test_an_old_file_is_untouched_when_the_new_one_cannot_be_written(tmp_path: Path):
    path = save_history(tmp_path / "history.csv", POINTS)
    before = path.read_bytes()

    class Broken:
        """A history that ends in an error."""

        def __iter__(self):
            yield POINTS[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_history(path, Broken())  # pyright: ignore[reportArgumentType] (that is the test)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match=r"missing.*history\.csv"):
        save_history(tmp_path / "missing" / "history.csv", POINTS)


def test_two_recorders_share_nothing():
    first, second = Recorder(), Recorder()
    first.losses.append(1.0)
    first.history.append(POINTS[0])
    assert second.losses == []
    assert second.history == []
