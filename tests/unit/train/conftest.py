"""Loaders of 24 small images, and learners with a tiny network of random weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from vizsla import DataLoaders, Learner, Resize
from vizsla.models import Classifier, ConcatPoolHead, build_backbone
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.data.images import ResizeMethod
    from vizsla.models import Backbone


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    """All 24 images, alternating between the two classes; none is in a split yet."""
    paths = sorted(image_folder.rglob("*.jpg"), key=lambda path: (path.stem[-2:], path.stem))
    vocab = ("cross", "disc")
    return ImageTable(
        root=image_folder,
        paths=tuple(paths),
        targets=torch.tensor([vocab.index(path.parent.name) for path in paths]),
        vocab=vocab,
        train_rows=torch.zeros(0, dtype=torch.int64),
        valid_rows=torch.zeros(0, dtype=torch.int64),
    )


@pytest.fixture
def make_loaders(table: ImageTable) -> Callable[..., DataLoaders]:
    """Return a function that makes loaders in batches of four; the last ``num_valid`` images are held out."""

    def make(*, num_valid: int = 4, method: ResizeMethod = "crop", **options: Any) -> DataLoaders:
        train_rows, valid_rows = torch.arange(len(table.paths)).split([24 - num_valid, num_valid])
        split = replace(table, train_rows=train_rows, valid_rows=valid_rows)
        defaults: dict[str, Any] = {"batch_size": 4, "seed": 0, "num_workers": 0, "device": "cpu"}
        return DataLoaders(split, resize=Resize(32, method), **(defaults | options))

    return make


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return build_backbone("test_resnet", pretrained=False, seed=1)


@pytest.fixture
def make_learner(
    make_loaders: Callable[..., DataLoaders], backbone: Backbone
) -> Callable[..., Learner]:
    """Return a function that makes a learner with a tiny network of random weights, nothing frozen."""

    def make(
        loaders: DataLoaders | None = None, *, dropout: float = 0.5, **options: Any
    ) -> Learner:
        loaders = make_loaders() if loaders is None else loaders
        head = ConcatPoolHead(backbone.num_features, loaders.c, lin_ftrs=[8], ps=dropout, seed=1)
        defaults: dict[str, Any] = {
            "loss_func": F.cross_entropy,
            "wd": 0.01,
            "precision": "fp32",
            "quiet": True,
        }
        model = Classifier(deepcopy(backbone), head, vocab=loaders.vocab)
        return Learner(loaders, model, **(defaults | options))

    return make
