"""Notice images of none of the classes, by how unusual their largest logit is.

An image that is like none of the classes seldom gets a large logit for any of them (Hendrycks et al., "Scaling
out-of-distribution detection for real-world settings", ICML 2022). The score of an image is the share of the held-out
images whose largest logit is no larger: 0.5 is most usual, near 0 is unlike all of them. The threshold comes from images of
known classes alone; how many foreign images stay below it depends on how foreign they are.

Shapes: N held-out images, C classes, Q kept quantiles.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

REFUSED_SHARE = 0.05
"""Share of the held-out images, all of known classes, that the threshold calls foreign: 95 % of them pass."""

NUM_QUANTILES = 101
MOST_CLASSES_LEFT_OUT = 50
"""Classes that are left out in turn to measure the separation; where there are more, evenly spread ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Novelty:
    """How large the largest logit of images of known classes is.

    Attributes:
        quantiles: ``(Q,)``, ascending: the smallest, ..., the largest largest logit of the held-out images, in equal steps
            of their share.
        threshold: The largest logit below which an image is "none of these"; 95 % of the held-out images reach it.
        num_pictures: Held-out images.
        separation: How well the largest logit separates images of a class that the model cannot name from all others: each
            class in turn was left out of the answers, and this is the mean area under the ROC curve, 0.5 is chance. The
            network did see that class in training, so it may separate a class that it never saw less well. None for two
            classes or several labels.
    """

    quantiles: tuple[float, ...]
    threshold: float
    num_pictures: int
    separation: float | None

    def familiarity(self, largest_logit: float) -> float:
        """Return the share of the held-out images whose largest logit is no larger, 0-1."""
        place = bisect_right(self.quantiles, largest_logit)
        if place == 0:
            return 0.0
        if place == len(self.quantiles):
            return 1.0
        low, high = self.quantiles[place - 1 : place + 1]
        return (place - 1 + (largest_logit - low) / (high - low)) / (len(self.quantiles) - 1)


def fit_novelty(logits: Tensor, *, targets: Tensor | None) -> Novelty:
    """Return how large the largest of the logits ``(N, C)`` are; targets int64 ``(N,)``, None where images have several labels."""
    largest_N = logits.double().amax(1)
    shares = torch.linspace(0, 1, NUM_QUANTILES, dtype=torch.float64)
    ascending = largest_N.sort().values
    return Novelty(
        quantiles=tuple(_quantiles(ascending, shares).tolist()),
        threshold=float(_quantiles(ascending, torch.tensor([REFUSED_SHARE]).double())[0]),
        num_pictures=len(logits),
        separation=None if targets is None or logits.shape[1] < 3 else _separation(logits, targets),
    )


def _quantiles(ascending_N: Tensor, shares: Tensor) -> Tensor:
    """torch.quantile, which refuses more than 16 million values."""
    places = shares * (len(ascending_N) - 1)
    low = places.floor().long()
    high = (low + 1).clamp(max=len(ascending_N) - 1)
    return torch.lerp(ascending_N[low], ascending_N[high], places - low)


def _separation(logits: Tensor, targets: Tensor) -> float | None:
    present = targets.unique()
    if len(present) < 3:
        return None
    if len(present) > MOST_CLASSES_LEFT_OUT:
        present = present[torch.linspace(0, len(present) - 1, MOST_CLASSES_LEFT_OUT).long()]
    best_N2, which_N2 = logits.double().topk(2, dim=1)
    areas: list[Tensor] = []
    for left_out in present.tolist():
        score_N = torch.where(which_N2[:, 0] == left_out, best_N2[:, 1], best_N2[:, 0])
        known = score_N[targets != left_out].sort().values
        foreign = score_N[targets == left_out]
        below = torch.searchsorted(known, foreign, right=False)
        through = torch.searchsorted(known, foreign, right=True)
        areas.append(1 - (below + through).double().mean() / (2 * len(known)))
    return float(torch.stack(areas).mean())
