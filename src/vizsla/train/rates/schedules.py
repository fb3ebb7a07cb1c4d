"""Learning-rate schedules: the rate of every parameter group and the momentum, step by step.

A ``Schedule`` is made once, from whole-numbered positions, so it can be plotted, tested, and continued anywhere. All groups share
one shape: the rate of a group at a step is the group's rate times the step's factor. First one rate per group from what users
write, then the schedules of fastai 2, then those of lesson one's notebooks.

One-cycle: Smith, "A disciplined approach to neural network hyper-parameters", 2018 (arXiv 1803.09820). Warm restarts: Loshchilov
and Hutter, "SGDR", ICLR 2017 (arXiv 1608.03983). Triangles and the range test: Smith, "Cyclical learning rates for training
neural networks", WACV 2017 (arXiv 1506.01186). Lower rates for earlier layers: Howard and Ruder, "Universal language model
fine-tuning for text classification", ACL 2018 (arXiv 1801.06146).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Curve = Callable[[float], float]  # position, 0 to 1 -> value

# --- one rate per group ---

Rates = float | slice | list[float] | tuple[float, ...] | NDArray[Any]
"""One rate for all groups, ``slice(last)``, ``slice(first, last)``, or one rate per group."""

_EARLIER_SHARE = 10
"""``slice(last)`` gives the earlier groups a tenth of the rate of the last, as fastai does."""

_REFUSED = "Learning rates must be positive finite numbers"


def rates_per_group(rates: Rates, *, num_groups: int) -> tuple[float, ...]:
    """Return one learning rate per parameter group, earliest layers first.

    ``x`` is x everywhere, ``slice(x)`` x for the last group and x/10 for the others, ``slice(a, b)`` from a to b in equal factors. A
    slice whose first rate is the higher one works with a warning: lower rates for earlier layers are the usual wish. A list, tuple or
    numpy array has one rate per group; an array of one number counts as that number.
    """
    if isinstance(rates, slice):
        result = _of_slice(rates, num_groups=num_groups)
    elif isinstance(rates, (np.ndarray, np.generic)):
        if rates.ndim > 1:
            raise ConfigError(
                f"An array of learning rates must have one dimension. Received: shape {rates.shape}"
            )
        flat = rates.reshape(-1).tolist()
        result = tuple(flat * num_groups if len(flat) == 1 else flat)
    elif isinstance(rates, (list, tuple)):
        result = tuple[Any, ...](rates)
    else:
        result = (rates,) * num_groups
    if len(result) != num_groups:
        raise ConfigError(
            f"{len(result)} learning rates were given and there are {num_groups} parameter groups. "
            "Give one number, a slice, or one number per group."
        )
    numbers = [_number(rate) for rate in result]
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ConfigError(
            f"{_REFUSED}. Received: {rates!r}; that is {list(result)} for the groups."
        )
    return tuple(numbers)


def _number(rate: object) -> float:
    """Return a rate as a float; nan for anything but a number."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        return math.nan
    return float(rate)


def _of_slice(rates: slice, *, num_groups: int) -> tuple[float, ...]:
    if rates.step is not None or rates.stop is None:
        raise ConfigError(
            f"A slice of learning rates must be slice(last) or slice(first, last). Received: {rates}"
        )
    first, last = _number(rates.start or 0), _number(rates.stop)
    # The root of their ratio has to be a real number.
    if not (math.isfinite(first) and first >= 0 and math.isfinite(last) and last > 0):
        raise ConfigError(f"{_REFUSED}. Received: {rates!r}")
    if not first:
        return (*(last / _EARLIER_SHARE for _ in range(num_groups - 1)), last)
    if num_groups == 1:
        return (last,)
    if first > last:
        warnings.warn(
            f"slice({first:g}, {last:g}) gives the earliest layers the higher rate. It is used as given: "
            f"{first:g} for the first of {num_groups} groups down to {last:g} for the last.",
            stacklevel=3,
        )
    factor = (last / first) ** (1 / (num_groups - 1))
    return (*(first * factor**group for group in range(num_groups - 1)), last)


