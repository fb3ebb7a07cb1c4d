"""What all transforms have in common: called on pictures, one acts on them at once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


class Acting:
    """Called on pictures a transform acts on them at once, whatever it is for in training."""

    __slots__ = ()

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return transformed pictures; see ``augment.act.act``.

        Args:
            images: One picture ``(C, H, W)`` or a batch ``(B, C, H, W)``, uint8 0-255 or float 0-1; left as they are.
            generator: Where random draws come from; ``None``: torch's default generator (``torch.manual_seed``).

        Returns:
            Pictures of the same class, float: in the dtype that came in, float32 for uint8.

        Raises:
            ConfigError: It is neither one picture nor a batch.

        Example:
            >>> turned = Rotate(draw=30, p=1.0)(images)
        """
        # By its name and not before it is called: what acts needs to know the transforms, and those are made of this.
        act = cast("Callable[..., Tensor]", import_module("vizsla.augment.act").act)
        return act([self], images, generator=generator)
