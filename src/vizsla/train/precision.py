"""A wish and a device in, the number format that the network computes in out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from vizsla.infer.run import Precision


def resolve_precision(precision: str, *, device: torch.device) -> Precision:
    """Return ``"fp32"`` or ``"bf16"``; ``"auto"`` is bf16 on CUDA, which gains from it, and fp32 elsewhere.

    Raises:
        ConfigError: It is none of the three.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision is 'auto', 'fp32' or 'bf16'. Received: {precision!r}")
    return "bf16" if precision == "bf16" else "fp32"
