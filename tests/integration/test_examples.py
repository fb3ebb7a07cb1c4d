"""The examples run as programs, warnings being errors, and arrive at their numbers and figures."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

Python = Callable[..., str]

TESTS = Path(__file__).resolve().parents[1]
EXAMPLES = TESTS.parent / "examples"
GOLDEN = json.loads((TESTS / "golden" / "interp.json").read_text("utf-8"))["cross_entropy"]


@pytest.mark.slow
def test_cross_entropy_gives_the_table_and_the_mean_of_the_lessons(python: Python, tmp_path: Path):
    out = tmp_path / "figure.png"
    printed = python("-W", "error", EXAMPLES / "cross_entropy.py", "--out", out)
    table = re.findall(r"^ +(\d)  ([\d.]+)  ([\d.]+) +(\d)  ([\d.]+)  ([\d.]+)$", printed, re.M)
    assert [int(row[0]) for row in table] == list(range(6))
    assert [int(row[3]) for row in table] == GOLDEN["targ"]
    for row, softmax, loss in zip(table, GOLDEN["softmax"], GOLDEN["ce_none"], strict=True):
        expected = [*softmax, softmax[int(row[3])], loss]
        found = [float(row[place]) for place in (1, 2, 4, 5)]
        assert found == pytest.approx(expected, abs=2e-6)
    for line in (
        r"mean loss, from its parts: 1\.8045",
        r"F\.cross_entropy: +1\.8045",
        r"F\.nll_loss of log_softmax: 1\.8045",
        r"from its parts, far off: +inf",
        r"F\.cross_entropy, far off: +120\.0000",
    ):
        assert re.search(f"{line}$", printed, re.M), line
    differences = re.findall(r"largest difference .*: (\S+)$", printed, re.M)
    assert len(differences) == 2
    assert all(float(difference) < 1e-6 for difference in differences)
    with Image.open(out) as figure:
        assert figure.size == (1200, 380)


def check_presizing(printed: str, drawn: Path) -> None:
    with Image.open(drawn) as figure:
        assert figure.size == (1320, 924)
    composed, one_by_one = map(float, re.findall(r"fine contrast (\d+\.\d)", printed))
    assert composed > 1.3 * one_by_one


@pytest.mark.slow
def test_presizing_draws_its_own_image(python: Python, tmp_path: Path):
    out = tmp_path / "figure.png"
    check_presizing(python("-W", "error", EXAMPLES / "presizing.py", "--out", out), out)


def test_presizing_takes_an_image(
    tmp_path: Path,
    make_image: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    image, out = make_image("an image.png", size=(300, 400)), tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", ["presizing.py", str(image), "--out", str(out)])
    runpy.run_path(str(EXAMPLES / "presizing.py"), run_name="__main__")
    check_presizing(capsys.readouterr().out, out)


@pytest.mark.slow
def test_pet_breeds_trains_and_explains(
    python: Python, tmp_path: Path, make_image: Callable[..., Path]
):
    for label in ("cross", "disc"):
        for number in range(12):
            make_image(f"images/{label}_{number}.jpg", label=label, number=number)
    out = tmp_path / "out"
    words = ("--images", "images", "--epochs", 1, "--size", 32, "--batch-size", 6, "--out", out)
    printed = python("-W", "error", EXAMPLES / "pet_breeds.py", *words, cwd=tmp_path)
    for text in (
        "20 images to learn from, 4 held out, 2 breeds",
        "Applying batch_tfms to the batch built",
        "SuggestedLRs(valley=",
        "weighted avg",
    ):
        assert text in printed
    assert (out / "breeds.safetensors").stat().st_size > 1e6
    assert list(pd.read_csv(out / "labels.csv").columns)[:3] == ["path", "split", "label"]
    figures = "batch one-image learning-rate losses confusion top-losses where-it-looked"
    for name in figures.split():
        with Image.open(out / f"{name}.png") as figure:
            assert figure.width > 200
