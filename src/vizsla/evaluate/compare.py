"""Compare two runs on the same images: is one of them better?

Both runs saw the same images, so only those count that one run gets right and the other wrong. The interval of the
difference is Tango's (T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 1998): the differences that a score test would not reject. It leaves out 0
exactly when McNemar's test (Psychometrika 1947) finds the runs to differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.statistics import normal_quantile

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions

_HALVINGS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two runs differ on the same images.

    Attributes:
        names: What the two runs are called.
        accuracies: Share of images that each predicts correctly, with all labels where there may be several.
        difference: The second accuracy minus the first.
        low: Lower end of its paired 95 % interval.
        high: Upper end of its paired 95 % interval.
        num_only_first: Images that only the first run gets right.
        num_only_second: Images that only the second run gets right.
        num_pictures: Labelled images that were compared.
    """

    names: tuple[str, str]
    accuracies: tuple[float, float]
    difference: float
    low: float
    high: float
    num_only_first: int
    num_only_second: int
    num_pictures: int

    @property
    def can_be_told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def sentence(self) -> str:
        """The result in words, with the difference in percentage points."""
        first, second = self.names
        images = "1 image" if self.num_pictures == 1 else f"{self.num_pictures:,} images"
        # With 10,000 images or more, single ones show only in the second decimal.
        digits = 1 if self.num_pictures < 10_000 else 2
        change, low, high = (
            f"{100 * share:+.{digits}f}" for share in (self.difference, self.low, self.high)
        )
        before, after = (f"{share:.{digits}%}" for share in self.accuracies)
        finding = (
            f"{first} predicts {before} and {second} {after} of the same {images} correctly, "
            f"a difference of {change} points (95 % interval {low} to {high})"
        )
        if not self.can_be_told_apart:
            return f"{finding}: these images cannot tell the two apart."
        return f"{finding}: {second if self.difference > 0 else first} is better."


def compare(
    a: Predictions, b: Predictions, *, names: tuple[str, str] = ("the first run", "the second run")
) -> Comparison:
    """Compare the accuracy of two runs, image by image.

    Args:
        a: What the first run predicts.
        b: What the second run predicts of the same images, in any order.
        names: What to call the two runs.

    Returns:
        The difference with its paired interval; images without a label are left out.

    Raises:
        ConfigError: Rows, paths or labels of the two are not the same, or they do not predict classes.
        DataError: No image has a label.
    """
    a, b = _in_one_order(a, b)
    labelled = a.labelled
    if not labelled.any():
        raise DataError(
            f"None of the {len(a.paths)} images has a label, so nothing can be compared. "
            "Compare predictions of images whose labels are known, for example the validation split."
        )
    right_a, right_b = a.correct[labelled], b.correct[labelled]
    num_pictures = len(right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = paired_interval(only_b, only_a, num_pairs=num_pictures)
    return Comparison(
        names=names,
        accuracies=(int(right_a.sum()) / num_pictures, int(right_b.sum()) / num_pictures),
        difference=(only_b - only_a) / num_pictures,
        low=low,
        high=high,
        num_only_first=only_a,
        num_only_second=only_b,
        num_pictures=num_pictures,
    )


def paired_interval(num_gained: int, num_lost: int, *, num_pairs: int) -> tuple[float, float]:
    """Return Tango's 95 % interval for the difference of two shares of the same pairs.

    ``num_gained`` pairs are those in which only the second succeeds, ``num_lost`` those in which only the first does.

    Examples:
        >>> low, high = paired_interval(20, 5, num_pairs=100)
        >>> f"{low:.3f} {high:.3f}"
        '0.056 0.249'
    """
    # A lower end for gains is an upper end for losses.
    return (
        -_upper_end(num_lost, num_gained, num_pairs=num_pairs),
        _upper_end(num_gained, num_lost, num_pairs=num_pairs),
    )


def _upper_end(num_gained: int, num_lost: int, *, num_pairs: int) -> float:
    """Return the largest difference that the score test does not reject, found by halving."""
    quantile = normal_quantile()
    inside, outside = (num_gained - num_lost) / num_pairs, 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if _score(middle, num_gained, num_lost, num_pairs=num_pairs) > quantile:
            outside = middle
        else:
            inside = middle
    return inside


def _score(difference: float, num_gained: int, num_lost: int, *, num_pairs: int) -> float:
    """Return how many standard errors a true difference is above the one that was found (Tango, eq. 9 to 12)."""
    # The most likely share of lost pairs if the true difference is as given: the root of a quadratic equation.
    square = 2 * num_pairs
    linear = -num_gained - num_lost + (2 * num_pairs - num_gained + num_lost) * difference
    constant = -num_lost * difference * (1 - difference)
    root = math.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    lost_share = (root - linear) / (2 * square)
    variance = num_pairs * (2 * lost_share + difference * (1 - difference))
    excess = num_pairs * difference - (num_gained - num_lost)
    if variance <= 0:
        return math.inf if excess > 0 else 0.0
    return excess / math.sqrt(variance)


def _in_one_order(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Return both in the order of their rows; raise ConfigError where images or labels are not the same."""
    a.refuse_regression("compare")
    b.refuse_regression("compare")
    if a.task != b.task:
        raise ConfigError(
            f"Two runs can be compared if both have the same task. Received: {a.task!r} and {b.task!r}"
        )
    if len(a.rows) != len(b.rows):
        raise ConfigError(
            "Two runs can be compared only on the same images. "
            f"Received: predictions of {len(a.rows)} and of {len(b.rows)} images. Predict the same split with both."
        )
    a, b = (each.take(each.rows.argsort(stable=True)) for each in (a, b))
    for place, (path_a, path_b) in enumerate(zip(a.paths, b.paths, strict=True)):
        row_a, row_b = int(a.rows[place]), int(b.rows[place])
        if (row_a, path_a) != (row_b, path_b):
            raise ConfigError(
                f"Two runs can be compared only on the same images. Received: row {row_a} {path_a!r} and row {row_b} "
                f"{path_b!r}. Predict the same split of the same data with both."
            )
        # Names, not numbers: the two may have their classes in different orders.
        if a.label(place) != b.label(place):
            raise ConfigError(
                "Two runs can be compared only with the same labels. Received: for "
                f"{path_a!r} the labels {a.label(place)!r} and {b.label(place)!r}."
            )
    return a, b
