"""Thousands of damaged and of forged model files: each is refused in words or opens, in bounded memory and time, running nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vizsla.data.images.sizing import Resize
from vizsla.evaluate.metrics import Metric
from vizsla.model_file.bundle import save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead

pytest.importorskip("resource", reason="limits of memory are of POSIX systems")

FUZZER = Path(__file__).with_name("model_file_fuzzer.py")
SEED = 20_250
MOST_KILOBYTES = 1_200_000
MOST_SECONDS = 15

Fuzz = Callable[[int, int], dict[str, Any]]


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    backbone = build_backbone("test_efficientnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 3, lin_ftrs=[4], seed=1)
    with torch.no_grad():
        save_bundle(
            path,
            classifier=Classifier(backbone, head, vocab=("a", "b", "c")),
            resize=Resize(32),
            size=(32, 32),
            metrics=[Metric(name="accuracy", value=0.75, low=0.5, high=0.9, num_pictures=20)],
        )

    def run(first: int, last: int) -> dict[str, Any]:
        command = [sys.executable, str(FUZZER), str(path), str(SEED), str(first), str(last)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=1500
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def check(found: dict[str, Any], *, count: int) -> None:
    assert found["problems"] == []
    assert found["forbidden"] == []
    assert found["grown_kilobytes"] < MOST_KILOBYTES
    assert found["slowest"][0] < MOST_SECONDS
    outcomes = found["outcomes"]
    totals = [sum(outcome.values()) for outcome in outcomes.values()]
    assert sum(totals) == count
    # Damage that is no damage would test nothing, and a file that is refused always neither.
    refused = sum(outcome.get("refused", 0) for outcome in outcomes.values())
    assert 0.6 * count < refused < 0.98 * count


def test_300_damaged_files_are_refused_or_open(fuzz: Fuzz):
    check(fuzz(0, 300), count=300)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_10_000_damaged_files_are_refused_or_open(fuzz: Fuzz):
    check(fuzz(0, 10_000), count=10_000)
