"""uint8 batches in, float batches 0-1 out: the engine's augmentation, then lesson one's change of brightness and contrast.

Shapes: B pictures of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.apply import BatchAugmentation
from vizsla.seeding import counter_uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.augment.policy import BatchTransform
    from vizsla.types import Size


@dataclass(frozen=True)
class RandomLighting:
    """Add to all pixels, and move them towards their mean or away from it; it always acts.

    Args:
        b: Largest change of brightness either way, values being 0-1.
        c: Largest change of contrast: a draw c >= 0 multiplies by 1 + c, one below by 1 / (1 - c).
        tfm_y: Of no matter for classification.
    """

    b: float
    c: float
    tfm_y: int = 1


class Lighting(BatchAugmentation):
    """The engine's augmentation followed by ``RandomLighting``.

    Args:
        transforms: As for ``BatchAugmentation``.
        size: As for ``BatchAugmentation``.
        seed: As for ``BatchAugmentation``.
        lighting: What follows.
    """

    def __init__(
        self,
        transforms: Sequence[BatchTransform],
        *,
        size: Size,
        seed: int,
        lighting: tuple[RandomLighting, ...],
    ) -> None:
        super().__init__(transforms, size=size, seed=seed)
        self.lighting = lighting

    def __call__(self, images_u8: Tensor, *, rows: Tensor, epoch: int, training: bool) -> Tensor:
        """Return the pictures as float32 0-1; arguments as for ``BatchAugmentation``.

        Args:
            images_u8: uint8 ``(B, 3, H, W)``.
            rows: int64 ``(B,)``.
            epoch: Number of the epoch.
            training: Whether to augment.
        """
        images = super().__call__(images_u8, rows=rows, epoch=epoch, training=training)
        for number, each in enumerate(self.lighting if training else ()):
            stream = f"classic lighting {number}"
            draws = counter_uniform(self.seed, stream, epoch=epoch, rows=rows, count=2)
            brightness, contrast = (draws * 2 - 1).to(images.device).unbind(1)
            images = lit(images, brightness=brightness * each.b, contrast=contrast * each.c)
        return images


@torch.no_grad()
def lit(images: Tensor, *, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return pictures with another brightness and contrast.

    Args:
        images: float ``(B, 3, H, W)``, 0-1.
        brightness: float ``(B,)``, added.
        contrast: float ``(B,)``: 0.05 multiplies the distance from the mean of all pixels and channels by 1.05, -0.05 by
            1 / 1.05.

    Returns:
        Like ``images``, clipped to 0-1.
    """
    factor = torch.where(contrast >= 0, 1 + contrast, 1 / (1 - contrast))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = (images - mean) * factor[:, None, None, None] + mean
    return (changed + brightness[:, None, None, None]).clamp_(0, 1)
