"""Learning rates read from the curve of a finder: the readings that notebooks know, a robust one, and how to show them.

``robust`` weighs several short runs from the same weights, each with other images in another order. Each run is read by itself
from its plain losses, smoothed by a running median, which neither lags nor follows an odd batch. How far a loss must move to count
is measured on the run: the spread of neighbouring losses. The safe range begins where the mean of the runs, and every run, has
fallen below all that came before, and ends where the first of them was lowest before it rose. The suggestion lies half-way, in
powers of ten, between the rate at which the runs fell fastest (their median) and the end of the range: there the network learns
and the loss is still steady.

R: runs; N: points of each.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.train.metrics import unique_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vizsla.train.rates.lr_finder import FinderCurve

    Array = NDArray[np.float64]

Reading = tuple[float, tuple[float, float]]
"""A rate, and the place of its dot in the plot."""

Suggestion = Callable[[Tensor, Tensor, int], Reading]
"""From rising rates float32 ``(N,)``, smoothed losses float32 ``(N,)`` and the number of steps asked for to a reading; where
there are too few points all its numbers are nan."""

NOTHING: Reading = (math.nan, (math.nan, math.nan))
SKIPPED_AT_END = 5
"""The last points are those of a loss that runs away."""

FEWEST_POINTS = 15
"""With fewer nothing is suggested: they hardly show a beginning, a fall and a rise (three windows of the robust reading)."""


def usable_points(lrs: Tensor, losses: Tensor, num_it: int) -> tuple[Tensor, Tensor]:
    """Return the part of a curve that can be read, of one run ``(N,)`` or several ``(R, N)``.

    The first tenth of ``num_it`` is left out, where the running mean is still that of a few batches, and so are the last five
    points and everything from the first loss on that is not finite.
    """
    kept = slice(num_it // 10, -SKIPPED_AT_END)
    lrs, losses = lrs[kept], losses[..., kept]
    broken = ~torch.isfinite(losses)
    broken = broken.any(dim=0) if broken.ndim > 1 else broken
    end = int(broken.int().argmax()) if bool(broken.any()) else len(lrs)
    return lrs[:end], losses[..., :end]


def minimum(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
    """Suggest a tenth of the rate at which the loss was lowest.

    Args:
        lrs: Rising rates, float32 ``(N,)``.
        losses: float32 ``(N,)``.
        num_it: Not used; all readings are called alike.
    """
    del num_it
    if not len(losses):
        return NOTHING
    lowest = int(losses.argmin())
    rate = float(lrs[lowest])
    return rate / 10, (rate, float(losses[lowest]))


def steep(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
    """Suggest the rate at which the loss fell fastest over the logarithm of the rate.

    Args:
        lrs: Rising rates, float32 ``(N,)``.
        losses: float32 ``(N,)``.
        num_it: Not used; all readings are called alike.
    """
    del num_it
    slopes = torch.diff(losses) / torch.diff(lrs.log())
    slopes = torch.where(torch.isfinite(slopes), slopes, math.inf)
    if not len(slopes):
        return NOTHING
    steepest = int(slopes.argmin())
    rate = float(lrs[steepest])
    return rate, (rate, float(losses[steepest]))


def valley(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
    """Suggest a rate about half-way down the longest valley.

    The valley is the longest strictly falling subsequence of the losses, found in O(N log N) as in Fredman, "On computing the
    length of longest increasing subsequences", Discrete Mathematics 11, 1975; the suggestion is the rate at half of its length.

    Args:
        lrs: Rising rates, float32 ``(N,)``.
        losses: float32 ``(N,)``.
        num_it: Not used; all readings are called alike.
    """
    del num_it
    if not len(losses):
        return NOTHING
    # lowest_ends[k]: the best last value, negated, of a falling subsequence of k + 1 points.
    lowest_ends: list[float] = []
    longest, end = 0, 0
    for position, loss in enumerate(losses.tolist()):
        length = bisect_left(lowest_ends, -loss)
        lowest_ends[length : length + 1] = [-loss]
        if length + 1 > longest:
            longest, end = length + 1, position
    start = end - longest
    third = longest / 3
    middle = max(0, start + int(third) + int(third / 2))
    rate = float(lrs[middle])
    return rate, (rate, float(losses[middle]))


def slide(
    lrs: Tensor,
    losses: Tensor,
    num_it: int,
    lr_diff: int = 15,
    thresh: float = 0.005,
    adjust_value: float = 1.0,
) -> Reading:
    """Suggest the rate at which an interval, sliding down from the highest rates, first has the same slope at both ends.

    Args:
        lrs: Rising rates, float32 ``(N,)``.
        losses: float32 ``(N,)``.
        num_it: Not used; all readings are called alike.
        lr_diff: Points between the ends of the interval.
        thresh: Slopes that differ by less than this count as equal.
        adjust_value: The rate is multiplied by it.
    """
    del num_it
    count = len(losses)
    if count < max(2, lr_diff + 1):
        return NOTHING
    values = losses.numpy()
    with np.errstate(invalid="ignore"):  # inf - inf
        slopes = np.gradient(values)
        right, left = count - 1, count - 1 - lr_diff
        found = left
        while left >= 0 and abs(slopes[right] - slopes[left]) > thresh:
            found = left
            right, left = right - 1, left - 1
    rate = float(lrs[found]) * adjust_value
    height = float(np.interp(np.log10(rate), np.log10(lrs.numpy()), values))
    return rate, (rate, height)


# --- several runs ---

ROBUST_RUNS = 3
"""The order of images can mislead one run; two others outvote it."""

WINDOW_PART = 7
"""A window of the running median is a seventh of the points: about a factor of ten in the rate, of the usual eight."""

CERTAIN = 3.0
"""By how many standard errors the mean of the runs has to fall, or one run has to rise, to count."""

LIKELY = 1.0
"""Less is enough for the fall of a single run, because that of the mean is certain."""

SAFETY = 3.0
"""The suggestion is at least this many times below the end of the range: the loss of a short run rises late."""

_DEVIATION_TO_SPREAD = 1.4826
"""Median absolute deviation of normally distributed numbers -> their standard deviation."""

_MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median, relative to that of a mean."""


