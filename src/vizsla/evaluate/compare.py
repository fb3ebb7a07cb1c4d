"""Compare two runs on the same images: is one of them better?

Both runs saw the same images, so only those count that one run gets right and the other wrong. The interval of the
difference is Tango's (T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 1998): the differences that a score test would not reject. It leaves out 0
exactly when McNemar's test (Psychometrika 1947) finds the runs to differ. Runs that predict numbers are compared by their mean
absolute error; the interval comes from resamples of the images.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.predictions import Predictions
from vizsla.evaluate.statistics import bootstrap, normal_quantile, wilson_interval
from vizsla.text import counted, valid_unicode
from vizsla.types import LABEL_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HALVINGS = 60

FEWEST_SHARED = 50
"""Runs on different images are compared on those that both have if these are at least so many: with 50, of which one run alone
gets every tenth right, the interval reaches 9 points to either side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How two runs differ on the same images.

    Attributes:
        names: What the two runs are called.
        metric: What was compared: ``"accuracy"``, with all labels where there may be several, or for numbers ``"mae"``.
        values: That of each run: a share of the images, 0-1, or a mean absolute error.
        intervals: Its 95 % interval, Wilson's or from resamples.
        difference: The second value minus the first.
        low: Lower end of its paired 95 % interval.
        high: Upper end of its paired 95 % interval.
        num_only_first: Images that only the first run gets right; of numbers, those on which it is nearer.
        num_only_second: The same of the second run.
        num_pictures: Labelled images that were compared.
        num_left_out: How many labelled images only the first run has, and only the second.
    """

    names: tuple[str, str]
    metric: Literal["accuracy", "mae"] = "accuracy"
    values: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    low: float
    high: float
    num_only_first: int
    num_only_second: int
    num_pictures: int
    num_left_out: tuple[int, int] = (0, 0)

    @property
    def can_be_told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def sentence(self) -> str:
        """The result in words, with the difference in percentage points, or in the unit of the numbers."""
        first, second = self.names
        images = f"the same {counted(self.num_pictures, 'image')}"
        if self.metric == "mae":
            before, after = (f"{value:.4g}" for value in self.values)
            change, low, high = (f"{one:+.3g}" for one in (self.difference, self.low, self.high))
            finding = f"{first} is off by {before} and {second} by {after} on average on {images}, a difference of {change}"
        else:
            # With 10,000 images or more, single ones show only in the second decimal.
            digits = 1 if self.num_pictures < 10_000 else 2
            before, after = (f"{share:.{digits}%}" for share in self.values)
            change, low, high = (
                f"{100 * share:+.{digits}f}" for share in (self.difference, self.low, self.high)
            )
            finding = f"{first} predicts {before} and {second} {after} of {images} correctly, a difference of {change} points"
        finding = f"{finding} (95 % interval {low} to {high})"
        if not self.can_be_told_apart:
            return f"{finding}: no significant difference on these images."
        second_is_better = (self.difference > 0) == (self.metric == "accuracy")
        return f"{finding}: {second if second_is_better else first} is better."

    def lines(self) -> Iterator[str]:
        """Yield each run's value with its interval, where the two differ, and the result in words."""
        form = ".4g" if self.metric == "mae" else ".2%"
        for name, value, (low, high) in zip(self.names, self.values, self.intervals, strict=True):
            yield f"{name}: {self.metric} {value:{form}}, 95 % interval {low:{form}} to {high:{form}}"
        better = "nearer" if self.metric == "mae" else "right"
        numbers = (self.num_only_first, self.num_only_second)
        for name, number in zip(self.names, numbers, strict=True):
            yield f"only {name} is {better}: {counted(number, 'image')}"
        for name, number in zip(self.names, self.num_left_out, strict=True):
            if number:
                yield f"skipped {counted(number, 'image')} that only {name} has"
        yield self.sentence