# --- schedules ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The rates of all groups and the momentum, step by step.

    The rate of a group at a step is its rate times the step's factor. ``momenta`` has one number per step; empty leaves the momentum
    as it is.
    """

    rates: tuple[float, ...]
    factors: tuple[float, ...]
    momenta: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.momenta and len(self.momenta) != len(self.factors):
            raise ConfigError(
                f"A schedule must have a momentum for every step, or none. Received: {len(self.momenta)} momenta "
                f"for {len(self.factors)} steps"
            )

    @property
    def num_steps(self) -> int:
        """Steps of the whole fit."""
        return len(self.factors)

    def rates_at(self, step: int) -> tuple[float, ...]:
        """Return the learning rate of every group at a step, counted from 0."""
        factor = self.factors[step]
        return tuple(rate * factor for rate in self.rates)

    def momentum_at(self, step: int) -> float | None:
        """Return the momentum at a step, counted from 0; None leaves it as it is."""
        return self.momenta[step] if self.momenta else None


def linear(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a straight line from ``start`` to ``end``."""
    return start + position * (end - start)


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return start + (1 - math.cos(math.pi * position)) * (end - start) / 2


def exponential(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a curve that changes by equal factors; both ends have the same sign."""
    return start * (end / start) ** position


def _two_parts(pct: float, first: Curve, second: Curve) -> Curve:
    """Return a curve that runs through ``first`` in the share ``pct`` of the positions, and through ``second`` in the rest."""

    def curve(position: float) -> float:
        # A position that rounding put a hair before the boundary belongs to the second part.
        if pct == 1 or (pct > 0 and position < pct - 1e-9):
            return first(min(1.0, max(0.0, position / pct)))
        return second(min(1.0, max(0.0, (position - pct) / (1 - pct))))

    return curve


def _shaped(
    num_steps: int, *, rates: Sequence[float], shape: Curve, momentum: Curve | None = None
) -> Schedule:
    """Return a schedule with factors and momenta by the position of each step: 0 for the first, always below 1."""
    whole_number(num_steps, name="num_steps", least=0)
    positions = [step / num_steps for step in range(num_steps)]
    return Schedule(
        rates=_floats(rates),
        factors=tuple(float(shape(position)) for position in positions),
        momenta=() if momentum is None else tuple(float(momentum(p)) for p in positions),
    )


def constant(num_steps: int, *, rates: Sequence[float]) -> Schedule:
    """Return the same rates for every step; the momentum stays as it is."""
    return _shaped(num_steps, rates=rates, shape=lambda _: 1.0)


def one_cycle(
    num_steps: int,
    *,
    peak_rates: Sequence[float],
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    momenta: tuple[float, float, float] = (0.95, 0.85, 0.95),
) -> Schedule:
    """Return a one-cycle schedule: the rate rises by half a cosine, then falls by one; the momentum goes the other way.

    The share ``pct_start`` of the steps rises from peak / div, the rest falls towards peak / div_final; ``momenta`` are those at the
    start, at the peak and at the end. The cosine halves and the constants are those of fastai 2.
    """
    usable_momenta = all(0 <= momentum < 1 for momentum in momenta)
    if not (0 <= pct_start <= 1 and div > 0 and div_final > 0 and usable_momenta):
        raise ConfigError(
            "pct_start must be between 0 and 1, div and div_final positive, and momenta from 0 to below 1. "
            f"Received: pct_start={pct_start}, div={div}, div_final={div_final}, momenta={momenta}"
        )

    def hill(start: float, middle: float, end: float) -> Curve:
        return _two_parts(pct_start, partial(cosine, start, middle), partial(cosine, middle, end))

    return _shaped(
        num_steps,
        rates=peak_rates,
        shape=hill(1 / div, 1.0, 1 / div_final),
        momentum=hill(*momenta),
    )


def flat_cosine(
    num_steps: int, *, rates: Sequence[float], div_final: float = 1e5, pct_start: float = 0.75
) -> Schedule:
    """Return rates that stay for the share ``pct_start`` of the steps, then fall by half a cosine towards rate / div_final.

    Popular with optimisers that warm up by themselves; the constants are those of fastai 2. The momentum stays as it is.
    """
    if not (0 <= pct_start <= 1 and div_final > 0):
        raise ConfigError(
            f"pct_start must be between 0 and 1, and div_final positive. Received: pct_start={pct_start}, "
            f"div_final={div_final}"
        )
    fall = partial(cosine, 1.0, 1 / div_final)
    return _shaped(num_steps, rates=rates, shape=_two_parts(pct_start, lambda _: 1.0, fall))


def cosine_restarts(
    num_cycles: int, *, rates: Sequence[float], cycle_steps: int, cycle_mult: int = 2
) -> Schedule:
    """Return cycles that each fall from the rate towards 0 by half a cosine, each ``cycle_mult`` times as long as the last.

    Every cycle begins at the full rate exactly, because positions are counted in steps. The momentum stays as it is.
    """
    whole_number(num_cycles, name="num_cycles", least=1)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    whole_number(cycle_mult, name="cycle_mult", least=1)
    lengths = [cycle_steps * cycle_mult**cycle for cycle in range(num_cycles)]
    return Schedule(
        rates=_floats(rates), factors=tuple(factor for n in lengths for factor in _fall(n))
    )


def lr_range(
    num_steps: int, start: Sequence[float], end: float, *, linearly: bool = False
) -> Schedule:
    """Return rates that rise from ``start`` towards ``end``, which the last group would reach at the step after the last.

    The other groups keep their ratios to the last. The rates grow by equal factors, or, ``linearly``, from 0 by equal amounts, as
    lesson one's finder does with ``linear=True``; then only the ratios of ``start`` count.
    """
    rates_per_group([*start, end], num_groups=len(start) + 1)
    top = end / start[-1]
    shape = partial(linear, 0.0, top) if linearly else partial(exponential, 1.0, top)
    return _shaped(num_steps, rates=start, shape=shape)


def whole_number(value: object, *, name: str, least: int) -> None:
    """Check that a value is a whole number from ``least`` on; raise ``ConfigError`` with its name otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}. Received: {value!r}")


