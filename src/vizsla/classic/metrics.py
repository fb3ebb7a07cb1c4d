"""The metrics and losses of lesson one, for arrays and tensors alike, and conversions between the two.

Shapes: N images, C classes, A passes of test-time augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vizsla.train.trainer import LossFunction, MetricFunction
    from vizsla.types import Task

__all__ = [
    "VV",
    "T",
    "V",
    "accuracy",
    "accuracy_multi",
    "accuracy_np",
    "accuracy_thresh",
    "confusion_matrix",
    "f2",
    "to_np",
]


@overload
def accuracy(preds: Tensor, targs: Any) -> Tensor: ...
@overload
def accuracy(preds: NDArray[Any], targs: Any) -> float: ...
def accuracy(preds: Tensor | NDArray[Any], targs: Any) -> Tensor | float:
    """Return the share of images whose highest score is that of their class.

    Args:
        preds: Scores ``(N, C)``; or log-probabilities of several passes ``(A, N, C)``, whose probabilities are averaged.
        targs: Classes, ``(N,)``.

    Returns:
        A number 0 to 1: a float for arrays, a tensor without axes for tensors.
    """
    scores = to_array(preds)
    if scores.ndim == 3:
        scores = np.exp(scores).mean(axis=0)
    return _in_kind(accuracy_np(scores, targs), preds)


def accuracy_np(preds: Any, targs: Any) -> float:
    """Return the accuracy of scores ``(N, C)`` for classes ``(N,)``."""
    return float((to_array(preds).argmax(axis=1) == to_array(targs)).mean())


def accuracy_multi(preds: Any, targs: Any, thresh: float) -> Tensor | float:
    """Return the share of correct decisions over all images and classes, in the type that ``accuracy`` returns.

    Args:
        preds: Probabilities ``(N, C)``.
        targs: 0 or 1, ``(N, C)``.
        thresh: A class counts as present above it.
    """
    return _in_kind(float(((to_array(preds) > thresh) == (to_array(targs) > 0.5)).mean()), preds)


def accuracy_thresh(thresh: float) -> Callable[[Any, Any], Tensor | float]:
    """Return ``accuracy_multi`` with a fixed threshold, under the name ``accuracy_thresh``."""

    def measure(preds: Any, targs: Any) -> Tensor | float:
        return accuracy_multi(preds, targs, thresh)

    measure.__name__ = measure.__qualname__ = "accuracy_thresh"
    return measure


def f2(
    preds: Any, targs: Any, start: float = 0.17, end: float = 0.24, step: float = 0.01
) -> Tensor | float:
    """Return the mean F2 score of the images at the best threshold of a few, in the type that ``accuracy`` returns.

    F2 weighs recall four times as much as precision. An image without classes, none of which was predicted, scores 0.

    Args:
        preds: Probabilities ``(N, C)``.
        targs: 0 or 1, ``(N, C)``.
        start: First threshold.
        end: Thresholds stay below it.
        step: Distance of two thresholds.
    """
    scores, present = to_array(preds), to_array(targs) > 0.5
    best = 0.0
    for threshold in np.arange(start, end, step):
        predicted = scores > threshold
        weighed = 4 * present.sum(axis=1) + predicted.sum(axis=1)
        score = 5 * (predicted & present).sum(axis=1) / np.maximum(weighed, 1)
        best = max(best, float(score.mean()))
    return _in_kind(best, preds)


def confusion_matrix(
    y_true: Sequence[int] | NDArray[Any], y_pred: Sequence[int] | NDArray[Any]
) -> NDArray[np.int64]:
    """Return how often each class was predicted as each: rows are actual classes, columns predicted ones.

    The matrix has the classes that occur in ``y_true`` or ``y_pred``, ``(N,)`` each.
    """
    classes, places = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
    actual, predicted = np.split(places, 2)
    count = len(classes)
    return np.bincount(actual * count + predicted, minlength=count**2).reshape(count, count)


def to_np(v: Any) -> Any:
    """Return a tensor as an array on the CPU; for a list or tuple, each element."""
    return [to_np(each) for each in v] if isinstance(v, list | tuple) else to_array(v)


def to_array(x: object) -> NDArray[Any]:
    """Return a tensor, an array or a sequence as an array on the CPU."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def T(a: Any) -> Tensor:  # noqa: N802 (the notebooks' name for it)
    """Return an array as a tensor: integers as int64, others as float32."""
    if isinstance(a, Tensor):
        return a
    values = np.asarray(a)
    return torch.tensor(values, dtype=torch.int64 if values.dtype.kind in "iub" else torch.float32)


def V(x: Any) -> Any:  # noqa: N802 (the notebooks' name for it)
    """Return an array as a tensor; for a list or tuple, each element."""
    return [T(each) for each in x] if isinstance(x, list | tuple) else T(x)


VV = V


def binary_cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of probabilities, ``(B, C)`` both, in float32 under autocast too."""
    with torch.autocast(probabilities.device.type, enabled=False):
        return F.binary_cross_entropy(probabilities.float(), targets.float())


def usual_loss(task: Task) -> LossFunction:
    """Return the loss for the outputs of a task: log-probabilities, probabilities, or numbers."""
    if task == "category":
        return F.nll_loss
    return F.l1_loss if task == "regression" else binary_cross_entropy


def usual_metrics(task: Task) -> list[MetricFunction]:
    """Return the metrics of a task; none for numbers."""
    if task == "category":
        return [accuracy]
    return [] if task == "regression" else [accuracy_thresh(0.5)]


def _in_kind(share: float, preds: object) -> Any:
    return torch.tensor(share, dtype=torch.float64) if isinstance(preds, Tensor) else share
