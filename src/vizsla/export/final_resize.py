"""The augmentation of a training in, what it does to validation pictures out, as plain values that a model file can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.augment.apply import BatchAugmentation
from vizsla.augment.policy import BatchTransform, Flip, Mode, PadMode, RandomResizedCropGPU

if TYPE_CHECKING:
    from vizsla.types import Size


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalResize:
    """How validation brings pictures from the presize to the size that the network sees.

    Attributes:
        size: ``(height, width)`` that the network sees; None if pictures stay as they are.
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
        crop_ratio: If training crops at random, the range of width / height of the middle window that validation
            takes; None if validation takes the whole picture.
        crop_scale: What the sides of that window are multiplied with.
    """

    size: Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    crop_ratio: tuple[float, float] | None = None
    crop_scale: float = 1.0

    @classmethod
    def of(cls, augmentation: BatchAugmentation) -> FinalResize:
        """Return what an augmentation does when it does not train.

        Args:
            augmentation: Of the loaders, for example ``DataLoaders.augmentation``.
        """
        policy = augmentation.policy
        return cls(
            size=augmentation.size,
            mode=policy.mode,
            pad_mode=policy.pad_mode,
            align_corners=policy.align_corners,
            crop_ratio=None if policy.crop is None else policy.crop.ratio,
            crop_scale=1.0 if policy.crop is None else policy.crop.valid_scale,
        )

    def augmentation(self) -> BatchAugmentation:
        """Return an augmentation that does the same to validation pictures, and nothing at random.

        Raises:
            ConfigError: A value is outside of its range.
        """
        # A flip that never happens carries the settings of the interpolation.
        transforms: list[BatchTransform] = [
            Flip(0, mode=self.mode, pad_mode=self.pad_mode, align_corners=self.align_corners)
        ]
        if self.crop_ratio is not None and self.size is not None:
            transforms.append(
                RandomResizedCropGPU(self.size, ratio=self.crop_ratio, valid_scale=self.crop_scale)
            )
        return BatchAugmentation(transforms, size=self.size)