def _floats(rates: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(rate) for rate in rates)


def _fall(num_steps: int) -> list[float]:
    """Return the factors of one cycle: from 1 towards 0 by half a cosine."""
    return [cosine(1.0, 0.0, step / num_steps) for step in range(num_steps)]


# --- lesson one's notebooks ---

_WARM_UP_PART = 20
"""The first 1/20 of the first cycle, rounded up, ..."""
_WARM_UP_DIVISOR = 100
"""... trains at 1/100 of the rate."""


def classic_epochs(n_cycle: int, *, cycle_len: int | None = None, cycle_mult: float = 1) -> int:
    """Return the number of epochs of ``n_cycle`` cycles; a ``cycle_len`` of None counts as 1."""
    whole_number(n_cycle, name="n_cycle", least=0)
    length = 1 if cycle_len is None else cycle_len
    whole_number(length, name="cycle_len", least=1)
    _check_growth(cycle_mult)
    return math.ceil(sum(length * cycle_mult**cycle for cycle in range(n_cycle)) - 1e-9)


def _check_growth(cycle_mult: float) -> None:
    if not (math.isfinite(cycle_mult) and cycle_mult > 0):
        raise ConfigError(f"cycle_mult must be a positive number. Received: {cycle_mult!r}")


def warm_restarts_classic(
    num_steps: int, *, rates: Sequence[float], cycle_steps: int, cycle_mult: float = 1
) -> Schedule:
    """Return cycles like those of ``cosine_restarts``, with a short warm-up in the first; the last may be cut short.

    The warm-up, ``ceil(cycle_steps / 20)`` steps at a hundredth of the rate, counts as part of its cycle. A cycle of one
    step has none.
    """
    whole_number(num_steps, name="num_steps", least=0)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    _check_growth(cycle_mult)
    factors: list[float] = []
    length = float(cycle_steps)
    while len(factors) < num_steps:
        factors += _fall(max(1, math.ceil(length - 1e-9)))
        length *= cycle_mult
    warm_up = min(-(-cycle_steps // _WARM_UP_PART), cycle_steps - 1, num_steps)
    factors[:warm_up] = [1 / _WARM_UP_DIVISOR] * warm_up
    return Schedule(rates=_floats(rates), factors=tuple(factors[:num_steps]))


def triangular(
    num_steps: int,
    *,
    rates: Sequence[float],
    cycle_steps: int,
    div: float,
    cut_div: float,
    momenta: tuple[float, float] | None = None,
) -> Schedule:
    """Return triangles (``use_clr``): straight up from rate / div in ``cycle_steps // cut_div`` steps, straight down again.

    ``momenta``, the highest and the lowest, mirror the rate one step ahead of it, as fastai 0.7 has it; None leaves it as it is.
    """
    rise = int(cycle_steps // cut_div) if cut_div > 0 else 0

    def share(step: int) -> float:
        return step / rise if step <= rise else 1 - (step - rise) / (cycle_steps - rise)

    return _triangles(
        num_steps,
        rates,
        cycle_steps,
        share,
        rise=rise,
        tail=cycle_steps,
        div=div,
        momenta=momenta,
        hint=f"cut_div={cut_div}",
    )


def triangular_beta(
    num_steps: int,
    *,
    rates: Sequence[float],
    cycle_steps: int,
    div: float,
    pct: float,
    momenta: tuple[float, float] | None = None,
) -> Schedule:
    """Return triangles with a tail (``use_clr_beta``): straight up, straight down, then down to a hundredth of the start.

    Args as for ``triangular``; ``pct`` is the part of a cycle for the tail, in percent.
    """
    rise = int(cycle_steps * (1 - pct / 100) / 2) if 0 <= pct < 100 else 0

    def share(step: int) -> float:
        return max(0.0, 1 - abs(step - rise) / rise)

    return _triangles(
        num_steps,
        rates,
        cycle_steps,
        share,
        rise=rise,
        tail=2 * rise,
        div=div,
        momenta=momenta,
        hint=f"pct={pct}",
    )


def _triangles(
    num_steps: int,
    rates: Sequence[float],
    cycle_steps: int,
    share: Callable[[int], float],
    *,
    rise: int,
    tail: int,
    div: float,
    momenta: tuple[float, float] | None,
    hint: str,
) -> Schedule:
    """Return triangles by the share of their height at each step of a cycle; after the step ``tail``, a line below them."""
    whole_number(num_steps, name="num_steps", least=0)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    if rise < 1 or not (math.isfinite(div) and div > 0):
        raise ConfigError(
            "A triangular schedule must rise for at least one step, from a rate divided by a positive number. "
            f"Received: div={div}, {hint} with cycles of {cycle_steps} steps. Make the cycle longer or the rise a "
            "larger part of it."
        )
    if momenta is not None and not all(0 <= momentum < 1 for momentum in momenta):
        raise ConfigError(f"Momenta must be from 0 to below 1. Received: {momenta}")

    def factor(step: int) -> float:
        if step <= tail:
            return linear(1 / div, 1.0, share(step))
        below = (step - tail) / (cycle_steps - tail)
        return linear(1 / div, 1 / div / _WARM_UP_DIVISOR, below)

    steps = range(num_steps)
    return Schedule(
        rates=_floats(rates),
        factors=tuple(factor(step % cycle_steps) for step in steps),
        momenta=()
        if momenta is None
        else tuple(linear(*momenta, share((step + 1) % cycle_steps)) for step in steps),
    )