def compare(
    a: Predictions | Path | str,
    b: Predictions | Path | str,
    *,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Compare two runs, image by image: their accuracy, or how far off their numbers are.

    Args:
        a: What the first run predicts: predictions, the folder of a run, or a CSV file as ``Predictions.save_csv`` and
            ``vizsla evaluate --csv`` write it.
        b: What the second run predicts, of the same images in any order. Images are the same if their paths are.
        names: Names of the two runs; None: their paths, or "the first run" and "the second run".

    Returns:
        The difference with its paired interval; images without a label are left out. Runs on different images are compared on
        those that both have, which must be at least ``FEWEST_SHARED``.

    Raises:
        ConfigError: The two share too few images, their labels differ, or one predicts classes and the other numbers.
        DataError: No image has a label, or a file is missing or not one of predictions.

    Examples:
        >>> print(compare("runs/pets", "runs/pets-2").sentence)
    """
    if names is None:
        a_name = "the first run" if isinstance(a, Predictions) else str(a)
        names = (a_name, "the second run" if isinstance(b, Predictions) else str(b))
    first, second = _judged(a), _judged(b)
    if first.metric != second.metric:
        raise ConfigError(
            "Two runs can be compared only if both predict classes, or both predict numbers. "
            f"Received: {names[0]} with the metric {first.metric!r}, {names[1]} with "
            f"{second.metric!r}"
        )
    shared = [image for image in first.labels if image in second.labels]
    left_out = (len(first.labels) - len(shared), len(second.labels) - len(shared))
    if any(left_out) and len(shared) < FEWEST_SHARED:
        raise ConfigError(
            f"Two runs can be compared only on the same images. {names[0]} has "
            f"{counted(len(first.labels), 'labelled image')}, {names[1]} has "
            f"{len(second.labels):,}, and {len(shared):,} of them have the same path, fewer than "
            f"{FEWEST_SHARED}. Evaluate both on the same images: vizsla evaluate MODEL DATA --csv "
            "FILE."
        )
    if differ := [image for image in shared if first.labels[image] != second.labels[image]]:
        path = differ[0][0]
        both = " and ".join(
            repr(LABEL_SEPARATOR.join(each.labels[differ[0]])) for each in (first, second)
        )
        raise ConfigError(
            "Two runs can be compared only with the same labels. Labels of "
            f"{counted(len(differ), 'image')} differ; the first is {path!r}: {both}. Train or "
            "evaluate both with the same labels."
        )
    scores_N2 = torch.tensor(
        [(first.scores[image], second.scores[image]) for image in shared], dtype=torch.float64
    )
    gains_N = scores_N2[:, 1] - scores_N2[:, 0]
    num_images = len(shared)
    only_a, only_b = int((gains_N < 0).sum()), int((gains_N > 0).sum())
    mean_a, mean_b = scores_N2.mean(0).tolist()
    if first.metric == "mae":
        only_a, only_b = only_b, only_a  # the smaller error is better
        parts = ("first", "second", "difference")
        found = bootstrap(
            lambda counts: dict(
                zip(parts, torch.stack([*scores_N2.T, gains_N]) @ counts / num_images, strict=True)
            ),
            num_images=num_images,
            seed=0,
        )
        interval_a, interval_b, (low, high) = ((found[x].low, found[x].high) for x in parts)
    else:
        interval_a, interval_b = (
            wilson_interval(round(mean * num_images), num_images) for mean in (mean_a, mean_b)
        )
        low, high = paired_interval(only_b, only_a, num_pairs=num_images)
    return Comparison(
        names=names,
        metric=first.metric,
        values=(mean_a, mean_b),
        intervals=(interval_a, interval_b),
        difference=float(gains_N.mean()),
        low=low,
        high=high,
        num_only_first=only_a,
        num_only_second=only_b,
        num_pictures=num_images,
        num_left_out=left_out,
    )


_Image = tuple[str, int]  # the path, and how often it came up before


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """What a run says of labelled images: 1 for right and 0 for wrong, or for numbers the absolute error."""

    metric: Literal["accuracy", "mae"]
    labels: Mapping[_Image, tuple[str, ...]]
    scores: Mapping[_Image, float]


def _judged(source: Predictions | Path | str) -> _Judged:
    """Return how right predictions are, which are given or in a file.

    Labels are compared as sets of texts, as two runs may have their classes in different orders.
    """
    labels: dict[_Image, tuple[str, ...]] = {}
    scores: dict[_Image, float] = {}
    seen: Counter[str] = Counter()
    metric: Literal["accuracy", "mae"] = "accuracy"
    rows = _rows_of(source) if isinstance(source, Predictions) else _rows_in(Path(source))
    for path, label, said in rows:
        image = (path, seen[path])
        seen[path] += 1
        if isinstance(label, str):
            labels[image] = tuple(sorted(label.split(LABEL_SEPARATOR)))
            scores[image] = float(label == said)
        elif not isinstance(said, str):
            metric = "mae"
            labels[image] = tuple(f"{number:.6g}" for number in label)
            scores[image] = sum(abs(x - y) for x, y in zip(label, said, strict=True)) / len(label)
    if not labels:
        which = (
            "No image of these predictions"
            if isinstance(source, Predictions)
            else f"No image in {source}"
        )
        raise DataError(
            f"{which} has a label, so nothing can be compared. "
            "Compare predictions of images whose labels are known, for example the validation split."
        )
    return _Judged(metric=metric, labels=labels, scores=scores)


_Row = tuple[str, str, str] | tuple[str, list[float], list[float]]
"""Path, label and prediction: texts, or numbers."""


def _rows_of(predictions: Predictions) -> Iterator[_Row]:
    is_number = predictions.task == "regression"
    said = predictions.predicted
    for place in predictions.labelled.nonzero()[:, 0].tolist():
        path = valid_unicode(predictions.paths[place])  # as in a file
        if is_number:
            yield path, predictions.targets[place].tolist(), said[place].tolist()
        else:
            yield path, predictions.label(place), predictions.prediction(place)


def _rows_in(path: Path) -> Iterator[_Row]:
    """Yield the labelled rows of a file of predictions, or of the one in a run folder."""
    file = path / "predictions.csv" if path.is_dir() else path
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                if row["loss"] in ("", "nan"):  # no label
                    continue
                targets = [name for name in row if name.startswith("target_")]
                if "label" in row:
                    yield row["path"], row["label"], row["prediction"]
                else:
                    said = [
                        float(row[f"prediction_{name.removeprefix('target_')}"]) for name in targets
                    ]
                    yield row["path"], [float(row[name]) for name in targets], said
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{file} does not hold predictions of labelled images ({type(error).__name__}: {error}). Give the folder of a "
            "run, or a file that `vizsla evaluate MODEL DATA --csv FILE` wrote."
        ) from error


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
