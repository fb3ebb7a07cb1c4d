"""Predictions in, numbers with 95 % intervals out; pictures without a label are left out.

Shares of pictures get Wilson's interval (E. B. Wilson, "Probable inference, the law of succession, and statistical
inference", JASA 1927). Everything else gets a percentile bootstrap over pictures (Efron and Tibshirani, "An introduction
to the bootstrap", 1993, ch. 13): a metric is written once, as a function of how often each picture was drawn, so the
metric itself is the case in which each was drawn once.

Shapes: N labelled pictures, C classes, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError, DataError
from vizsla.seeding import generator
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from vizsla.evaluate.predictions import Predictions

LEVEL = 0.95
NUM_RESAMPLES = 1000
NUM_CALIBRATION_BINS = 15
# 2**22 draws at a time bound the memory at about 100 MB, whatever the number of pictures.
_DRAWS_AT_ONCE = 2**22

_Statistic = Callable[[Tensor], Tensor]
"""Counts float64 ``(N, R)``, how often each picture was drawn -> the metric of each resample, float64 ``(R,)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number about a classifier, with the range in which it may lie.

    Attributes:
        name: Name of the function that computes it.
        value: The metric of these pictures.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        num_pictures: How many labelled pictures it was computed from.
    """

    name: str
    value: float
    low: float
    high: float
    num_pictures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How well one class is found; a share of nothing is 0.

    Attributes:
        name: The class.
        support: Pictures that have this label.
        num_predicted: Pictures that were predicted to be of this class.
        precision: Share of the predicted ones that have the label.
        precision_interval: Wilson's 95 % interval of it; (0, 1) where nothing was predicted.
        recall: Share of the labelled ones that were found.
        recall_interval: Wilson's 95 % interval of it; (0, 1) where there are none.
        f1: Harmonic mean of precision and recall.
    """

    name: str
    support: int
    num_predicted: int
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    f1: float


