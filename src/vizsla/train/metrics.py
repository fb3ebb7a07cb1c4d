"""Scores or probabilities and targets in, one number out: the metrics that a notebook passes to a learner by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return the share of pictures whose highest score is at their class.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.

    Returns:
        float32 scalar, 0 to 1.
    """
    return (inp.argmax(dim=axis) == targ).float().mean()


def error_rate(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return the share of pictures whose highest score is not at their class: ``1 - accuracy``.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.

    Returns:
        float32 scalar, 0 to 1.
    """
    return 1 - accuracy(inp, targ, axis=axis)
