"""How validation images come to the size that the network sees, as plain values that a model file can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vizsla.augment.batch_augmentation import BatchAugmentation, BatchTransform, OwnTransform
from vizsla.augment.geometry import Flip, RandomResizedCropGPU
from vizsla.augment.kernels import Mode, PadMode  # noqa: TC001 (msgspec reads the types)
from vizsla.data.images.item_transforms import ItemPipeline, function_name
from vizsla.data.images.sizing import (
    Chain,
    CropPad,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Sizing,
)
from vizsla.errors import ConfigError
from vizsla.types import Size  # noqa: TC001 (msgspec reads the types of the fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalResize:
    """How validation brings images from the presize to the size that the network sees.

    Attributes:
        size: ``(height, width)`` that the network sees; None if images stay as they are.
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
        crop_ratio: If training crops at random, the range of width / height of the middle window that validation
            takes; None if validation takes the whole image.
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
        """Return what an augmentation does when it does not train."""
        sampling = augmentation.sampling
        crop = augmentation.crop if isinstance(augmentation.crop, RandomResizedCropGPU) else None
        return cls(
            size=augmentation.size,
            mode=sampling.mode,
            pad_mode=sampling.pad_mode,
            align_corners=sampling.align_corners,
            crop_ratio=None if crop is None else crop.ratio,
            crop_scale=1.0 if crop is None else crop.valid_scale,
        )

    def augmentation(self) -> BatchAugmentation:
        """Return an augmentation that does the same to validation images, and nothing at random.

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


def storable(
    items: ItemPipeline, augmentation: BatchAugmentation
) -> tuple[Resize | None, BatchAugmentation]:
    """Return a resize and an augmentation that a model file can hold and that show validation images as these do.

    They are those given where a file can hold them. The middle that a ``RandomResizedCrop`` shows, or a ``RandomCrop`` after a
    ``Resize``, becomes a ``Resize`` to the larger size and a window in the middle of it.

    Raises:
        ConfigError: There is a function of the user's own, or a transform without a fixed size.
    """
    sizing = items.sizing
    code = [
        one
        for one in (*items.functions, *augmentation.own)
        if not (isinstance(one, OwnTransform) and one.split_idx == 0)
    ]
    if code:
        names = ", ".join(map(function_name, code))
        raise ConfigError(
            f"A model file holds no code, so it cannot hold the transforms {names}; predictions from it would "
            "differ. Apply them to the image files before training, give a Transform that only training needs split_idx = 0, "
            "or leave them out."
        )
    if augmentation.own:
        kept = [one for one in augmentation.transforms if one not in augmentation.own]
        augmentation = BatchAugmentation(kept, size=augmentation.size, seed=augmentation.seed)
    if sizing is None or isinstance(sizing, Resize):
        return sizing, augmentation
    final = FinalResize.of(augmentation)
    sizes = _middle_of(sizing)
    if sizes is None or final.crop_ratio is not None:
        then = "" if final.crop_ratio is None else " followed by a random crop of batches"
        raise ConfigError(
            f"A model file cannot hold the item transform {sizing!r}{then}. "
            "Use Resize, with aug_transforms(min_scale=...) for random crops."
        )
    (height, width), resize = sizes
    outer_height, outer_width = resize.size
    # Half a pixel more, because the window's sides are rounded down.
    scale = min(1.0, max((height + 0.5) / outer_height, (width + 0.5) / outer_width))
    shape = width / height
    size = final.size or (height, width)
    shown = replace(final, size=size, crop_ratio=(shape, shape), crop_scale=scale)
    return resize, shown.augmentation()


def _middle_of(sizing: Sizing) -> tuple[Size, Resize] | None:
    """Return the size that validation sees in the middle of a resized image, and the resize; None if it sees something else."""
    if isinstance(sizing, RandomResizedCrop):
        return sizing.size, Resize(sizing.valid_size)
    if isinstance(sizing, Chain) and isinstance(sizing.then, RandomCrop | CropPad):
        first, size = sizing.first, sizing.then.size
        if isinstance(first, Resize) and size[0] <= first.size[0] and size[1] <= first.size[1]:
            return size, first
    return None
