"""``vizsla --help`` answers at once because it imports nothing that trains or draws."""

from __future__ import annotations

import subprocess
import sys


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vizsla", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train" in done.stdout
    # One line per module: "import time: self [us] | cumulative | name".
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "vizsla" in imported
    assert imported & {"torch", "torchvision", "timm", "matplotlib", "pandas"} == set()
