"""A number of steps and a rate per group in, the learning rate of every group and the momentum of every step out.

Schedules are pure functions of whole-numbered positions, so they can be plotted, tested, and taken up again anywhere. The
groups share one shape: the rate of a group at a step is the group's rate times the step's factor. The schedules of lesson
one's notebooks are in ``cycles``, the curves that all are made of in ``annealing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.train.annealing import Curve as Curve
from vizsla.train.annealing import combined as combined
from vizsla.train.annealing import cosine as cosine
from vizsla.train.annealing import exponential as exponential
from vizsla.train.annealing import linear as linear
from vizsla.train.annealing import polynomial as polynomial
from vizsla.train.rates import Rates as Rates
from vizsla.train.rates import rates_per_group as rates_per_group

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    positions = _positions(num_steps)
    return Schedule(
        rates=tuple(float(rate) for rate in rates),
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

    Smith, "A disciplined approach to neural network hyper-parameters", 2018 (arXiv 1803.09820), with the cosine halves and
    the constants of fastai 2.

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

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017 (arXiv 1608.03983). Every
    cycle begins at the full rate exactly, because positions are counted in steps.

    Args:
        num_cycles: At least 1.
        rates: One per group, at the start of each cycle.
        cycle_steps: Steps of the first cycle, at least 1.
        cycle_mult: Every cycle is so many times longer than the one before; 1 keeps them equal.

    Raises:
        ConfigError: One of the three is not a whole number from 1 on.
    """
    whole_number(num_cycles, name="num_cycles", least=1)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    whole_number(cycle_mult, name="cycle_mult", least=1)
    lengths = [cycle_steps * cycle_mult**cycle for cycle in range(num_cycles)]
    return Schedule(
        rates=tuple(float(rate) for rate in rates),
        factors=tuple(cosine(1.0, 0.0, step / n) for n in lengths for step in range(n)),
    )


def lr_range(num_steps: int, start: Sequence[float], end: float) -> Schedule:
    """Return rates that grow by equal factors from ``start`` towards ``end``, which the step after the last would reach.

    Smith, "Cyclical learning rates for training neural networks", WACV 2017 (arXiv 1506.01186), section 3.3.

    Args:
        num_steps: Steps of the whole range.
        start: Rate of each group at the first step.
        end: The last group heads for it; the others keep their ratios to the last.

    Raises:
        ConfigError: A rate is not a positive finite number.
    """
    last = start[-1]
    rates_per_group([*start, end], num_groups=len(start) + 1)
    return shaped(num_steps, rates=start, shape=partial(exponential, 1.0, end / last))


def lr_range_linear(num_steps: int, start: Sequence[float], end: float) -> Schedule:
    """Return rates that grow from 0 towards ``end`` by equal amounts, as lesson one's finder does with ``linear=True``.

    Args:
        num_steps: Steps of the whole range.
        start: One rate per group; only their ratios count.
        end: The last group heads for it.

    Raises:
        ConfigError: A rate is not a positive finite number.
    """
    last = start[-1]
    rates_per_group([*start, end], num_groups=len(start) + 1)
    return shaped(num_steps, rates=start, shape=partial(linear, 0.0, end / last))


def whole_number(value: object, *, name: str, least: int) -> None:
    """Check that a value is a whole number from ``least`` on.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number from {least} on. Received: {value!r}")


def _positions(num_steps: int) -> list[float]:
    whole_number(num_steps, name="num_steps", least=0)
    return [step / num_steps for step in range(num_steps)]
