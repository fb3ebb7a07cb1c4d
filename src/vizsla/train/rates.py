"""One learning rate, a slice, a list or an array in; one learning rate per parameter group out, earliest layers first.

Lower rates for earlier layers: Howard and Ruder, "Universal language model fine-tuning for text classification", ACL 2018
(arXiv 1801.06146), who call them discriminative.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vizsla.errors import ConfigError

Rates = float | slice | list[float] | tuple[float, ...] | NDArray[Any]
"""One rate for all groups, ``slice(last)``, ``slice(first, last)``, or one rate per group."""

EARLIER_SHARE = 10
"""``slice(last)`` gives the earlier groups so many times less than the last, as fastai does."""

_REFUSED = "Learning rates are positive finite numbers"


def rates_per_group(rates: Rates, *, num_groups: int) -> tuple[float, ...]:
    """Return one learning rate per parameter group, earliest layers first.

    A slice whose first rate is the higher one works and warns, because lower rates for earlier layers are the usual wish.

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
    if rates.step is not None:
        raise ConfigError(
            f"A slice of learning rates has two parts: slice(last) or slice(first, last). Received: {rates}"
        )
    if rates.stop is None:
        raise ConfigError(
            f"A slice of learning rates needs its end: slice(last) or slice(first, last). Received: {rates}"
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
