"""A small classifier of a network that timm knows by name, and model files made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vizsla import Predictions, Resize
from vizsla.evaluate import Calibration, calibrate
from vizsla.evaluate.metrics import Metric
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

VOCAB = ("cross", "disc", "none", "Füchse")

Rewrite = Callable[[Path, Callable[[dict[str, Any]], None]], Path]


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """Random weights, with norm statistics that differ from those of a new network. Tests leave it unchanged."""
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[16], ps=0.25, seed=1)
    classifier = Classifier(backbone, head, vocab=VOCAB).train()
    with torch.no_grad():
        classifier(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return classifier.eval()


@pytest.fixture(scope="session")
def saved_once(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    metric = Metric(name="accuracy", value=0.75, low=0.5, high=0.9, num_pictures=20)
    save_bundle(
        path, classifier=classifier, resize=Resize((48, 40)), size=(32, 36), metrics=[metric]
    )
    return path.read_bytes()


@pytest.fixture
def saved(saved_once: bytes, tmp_path: Path) -> Path:
    """A model file that a test may damage."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved_once)
    return path


@pytest.fixture(scope="session")
def calibration_for() -> Callable[[tuple[str, ...]], Calibration]:
    """Return a function from names of classes to a calibration of logits that are three times too sharp."""

    def fit(vocab: tuple[str, ...]) -> Calibration:
        random = torch.Generator().manual_seed(0)
        honest = torch.randn((200, len(vocab)), generator=random) * 2
        predictions = Predictions(
            rows=torch.arange(200),
            paths=tuple(map(str, range(200))),
            logits=honest * 3,
            targets=torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0],
            vocab=vocab,
        )
        found = calibrate(predictions)
        assert found is not None
        return found

    return fit


@pytest.fixture
def calibrated(classifier: Classifier, tmp_path: Path, calibration_for: Any) -> Path:
    """A model file with a calibration."""
    path = tmp_path / "calibrated.safetensors"
    calibration = calibration_for(VOCAB)
    return save_bundle(path, classifier=classifier, resize=Resize(32), calibration=calibration)


@pytest.fixture
def rewrite() -> Rewrite:
    """Return a function that changes the manifest of a model file, with a digest that fits, as an attacker would."""

    def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata())
        manifest = json.loads(header["vizsla.manifest"])
        edit(manifest)
        text = json.dumps(manifest)
        header = {
            "vizsla.manifest": text,
            "vizsla.sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        save_file(tensors, path, metadata=header)
        return path

    return change
