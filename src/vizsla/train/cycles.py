"""The schedules of lesson one's notebooks: a number of steps and the steps of a cycle in, a ``Schedule`` out.

Warm restarts: Loshchilov and Hutter, ICLR 2017 (arXiv 1608.03983), with the warm-up of fastai 0.7. Triangles: Smith,
"Cyclical learning rates for training neural networks", WACV 2017 (arXiv 1506.01186).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.train.annealing import cosine, linear
from vizsla.train.schedules import Schedule, whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP_PART = 20
"""The first 1/20 of the first cycle, rounded up, ..."""
WARM_UP_DIVISOR = 100
"""... trains at 1/100 of the rate."""

Shape = Callable[[int], float]
"""From a step of a cycle to a share, 0 to 1, of the way from the lowest to the highest rate."""


def classic_epochs(n_cycle: int, *, cycle_len: int | None = None, cycle_mult: float = 1) -> int:
    """Return the epochs of so many cycles; a ``cycle_len`` of None counts as 1.

    Raises:
        ConfigError: ``n_cycle`` or ``cycle_len`` is negative or no whole number, or ``cycle_mult`` is not positive.
    """
    whole_number(n_cycle, name="n_cycle", least=0)
    length = 1 if cycle_len is None else cycle_len
    whole_number(length, name="cycle_len", least=1)
    if not (math.isfinite(cycle_mult) and cycle_mult > 0):
        raise ConfigError(f"cycle_mult is a positive number. Received: {cycle_mult!r}")
    return math.ceil(sum(length * cycle_mult**cycle for cycle in range(n_cycle)) - 1e-9)


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
        cycle_mult: Every cycle is so many times longer than the one before.

    Raises:
        ConfigError: A number of steps is no whole number, or ``cycle_mult`` is not positive.
    """
    whole_number(num_steps, name="num_steps", least=0)
    whole_number(cycle_steps, name="cycle_steps", least=1)
    if not (math.isfinite(cycle_mult) and cycle_mult > 0):
        raise ConfigError(f"cycle_mult is a positive number. Received: {cycle_mult!r}")
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
        momenta: Highest and lowest, which mirror the rate one step ahead of it, as fastai 0.7 has it; None leaves it as it is.

    Raises:
        ConfigError: The rise has no step, or ``div`` is not positive.
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
    factor: Shape,
    share: Shape,
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


def _floats(rates: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(rate) for rate in rates)
