"""Counts, resamples or influences in, a number with its 95 % interval out: how every metric comes to its range.

- A share of pictures has Wilson's interval (E. B. Wilson, "Probable inference, the law of succession, and statistical
  inference", JASA 1927).
- A function of how often each picture was drawn has a percentile bootstrap over pictures (Efron and Tibshirani, "An
  introduction to the bootstrap", 1993, ch. 13). The metric is written once, and the value is the case in which each
  picture was drawn once.
- A metric of ranks would have to be sorted again for each resample. It states instead how far each picture pulls it (its
  influence), which gives the standard error at once (the infinitesimal jackknife: Jaeckel 1972; Efron and Tibshirani,
  ch. 21). For the area under the ROC curve that is the method of DeLong, DeLong and Clarke-Pearson (Biometrics 1988).

Shapes: N pictures, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.seeding import generator

LEVEL = 0.95
NUM_RESAMPLES = 1000
# 2**21 draws at a time bound the memory at about 60 MB, whatever the number of pictures.
_DRAWS_AT_ONCE = 2**21

Measure = Callable[[Tensor], dict[str, Tensor]]
"""Counts float64 ``(N, R)``, how often each picture was drawn -> metrics by name, float64 ``(R,)``, NaN where undefined."""


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
    z_squared = normal_quantile(level) ** 2
    share = successes / trials
    centre = share + z_squared / (2 * trials)
    spread = math.sqrt(z_squared * (share * (1 - share) + z_squared / (4 * trials)) / trials)
    scale = 1 + z_squared / trials
    # Rounding would leave 1e-17 where the formula gives 0 or 1, and may pass the value by as much.
    low = 0.0 if successes == 0 else min((centre - spread) / scale, share)
    high = 1.0 if successes == trials else max((centre + spread) / scale, share)
    return low, high


def normal_quantile(level: float = LEVEL) -> float:
    """Return how many standard deviations around the mean hold a share ``level`` of a normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)


def share_metric(name: str, *, successes: int, trials: int) -> Metric:
    """Return a share of pictures with Wilson's interval; ``trials`` is at least 1."""
    low, high = wilson_interval(successes, trials)
    return Metric(name=name, value=successes / trials, low=low, high=high, num_pictures=trials)


def influence_metric(name: str, *, value: float, influence: Tensor) -> Metric:
    """Return a metric between 0 and 1 with the interval that the pull of each picture gives.

    The interval is symmetric in the log odds, so it stays within 0 and 1. At 0 or 1 no picture pulls: such an interval
    has no width, and that says "not known", not "certain".

    Args:
        name: Of the metric.
        value: 0 to 1.
        influence: float64 ``(N,)``, derivative of the metric with respect to the weight of each picture, at weight 1.
    """
    low = high = value
    if 0 < value < 1:
        error = float(influence.square().sum().sqrt())
        half = normal_quantile() * error / (value * (1 - value))
        odds = math.log(value / (1 - value))
        low, high = (1 / (1 + math.exp(-odds - shift)) for shift in (-half, half))
    return Metric(name=name, value=value, low=low, high=high, num_pictures=len(influence))


def bootstrap(
    measure: Measure, *, num_pictures: int, num_values: int = 1, seed: int
) -> dict[str, Metric]:
    """Return each metric with the middle 95 % of what it is on resamples of the pictures.

    Args:
        measure: All metrics of some resamples at a time; one set of resamples serves them all.
        num_pictures: N, at least 1.
        num_values: Numbers that ``measure`` makes for each resample beside the counts; more of them mean smaller parts.
        seed: Repeats the resamples.

    Returns:
        By name, in the order of ``measure``. A metric that is undefined for the pictures themselves (NaN) is left out;
        resamples for which it is undefined do not count.
    """
    once_N1 = torch.ones((num_pictures, 1), dtype=torch.float64)
    values = {name: float(found) for name, found in measure(once_N1).items()}
    resampled: dict[str, list[Tensor]] = {name: [] for name in values}
    draws = generator(seed, "bootstrap")
    at_once = min(NUM_RESAMPLES, max(1, _DRAWS_AT_ONCE // max(num_pictures, num_values)))
    for start in range(0, NUM_RESAMPLES, at_once):
        num_resamples = min(at_once, NUM_RESAMPLES - start)
        drawn_NR = torch.randint(num_pictures, (num_pictures, num_resamples), generator=draws)
        cells = (drawn_NR * num_resamples).add_(torch.arange(num_resamples))
        counts = torch.bincount(cells.flatten(), minlength=drawn_NR.numel())
        for name, found in measure(counts.view_as(drawn_NR).double()).items():
            resampled[name].append(found)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    metrics: dict[str, Metric] = {}
    for name, value in values.items():
        if math.isnan(value):
            continue
        low, high = torch.cat(resampled[name]).nanquantile(ends).tolist()
        # The calibration error of resamples may lie above its value altogether, and an interval that leaves out what
        # was measured would mislead. (min and max pass over NaN in second place: all resamples undefined.)
        low, high = min(value, low), max(value, high)
        metrics[name] = Metric(
            name=name, value=value, low=low, high=high, num_pictures=num_pictures
        )
    return metrics
