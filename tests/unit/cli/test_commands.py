"""``vizsla cache``, ``train --profile``, and too little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vizsla import Resize
from vizsla.data.cache import ImageCache, ImageKey
from vizsla.model_file import save_bundle
from vizsla.train import STEP_PHASES, VALIDATION

if TYPE_CHECKING:
    from conftest import Done


OUT_OF_MEMORY = """
import os, resource, sys
from pathlib import Path
import numpy as np
from vizsla import Predictor
from vizsla.cli.app import main
Predictor.load(sys.argv[1], device="cpu").predict(np.zeros((4, 4, 3), np.uint8))  # What is imported late is here now.
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
sys.argv[1:] = ["predict", *sys.argv[2:], "--device", "cpu", "--workers", "1"]
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory and reads /proc")
def test_a_command_that_runs_out_of_memory_says_during_what(
    tmp_path: Path, make_classifier: Any, make_image: Callable[..., Path]
):
    small, large = (
        save_bundle(tmp_path / f"{side}.safetensors", classifier=make_classifier(("a", "b")), resize=Resize((side, 2048)))
        for side in (4, 4096)
    )  # fmt: skip
    words = (sys.executable, "-c", OUT_OF_MEMORY, small, large, make_image("a.png"))
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    said = "vizsla: Out of memory while predicting 1 image of 4096 x 2048 pixels ("
    assert done.stderr.startswith(said), done.stderr


@pytest.fixture
def filled_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A VIZSLA_HOME whose cache holds three images."""
    monkeypatch.setenv("VIZSLA_HOME", str(tmp_path))
    cache = ImageCache(mode="disk")
    for number in range(3):
        key = ImageKey(path=str(number), num_bytes=1, modified_ns=2, preparation="whole")
        cache.keep(key, np.zeros((300, 300, 3), np.uint8))
    return tmp_path


def test_cache_shows_place_size_and_budget(filled_home: Path, vizsla: Callable[..., Done]):
    result = vizsla("cache")
    assert result.code == 0
    place, size, budget = result.out.splitlines()
    assert place == f"place   {filled_home / 'cache' / 'pictures'}"
    assert size == "size    0.8 MB, 3 images"
    assert budget.startswith("budget  ")
    assert "a quarter of the space" in budget


def test_cache_clear_removes_the_images(
    filled_home: Path, monkeypatch: pytest.MonkeyPatch, vizsla: Callable[..., Done]
):
    result = vizsla("cache", "--clear")
    assert result.code == 0
    folder = filled_home / "cache" / "pictures"
    assert result.out == f"Removed 3 images, 0.8 MB, from {folder}\n"
    assert list(folder.iterdir()) == []
    assert vizsla("cache").out.splitlines()[1] == "size    0.0 MB, 0 images"
    monkeypatch.setenv("VIZSLA_HOME", str(filled_home / "none"))
    for arguments in (["cache"], ["cache", "--clear"]):
        assert vizsla(*arguments).code == 0
    assert not (filled_home / "none").exists()  # looking makes no folder


def test_a_profile_is_printed_and_a_seventh_file_of_the_run(
    vizsla: Callable[..., Done], image_folder: Path, tmp_path: Path
):
    out = tmp_path / "run"
    options = ("--size", "32", "--epochs", "1", "--bs", "8", "--precision", "fp32")
    done = vizsla("train", image_folder, *options, "--profile", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert len(list(out.iterdir())) == 7
    written = json.loads((out / "profile.json").read_text("utf-8"))
    stages = written["stages"]
    assert [(stage["stage"], stage["unit"], stage["number"]) for stage in stages] == [
        ("loading the network", "images", 24),
        ("reading images", "images", 24),
        ("features first", "images", 24),
        ("end to end", "steps", 2),
        ("results", "images", 24),
    ]
    assert written["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages))
    for stage in stages:
        parts = [part["seconds"] for part in stage["phases"]]
        assert stage["seconds"] == pytest.approx(sum(parts))
        assert min(parts) >= 0
    assert [part["phase"] for part in stages[3]["phases"]] == [*STEP_PHASES, VALIDATION]
    printed = done.out.partition("where the time went")[2]
    for line in ("\nreading images, 24 images", "\nend to end, 2 steps", "\n  fitting the head"):
        assert line in printed
