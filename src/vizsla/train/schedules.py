"""A number of steps and a few rates in, the learning rate of every group and the momentum of every step out.

Schedules are pure functions of whole-numbered positions, so they can be plotted, tested, and taken up again anywhere.
One-cycle: Smith, "A disciplined approach to neural network hyper-parameters", 2018 (arXiv 1803.09820), with the cosine
halves and the constants of fastai 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Rates = float | slice | list[float] | tuple[float, ...]
"""One rate for all groups, ``slice(last)``, ``slice(first, last)``, or one rate per group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What the optimiser is told before each step.

    Attributes:
        learning_rates: One tuple per step, one number per parameter group.
        momenta: One number per step; empty leaves the momentum as it is.
    """

    learning_rates: tuple[tuple[float, ...], ...]
    momenta: tuple[float, ...] = ()


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of half a cosine from ``start`` to ``end``."""
    return start + (1 - math.cos(math.pi * position)) * (end - start) / 2


def rates_per_group(rates: Rates, *, num_groups: int) -> tuple[float, ...]:
    """Return one learning rate per parameter group, earliest layers first.

    Args:
        rates: ``x``: x everywhere. ``slice(x)``: x for the last group, x/10 for the others. ``slice(a, b)``: from a to b in
            equal factors (discriminative rates: Howard and Ruder, ACL 2018, arXiv 1801.06146). A list: as given.
        num_groups: Number of groups.

    Raises:
        ConfigError: The list has another length, a rate is not a positive finite number, or a slice has no end.
    """
    if isinstance(rates, slice):
        start, stop = rates.start or 0, rates.stop
        if stop is None:
            raise ConfigError(
                f"A slice of learning rates needs its end: slice(last) or slice(first, last). Received: {rates}"
            )
        if start < 0 or stop <= 0:  # A root of their ratio would not be a real number.
            result = (start, stop)
        elif not start:
            result = (*(stop / 10 for _ in range(num_groups - 1)), stop)
        elif num_groups == 1:
            result = (stop,)
        else:
            factor = (stop / start) ** (1 / (num_groups - 1))
            result = tuple(start * factor**group for group in range(num_groups))
    elif isinstance(rates, (list, tuple)):
        if len(rates) != num_groups:
            raise ConfigError(
                f"{len(rates)} learning rates were given and there are {num_groups} parameter groups. "
                "Give one number, a slice, or one number per group."
            )
        result = tuple(rates)
    else:
        result = (rates,) * num_groups
    if not all(math.isfinite(rate) and rate > 0 for rate in result):
        raise ConfigError(
            f"Learning rates are positive finite numbers. Received: {rates!r}; that is {list(result)} for the groups."
        )
    return tuple(float(rate) for rate in result)


def constant(num_steps: int, *, rates: Sequence[float]) -> Schedule:
    """Return the same rates for every step; the momentum stays as it is."""
    return Schedule(learning_rates=(tuple(rates),) * num_steps)


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

    def at(step: int, low: float, peak: float, end: float) -> float:
        position = step / num_steps
        if position < pct_start:
            return cosine(low, peak, position / pct_start)
        return cosine(peak, end, (position - pct_start) / (1 - pct_start) if pct_start < 1 else 1)

    return Schedule(
        learning_rates=tuple(
            tuple(at(step, peak / div, peak, peak / div_final) for peak in peak_rates)
            for step in range(num_steps)
        ),
        momenta=tuple(at(step, *momenta) for step in range(num_steps)),
    )