def wilson_interval(successes: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval for a share.

    Args:
        successes: How often it happened, 0 to ``trials``.
        trials: How often it could have happened; with 0, nothing is known and the interval is (0, 1).
        level: Confidence, between 0 and 1.

    Raises:
        ConfigError: The counts or the level cannot be.

    Example:
        >>> low, high = wilson_interval(98, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.930 0.994'
    """
    if not 0 <= successes <= trials or not 0 < level < 1:
        raise ConfigError(
            "An interval needs 0 <= successes <= trials and 0 < level < 1. "
            f"Received: successes={successes}, trials={trials}, level={level}"
        )
    if trials == 0:
        return 0.0, 1.0
    z_squared = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / trials
    centre = share + z_squared / (2 * trials)
    spread = math.sqrt(z_squared * (share * (1 - share) + z_squared / (4 * trials)) / trials)
    scale = 1 + z_squared / trials
    # Rounding would leave 1e-17 where the formula gives 0 or 1, and may pass the value by as much.
    low = 0.0 if successes == 0 else min((centre - spread) / scale, share)
    high = 1.0 if successes == trials else max((centre + spread) / scale, share)
    return low, high


def accuracy(predictions: Predictions) -> Metric:
    """Return the share of labelled pictures that were predicted correctly, with Wilson's interval.

    Raises:
        DataError: No picture has a label.
    """
    targets, predicted = _labelled(predictions)
    return _share("accuracy", successes=int((targets == predicted).sum()), trials=len(targets))


def error_rate(predictions: Predictions) -> Metric:
    """Return the share of labelled pictures that were predicted wrongly, with Wilson's interval.

    Raises:
        DataError: No picture has a label.
    """
    targets, predicted = _labelled(predictions)
    return _share("error_rate", successes=int((targets != predicted).sum()), trials=len(targets))


def balanced_accuracy(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean recall of the classes that occur among the labels; each class counts the same.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return _bootstrap(_statistics(predictions).only("balanced_accuracy"), seed=seed)[0]


def macro_f1(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean F1 of the classes that occur among labels or predictions; F1 is 0 where nothing is right.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return _bootstrap(_statistics(predictions).only("macro_f1"), seed=seed)[0]


def log_loss(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean cross-entropy in nats: minus the logarithm of the probability given to the right class.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return _bootstrap(_statistics(predictions).only("log_loss"), seed=seed)[0]


def brier(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean squared distance between probabilities and truth, summed over classes: 0 (perfect) to 2.

    This is the original form (Brier, "Verification of forecasts expressed in terms of probability", 1950); for two
    classes it is twice the number that counts one class only.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return _bootstrap(_statistics(predictions).only("brier"), seed=seed)[0]


def expected_calibration_error(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean gap between confidence and accuracy over 15 equal bins of confidence.

    Guo, Pleiss, Sun, Weinberger: "On calibration of modern neural networks", ICML 2017, eq. 3. A resample gives a larger
    gap than the pictures themselves, on the whole, so its interval reaches further up than down.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return _bootstrap(_statistics(predictions).only("expected_calibration_error"), seed=seed)[0]


def summarise(predictions: Predictions, *, seed: int = 0) -> tuple[Metric, ...]:
    """Return all metrics of this module, accuracy first; one set of resamples serves all of them.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
    """
    return (
        accuracy(predictions),
        error_rate(predictions),
        *_bootstrap(_statistics(predictions), seed=seed),
    )


def per_class(predictions: Predictions) -> tuple[ClassScore, ...]:
    """Return precision, recall, F1 and support of each class, in the order of the vocabulary.

    Raises:
        DataError: No picture has a label.
    """
    targets, predicted = _labelled(predictions)

    def count(classes: Tensor) -> list[int]:
        return torch.bincount(classes, minlength=len(predictions.vocab)).tolist()

    counts = zip(
        predictions.vocab,
        count(targets),
        count(predicted),
        count(targets[targets == predicted]),
        strict=True,
    )
    return tuple(
        ClassScore(
            name=name,
            support=support,
            num_predicted=num_predicted,
            precision=hits / max(num_predicted, 1),
            precision_interval=wilson_interval(hits, num_predicted),
            recall=hits / max(support, 1),
            recall_interval=wilson_interval(hits, support),
            f1=2 * hits / max(support + num_predicted, 1),
        )
        for name, support, num_predicted, hits in counts
    )


def _labelled(predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Return int64 ``(N,)`` targets and predicted classes of the pictures that have a label."""
    labelled = predictions.targets != UNLABELLED
    if not labelled.any():
        raise DataError(
            f"None of the {len(predictions.paths)} pictures has a label, so nothing can be measured. "
            "Give pictures whose labels are known, for example the validation split."
        )
    return predictions.targets[labelled], predictions.predicted[labelled]


def _share(name: str, *, successes: int, trials: int) -> Metric:
    low, high = wilson_interval(successes, trials)
    return Metric(name=name, value=successes / trials, low=low, high=high, num_pictures=trials)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Statistics:
    """The metrics as functions of counts, and how many pictures they count."""

    functions: dict[str, _Statistic]
    num_pictures: int

    def only(self, name: str) -> _Statistics:
        return _Statistics(functions={name: self.functions[name]}, num_pictures=self.num_pictures)


def _statistics(predictions: Predictions) -> _Statistics:
    targets_N, predicted_N = _labelled(predictions)
    logits_NC = predictions.logits[predictions.targets != UNLABELLED].double()
    log_probabilities_NC = logits_NC.log_softmax(dim=1)
    losses_N = -log_probabilities_NC.gather(1, targets_N[:, None])[:, 0]
    probabilities_NC = log_probabilities_NC.exp_()
    # |p - truth|^2, multiplied out; rounding may leave -1e-17 for a perfect prediction.
    squares_N = (probabilities_NC.square().sum(1) - 2 * (-losses_N).exp() + 1).clamp(min=0)
    confidence_N = probabilities_NC.amax(1)
    correct_N1 = (predicted_N == targets_N).double()[:, None]
    gaps_N1 = confidence_N[:, None] - correct_N1
    # Bins are (0, 1/15], (1/15, 2/15], ...
    bins_N = (confidence_N * NUM_CALIBRATION_BINS).ceil().long().clamp(min=1) - 1

    def by_class(counts: Tensor, classes: Tensor) -> Tensor:  # -> (C, R)
        return _sums_by(counts, groups=classes, num_groups=len(predictions.vocab))

    def balanced_accuracy(counts: Tensor) -> Tensor:
        supports_CR = by_class(counts, targets_N)
        hits_CR = by_class(counts * correct_N1, targets_N)
        return (hits_CR / supports_CR.clamp(min=1)).sum(0) / (supports_CR > 0).sum(0)

    def macro_f1(counts: Tensor) -> Tensor:
        hits_CR = by_class(counts * correct_N1, targets_N)
        seen_CR = by_class(counts, targets_N) + by_class(counts, predicted_N)
        return (2 * hits_CR / seen_CR.clamp(min=1)).sum(0) / (seen_CR > 0).sum(0)

    def calibration_error(counts: Tensor) -> Tensor:
        gaps_BR = _sums_by(counts * gaps_N1, groups=bins_N, num_groups=NUM_CALIBRATION_BINS)
        return gaps_BR.abs().sum(0) / counts.sum(0)

    return _Statistics(
        functions={
            "balanced_accuracy": balanced_accuracy,
            "macro_f1": macro_f1,
            "log_loss": lambda counts: losses_N @ counts / counts.sum(0),
            "brier": lambda counts: squares_N @ counts / counts.sum(0),
            "expected_calibration_error": calibration_error,
        },
        num_pictures=len(targets_N),
    )


def _sums_by(values: Tensor, *, groups: Tensor, num_groups: int) -> Tensor:
    """Return float64 ``(num_groups, R)``: the sums of the rows of ``values`` ``(N, R)`` in each group."""
    sums = torch.zeros((num_groups, values.shape[1]), dtype=values.dtype)
    return sums.index_add_(0, groups, values)


def _bootstrap(statistics: _Statistics, *, seed: int) -> tuple[Metric, ...]:
    """Return each metric with the middle 95 % of what it is on resamples of the pictures."""
    num_pictures, functions = statistics.num_pictures, statistics.functions
    draws = generator(seed, "bootstrap")
    resampled: dict[str, list[Tensor]] = {name: [] for name in functions}
    at_once = min(NUM_RESAMPLES, max(1, _DRAWS_AT_ONCE // num_pictures))
    for start in range(0, NUM_RESAMPLES, at_once):
        num_resamples = min(at_once, NUM_RESAMPLES - start)
        drawn_NR = torch.randint(num_pictures, (num_pictures, num_resamples), generator=draws)
        cells = drawn_NR * num_resamples + torch.arange(num_resamples)
        counts_NR = torch.bincount(cells.flatten(), minlength=drawn_NR.numel())
        counts_NR = counts_NR.view_as(drawn_NR).double()
        for name, function in functions.items():
            resampled[name].append(function(counts_NR))
    once_N1 = torch.ones((num_pictures, 1), dtype=torch.float64)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    metrics: list[Metric] = []
    for name, function in functions.items():
        value = float(function(once_N1))
        low, high = torch.cat(resampled[name]).quantile(ends).tolist()
        # The calibration error of resamples may lie above its value altogether; an interval that leaves out
        # what was measured would mislead.
        low, high = min(low, value), max(high, value)
        metrics.append(
            Metric(name=name, value=value, low=low, high=high, num_pictures=num_pictures)
        )
    return tuple(metrics)
