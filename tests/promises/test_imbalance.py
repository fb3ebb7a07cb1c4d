"""Classes of unequal size: accuracy never stands alone, and one option gives rare classes their part."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done
    from PIL import Image


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image]) -> Path:
    """A folder of 24 crosses and 5 discs."""
    root = tmp_path_factory.mktemp("unequal")
    for label, count in (("cross", 24), ("disc", 5)):
        (root / label).mkdir()
        for number in range(count):
            draw(label, number=number).save(root / label / f"{number}.png")
    return root


def test_a_run_says_what_accuracy_hides(unequal: Path, tmp_path: Path, vizsla: Callable[..., Done]):
    out = tmp_path / "run"
    done = vizsla("train", unequal, "--balance", "auto", "--size", 32, "--epochs", 1, "--out", out)
    assert done.code == 0, done.err
    metrics = json.loads((out / "metrics.json").read_text())
    balanced = metrics["metrics"]["balanced_accuracy"]
    (line,) = (line for line in done.out.splitlines() if line.startswith("Balanced accuracy"))
    for value in ("value", "low", "high"):
        assert f"{balanced[value]:.2%}" in line
    assert "cross" in line  # always answering it would be right for so many
    assert "equal parts" in metrics["facts"]["Recipe"]
    assert tomllib.loads((out / "config.toml").read_text())["balance"] == "auto"
    assert line.split(":")[1] in (out / "report.html").read_text("utf-8")
    assert "Balanced accuracy" in vizsla("evaluate", out, unequal, "--part", "all").out


def test_what_cannot_be_balanced_is_refused_before_images_are_read(
    unequal: Path, tmp_path: Path, vizsla: Callable[..., Done]
):
    table = tmp_path / "labels.csv"
    rows = [f"cross/{number}.png,{number / 7}" for number in range(12)]
    table.write_text("\n".join(["image,score", *rows]))
    (tmp_path / "cross").symlink_to(unequal / "cross")
    words = ["--labels", f"csv:{table},label=score,kind=number", "--out", tmp_path / "run"]
    done = vizsla("train", tmp_path, *words, "--balance", "weights")
    assert done.code == 2
    assert "balance='weights'" in done.err
    assert not (tmp_path / "run").exists()
    assert vizsla("train", unequal, "--balance", "much").code == 2
