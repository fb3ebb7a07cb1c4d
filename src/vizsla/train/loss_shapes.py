"""What a loss receives in, the same in shapes that torch's losses take out, or an error that says what does not fit.

Nothing here reads a value, so nothing waits for the device.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Literal, get_args

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def checked_reduction(reduction: str) -> Reduction:
    """Return the reduction.

    Raises:
        ConfigError: It is none of "mean", "sum" and "none".
    """
    for known in get_args(Reduction):
        if reduction == known:
            return known
    raise ConfigError(
        f"reduction is one of {', '.join(get_args(Reduction))}. Received: {reduction!r}"
    )


def flat_classes(inp: Tensor, targ: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """Return outputs ``(M, C)`` and targets int64 ``(M,)``, whatever axes they had.

    Args:
        inp: Float; the classes lie along ``axis``.
        targ: Whole numbers of any width, one for each place that is left without the classes.
        axis: Where the classes are.

    Raises:
        ConfigError: Their sizes do not fit, or the targets are not whole numbers.
    """
    flat = inp.movedim(axis, -1).reshape(-1, inp.shape[axis])
    if targ.numel() != len(flat) or targ.is_floating_point():
        raise ConfigError(
            f"This loss takes one whole number, the position of the class, for each of {len(flat)} outputs with "
            f"{flat.shape[1]} classes. Received: outputs of shape {tuple(inp.shape)} and targets {targ.dtype} of shape "
            f"{tuple(targ.shape)}. For several labels per picture use BCEWithLogitsLossFlat."
        )
    return flat, targ.reshape(-1).long()


def shaped_like(targ: Tensor, inp: Tensor) -> Tensor:
    """Return the targets in the shape and dtype of the outputs: ``(B,)`` fits ``(B, 1)``.

    Raises:
        ConfigError: They differ in size.
    """
    if targ.numel() != inp.numel():
        raise ConfigError(
            "This loss takes as many targets as outputs. Received: outputs of shape "
            f"{tuple(inp.shape)} and targets of shape {tuple(targ.shape)}"
        )
    return targ.reshape(inp.shape).to(inp.dtype)


def beside(weight: Tensor | None, outputs: Tensor) -> Tensor | None:
    """Return class weights on the device and in the dtype of the outputs."""
    return None if weight is None else weight.to(device=outputs.device, dtype=outputs.dtype)


def takes_reduction(loss_func: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Return whether a loss can be called with an argument ``reduction``."""
    try:
        return "reduction" in inspect.signature(loss_func).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False


def has_a_mean_only(loss_func: Callable[[Tensor, Tensor], Tensor]) -> ConfigError:
    """Return the error for a loss that gives one number and nothing else."""
    name = getattr(loss_func, "__name__", repr(loss_func))
    return ConfigError(
        f"The loss {name} cannot be had for each picture by itself, which is needed here (mixed pictures, or losses of "
        'pictures). Give it an argument or attribute "reduction" that returns one loss per picture when it is "none", as '
        "torch.nn.functional.cross_entropy has it, or use a loss of vizsla.train.losses."
    )
