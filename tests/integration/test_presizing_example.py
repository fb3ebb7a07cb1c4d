"""The presizing example runs on a picture of its own and on one that is given, and writes its figure."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "presizing.py"


@pytest.mark.parametrize("given", [True, False], ids=["given", "drawn"])
def test_the_presizing_example_draws_both_ways(
    given: bool, tmp_path: Path, make_picture: Callable[..., Path]
):
    pictures = [str(make_picture("a picture.png", size=(300, 400)))] if given else []
    out = tmp_path / "figure.png"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *pictures, "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(out) as figure:
        assert figure.size == (1320, 924)
    composed, one_by_one = map(float, re.findall(r"fine contrast (\d+\.\d)", done.stdout))
    assert composed > 1.3 * one_by_one
