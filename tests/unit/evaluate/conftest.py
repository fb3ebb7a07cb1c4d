"""Predictions to measure, made from what they should say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla import Predictions
    from vizsla.types import Task


@pytest.fixture
def random_predictions(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function that makes predictions of any task that are right more often than not."""

    def make(
        num_images: int, num_outputs: int, *, task: Task = "category", mean: float = 0.0
    ) -> Predictions:
        draws = torch.Generator().manual_seed(0)
        shape = num_images, num_outputs
        if task == "category":
            targets = torch.randint(num_outputs, shape[:1], generator=draws)
            logits = torch.randn(shape, generator=draws)
            logits[torch.arange(num_images), targets] += 1.5
        elif task == "multi_category":
            targets = (torch.rand(shape, generator=draws) < 0.3).float()
            logits = torch.randn(shape, generator=draws) + 2 * targets - 1
        else:
            targets = mean + 3 * torch.randn(shape, generator=draws)
            logits = targets + torch.randn(shape, generator=draws)
        return from_logits(logits, targets, task=task)

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
