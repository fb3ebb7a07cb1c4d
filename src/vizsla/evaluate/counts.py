"""Targets and predicted classes in, hits and scores of each class out: the arithmetic of precision, recall, F1 and kin.

Pictures may count more than once (a resample) or once each; everything is computed for R such weightings side by side.
A share of nothing is 0, as in scikit-learn.

Shapes: N pictures, C classes, R weightings. All numbers are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_VALUES_AT_ONCE = 2**22

Formula = Callable[["Tallies"], Tensor]
"""Tallies -> a score of each class, float64 ``(C, R)``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tallies:
    """How often each class was right, there, and predicted.

    Attributes:
        hits: ``(C, R)``, pictures of the class that were predicted to be of it.
        supports: ``(C, R)``, pictures of the class.
        predicted: ``(C, R)``, pictures predicted to be of the class.
    """

    hits: Tensor
    supports: Tensor
    predicted: Tensor

    @property
    def seen(self) -> Tensor:
        """Bool ``(C, R)``: the class occurs among targets or predictions."""
        return self.supports + self.predicted > 0

    def only(self, classes: Tensor) -> Tallies:
        """Return the tallies of some classes: positions int64, or bool ``(C,)``."""
        return Tallies(
            hits=self.hits[classes],
            supports=self.supports[classes],
            predicted=self.predicted[classes],
        )

    def total(self) -> Tallies:
        """Return the sums over classes as if they were one class."""
        return Tallies(
            hits=self.hits.sum(0, keepdim=True),
            supports=self.supports.sum(0, keepdim=True),
            predicted=self.predicted.sum(0, keepdim=True),
        )


def count_classes(
    targets: Tensor, predicted: Tensor, *, num_classes: int, counts: Tensor | None = None
) -> Tallies:
    """Count where each picture has one class.

    Args:
        targets: int64 ``(N,)``.
        predicted: int64 ``(N,)``.
        num_classes: C.
        counts: ``(N, R)``, how often each picture counts; None means once, with R = 1.
    """
    if counts is None:
        counts = torch.ones((len(targets), 1), dtype=torch.float64)
    right = (targets == predicted).nonzero()[:, 0]
    return Tallies(
        hits=sums_by(counts[right], groups=targets[right], num_groups=num_classes),
        supports=sums_by(counts, groups=targets, num_groups=num_classes),
        predicted=sums_by(counts, groups=predicted, num_groups=num_classes),
    )


def count_labels(targets: Tensor, predicted: Tensor, *, counts: Tensor | None = None) -> Tallies:
    """Count where each picture has any number of labels.

    Args:
        targets: Bool ``(N, C)``.
        predicted: Bool ``(N, C)``.
        counts: ``(N, R)``, how often each picture counts; None means once, with R = 1.
    """
    if counts is None:
        counts = torch.ones((len(targets), 1), dtype=torch.float64)
    tallies = Tallies(
        **{
            name: torch.zeros((targets.shape[1], counts.shape[1]), dtype=torch.float64)
            for name in ("hits", "supports", "predicted")
        }
    )
    # In parts, as a matrix of zeros and ones takes 4 times its bytes as float32. Such sums are exact below 2**24.
    at_once = max(1, _VALUES_AT_ONCE // max(1, targets.shape[1]))
    for start in range(0, len(targets), at_once):
        part = slice(start, start + at_once)
        counts_BR = counts[part].float()
        tallies.hits.add_((targets[part] & predicted[part]).float().T @ counts_BR)
        tallies.supports.add_(targets[part].float().T @ counts_BR)
        tallies.predicted.add_(predicted[part].float().T @ counts_BR)
    return tallies


def sums_by(values: Tensor, *, groups: Tensor, num_groups: int) -> Tensor:
    """Return float64 ``(num_groups, R)``: the sums of the rows of ``values`` ``(N, R)`` in each group."""
    sums = torch.zeros((num_groups, values.shape[1]), dtype=values.dtype)
    return sums.index_add_(0, groups, values)


def precision(tallies: Tallies) -> Tensor:
    """Return the share of what was predicted that is right, ``(C, R)``."""
    return _share(tallies.hits, tallies.predicted)


def recall(tallies: Tallies) -> Tensor:
    """Return the share of what is there that was found, ``(C, R)``."""
    return _share(tallies.hits, tallies.supports)


def jaccard(tallies: Tallies) -> Tensor:
    """Return what was rightly predicted over what is there or predicted, ``(C, R)``."""
    return _share(tallies.hits, tallies.supports + tallies.predicted - tallies.hits)


def f_beta(tallies: Tallies, *, beta: float = 1.0) -> Tensor:
    """Return the harmonic mean of precision and recall, with recall counting ``beta**2`` times, ``(C, R)``.

    C. J. van Rijsbergen, "Information retrieval", 1979, ch. 7.
    """
    weight = beta**2
    return _share((1 + weight) * tallies.hits, weight * tallies.supports + tallies.predicted)


def mean_of_seen(scores: Tensor, *, seen: Tensor) -> Tensor:
    """Return ``(R,)``: the mean of the scores ``(C, R)`` of the classes that were seen; NaN where none was."""
    return scores.masked_fill(~seen, 0).sum(0) / seen.sum(0)


def balanced_accuracy(tallies: Tallies) -> Tensor:
    """Return ``(R,)``: the mean recall of the classes that occur among the targets."""
    return mean_of_seen(recall(tallies), seen=tallies.supports > 0)


def matthews_correlation(tallies: Tallies) -> Tensor:
    """Return ``(R,)``: the correlation of targets and predictions, -1 to 1; 0 where one of them is always the same.

    J. Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    """
    totals = tallies.supports.sum(0)
    together = tallies.hits.sum(0) * totals - (tallies.supports * tallies.predicted).sum(0)
    spreads = [
        totals.square() - margin.square().sum(0) for margin in (tallies.supports, tallies.predicted)
    ]
    return _share(together, (spreads[0] * spreads[1]).sqrt())


def cohen_kappa(confusion: Tensor, *, weights: str | None = None) -> Tensor:
    """Return how much better than by chance targets and predictions agree: 1 is perfect, 0 chance; a scalar.

    J. Cohen, "A coefficient of agreement for nominal scales", 1960, and "Weighted kappa", 1968.

    Args:
        confusion: ``(C, C)`` counts, rows actual, columns predicted.
        weights: None counts every mistake the same; ``"linear"`` and ``"quadratic"`` by the distance of the classes.

    Returns:
        NaN where only one class occurs, on both sides.
    """
    confusion = confusion.double()
    places = torch.arange(len(confusion), dtype=torch.float64)
    distance = (places[:, None] - places).abs()
    cost = {None: (distance > 0).double(), "linear": distance, "quadratic": distance.square()}
    by_chance = torch.outer(confusion.sum(1), confusion.sum(0)) / confusion.sum()
    return 1 - (cost[weights] * confusion).sum() / (cost[weights] * by_chance).sum()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0.0)


def places_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the place of each picture's class in the order of its scores, 0 for the highest; of equal ones the first leads.

    Args:
        scores: ``(N, C)``.
        targets: int64 ``(N,)``.

    Returns:
        int64 ``(N,)``.
    """
    own_N1 = scores.gather(1, targets[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < targets[:, None]
    return ((scores > own_N1) | ((scores == own_N1) & before)).sum(1)
