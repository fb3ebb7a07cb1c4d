"""Label sets that hold the true class as often as they say: conformal prediction on held-out images.

Split conformal prediction with the score "one minus the probability of the class" (Sadinle, Lei, Wasserman: "Least ambiguous
set-valued classifiers with bounded error levels", JASA 2019). For images that are drawn as the held-out ones were, a set
holds the true class at least as often as it states, on average over all images, not for each class or image by itself.

Shapes: N held-out images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

COVERAGES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
"""The coverages whose thresholds are kept; one between two of them is rounded up."""

_ROUNDING = 1e-9  # 0.9 * 10 is not 9 in floating point.


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSets:
    """How probable a class must be to belong to a label set.

    Attributes:
        coverages: Ascending, 0-1: how often a set holds the true class, at least.
        thresholds: For each coverage the probability, 0-1, from which a class is in the set; 0, which takes all classes,
            where the held-out images are too few for that coverage.
        num_pictures: Held-out images that the thresholds come from.
    """

    coverages: tuple[float, ...]
    thresholds: tuple[float, ...]
    num_pictures: int

    def threshold(self, coverage: float) -> float:
        """Return the probability from which a class is in the set.

        A coverage that is not kept is rounded up to one that is; above the largest all classes are taken.

        Raises:
            ConfigError: ``coverage`` is not between 0 and 1.
        """
        check_coverage(coverage)
        for kept, threshold in zip(self.coverages, self.thresholds, strict=True):
            if kept >= coverage - _ROUNDING:
                return threshold
        return 0.0


def check_coverage(coverage: float) -> None:
    """Raise ConfigError for a coverage that is not between 0 and 1."""
    if not 0 < coverage < 1:
        raise ConfigError(
            "coverage must be above 0 and below 1; 0.95 means that the label sets contain the "
            f"true class of 95 % of the images. Received: {coverage!r}"
        )


def fit_label_sets(true_probabilities: Tensor) -> LabelSets:
    """Return the thresholds for all ``COVERAGES`` from the probabilities ``(N,)`` of the true classes; N is at least 1."""
    ascending: list[float] = true_probabilities.double().sort().values.tolist()
    num_pictures = len(ascending)
    thresholds: list[float] = []
    for coverage in COVERAGES:
        # The ceil((N + 1) * coverage)-th smallest of 1 - p, which is that many places from the upper end of p.
        place = math.ceil((num_pictures + 1) * coverage - _ROUNDING)
        thresholds.append(ascending[num_pictures - place] if place <= num_pictures else 0.0)
    return LabelSets(coverages=COVERAGES, thresholds=tuple(thresholds), num_pictures=num_pictures)
