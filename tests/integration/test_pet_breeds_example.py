"""The pet breeds example runs from the images to the model file on a few small images, and draws its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pet_breeds.py"
FIGURES = ("batch", "one-image", "learning-rate", "losses", "confusion", "top-losses", "where-it-looked")  # fmt: skip


def test_the_pet_breeds_example_trains_and_explains(
    tmp_path: Path, make_image: Callable[..., Path]
):
    for label in ("cross", "disc"):
        for number in range(12):
            make_image(f"images/{label}_{number}.jpg", label=label, number=number)
    out = tmp_path / "out"
    words = ["--images", tmp_path / "images", "--epochs", 1, "--size", 32, "--batch-size", 6, "--out", out]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *map(str, words)],
        capture_output=True, text=True, timeout=240, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "20 images to learn from, 4 held out, 2 breeds" in done.stdout
    assert "Applying batch_tfms to the batch built" in done.stdout
    assert "SuggestedLRs(valley=" in done.stdout
    assert "weighted avg" in done.stdout
    assert (out / "breeds.safetensors").stat().st_size > 1e6
    assert list(pd.read_csv(out / "labels.csv").columns)[:3] == ["path", "split", "label"]
    for name in FIGURES:
        with Image.open(out / f"{name}.png") as figure:
            assert figure.width > 200
