"""Values that a person gave a transform come in; they are refused with a clear message, or stored in one form.

What the transforms of ``policy`` and ``pixels`` share: the kinds of interpolation, padding and fixed draws, and their checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

Mode = Literal["bilinear", "nearest", "bicubic"]
PadMode = Literal["reflection", "border", "zeros"]
DrawFunction = Callable[[Tensor], "Tensor | Sequence[float] | float"]
Draw = float | Sequence[float] | DrawFunction | None
"""Fixed values: one number, one per picture of a batch, a function that makes them, or ``None`` for random ones.

A function is called with the pictures ``(B, 3, H, W)`` as they come in (uint8 in training) and returns numbers like the others.
"""


def check_geometry(transform: object, *, p: float, mode: str, pad_mode: str) -> None:
    """Check what the geometric transforms share, and store their size and draws as tuples.

    Args:
        transform: A frozen dataclass under construction.
        p: Its probability.
        mode: Its interpolation.
        pad_mode: Its padding.

    Raises:
        ConfigError: One of them cannot work.
    """
    check_range(transform, "p", p, low=0, high=1)
    check_choice(transform, "mode", mode, get_args(Mode))
    check_choice(transform, "pad_mode", pad_mode, get_args(PadMode))
    store_size(transform)
    store_draws(transform)


def check_choice(transform: object, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the choices.

    Raises:
        ConfigError: It is not.
    """
    if value not in choices:
        raise ConfigError(
            f"{type(transform).__name__}({name}=...) must be one of {', '.join(choices)}. Received: {value!r}"
        )


def check_range(transform: object, name: str, value: float, *, low: float, high: float) -> None:
    """Refuse a number outside [low, high].

    Raises:
        ConfigError: It is outside.
    """
    if not low <= value <= high:
        raise ConfigError(
            f"{type(transform).__name__}({name}=...) must be from {low:g} to {high:g}. Received: {value!r}"
        )


def store_size(transform: object) -> None:
    """Store ``size`` of a transform under construction as (height, width), unless it is ``None``."""
    size = cast("int | Size | None", getattr(transform, "size", None))
    if size is not None:
        object.__setattr__(transform, "size", as_size(size))


def store_draws(transform: object) -> None:
    """Store lists of draws as tuples, so that the transform stays a value.

    Raises:
        ConfigError: A draw is neither a number, nor numbers, nor a function.
    """
    for name in ("draw", "draw_x", "draw_y"):
        value = cast("object", getattr(transform, name, None))
        if isinstance(value, (list, tuple)):
            numbers = tuple(float(number) for number in cast("Sequence[float]", value))
            object.__setattr__(transform, name, numbers)
        elif value is not None and not isinstance(value, (int, float)) and not callable(value):
            raise ConfigError(
                f"{type(transform).__name__}({name}=...) is a number, a list with one number per picture, or a "
                f"function that makes them from the batch. Received: {value!r}"
            )
