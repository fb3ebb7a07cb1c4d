"""``torchrun --nproc-per-node 2 -m vizsla train`` against ``vizsla train``, on CPUs."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Done
    from PIL import Image

OPTIONS = ("--epochs", "1", "--size", "64", "--bs", "8", "--device", "cpu", "--lr", "1e-3")


def figures(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return {name: metric["value"] for name, metric in metrics.items()}


def probabilities(folder: Path) -> dict[str, list[str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("prob")]
    return {row["path"]: [row[name] for name in names] for row in rows}


@pytest.mark.slow
def test_two_processes_train_what_one_trains(
    tmp_path: Path, draw: Callable[..., Image.Image], vizsla: Callable[..., Done]
):
    pictures = tmp_path / "pictures"
    for label in ("cross", "disc"):
        (pictures / label).mkdir(parents=True)
        for number in range(12):
            draw(label, number=number).save(pictures / label / f"{label}_{number}.png")
    alone = vizsla("train", pictures, *OPTIONS, "--out", tmp_path / "one")
    assert alone.code == 0
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-port", str(port), "-m", "vizsla", "train", str(pictures)),
            *(*OPTIONS, "--out", str(tmp_path / "two")),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "two") == pytest.approx(figures(tmp_path / "one"), abs=1e-5)
    one, two = probabilities(tmp_path / "one"), probabilities(tmp_path / "two")
    assert list(one) == list(two)
    for path, row in one.items():
        assert [float(cell) for cell in two[path]] == pytest.approx(list(map(float, row)), abs=1e-4)
    # Said once, by the main process; written once, into one folder.
    assert done.stdout.count("Validation accuracy") == 1
    assert done.stdout.count("end to end") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "pictures", "two"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
