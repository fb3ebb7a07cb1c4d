"""A model file that tells crosses from discs, its images, and what is exported of it in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from vizsla import DataLoaders, Learner, Resize
from vizsla.data.table import resolve_data
from vizsla.export import ExportedModel, export_model
from vizsla.model_file import save_bundle
from vizsla.models import Classifier, ConcatPoolHead, build_backbone

EVIL = ('"""); import os; os.abort() #', "<script>alert(1)<script>{0}$(reboot)`id`")
"""Names of classes that would be code, or markup."""


@dataclass(frozen=True)
class Trained:
    model: Path
    data: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Trained:
    root = tmp_path_factory.mktemp("small")
    data = draw_folder(root / "data", suffix=".jpg")
    for old, new in zip(("cross", "disc"), EVIL, strict=True):
        (data / old).rename(data / new)
    table = resolve_data(data, valid=0.5, seed=0)
    loaders = DataLoaders(table, resize=Resize(40), batch_size=4, num_workers=0, device="cpu")
    backbone = build_backbone("test_resnet", pretrained=False, seed=1)
    head = ConcatPoolHead(backbone.num_features, 2, lin_ftrs=[8], seed=1)
    classifier = Classifier(backbone, head, vocab=table.vocab)
    loss = torch.nn.functional.cross_entropy
    Learner(loaders, classifier, loss_func=loss, quiet=True).fit_one_cycle(6, 1e-2)
    path = save_bundle(
        root / "model.safetensors", classifier=classifier.eval(), resize=Resize(40), size=(32, 32)
    )
    return Trained(path, data)


@pytest.fixture(scope="session")
def small(trained: Trained) -> tuple[ExportedModel, ...]:
    """An ONNX file, a Space and a Docker context in int8."""
    pytest.importorskip("onnxruntime")
    folder = trained.model.parent
    return export_model(
        trained.model,
        onnx=folder / "int8.onnx",
        space=folder / 'pets: "# {x}',
        docker=folder / "docker",
        precision="int8",
        data=trained.data,
    )
