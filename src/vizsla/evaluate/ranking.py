"""Scores and who is positive in, the quality of the ranking out: ROC-AUC and average precision, with each picture's pull.

The influence of a picture is the derivative of the metric with respect to the picture's weight, at weight 1 for all.
``evaluate/intervals.py`` turns influences into an interval. Equal scores are counted as scikit-learn counts them.

Shapes: N pictures, P of them positive, M not. All numbers are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ranked:
    """A metric of a ranking, 0 to 1.

    Attributes:
        value: The metric.
        influence: ``(N,)``, how much the metric changes with the weight of each picture.
    """

    value: float
    influence: Tensor


def roc_auc(scores: Tensor, positive: Tensor) -> Ranked | None:
    """Return the probability that a positive picture scores above one that is not, equal scores counting half.

    Influences are the structural components of DeLong, DeLong and Clarke-Pearson (Biometrics 1988). Only the positive
    scores are sorted, so a class with few pictures costs little.

    Args:
        scores: ``(N,)``, any float.
        positive: Bool ``(N,)``.

    Returns:
        None where all or none are positive: there is nothing to compare.
    """
    ascending_P, order_P = scores[positive].sort()
    others_M = scores[~positive].contiguous()
    num_positive, num_others = len(ascending_P), len(others_M)
    if num_positive == 0 or num_others == 0:
        return None
    below_M = torch.searchsorted(ascending_P, others_M)
    not_above_M = torch.searchsorted(ascending_P, others_M, right=True)
    # How many others lie below the k-th positive: those with at most k positives at or below them.
    others_below_P = torch.bincount(not_above_M, minlength=num_positive + 1).cumsum(0)[:-1]
    others_not_above_P = torch.bincount(below_M, minlength=num_positive + 1).cumsum(0)[:-1]
    wins_P = (others_below_P + others_not_above_P).double() / (2 * num_others)
    wins_M = 1 - (below_M + not_above_M).double() / (2 * num_positive)
    value = wins_P.mean()
    influence = torch.empty(len(scores), dtype=torch.float64)
    influence[positive.nonzero()[:, 0][order_P]] = (wins_P - value) / num_positive
    influence[~positive] = (wins_M - value) / num_others
    return Ranked(value=float(value), influence=influence)


def average_precision(scores: Tensor, positive: Tensor) -> Ranked | None:
    """Return the mean, over the positive pictures, of the precision among all that score at least as high.

    Args:
        scores: ``(N,)``, any float.
        positive: Bool ``(N,)``.

    Returns:
        None where none is positive.
    """
    num_pictures, num_positive = len(scores), int(positive.sum())
    if num_positive == 0:
        return None
    ascending_N, order_N = scores.sort()
    truth_N = positive[order_N].double()
    below_N = torch.searchsorted(ascending_N, ascending_N)
    up_to_N = torch.searchsorted(ascending_N, ascending_N, right=True)
    chosen_N = (num_pictures - below_N).double()
    precision_N = (num_positive - _sums_before(truth_N)[below_N]) / chosen_N
    value = (truth_N * precision_N).sum() / num_positive
    # A further picture changes the precision at every positive that scores no more than it does.
    gained_N = _sums_before(truth_N / chosen_N)[up_to_N]
    lost_N = _sums_before(truth_N * precision_N / chosen_N)[up_to_N]
    influence = torch.empty(num_pictures, dtype=torch.float64)
    influence[order_N] = (truth_N * (precision_N - value + gained_N) - lost_N) / num_positive
    return Ranked(value=float(value), influence=influence)


def mean_over_classes(
    metric: Callable[[Tensor, Tensor], Ranked | None],
    scores: Tensor,
    *,
    positive: Callable[[int], Tensor],
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
) -> Ranked | None:
    """Return the mean of a metric over the classes for which it is defined.

    Args:
        metric: ``roc_auc`` or ``average_precision``.
        scores: ``(N, C)``, any float; read a few classes at a time.
        positive: Class -> bool ``(N,)``.
        offsets: float64 ``(N,)``, subtracted from the scores of each picture; turns logits into log-probabilities.
        weights: ``(C,)``, how much each class counts; None means all the same. They do not enter the influences.

    Returns:
        None where it is defined for no class.
    """
    total, influence, sum_of_weights = 0.0, torch.zeros(len(scores), dtype=torch.float64), 0.0
    for index, column in _columns(scores):
        # As float32, or rounding in the 16th digit would order pictures that have the same probability.
        scores_N = column if offsets is None else (column - offsets).float()
        one = metric(scores_N, positive(index))
        if one is not None:
            weight = 1.0 if weights is None else float(weights[index])
            total += weight * one.value
            influence += weight * one.influence
            sum_of_weights += weight
    if sum_of_weights == 0:
        return None
    return Ranked(value=total / sum_of_weights, influence=influence / sum_of_weights)


def _columns(scores: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each column as contiguous float64; a block at a time, as single columns of a large matrix are read slowly."""
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(scores)))
    for start in range(0, scores.shape[1], at_once):
        block = scores[:, start : start + at_once].T.double().contiguous()
        yield from enumerate(block, start=start)


def _sums_before(values: Tensor) -> Tensor:
    """Return ``(N + 1,)``: the sum of the values before each place."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
