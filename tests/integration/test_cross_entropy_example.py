"""The cross-entropy example arrives at the lessons' numbers, agrees with the library on the way, and draws its figure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TESTS = Path(__file__).resolve().parents[1]
EXAMPLE = TESTS.parent / "examples" / "cross_entropy.py"
GOLDEN = json.loads((TESTS / "golden" / "interp.json").read_text("utf-8"))["cross_entropy"]


def test_the_example_gives_the_table_and_the_mean_of_the_lessons(tmp_path: Path):
    out = tmp_path / "figure.png"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^ +(\d)  ([\d.]+)  ([\d.]+) +(\d)  ([\d.]+)  ([\d.]+)$", done.stdout, re.M)
    assert [int(row[0]) for row in table] == list(range(6))
    assert [int(row[3]) for row in table] == GOLDEN["targ"]
    for row, softmax, loss in zip(table, GOLDEN["softmax"], GOLDEN["ce_none"], strict=True):
        label = int(row[3])
        expected = [*softmax, softmax[label], loss]
        found = [float(row[place]) for place in (1, 2, 4, 5)]
        assert found == pytest.approx(expected, abs=2e-6)
    assert re.search(r"mean loss, from its parts: 1\.8045$", done.stdout, re.M)
    assert re.search(r"F\.cross_entropy: +1\.8045$", done.stdout, re.M)
    assert re.search(r"F\.nll_loss of log_softmax: 1\.8045$", done.stdout, re.M)
    differences = re.findall(r"largest difference .*: (\S+)$", done.stdout, re.M)
    assert len(differences) == 2
    assert all(float(difference) < 1e-6 for difference in differences)
    assert re.search(r"from its parts, far off: +inf$", done.stdout, re.M)
    assert re.search(r"F\.cross_entropy, far off: +120\.0000$", done.stdout, re.M)
    with Image.open(out) as figure:
        assert figure.size == (1200, 380)
