"""A tiny calibrated model file, and pictures to predict, one of them broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.data.images.sizing import Resize
from vizsla.evaluate.calibration import calibrate
from vizsla.evaluate.predictions import Predictions
from vizsla.model_file.bundle import save_bundle
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCAB = ("a", "b\r", 'c,"')


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, len(VOCAB), lin_ftrs=[], seed=1)
    classifier = Classifier(backbone, head, vocab=VOCAB)
    random = torch.Generator().manual_seed(0)
    predictions = Predictions(
        rows=torch.arange(50),
        paths=tuple(map(str, range(50))),
        logits=torch.randn((50, len(VOCAB)), generator=random),
        targets=torch.randint(len(VOCAB), (50,), generator=random),
        vocab=VOCAB,
    )
    path = tmp_path_factory.mktemp("calibrated") / "model.safetensors"
    return save_bundle(
        path, classifier=classifier, resize=Resize(32), calibration=calibrate(predictions)
    )


@pytest.fixture
def few_pictures(make_picture: Callable[..., Path]) -> list[Path]:
    """Seven pictures, of which one cannot be read and some have names that CSV must quote."""
    names = ["a.png", "comma,.png", "line\nbreak.png", 'quo"te.png', "return\r.png", "z.png"]
    paths = [make_picture(name, number=number, size=(32, 32)) for number, name in enumerate(names)]
    broken = paths[0].with_name("broken.png")
    broken.write_text("Dear diary")
    return [*paths[:3], broken, *paths[3:]]
