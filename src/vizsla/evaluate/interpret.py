"""Find what goes wrong: confusion matrix, most confused classes, images by loss and by confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions


def confusion_matrix(predictions: Predictions) -> Tensor:
    """Return how often each class was predicted as each; images without a label are left out.

    Returns:
        int64 ``(C, C)``: rows are actual classes, columns predicted ones.

    Raises:
        ConfigError: The predictions are of several labels or of numbers.
    """
    if predictions.task != "category":
        raise ConfigError(
            "A confusion matrix needs images that have one class each. "
            f"Received: predictions of the task {predictions.task!r}. Look at top_losses instead."
        )
    num_classes = len(predictions.vocab)
    labelled = predictions.labelled
    cells = predictions.targets[labelled] * num_classes + predictions.predicted[labelled]
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def confusion_shares(predictions: Predictions) -> Tensor:
    """Return the confusion matrix with each row divided by its sum; the row of an absent class is 0.

    Returns:
        float64 ``(C, C)``, 0-1.

    Raises:
        ConfigError: The predictions are of several labels or of numbers.
    """
    counts = confusion_matrix(predictions).double()
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def most_confused(predictions: Predictions, *, min_count: int = 1) -> list[tuple[str, str, int]]:
    """Return the pairs of classes that were mixed up.

    Args:
        predictions: Any number of images.
        min_count: Leave out pairs that occur less often; below 1 means 1.

    Returns:
        ``(actual, predicted, count)``, most frequent first; equal ones in the order of the confusion matrix, row by row.

    Raises:
        ConfigError: The predictions are of several labels or of numbers.
    """
    counts = confusion_matrix(predictions).fill_diagonal_(0)
    cells = (counts >= max(min_count, 1)).nonzero().tolist()
    pairs = [
        (predictions.vocab[actual], predictions.vocab[predicted], int(counts[actual, predicted]))
        for actual, predicted in cells
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def top_losses(predictions: Predictions, k: int | None = None, *, largest: bool = True) -> Tensor:
    """Return the labelled images with the largest (or smallest) losses.

    Args:
        predictions: Any number of images.
        k: At most so many; None means all.
        largest: False starts with the smallest loss.

    Returns:
        int64 ``(min(k, labelled),)``: positions into ``predictions``, most extreme first; equal ones in their order.

    Raises:
        ConfigError: ``k`` is negative.
    """
    labelled = predictions.labelled.nonzero()[:, 0]
    order = predictions.losses[labelled].argsort(descending=largest, stable=True)
    return _first(labelled[order], k)


def worst_mistakes(predictions: Predictions, k: int | None = None) -> Tensor:
    """Return the images that were predicted wrongly (of several labels, at least one), largest loss first.

    Args:
        predictions: Any number of images.
        k: At most so many; None means all.

    Returns:
        int64, positions into ``predictions``; empty when nothing is wrong.

    Raises:
        ConfigError: ``k`` is negative, or the predictions are numbers.
    """
    by_loss = top_losses(predictions)
    return _first(by_loss[~predictions.correct[by_loss]], k)


def least_certain(predictions: Predictions, k: int | None = None) -> Tensor:
    """Return the images whose prediction has the lowest confidence, right or wrong, labelled or not.

    Args:
        predictions: Any number of images.
        k: At most so many; None means all.

    Returns:
        int64 ``(min(k, N),)``: positions into ``predictions``, least certain first; equal ones in their order.

    Raises:
        ConfigError: ``k`` is negative, or the predictions are numbers.
    """
    return _first(predictions.confidence.argsort(stable=True), k)


def _first(positions: Tensor, k: int | None) -> Tensor:
    if k is not None and k < 0:
        raise ConfigError(f"The number of images to return cannot be negative. Received: k={k}")
    return positions[:k]
