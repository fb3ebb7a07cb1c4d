"""A bench of small real images: what it measures, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from vizsla import ConfigError, PictureError, TrainConfig
from vizsla.bench import (
    HEIGHT,
    WIDTH,
    Budget,
    PartTime,
    lines_of,
    make_photographs,
    run_bench,
    seconds_of,
    shown_seconds,
)
from vizsla.bench.results import BenchResult
from vizsla.data.table import resolve_data
from vizsla.train import Display
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from conftest import Done

CONFIG = TrainConfig(arch="test_resnet", size=64, batch_size=4, num_workers=2, device="cpu")
QUIET = Display(quiet=True)
CPU = torch.device("cpu")
PARTS = [
    ("decode", "1 thread"),
    ("presize", "1 thread"),
    ("decode and presize", "1 thread"),
    ("decode and presize", "2 threads"),
    ("decode and presize", "4 threads"),
    ("augmentation", "batches of 4"),
    ("forward", "batches of 4"),
    ("backward", "batches of 4"),
    ("optimiser", "batches of 4"),
    ("whole end-to-end step", "batches of 4"),
    ("whole step, body frozen", "batches of 4"),
    ("forward pass alone", "batches of 4"),
    ("prediction, from the file", "batches of 4"),
    ("prediction, from the file", "one alone"),
]
VARIANTS = ["batches of 8", "batches of 2", "32 pixels"]
"""Measured where there is time."""


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    return resolve_data(image_folder, seed=0)


def bench(table: ImageTable, seconds: float = 1) -> BenchResult:
    return run_bench(table, config=CONFIG, data="pets", seconds=seconds, display=QUIET)


def test_every_part_is_measured_and_nothing_is_written(table: ImageTable, image_folder: Path):
    before = sorted(image_folder.rglob("*"))
    result = bench(table, seconds=2)
    parts = [(part.name, part.how) for part in result.parts]
    assert parts[: len(PARTS)] == PARTS
    measured = [how for _, how in parts[len(PARTS) :] if how != "batches of 4, again"]
    left = [each.removeprefix("end-to-end steps with ") for each in result.not_measured]
    assert sorted([*measured, *left]) == sorted(VARIANTS)
    assert all(part.milliseconds > 0 for part in result.parts)
    for part in result.parts:
        assert part.pictures_per_second == pytest.approx(1000 / part.milliseconds)
    assert (result.num_train, result.num_valid, result.num_classes) == (19, 5, 2)
    assert (result.presize, result.num_workers) == (83, 2)
    assert 16 <= result.num_sampled <= 19
    assert [each.name for each in result.estimates] == [
        "features first, once",
        "a frozen epoch of fine_tune",
        "the first end-to-end epoch",
        "each later end-to-end epoch",
    ]
    assert all(each.seconds > 0 and 0 < each.share <= 1 for each in result.estimates)
    assert sorted(image_folder.rglob("*")) == before


def test_unreadable_images_are_skipped_until_none_is_left(table: ImageTable):
    paths = [table.paths[row] for row in table.train_rows.tolist()]
    paths[0].write_text("no image")
    result = bench(table)
    assert result.num_sampled <= 18
    for path in paths:
        path.write_text("no image")
    with pytest.raises(PictureError, match="not an image: text"):
        bench(table)


def test_too_little_time_is_refused(table: ImageTable):
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"seconds \(--seconds\) .* 1\. "):
            bench(table, seconds=seconds)


def test_lines_have_a_row_for_each_part_and_estimate(table: ImageTable):
    result = bench(table)
    lines = lines_of(result)
    assert lines[0].startswith("test_resnet at 64 pixels, presize 83, batches of 4, fp32, 2 ")
    assert lines[2].split() == ["part", "measured", "with", "ms", "an", "image", "images/s"]
    first = 3 + len(result.parts)
    for line, part in zip(lines[3:first], result.parts, strict=True):
        assert line.startswith(part.name)
    assert lines[first + 1] == "Training on pets (24 images) would take about:"
    assert len(lines[2]) == len(lines[3]) == len(lines[first - 1])


def test_made_up_photographs_are_jpegs_of_two_classes_and_always_the_same(tmp_path: Path):
    done: list[int] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_photographs(tmp_path / name, number=3, on_progress=done.append)
    assert done == [1, 2, 3] * 2
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*.jpg"))
    expected = ("class 0/0000.jpg", "class 0/0002.jpg", "class 1/0001.jpg")
    assert files == list(map(Path, expected))
    for file in files:
        data = (tmp_path / "a" / file).read_bytes()
        assert 20_000 < len(data) < 150_000
        assert data == (tmp_path / "b" / file).read_bytes()
    with Image.open(tmp_path / "a" / files[0]) as image:
        assert image.size == (WIDTH, HEIGHT)


def test_budgets_calls_and_units():
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), within=0.0, device=CPU) >= 0
    assert calls == [1]  # longer than the time, so made once
    budget = Budget(1000.0)
    assert budget.part(0.25) == 250.0
    assert budget.allows(900.0)
    assert not budget.allows(1001.0)
    shown = [shown_seconds(seconds) for seconds in (0.424, 93.4, 150, 7300)]
    assert shown == ["0.42 s", "93 s", "2 min", "2.0 h"]
    assert PartTime.of("a", how="b", seconds=0.0).pictures_per_second == 0


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_json_object(image_folder: Path, vizsla: Callable[..., Done]):
    options = ("--arch", "test_resnet", "--size", "32", "--bs", "4", "--seconds", "1")
    done = vizsla("bench", image_folder, *options, "--json")
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    written = json.loads(line)
    assert (written["data"], written["num_train"]) == (str(image_folder), 19)
    assert (written["arch"], written["size"], written["batch_size"]) == ("test_resnet", 32, 4)
    assert [(part["name"], part["how"]) for part in written["parts"][:2]] == PARTS[:2]


def test_without_data_photographs_are_made_up(vizsla: Callable[..., Done]):
    done = vizsla("bench", "--arch", "test_resnet", "--size", "32", "--bs", "4", "--seconds", "1")
    assert (done.code, done.err) == (0, "")
    text = "Training on photographs like those made up (1,000 images) would take about:"
    assert text in done.out.splitlines()


def test_wrong_words_are_one_message(vizsla: Callable[..., Done]):
    for words, facts in (
        (("nowhere", "--seconds", "0"), ("nowhere",)),
        (("--bs", "0"), ("--bs", "0")),
        (("--arch", "resnet35"), ("resnet35",)),
        (("--device", "tpu"), ("cuda", "tpu")),
    ):
        done = vizsla("bench", *words)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("vizsla: ")
        assert all(fact in done.err for fact in facts)
