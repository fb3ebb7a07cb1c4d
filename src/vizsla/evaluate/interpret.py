"""Find what goes wrong: confusion matrix, most confused classes, images by loss and by confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions


def confusion_matrix(predictions: Predictions) -> Tensor:
    """Return how often each class was predicted as each, int64 ``(C, C)``: rows actual, columns predicted.

    Images without a label are left out.

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


def most_confused(predictions: Predictions, *, min_count: int = 1) -> list[tuple[str, str, int]]:
    """Return (actual, predicted, count) of the classes that were mixed up at least ``min_count`` times, and at least once.

    The most frequent come first, equal ones in the order of the confusion matrix, row by row.
    """
    counts = confusion_matrix(predictions).fill_diagonal_(0)
    cells = (counts >= max(min_count, 1)).nonzero().tolist()
    pairs = [
        (predictions.vocab[actual], predictions.vocab[predicted], int(counts[actual, predicted]))
        for actual, predicted in cells
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def top_losses(predictions: Predictions, k: int | None = None, *, largest: bool = True) -> Tensor:
    """Return the positions of the labelled images with the largest (or smallest) losses, most extreme first.

    At most ``k`` of them, int64; None means all. Equal losses keep their order.

    Raises:
        ConfigError: ``k`` is negative.
    """
    labelled = predictions.labelled.nonzero()[:, 0]
    order = predictions.losses[labelled].argsort(descending=largest, stable=True)
    return _first(labelled[order], k)


def worst_mistakes(predictions: Predictions, k: int | None = None) -> Tensor:
    """Return the positions of the images that were predicted wrong (of several labels, at least one), largest loss first.

    Raises:
        ConfigError: ``k`` is negative, or the predictions are numbers.
    """
    by_loss = top_losses(predictions)
    return _first(by_loss[~predictions.correct[by_loss]], k)


def least_certain(predictions: Predictions, k: int | None = None) -> Tensor:
    """Return the positions of the images with the lowest confidence first, right or wrong, labelled or not.

    Raises:
        ConfigError: ``k`` is negative, or the predictions are numbers.
    """
    return _first(predictions.confidence.argsort(stable=True), k)


def _first(positions: Tensor, k: int | None) -> Tensor:
    if k is not None and k < 0:
        raise ConfigError(f"The number of images to return cannot be negative. Received: k={k}")
    return positions[:k]
