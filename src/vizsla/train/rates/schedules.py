"""Learning-rate schedules: the rate of every parameter group and the momentum, step by step.

A ``Schedule`` is made once, from whole-numbered positions, so it can be plotted, tested, and continued anywhere. The groups share
one shape: the rate of a group at a step is the group's rate times the step's factor. First the curves that schedules are made of,
then one rate per group out of what users write, then the schedules of fastai 2, then those of lesson one's notebooks.

One-cycle: Smith, "A disciplined approach to neural network hyper-parameters", 2018 (arXiv 1803.09820). Warm restarts: Loshchilov
and Hutter, "SGDR", ICLR 2017 (arXiv 1608.03983). Triangles and the range test: Smith, "Cyclical learning rates for training
neural networks", WACV 2017 (arXiv 1506.01186). Lower rates for earlier layers: Howard and Ruder, "Universal language model
fine-tuning for text classification", ACL 2018 (arXiv 1801.06146).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

# --- curves ---

Curve = Callable[[float], float]
"""From a position, 0 to 1, to a value."""

ROUNDING = 1e-9
"""A position nearer than this to the end of a part belongs to the next part, whichever side rounding put it on."""


def linear(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a straight line from ``start`` to ``end``."""
    return start + position * (end - start)


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return start + (1 - math.cos(math.pi * position)) * (end - start) / 2


