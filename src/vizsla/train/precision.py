"""A wish and a device in, the number format that the network computes in out."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from vizsla.errors import ConfigError
from vizsla.infer.run import Precision

if TYPE_CHECKING:
    import torch


def resolve_precision(precision: str, *, device: torch.device) -> Precision:
    """Return ``"fp32"``, ``"bf16"`` or ``"fp16"``; ``"auto"`` is bf16 on CUDA, which gains from it, and fp32 elsewhere.

    fp16 stays fp32 on a CPU, where it would only be slower.

    Raises:
        ConfigError: It is none of the four.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    for known in get_args(Precision):
        if precision == known:
            return "fp32" if known == "fp16" and device.type == "cpu" else known
    raise ConfigError(f"precision is 'auto', 'fp32', 'bf16' or 'fp16'. Received: {precision!r}")
