"""Curves of several short finder runs in; a rate, the range in which it is safe, or the reason why there is none, out.

The readings of ``suggestions`` look at one run, smoothed by a running mean that lags behind. Here each of several runs, which
saw other pictures in another order from the same weights, is read by itself from its plain losses, smoothed by a running median
that neither lags nor minds an odd batch. How much a loss must move to count is measured on the run: the spread of neighbouring
losses. The range begins where the mean of the runs, and every run, lies below all that was before, and ends where the first of
them was lowest before it rose. The suggestion lies half-way, in powers of ten, between the rate at which the runs fell fastest
(their median) and the end of the range: learning has taken hold there and nothing has begun to shake.

R: runs; N: points of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Curve = NDArray[np.float64]

ROBUST_RUNS = 3
"""Runs that are worth their time: one can be misled by its order of pictures, three outvote it."""

WINDOW_PART = 7
"""A window of the running median is a seventh of the points: a factor of ten in the rate, where it rises by eight of them."""

FEWEST_POINTS = 15
"""Below there are hardly three windows: a beginning, a fall and a rise cannot be told apart."""

CERTAIN = 3.0
"""The fall of the mean of the runs, or the rise of one, counts from so many standard errors on."""

LIKELY = 1.0
"""For the fall of each single run less is enough, because that of the mean is certain."""

SAFETY = 3.0
"""The suggestion stays so many times below the end of the range: the loss of a short run rises late."""

_DEVIATION_TO_SPREAD = 1.4826
"""From the median absolute deviation of normally distributed numbers to their standard deviation."""

_MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median, relative to that of a mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustRate:
    """What several runs say together.

    Attributes:
        value: The suggested rate; nan if none is safe.
        low: All runs fall from this rate on; nan if they do not.
        high: No run rises up to this rate; nan if one does from the beginning.
        reason: Why there is no safe rate, in a sentence; empty if there is one.
        num_runs: Runs that were weighed.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    num_runs: int = 1

    @property
    def safe(self) -> bool:
        """Whether there is a rate to suggest."""
        return not self.reason


def robust_rate(lrs: Tensor, losses: Tensor) -> RobustRate:
    """Return the rate that several runs agree on, or why there is none.

    Args:
        lrs: float32 ``(N,)``, rising by equal factors.
        losses: float32 ``(R, N)``, the plain losses of the steps; ``(N,)`` for one run. One that is not finite is a rise.
    """
    rates = lrs.double().numpy()
    runs = np.atleast_2d(losses.double().numpy())
    num_runs, num_points = runs.shape
    if num_points < FEWEST_POINTS:
        return _none(f"{num_points} losses can be read and {FEWEST_POINTS} are needed", num_runs)
    runs = np.where(np.isfinite(runs), runs, np.inf)
    window = max(3, num_points // WINDOW_PART) | 1
    if np.isinf(runs[:, :window]).any():
        return _none("the loss is not finite even at the lowest rates", num_runs)
    smooth = _running_median(runs, window=window)
    errors = _MEDIAN_ERROR * _spreads(runs)
    before_rise = [
        _before_rise(run, margin=CERTAIN * math.sqrt(2 / window) * error, window=window)
        for run, error in zip(smooth, errors, strict=True)
    ]
    last = min(lowest for lowest, _ in before_rise)
    high = float(rates[last])
    first = _first_of_fall(runs, smooth[:, : last + 1], errors=errors, window=window)
    if first is None:
        # A loss that never fell is lowest anywhere. It may also have risen from the beginning.
        edge = min(level for _, level in before_rise)
        return _none(
            "the loss fell at no rate by more than it varies from batch to batch (larger batches or a larger num_it "
            "would show smaller falls)",
            num_runs,
            high=float(rates[edge]) if edge > window else math.nan,
        )
    steepest = [
        _steepest(np.log(rates), run, first=first, last=last, reach=window // 2) for run in smooth
    ]
    low = float(rates[first])
    fastest = float(rates[int(np.median(steepest))])
    value = max(low, min(math.sqrt(fastest * high), high / SAFETY))
    return RobustRate(value=value, low=low, high=high, num_runs=num_runs)


def _none(why: str, num_runs: int, *, high: float = math.nan) -> RobustRate:
    return RobustRate(
        high=high, reason=f"There is no safe learning rate here: {why}.", num_runs=num_runs
    )


def _running_median(runs: Curve, *, window: int) -> Curve:
    """Return the median of a window around each point, ``(R, N)``; at the ends the window is cut."""
    half = window // 2
    columns = [
        np.median(runs[:, max(0, point - half) : point + half + 1], axis=1)
        for point in range(runs.shape[1])
    ]
    return np.stack(columns, axis=1)


def _spreads(runs: Curve) -> Curve:
    """Return the standard deviation of the losses of each run, ``(R,)``, by the differences of neighbours."""
    spreads: list[float] = []
    for run in runs:
        steps = np.abs(np.diff(run[np.isfinite(run)]))
        spreads.append(_DEVIATION_TO_SPREAD * float(np.median(steps)) / math.sqrt(2))
    return np.array(spreads)


def _before_rise(run: Curve, *, margin: float, window: int) -> tuple[int, int]:
    """Return where a run was lowest before it rose for good, and the last point before the rise.

    A rise is more than the margin, for a window or up to the end: a few odd batches in a row come back down. Without one both
    are the last point.
    """
    lowest, level = 0, 0
    for point, loss in enumerate(run):
        if loss <= run[lowest] + margin:
            level = point
            lowest = point if loss < run[lowest] else lowest
        elif point - level >= window or math.isinf(loss):
            return lowest, level
    last = len(run) - 1
    return (last, last) if level == last else (lowest, level)


def _first_of_fall(runs: Curve, smooth: Curve, *, errors: Curve, window: int) -> int | None:
    """Return the first point from which on all runs are below what was before, up to the end; None if there is none.

    Args:
        runs: Losses, ``(R, N)``.
        smooth: Their running median up to the end of the range, ``(R, M)``.
        errors: Standard error of the median of one loss, ``(R,)``; that of n losses is the square root of n times smaller.
        window: Of the running median.
    """
    half, count = window // 2, smooth.shape[1]
    fallen = np.zeros(count, dtype=bool)
    for point in range(window + half, count):
        before = runs[:, : point - half]
        falls = np.median(before, axis=1) - smooth[:, point]
        error = errors * math.sqrt(1 / window + 1 / before.shape[1])
        error_of_mean = math.sqrt(float((error**2).sum())) / len(error)
        fallen[point] = (falls > LIKELY * error).all() and falls.mean() > CERTAIN * error_of_mean
    standing = np.flatnonzero(~fallen)
    first = int(standing[-1]) + 1 if len(standing) else 0
    return first if first < count else None


def _steepest(log_rates: Curve, run: Curve, *, first: int, last: int, reach: int) -> int:
    """Return the point of a range at which the loss falls fastest over the logarithm of the rate."""
    points = range(first, last + 1)
    left = np.array([max(0, point - reach) for point in points])
    right = np.array([min(last, point + reach) for point in points])
    slopes = (run[right] - run[left]) / (log_rates[right] - log_rates[left])
    return first + int(slopes.argmin())
