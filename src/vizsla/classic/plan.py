"""Cycles, rates and batches of a fit in; how many epochs it has, its schedule, and where its cycles end, out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vizsla.errors import ConfigError
from vizsla.train.schedules import (
    classic_epochs,
    constant,
    rates_per_group,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.train.schedules import Rates, Schedule


class Lengths(NamedTuple):
    """How long the cycles are.

    Attributes:
        n_cycle: Their number.
        cycle_len: Epochs of the first; None counts as 1 and keeps the rate constant.
        cycle_mult: Every cycle is so many times longer than the one before.
    """

    n_cycle: int
    cycle_len: int | None
    cycle_mult: float


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """A fit that is to be.

    Attributes:
        lengths: Of the cycles.
        batches: Steps of an epoch.
        use_clr: (div, cut_div) and perhaps two momenta.
        use_clr_beta: (div, pct) and perhaps two momenta.
    """

    lengths: Lengths
    batches: int
    use_clr: Sequence[float] | None = None
    use_clr_beta: Sequence[float] | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the whole fit.

        Raises:
            ConfigError: A number cannot work.
        """
        n_cycle, cycle_len, cycle_mult = self.lengths
        return classic_epochs(n_cycle, cycle_len=cycle_len, cycle_mult=cycle_mult)

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """Steps done at the end of each cycle."""
        n_cycle, cycle_len, cycle_mult = self.lengths
        if self.use_clr is not None or self.use_clr_beta is not None:
            cycle_mult = 1
        lengths = (self.batches * (cycle_len or 1) * cycle_mult**cycle for cycle in range(n_cycle))
        return tuple(round(end) for end in accumulate(lengths))

    def schedule(self, rates: tuple[float, ...]) -> Schedule:
        """Return the rates of every step.

        Args:
            rates: One per group.

        Raises:
            ConfigError: Triangles are asked for without ``cycle_len``, or cannot be made.
        """
        num_steps = self.epochs * self.batches
        triangles = self.use_clr or self.use_clr_beta
        if self.lengths.cycle_len is None:
            if triangles:
                raise ConfigError("use_clr and use_clr_beta need cycle_len, the epochs of a cycle.")
            return constant(num_steps, rates=rates)
        cycle_steps = self.batches * self.lengths.cycle_len
        if triangles:
            momenta = (triangles[2], triangles[3]) if len(triangles) == 4 else None
            if self.use_clr_beta:
                return triangular_beta(
                    num_steps,
                    rates=rates,
                    cycle_steps=cycle_steps,
                    div=triangles[0],
                    pct=triangles[1],
                    momenta=momenta,
                )
            return triangular(
                num_steps,
                rates=rates,
                cycle_steps=cycle_steps,
                div=triangles[0],
                cut_div=triangles[1],
                momenta=momenta,
            )
        return warm_restarts_classic(
            num_steps, rates=rates, cycle_steps=cycle_steps, cycle_mult=self.lengths.cycle_mult
        )


def rates_of(lrs: Rates, *, num_groups: int, head_only: bool) -> tuple[float, ...]:
    """Return one rate per group.

    Args:
        lrs: One rate, or one per group; a list or array of one counts as one.
        num_groups: Number of groups.
        head_only: Whether the head is the only group, because features are precomputed: of three rates the last is taken.

    Raises:
        ConfigError: There is not one rate per group.
    """
    if isinstance(lrs, list | tuple | np.ndarray):
        numbers = [float(rate) for rate in np.asarray(lrs, dtype=np.float64).reshape(-1)]
        if len(numbers) == 1:
            return rates_per_group(numbers[0], num_groups=num_groups)
        if head_only and len(numbers) == 3:
            warnings.warn(
                f"Only the head trains while precompute is True: of the three rates {numbers} the last was taken.",
                stacklevel=4,
            )
            return rates_per_group(numbers[-1], num_groups=1)
        return rates_per_group(numbers, num_groups=num_groups)
    return rates_per_group(lrs, num_groups=num_groups)


def decays_of(wds: float | Sequence[float] | None, *, num_groups: int) -> tuple[float, ...]:
    """Return one weight decay per group.

    Args:
        wds: One, or one per group; None is none.
        num_groups: Number of groups.

    Raises:
        ConfigError: There is not one per group.
    """
    numbers = [float(each) for each in np.asarray(0.0 if wds is None else wds).reshape(-1)]
    if len(numbers) not in (1, num_groups):
        raise ConfigError(
            f"{len(numbers)} weight decays were given and there are {num_groups} parameter groups. "
            "Give one, or one per group."
        )
    return tuple(numbers * num_groups if len(numbers) == 1 else numbers)
