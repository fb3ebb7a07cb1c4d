"""Predictions to measure, made from what they shall say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.types import Task


@pytest.fixture
def from_logits() -> Callable[..., Predictions]:
    """Return a function that makes predictions of images 0.jpg, 1.jpg, ... from logits and targets."""

    def make(
        logits: Sequence[Sequence[float]] | torch.Tensor,
        targets: Sequence[int] | torch.Tensor,
        *,
        vocab: Sequence[str] = (),
        task: Task = "category",
    ) -> Predictions:
        logits = torch.as_tensor(logits, dtype=torch.float32)
        dtype = torch.int64 if task == "category" else torch.float32
        return Predictions(
            rows=torch.arange(len(logits)),
            paths=tuple(f"{number}.jpg" for number in range(len(logits))),
            logits=logits,
            targets=torch.as_tensor(targets, dtype=dtype),
            vocab=tuple(vocab) or tuple(f"class {index}" for index in range(logits.shape[1])),
            task=task,
        )

    return make


@pytest.fixture
def random_predictions(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function that makes predictions that are right more often than not."""

    def make(*, num_pictures: int, num_classes: int, seed: int = 0) -> Predictions:
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(num_classes, (num_pictures,), generator=generator)
        logits = torch.randn(num_pictures, num_classes, generator=generator)
        logits[torch.arange(num_pictures), targets] += 1.5
        return from_logits(logits, targets)

    return make


@pytest.fixture
def from_confusion(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function that makes predictions with a given confusion matrix (rows actual, columns predicted)."""

    def make(counts: Sequence[Sequence[int]], *, vocab: Sequence[str] = ()) -> Predictions:
        pairs = [
            (actual, predicted)
            for actual, row in enumerate(counts)
            for predicted, count in enumerate(row)
            for _ in range(count)
        ]
        predicted = torch.tensor([pair[1] for pair in pairs], dtype=torch.int64)
        logits = torch.nn.functional.one_hot(predicted, num_classes=len(counts)) * 3.0
        return from_logits(logits, [pair[0] for pair in pairs], vocab=vocab)

    return make