def exponential(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a curve that grows by equal factors; both ends have the same sign.

    Raises:
        ConfigError: An end is 0, or they differ in sign.
    """
    if not start * end > 0:
        raise ConfigError(
            f"An exponential runs between two numbers of the same sign, neither 0. Received: {start} to {end}"
        )
    return start * (end / start) ** position


def polynomial(start: float, end: float, position: float, *, power: float = 2.0) -> float:
    """Return the value at ``position`` (0 to 1) of ``start + (end - start) * position**power``."""
    return start + (end - start) * position**power


def combined(pcts: Sequence[float], parts: Sequence[Curve]) -> Curve:
    """Return a curve that runs through several others, one after the other.

    Args:
        pcts: Share of the whole that each part takes; they add up to 1.
        parts: As many curves, each of positions 0 to 1.

    Raises:
        ConfigError: Shares and parts differ in number, a share is negative, or they do not add up to 1.
    """
    if len(pcts) != len(parts) or not parts:
        raise ConfigError(
            f"Every part has its share. Received: {len(pcts)} shares and {len(parts)} parts"
        )
    if not (all(share >= 0 for share in pcts) and abs(math.fsum(pcts) - 1) < 1e-6):
        raise ConfigError(
            f"The shares of the parts are not negative and add up to 1. Received: {list(pcts)}"
        )
    shares = tuple(float(share) for share in pcts)
    starts = tuple(math.fsum(shares[:part]) for part in range(len(shares)))
    used = [part for part, share in enumerate(shares) if share > 0]

    def curve(position: float) -> float:
        reached = [part for part in used if position >= starts[part] - ROUNDING]
        part = reached[-1] if reached else used[0]
        inside = (position - starts[part]) / shares[part]
        return parts[part](min(1.0, max(0.0, inside)))

    return curve


# --- one rate per group ---

Rates = float | slice | list[float] | tuple[float, ...] | NDArray[Any]
"""One rate for all groups, ``slice(last)``, ``slice(first, last)``, or one rate per group."""

EARLIER_SHARE = 10
"""``slice(last)`` gives the earlier groups a tenth of the rate of the last, as fastai does."""

_REFUSED = "Learning rates are positive finite numbers"


def rates_per_group(rates: Rates, *, num_groups: int) -> tuple[float, ...]:
    """Return one learning rate per parameter group, earliest layers first.

    A slice whose first rate is the higher one works with a warning: lower rates for earlier layers are the usual wish.

    Args:
        rates: ``x``: x everywhere. ``slice(x)``: x for the last group, x/10 for the others. ``slice(a, b)``: from a to b in
            equal factors. A list or tuple: as given. A numpy array: as given, one of a single number counts as that number.
        num_groups: Number of groups.

    Raises:
        ConfigError: The list has another length, a rate is not a positive finite number, or a slice has no end.
    """
    if isinstance(rates, slice):
        result = _of_slice(rates, num_groups=num_groups)
    elif isinstance(rates, (np.ndarray, np.generic)):
        flat = rates.reshape(-1).tolist() if rates.ndim < 2 else None
        if flat is None:
            raise ConfigError(
                f"An array of learning rates has one dimension. Received: shape {rates.shape}"
            )
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
    """Return a rate as a float; nan for what is no number."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        return math.nan
    return float(rate)


def _of_slice(rates: slice, *, num_groups: int) -> tuple[float, ...]:
    if rates.step is not None or rates.stop is None:
        raise ConfigError(
            f"A slice of learning rates is slice(last) or slice(first, last). Received: {rates}"
        )
    first, last = _number(rates.start or 0), _number(rates.stop)
    # The root of their ratio has to be a real number.
    if not (math.isfinite(first) and first >= 0 and math.isfinite(last) and last > 0):
        raise ConfigError(f"{_REFUSED}. Received: {rates!r}")
    if not first:
        return (*(last / EARLIER_SHARE for _ in range(num_groups - 1)), last)
    if num_groups == 1:
        return (last,)
    if first > last:
        warnings.warn(
            f"slice({first:g}, {last:g}) gives the earliest layers the higher rate; it was taken as it stands, "
            f"{first:g} for the first of {num_groups} groups down to {last:g} for the last.",
            stacklevel=3,
        )
    factor = (last / first) ** (1 / (num_groups - 1))
    return (*(first * factor**group for group in range(num_groups - 1)), last)


# --- schedules ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What the optimiser is told before each step.

    Attributes:
        rates: One number per parameter group, earliest layers first.
        factors: One number per step; the rate of a group at a step is its rate times the step's factor.
        momenta: One number per step; empty leaves the momentum as it is.

    Raises:
        ConfigError: There are momenta, but not one per step.
    """

    rates: tuple[float, ...]
    factors: tuple[float, ...]
    momenta: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check that the lengths agree."""
        if self.momenta and len(self.momenta) != len(self.factors):
            raise ConfigError(
                f"A schedule has a momentum for every step or none. Received: {len(self.momenta)} momenta "
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

    @property
    def learning_rates(self) -> tuple[tuple[float, ...], ...]:
        """The rates of all groups at all steps, for plots and tests; a loop asks ``rates_at``."""
        return tuple(self.rates_at(step) for step in range(self.num_steps))


def shaped(
    num_steps: int, *, rates: Sequence[float], shape: Curve, momentum: Curve | None = None
) -> Schedule:
    """Return a schedule of any shape.

    Args:
        num_steps: Steps of the whole fit.
        rates: One per group.
        shape: From the position of a step, 0 for the first and always below 1, to the factor on the rates.
        momentum: From the position to the momentum; None leaves it as it is.

    Raises:
        ConfigError: ``num_steps`` is not a whole number from 0 on.
    """
    whole_number(num_steps, name="num_steps", least=0)
    positions = [step / num_steps for step in range(num_steps)]
    return Schedule(
        rates=_floats(rates),
        factors=tuple(float(shape(position)) for position in positions),
        momenta=() if momentum is None else tuple(float(momentum(p)) for p in positions),
    )


def constant(num_steps: int, *, rates: Sequence[float]) -> Schedule:
    """Return the same rates for every step; the momentum stays as it is."""
    return shaped(num_steps, rates=rates, shape=partial(linear, 1.0, 1.0))


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

    The cosine halves and the constants are those of fastai 2.

    Args:
        num_steps: Steps of the whole cycle.
        peak_rates: Highest rate of each group.
        div: The cycle starts at peak / div.
        div_final: It ends towards peak / div_final.
        pct_start: Part of the cycle that rises, 0 to 1.
        momenta: At the start, at the peak and at the end.

    Raises:
        ConfigError: ``pct_start`` is outside of 0 to 1, a divisor is not positive, or a momentum outside of 0 to below 1.
    """
    usable_momenta = all(0 <= momentum < 1 for momentum in momenta)
    if not (0 <= pct_start <= 1 and div > 0 and div_final > 0 and usable_momenta):
        raise ConfigError(
            "pct_start lies between 0 and 1, div and div_final are positive, momenta lie between 0 and below 1. "
            f"Received: pct_start={pct_start}, div={div}, div_final={div_final}, momenta={momenta}"
        )
    shares = (pct_start, 1 - pct_start)

    def hill(start: float, middle: float, end: float) -> Curve:
        return combined(shares, (partial(cosine, start, middle), partial(cosine, middle, end)))

    return shaped(
        num_steps,
        rates=peak_rates,
        shape=hill(1 / div, 1.0, 1 / div_final),
        momentum=hill(*momenta),
    )


def flat_cosine(
    num_steps: int, *, rates: Sequence[float], div_final: float = 1e5, pct_start: float = 0.75
) -> Schedule:
    """Return rates that stay, then fall by half a cosine; the momentum stays as it is.

    Popular with optimisers that warm up by themselves; the constants are those of fastai 2.

    Args:
        num_steps: Steps of the whole fit.
        rates: One per group, of the flat part.
        div_final: The rates end towards rate / div_final.
        pct_start: Part that is flat, 0 to 1.

    Raises:
        ConfigError: ``pct_start`` is outside of 0 to 1, or ``div_final`` is not positive.
    """
    if not (0 <= pct_start <= 1 and div_final > 0):
        raise ConfigError(
            "pct_start lies between 0 and 1 and div_final is positive. "
            f"Received: pct_start={pct_start}, div_final={div_final}"
        )
    parts = (partial(linear, 1.0, 1.0), partial(cosine, 1.0, 1 / div_final))
    return shaped(num_steps, rates=rates, shape=combined((pct_start, 1 - pct_start), parts))


def cosine_restarts(
    num_cycles: int, *, rates: Sequence[float], cycle_steps: int, cycle_mult: int = 2
) -> Schedule:
    """Return cycles that each fall from the rate towards 0 by half a cosine; the momentum stays as it is.

    Every cycle begins at the full rate exactly, because positions are counted in steps.

    Args:
        num_cycles: At least 1.
        rates: One per group, at the start of each cycle.
        cycle_steps: Steps of the first cycle, at least 1.
        cycle_mult: How many times longer each cycle is than the one before; 1 keeps them equal.

    Raises:
        ConfigError: One of the three is not a whole number from 1 on.
    """
    whole_number(num_cycles, name="num_cycles", least=1)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    whole_number(cycle_mult, name="cycle_mult", least=1)
    lengths = [cycle_steps * cycle_mult**cycle for cycle in range(num_cycles)]
    factors = tuple(cosine(1.0, 0.0, step / n) for n in lengths for step in range(n))
    return Schedule(rates=_floats(rates), factors=factors)


def lr_range(
    num_steps: int, start: Sequence[float], end: float, *, linearly: bool = False
) -> Schedule:
    """Return rates that rise towards ``end``, which the step after the last would reach.

    Args:
        num_steps: Steps of the whole range.
        start: Rate of each group at the first step.
        end: The last group heads for it; the others keep their ratios to the last.
        linearly: Rise from 0 by equal amounts, as lesson one's finder does with ``linear=True``; then only the ratios of
            ``start`` count. Otherwise the rates grow by equal factors.

    Raises:
        ConfigError: A rate is not a positive finite number.
    """
    rates_per_group([*start, end], num_groups=len(start) + 1)
    top = end / start[-1]
    shape = partial(linear, 0.0, top) if linearly else partial(exponential, 1.0, top)
    return shaped(num_steps, rates=start, shape=shape)


def whole_number(value: object, *, name: str, least: int) -> None:
    """Check that a value is a whole number from ``least`` on.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number from {least} on. Received: {value!r}")


def _floats(rates: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(rate) for rate in rates)


# --- lesson one's notebooks ---

WARM_UP_PART = 20
"""The first 1/20 of the first cycle, rounded up, ..."""
WARM_UP_DIVISOR = 100
"""... trains at 1/100 of the rate."""


def classic_epochs(n_cycle: int, *, cycle_len: int | None = None, cycle_mult: float = 1) -> int:
    """Return the number of epochs of ``n_cycle`` cycles; a ``cycle_len`` of None counts as 1.

    Raises:
        ConfigError: ``n_cycle`` or ``cycle_len`` is negative or no whole number, or ``cycle_mult`` is not positive.
    """
    whole_number(n_cycle, name="n_cycle", least=0)
    length = 1 if cycle_len is None else cycle_len
    whole_number(length, name="cycle_len", least=1)
    _check_growth(cycle_mult)
    return math.ceil(sum(length * cycle_mult**cycle for cycle in range(n_cycle)) - 1e-9)


def _check_growth(cycle_mult: float) -> None:
    if not (math.isfinite(cycle_mult) and cycle_mult > 0):
        raise ConfigError(f"cycle_mult is a positive number. Received: {cycle_mult!r}")


def warm_restarts_classic(
    num_steps: int, *, rates: Sequence[float], cycle_steps: int, cycle_mult: float = 1
) -> Schedule:
    """Return cycles that fall from the rate towards 0 by half a cosine, with a short warm-up in the first.

    The warm-up, ``ceil(cycle_steps / 20)`` steps at a hundredth of the rate, counts as part of its cycle, and a cycle of one
    step has none. The momentum stays as it is.

    Args:
        num_steps: Steps of the whole fit; the last cycle may be cut short.
        rates: One per group, at the start of each cycle.
        cycle_steps: Steps of the first cycle, at least 1.
        cycle_mult: How many times longer each cycle is than the one before.

    Raises:
        ConfigError: A number of steps is not a whole number, or ``cycle_mult`` is not positive.
    """
    whole_number(num_steps, name="num_steps", least=0)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    _check_growth(cycle_mult)
    factors: list[float] = []
    length = float(cycle_steps)
    while len(factors) < num_steps:
        steps = max(1, math.ceil(length - 1e-9))
        factors += [cosine(1.0, 0.0, step / steps) for step in range(steps)]
        length *= cycle_mult
    warm_up = min(-(-cycle_steps // WARM_UP_PART), cycle_steps - 1, num_steps)
    factors[:warm_up] = [1 / WARM_UP_DIVISOR] * warm_up
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

    Args:
        num_steps: Steps of the whole fit.
        rates: One per group, at the tip.
        cycle_steps: Steps of every triangle.
        div: The triangle starts at rate / div.
        cut_div: Part of the triangle that rises, as a divisor.
        momenta: Highest and lowest, which mirror the rate one step ahead of it, as fastai 0.7 has it; None leaves it as it is.

    Raises:
        ConfigError: The rise has no step, or ``div`` is not positive.
    """
    rise = int(cycle_steps // cut_div) if cut_div > 0 else 0
    _check_triangle(num_steps, cycle_steps, rise, div, hint=f"cut_div={cut_div}")

    def share(step: int) -> float:
        return step / rise if step <= rise else 1 - (step - rise) / (cycle_steps - rise)

    def factor(step: int) -> float:
        return linear(1 / div, 1.0, share(step))

    return _repeated(num_steps, rates, cycle_steps, factor=factor, share=share, momenta=momenta)


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

    Args:
        num_steps: Steps of the whole fit.
        rates: One per group, at the tip.
        cycle_steps: Steps of every triangle with its tail.
        div: The triangle starts and ends at rate / div.
        pct: Part of a cycle for the tail, in percent.
        momenta: As for ``triangular``.
    """
    rise = int(cycle_steps * (1 - pct / 100) / 2) if 0 <= pct < 100 else 0
    _check_triangle(num_steps, cycle_steps, rise, div, hint=f"pct={pct}")

    def share(step: int) -> float:
        return max(0.0, 1 - abs(step - rise) / rise)

    def factor(step: int) -> float:
        if step <= 2 * rise:
            return linear(1 / div, 1.0, share(step))
        tail = (step - 2 * rise) / (cycle_steps - 2 * rise)
        return linear(1 / div, 1 / div / WARM_UP_DIVISOR, tail)

    return _repeated(num_steps, rates, cycle_steps, factor=factor, share=share, momenta=momenta)


def _check_triangle(num_steps: int, cycle_steps: int, rise: int, div: float, *, hint: str) -> None:
    whole_number(num_steps, name="num_steps", least=0)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    if rise < 1 or not (math.isfinite(div) and div > 0):
        raise ConfigError(
            "A triangle rises for at least one step from a rate divided by a positive number. "
            f"Received: div={div}, {hint} with cycles of {cycle_steps} steps. Make the cycle longer or the rise a larger part of it."
        )


def _repeated(
    num_steps: int,
    rates: Sequence[float],
    cycle_steps: int,
    *,
    factor: Callable[[int], float],
    share: Callable[[int], float],
    momenta: tuple[float, float] | None,
) -> Schedule:
    if momenta is not None and not all(0 <= momentum < 1 for momentum in momenta):
        raise ConfigError(f"Momenta lie between 0 and below 1. Received: {momenta}")
    return Schedule(
        rates=_floats(rates),
        factors=tuple(factor(step % cycle_steps) for step in range(num_steps)),
        momenta=()
        if momenta is None
        else tuple(linear(*momenta, share((step + 1) % cycle_steps)) for step in range(num_steps)),
    )
