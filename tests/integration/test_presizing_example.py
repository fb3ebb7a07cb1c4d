"""The presizing example runs on its own image and on a given one, and writes its figure."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "presizing.py"


def check(printed: str, drawn: Path) -> None:
    with Image.open(drawn) as figure:
        assert figure.size == (1320, 924)
    composed, one_by_one = map(float, re.findall(r"fine contrast (\d+\.\d)", printed))
    assert composed > 1.3 * one_by_one


def test_the_presizing_example_is_a_program_that_draws_its_own_image(tmp_path: Path):
    out = tmp_path / "figure.png"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(done.stdout, out)


def test_the_presizing_example_takes_an_image(
    tmp_path: Path,
    make_image: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    image, out = make_image("an image.png", size=(300, 400)), tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(image), "--out", str(out)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    check(capsys.readouterr().out, out)
