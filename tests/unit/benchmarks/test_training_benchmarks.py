"""The benchmarks of training, at the smallest scale: they run, and their tables have the rows that they promise.

fastai is not needed: where it is missing they measure vizsla alone.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the source distribution has no benchmarks"
)


def run(*arguments: str) -> str:
    """Return what a benchmark printed; fastai is hidden from it."""
    module, *options = arguments
    program = (
        "import importlib.util as util, runpy, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'fastai' else find(name, *rest)\n"
        f"sys.argv = {[module, *options]!r}\n"
        f"runpy.run_module('benchmarks.{module}', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table_rows(printed: str) -> list[str]:
    """Return the first cells of all rows of tables but their heads and rules."""
    cells = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell and not set(cell) <= set("-:")]


@pytest.fixture
def parts(image_folder: Path, tmp_path: Path) -> Path:
    """The pictures below ``train`` and ``valid``."""
    root = tmp_path / "parts"
    root.mkdir()
    for part in ("train", "valid"):
        (root / part).symlink_to(image_folder, target_is_directory=True)
    return root


@pytest.mark.slow
def test_parity_compares_errors_and_keeps_runs(parts: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    first = run(
        "accuracy", "parity", f"{parts}:1", "--quick", "--workers", "0", "--json", str(kept)
    )
    assert "parts" in table_rows(first)
    (entry,) = json.loads(kept.read_text())
    assert len(entry["figures"]["values"]) == 2  # one frozen epoch, one unfrozen
    entry["figures"]["values"][-1][-1] = 0.125
    kept.write_text(json.dumps([entry]))
    second = run(
        "accuracy", "parity", f"{parts}:1", "--quick", "--workers", "0", "--json", str(kept)
    )
    assert "12.5 (12.5)" in second


@pytest.mark.slow
def test_recipe_measures_one_pass_and_the_same_passes(parts: Path, tmp_path: Path) -> None:
    printed = run("accuracy", "recipe", f"{parts}:1", "--quick", "--workers", "0")
    assert "recipe, 1 pass: error" in printed
    assert "recipe, same passes: error" in printed


def test_accuracy_without_pictures_says_what_to_give() -> None:
    assert "Give FOLDER:EPOCHS" in run("accuracy", "parity")


@pytest.mark.slow
def test_epoch_times_both_epochs_and_the_network_alone(parts: Path) -> None:
    options = ("--quick", "--data", str(parts), "--size", "32", "--batch-size", "8")
    printed = run("speed", "epoch", *options, "--workers", "0")
    assert table_rows(printed) == [
        "frozen epoch (first), s",
        "unfrozen epoch (later), s",
        "both, s",
        "steps of both alone, s",
        "whole process, s",
        "CPU time of both epochs, s",
        "CPU time of the process, s",
        "peak memory, MB",
    ]
    assert "vizsla / network alone" in printed


@pytest.mark.slow
def test_tasks_have_a_row_each_and_keep_their_runs(parts: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    options = (
        "--quick",
        "--data",
        str(parts),
        "--size",
        "32",
        "--batch-size",
        "8",
        "--workers",
        "0",
    )
    options = (*options, "--only", "import", "validate", "load", "--json", str(kept))
    assert table_rows(run("notebook", *options)) == ["`import *`", "`validate`", "`load_learner`"]
    entries = json.loads(kept.read_text())
    assert [entry["task"] for entry in entries] == ["import", "validate", "load"]
    assert all(entry["figures"]["seconds"] > 0 for entry in entries)
    entries[1]["figures"]["seconds"] = 1234.5
    kept.write_text(json.dumps(entries))
    assert "1,234.50" in run("notebook", *options)


@pytest.mark.parametrize(
    ("values", "ends", "expected"),
    [
        ([[0, 0.5], [0, 0.2], [0, 0.1]], [1.0, 2.0, 3.0], (2.0, 0.8)),
        ([[0, 0.5], [0, 0.4]], [1.0, 2.0], (math.inf, 0.6)),
        ([[0, 0.1], [0, 0.1]], [math.nan, 5.0], (5.0, 0.9)),
    ],
    ids=["reached", "never", "only the end is known"],
)
def test_the_first_model_that_is_as_good_is_found(
    values: list[list[float]], ends: list[float], expected: tuple[float, float]
) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.accuracy import first_as_good
    finally:
        sys.path.remove(str(ROOT))
    found = first_as_good({"values": values, "ends": ends}, wanted=0.8)
    assert (found.seconds, found.accuracy) == pytest.approx(expected)


@pytest.mark.slow
def test_step_has_overhead_prediction_and_breakdown(parts: Path) -> None:
    rows = table_rows(run("speed", "step", "--quick", "--data", str(parts)))
    for row in ("one linear layer", "decode and forward", "vizsla, learn.predict", "whole step"):
        assert row in rows


@pytest.mark.slow
def test_imports_have_a_row_for_each_statement() -> None:
    rows = table_rows(run("speed", "imports", "--quick"))
    assert rows[:3] == ["`import torch`", "`import vizsla`", "`from vizsla.all import *`"]


@pytest.mark.slow
def test_growth_has_a_row_for_each_case() -> None:
    assert table_rows(run("data", "growth", "--quick"))[1:] == ["100", "1,000", "1,000"]


@pytest.mark.slow
def test_precompute_times_features_and_epochs(parts: Path) -> None:
    printed = run("speed", "precompute", "--quick", "--data", str(parts), "--size", "32")
    assert "quick start in all" in table_rows(printed)
    assert not (parts / "tmp").exists()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.1, 0.2, 0.3], 24.84), ([0.25], math.nan)],
)
def test_half_width_is_that_of_students_t(values: list[float], expected: float) -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.accuracy import half_width
    finally:
        sys.path.remove(str(ROOT))
    assert 100 * half_width(values) == pytest.approx(expected, abs=0.01, nan_ok=True)
