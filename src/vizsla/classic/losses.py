"""The kind of labels in; the loss and the metrics of lesson one out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from vizsla.classic.measures import accuracy, accuracy_thresh

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.train.trainer import LossFunction, MetricFunction
    from vizsla.types import Task


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of probabilities, ``(B, C)`` both, whatever the precision around it."""
    with torch.autocast(probabilities.device.type, enabled=False):
        return F.binary_cross_entropy(probabilities.float(), targets.float())


def usual_loss(task: Task) -> LossFunction:
    """Return the loss for what the network of a task puts out: log-probabilities, probabilities, numbers."""
    if task == "category":
        return F.nll_loss
    return F.l1_loss if task == "regression" else binary_cross_entropy


def usual_metrics(task: Task) -> list[MetricFunction]:
    """Return the metrics of a task; none for numbers."""
    if task == "category":
        return [accuracy]
    return [] if task == "regression" else [accuracy_thresh(0.5)]