def robust(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
    """Suggest a rate that is safe in all of several runs; nan if there is none.

    Args:
        lrs: Rising rates, float32 ``(N,)``.
        losses: Of all runs, as measured, float32 ``(R, N)``.
        num_it: Not used; all readings are called alike.
    """
    del num_it
    return _dot_of(robust_rate(lrs, losses), lrs, losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustRate:
    """What several runs say together.

    Attributes:
        value: The suggested rate; nan if none is safe.
        low: All runs fall from this rate on; nan if they do not.
        high: No run rises up to this rate; nan if one does from the beginning.
        reason: Why there is no safe rate, as a sentence; empty if there is one.
        num_runs: Number of runs.
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

    Rates rise by equal factors; the losses ``(R, N)``, or ``(N,)`` for one run, are plain. One that is not finite is a rise.
    """
    rates = lrs.double().numpy()
    runs = np.atleast_2d(losses.double().numpy())
    num_runs, num_points = runs.shape
    if num_points < FEWEST_POINTS:
        return _none(
            f"only {num_points} losses are usable, and {FEWEST_POINTS} are needed", num_runs
        )
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
            "at no rate did the loss fall by more than its variation between batches (try larger batches or more "
            "steps)",
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
        high=high, reason=f"No safe learning rate was found: {why}.", num_runs=num_runs
    )


def _running_median(runs: Array, *, window: int) -> Array:
    """Return the median of a window around each point, ``(R, N)``; at the ends the window is cut."""
    half = window // 2
    columns = [
        np.median(runs[:, max(0, point - half) : point + half + 1], axis=1)
        for point in range(runs.shape[1])
    ]
    return np.stack(columns, axis=1)


def _spreads(runs: Array) -> Array:
    """Return the standard deviation of the losses of each run, ``(R,)``, from the differences of neighbours."""
    steps = [float(np.median(np.abs(np.diff(run[np.isfinite(run)])))) for run in runs]
    return np.array([_DEVIATION_TO_SPREAD * step / math.sqrt(2) for step in steps])


def _before_rise(run: Array, *, margin: float, window: int) -> tuple[int, int]:
    """Return where a run was lowest before it rose for good, and the last point before that rise.

    A rise is larger than the margin and lasts for a window or up to the end: a few odd batches in a row come back down. Without
    a rise both are the last point.
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


def _first_of_fall(runs: Array, smooth: Array, *, errors: Array, window: int) -> int | None:
    """Return the first point from which all runs stay below what came before, up to the end; None if there is none.

    ``smooth`` is the running median of the runs up to the end of the range, ``(R, M)``; ``errors`` are the standard errors of the
    median of one loss, ``(R,)``: that of n losses is the square root of n times smaller.
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


def _steepest(log_rates: Array, run: Array, *, first: int, last: int, reach: int) -> int:
    """Return the point of a range at which the loss falls fastest over the logarithm of the rate."""
    points = range(first, last + 1)
    left = np.array([max(0, point - reach) for point in points])
    right = np.array([min(last, point + reach) for point in points])
    slopes = (run[right] - run[left]) / (log_rates[right] - log_rates[left])
    return first + int(slopes.argmin())


# --- what was asked for ---

DEFAULT_SUGGESTIONS: tuple[Suggestion, ...] = (valley,)
"""What is suggested by default."""

OLDER_MEANING: tuple[Suggestion, ...] = (minimum, steep)
"""What ``lr_min, lr_steep = learn.lr_find()`` unpacks to; notebooks of 2020 have that line."""


class SuggestedLRs:
    """The suggested rates, by the names of what suggested them.

    Each is an attribute: ``suggested.valley``. Unpacking gives them in the order in which they were asked for. By default it
    gives (minimum, steep), for the notebooks that unpack two numbers.

    Args:
        readings: Name -> reading, in order; the rate is nan where there were too few points.
        unpacked: What iteration gives.
        note: A sentence for the user, or empty.
        robust_rate: Range and reason, where the robust suggestion was asked for.
    """

    minimum: float
    steep: float
    valley: float
    slide: float
    robust: float

    def __init__(
        self,
        readings: Mapping[str, Reading],
        *,
        unpacked: Iterable[float],
        note: str = "",
        robust_rate: RobustRate | None = None,
    ) -> None:
        self.dots = {name: dot for name, (_, dot) in readings.items()}
        self.note = note
        self.robust_rate = robust_rate
        self._rates = {name: rate for name, (rate, _) in readings.items()}
        self._unpacked = tuple(unpacked)
        for name, rate in self._rates.items():
            setattr(self, name, rate)

    def __repr__(self) -> str:
        """Show the rates that were asked for."""
        return f"SuggestedLRs({', '.join(f'{name}={rate}' for name, rate in self._rates.items())})"

    def __iter__(self) -> Iterator[float]:
        """Iterate over what unpacking gives."""
        return iter(self._unpacked)

    def __len__(self) -> int:
        """Return the number of rates that unpacking gives."""
        return len(self._unpacked)

    def __getitem__(self, position: int) -> float:
        """Return the rate at a position of what unpacking gives."""
        return self._unpacked[position]

    def as_dict(self) -> dict[str, float]:
        """Return the rates that were asked for, by name."""
        return dict(self._rates)


def runs_needed(suggest_funcs: Suggestion | Iterable[Suggestion] | None) -> int:
    """Return how many runs of the finder these functions need: one, or several for ``robust``."""
    functions = () if suggest_funcs is None else _functions(suggest_funcs)
    return ROBUST_RUNS if any(_is_robust(function) for function in functions) else 1


def suggest(
    curve: FinderCurve, suggest_funcs: Suggestion | Iterable[Suggestion] = DEFAULT_SUGGESTIONS
) -> SuggestedLRs:
    """Read rates from the curve of a finder by one or several readings; a ``functools.partial`` goes by its function's name."""
    functions = _functions(suggest_funcs)
    if not functions:
        raise ConfigError(
            "Choose what to suggest: minimum, steep, valley, slide or robust. Received: nothing"
        )
    lrs, losses = torch.tensor(curve.lrs), torch.tensor(curve.losses)
    used, read = usable_points(lrs, losses, curve.num_it)
    enough = len(used) >= FEWEST_POINTS
    readings: dict[str, Reading] = {}
    found: RobustRate | None = None
    for name, function in zip(unique_names(functions), functions, strict=True):
        if _is_robust(function):
            rates, runs = usable_points(lrs, torch.tensor(curve.runs), curve.num_it)
            found = robust_rate(rates, runs)
            readings[name] = _dot_of(found, rates, runs)
        else:
            rate, (x, y) = function(used, read, curve.num_it) if enough else NOTHING
            readings[name] = (float(rate), (float(x), float(y)))
    unpacked = [rate for rate, _ in readings.values()]
    if suggest_funcs is DEFAULT_SUGGESTIONS:
        unpacked = [
            (function(used, read, curve.num_it) if enough else NOTHING)[0]
            for function in OLDER_MEANING
        ]
    lacking = [name for name in readings if math.isnan(readings[name][0]) and name != "robust"]
    notes = [
        (
            f"Only {len(used)} of {len(lrs)} losses are usable, too few to suggest {' or '.join(lacking)}; use more "
            "steps."
        )
        if lacking
        else "",
        found.reason if found else "",
    ]
    return SuggestedLRs(
        readings, unpacked=unpacked, note=" ".join(filter(None, notes)), robust_rate=found
    )


def _functions(suggest_funcs: Suggestion | Iterable[Suggestion]) -> tuple[Suggestion, ...]:
    return (suggest_funcs,) if callable(suggest_funcs) else tuple(suggest_funcs)


def _is_robust(function: Suggestion) -> bool:
    return getattr(function, "func", function) is robust


def _dot_of(found: RobustRate, lrs: Tensor, losses: Tensor) -> Reading:
    """Return a robust rate with its dot: the mean of the runs at the nearest point."""
    if math.isnan(found.value):
        return NOTHING
    nearest = int((lrs.log() - math.log(found.value)).abs().argmin())
    return found.value, (found.value, float(losses[..., nearest].mean()))


def describe(suggestions: SuggestedLRs) -> tuple[str, ...]:
    """Return the suggestions as lines of text, in the order in which they were asked for, then the note."""
    lines: list[str] = []
    for name, rate in suggestions.as_dict().items():
        shown = "none" if math.isnan(rate) else f"{rate:.2e}"
        found = suggestions.robust_rate if name == "robust" else None
        if found is not None and found.safe:
            shown += f"  safe from {found.low:.2e} to {found.high:.2e} in {found.num_runs} runs"
        lines.append(f"{name:<8}  {shown}")
    return (*lines, *([suggestions.note] if suggestions.note else []))
