"""A position from 0 to 1 in, a value out: the curves that schedules are made of.

Each function takes the values at both ends and the position between them. ``combined`` puts several behind one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Curve = Callable[[float], float]
"""From a position, 0 to 1, to a value."""

ROUNDING = 1e-9
"""A position nearer than this to the end of a part belongs to the next part, whichever side rounding put it on."""


def linear(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a straight line from ``start`` to ``end``."""
    return start + position * (end - start)


def cosine(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of half a cosine from ``start`` to ``end``.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017 (arXiv 1608.03983).
    """
    return start + (1 - math.cos(math.pi * position)) * (end - start) / 2


def exponential(start: float, end: float, position: float) -> float:
    """Return the value at ``position`` (0 to 1) of a curve from ``start`` to ``end`` that grows by equal factors.

    Args:
        start: Not 0.
        end: Not 0, of the same sign as ``start``.
        position: 0 to 1.

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
    """Return a curve that runs through several others, one behind the other.

    Example:
        ``combined([0.25, 0.75], [partial(cosine, 0.04, 1.0), partial(cosine, 1.0, 1e-5)])`` is the shape of a one-cycle.

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
    return partial(_at, shares=shares, starts=starts, parts=tuple(parts))


def _at(
    position: float,
    *,
    shares: tuple[float, ...],
    starts: tuple[float, ...],
    parts: tuple[Curve, ...],
) -> float:
    reached = [
        part
        for part, (start, share) in enumerate(zip(starts, shares, strict=True))
        if share > 0 and position >= start - ROUNDING
    ]
    part = reached[-1] if reached else next(i for i, share in enumerate(shares) if share > 0)
    inside = (position - starts[part]) / shares[part]
    return parts[part](min(1.0, max(0.0, inside)))
