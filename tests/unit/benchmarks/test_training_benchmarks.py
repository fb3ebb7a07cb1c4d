"""The benchmarks of training, at the smallest scale: they run, and their tables have the promised rows.

fastai is not needed: where it is missing they measure vizsla alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the source distribution has no benchmarks"
)
NO_WORKERS = ("--quick", "--workers", "0")
SMALL = (*NO_WORKERS, "--size", "32", "--batch-size", "8")


HIDE_FASTAI = """
import importlib.util as util, runpy, sys
find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "fastai" else find(name, *rest)
sys.argv = sys.argv[1:]
runpy.run_module(f"benchmarks.{sys.argv[0]}", run_name="__main__")
"""
Run = Callable[..., str]


@pytest.fixture
def run(python: Callable[..., str]) -> Run:
    """Return a function that runs a benchmark and returns what it printed; fastai is hidden from it."""
    return lambda *words: python("-c", HIDE_FASTAI, *words, cwd=ROOT)


def table_rows(printed: str) -> list[str]:
    """Return the first cells of all table rows but the heads."""
    cells = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell and not set(cell) <= set("-:")]


@pytest.fixture
def parts(image_folder: Path, tmp_path: Path) -> str:
    """The images below ``train`` and ``valid``."""
    root = tmp_path / "parts"
    root.mkdir()
    for part in ("train", "valid"):
        (root / part).symlink_to(image_folder, target_is_directory=True)
    return str(root)


@pytest.mark.slow
def test_parity_compares_errors_and_keeps_runs(run: Run, parts: str, tmp_path: Path):
    kept = tmp_path / "kept.json"
    words = ("accuracy", "parity", f"{parts}:1", *NO_WORKERS, "--json", str(kept))
    assert "parts" in table_rows(run(*words))
    (entry,) = json.loads(kept.read_text())
    assert len(entry["figures"]["values"]) == 2  # one frozen epoch, one unfrozen
    entry["figures"]["values"][-1][-1] = 0.125
    kept.write_text(json.dumps([entry]))
    assert "12.5 (12.5)" in run(*words)


@pytest.mark.slow
def test_recipe_measures_one_pass_and_the_same_passes(run: Run, parts: str):
    printed = run("accuracy", "recipe", f"{parts}:1", *NO_WORKERS)
    assert "recipe, 1 pass: error" in printed
    assert "recipe, same passes: error" in printed


def test_accuracy_without_images_says_what_to_give(run: Run):
    assert "Give FOLDER:EPOCHS" in run("accuracy", "parity")


@pytest.mark.slow
def test_epoch_times_both_epochs_and_the_network_alone(run: Run, parts: str):
    printed = run("speed", "epoch", "--data", parts, *SMALL)
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
def test_tasks_have_a_row_each_and_keep_their_runs(run: Run, parts: str, tmp_path: Path):
    kept = tmp_path / "kept.json"
    words = ("--only", "import", "validate", "load", "--data", parts, "--json", str(kept), *SMALL)
    assert table_rows(run("notebook", *words)) == ["`import *`", "`validate`", "`load_learner`"]
    entries = json.loads(kept.read_text())
    assert [entry["task"] for entry in entries] == ["import", "validate", "load"]
    assert all(entry["figures"]["seconds"] > 0 for entry in entries)
    entries[1]["figures"]["seconds"] = 1234.5
    kept.write_text(json.dumps(entries))
    assert "1,234.50" in run("notebook", *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("speed step --data PARTS", ("one linear layer", "whole step")),
        ("speed predict --data PARTS", ("decode and forward", "vizsla, learn.predict")),
        ("speed imports", ("`import torch`", "`import vizsla`", "`from vizsla.all import *`")),
        ("data growth", ("100", "1,000")),
    ],
)
def test_a_quick_run_has_its_rows(run: Run, words: str, rows: tuple[str, ...], parts: str):
    printed = run(*words.replace("PARTS", parts).split(), "--quick")
    assert set(rows) <= set(table_rows(printed))


@pytest.mark.slow
def test_precompute_times_features_and_epochs(run: Run, parts: str):
    printed = run("speed", "precompute", "--data", parts, *SMALL)
    assert "quick start in all" in table_rows(printed)
    assert not Path(parts, "tmp").exists()


def test_the_interval_and_the_first_good_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.accuracy import first_as_good, half_width

    assert 100 * half_width([0.1, 0.2, 0.3]) == pytest.approx(24.84, abs=0.01)  # Student's t
    assert math.isnan(half_width([0.25]))
    for values, ends, expected in (
        ([[0, 0.5], [0, 0.2], [0, 0.1]], [1.0, 2.0, 3.0], (2.0, 0.8)),
        ([[0, 0.5], [0, 0.4]], [1.0, 2.0], (math.inf, 0.6)),  # never
        ([[0, 0.1], [0, 0.1]], [math.nan, 5.0], (5.0, 0.9)),  # only the end is known
    ):
        found = first_as_good({"values": values, "ends": ends}, wanted=0.8)
        assert (found.seconds, found.accuracy) == pytest.approx(expected)
