"""Loaders of 24 small pictures, and learners with a tiny network of random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
import torch

from vizsla.data.images.sizing import Resize
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.models.backbones import build_backbone
from vizsla.models.classifier import Classifier
from vizsla.models.heads import ConcatPoolHead
from vizsla.train.learner import Learner
from vizsla.types import ImageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from vizsla.augment.batch_augmentation import BatchTransform
    from vizsla.data.images.sizing import ResizeMethod

SIZE = 32


class MakeLoaders(Protocol):
    def __call__(
        self,
        *,
        num_valid: int = 4,
        batch_size: int = 4,
        seed: int = 0,
        num_workers: int = 0,
        transforms: Sequence[BatchTransform] = (),
        method: ResizeMethod = "crop",
    ) -> DataLoaders: ...


class MakeLearner(Protocol):
    def __call__(
        self,
        loaders: DataLoaders | None = None,
        *,
        loss_func: Callable[[Tensor, Tensor], Tensor] = ...,
        metrics: Callable[[Tensor, Tensor], Tensor]
        | Sequence[Callable[[Tensor, Tensor], Tensor]]
        | None = None,
        train_bn: bool = True,
        wd: float = 0.01,
        precision: str = "fp32",
        quiet: bool = True,
        dropout: float = 0.5,
        path: Path | None = None,
    ) -> Learner: ...


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Such small networks gain nothing from a second thread, and lose much where the cores are busy.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def table(image_folder: Path) -> ImageTable:
    """All 24 pictures, those of the two classes by turns; nobody is in a split yet."""
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
def make_loaders(table: ImageTable) -> MakeLoaders:
    """Return a function that makes loaders: the last ``num_valid`` pictures are held out."""

    def make(
        *,
        num_valid: int = 4,
        batch_size: int = 4,
        seed: int = 0,
        num_workers: int = 0,
        transforms: Sequence[BatchTransform] = (),
        method: ResizeMethod = "crop",
    ) -> DataLoaders:
        rows = torch.arange(len(table.paths))
        split = ImageTable(
            root=table.root,
            paths=table.paths,
            targets=table.targets,
            vocab=table.vocab,
            train_rows=rows[: len(rows) - num_valid],
            valid_rows=rows[len(rows) - num_valid :],
        )
        return DataLoaders(
            split,
            resize=Resize(SIZE, method),
            transforms=transforms,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            device="cpu",
        )

    return make


@pytest.fixture
def make_learner(make_loaders: MakeLoaders) -> MakeLearner:
    """Return a function that makes a learner with a tiny network of random weights, nothing frozen."""

    def make(
        loaders: DataLoaders | None = None,
        *,
        loss_func: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.cross_entropy,
        metrics: Callable[[Tensor, Tensor], Tensor]
        | Sequence[Callable[[Tensor, Tensor], Tensor]]
        | None = None,
        train_bn: bool = True,
        wd: float = 0.01,
        precision: str = "fp32",
        quiet: bool = True,
        dropout: float = 0.5,
        path: Path | None = None,
    ) -> Learner:
        loaders = make_loaders() if loaders is None else loaders
        backbone = build_backbone("test_resnet", pretrained=False, seed=1)
        head = ConcatPoolHead(backbone.num_features, loaders.c, lin_ftrs=[8], ps=dropout, seed=1)
        return Learner(
            loaders,
            Classifier(backbone, head, vocab=loaders.vocab),
            loss_func=loss_func,
            metrics=metrics,
            path=path,
            train_bn=train_bn,
            wd=wd,
            precision=precision,
            quiet=quiet,
        )

    return make
