"""aug_transforms: the usual augmentation for photographs; setup_aug_tfms: which transforms of a list act as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vizsla.augment.batch_augmentation import (
    BatchTransform,
    ColourTransform,
    Composed,
    GeometricTransform,
)
from vizsla.augment.colour import Brightness, Contrast, Hue
from vizsla.augment.geometry import Dihedral, Flip, RandomResizedCropGPU, Rotate, Warp, Zoom
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.augment.kernels import Mode, PadMode


def aug_transforms(
    mult: float = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    xtra_tfms: Sequence[BatchTransform] | None = None,
    size: int | tuple[int, int] | None = None,
    mode: Mode = "bilinear",
    pad_mode: PadMode = "reflection",
    align_corners: bool = True,
    batch: bool = False,
    min_scale: float = 1.0,
) -> list[BatchTransform]:
    """Return the usual augmentation for photographs: flip, warp, rotate, zoom, brightness, contrast.

    Args:
        mult: Multiplies ``max_rotate``, ``max_lighting`` and ``max_warp``.
        do_flip: Mirror half of the images.
        flip_vert: Use all 8 symmetries of the square instead of the mirror (aerial, microscope images).
        max_rotate: Degrees; 0 switches it off.
        min_zoom: Smallest factor.
        max_zoom: Largest factor; zoom is off if it is at most 1 and ``min_zoom`` at least 1.
        max_lighting: Strength of brightness and contrast, 0-1; 0 switches them off.
        max_warp: Strength of the perspective; 0 switches it off.
        p_affine: Probability of each of warp, rotate and zoom.
        p_lighting: Probability of each of brightness and contrast.
        xtra_tfms: More transforms, after these.
        size: Size of the images that come out, one number or (height, width).
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
        batch: Draw once per batch instead of once per image.
        min_scale: Below 1, a random square window of at least this share of the area is cut out and resized to ``size``.

    Returns:
        Transforms for a ``BatchAugmentation``.

    Raises:
        ConfigError: A value cannot work, or ``min_scale`` is given without ``size``.

    Examples:
        >>> from vizsla.augment.batch_augmentation import BatchAugmentation
        >>> augment = BatchAugmentation(aug_transforms(size=224, min_scale=0.75), seed=1)
    """
    if min_scale != 1.0 and size is None:
        raise ConfigError(
            "aug_transforms(min_scale=...) crops windows of different sizes, so it needs size=, "
            f"to which all of them are resized. Received: min_scale={min_scale}, size=None"
        )
    max_rotate, max_lighting, max_warp = max_rotate * mult, max_lighting * mult, max_warp * mult
    geometry_size = size if min_scale == 1.0 else None
    shared = (geometry_size, mode, pad_mode, align_corners, batch)
    chosen: list[BatchTransform] = []
    if do_flip:
        chosen.append(Dihedral(0.5, None, *shared) if flip_vert else Flip(0.5, None, *shared))
    if max_warp:
        chosen.append(Warp(max_warp, p_affine, None, None, *shared))
    if max_rotate:
        chosen.append(Rotate(max_rotate, p_affine, None, *shared))
    if min_zoom < 1 or max_zoom > 1:
        chosen.append(Zoom(min_zoom, max_zoom, p_affine, None, None, None, *shared))
    if max_lighting:
        chosen.append(Brightness(max_lighting, p_lighting, None, batch))
        chosen.append(Contrast(max_lighting, p_lighting, None, batch))
    if min_scale != 1.0 and size is not None:
        chosen.append(RandomResizedCropGPU(size, min_scale, (1.0, 1.0), mode))
    return chosen + list(xtra_tfms or ())


def may_mirror(tfms: Sequence[object]) -> bool:
    """Whether transforms mirror left and right, or do not say: a list of others without a flip was meant so."""
    placed = [one for one in tfms if isinstance(one, GeometricTransform)]
    return not placed or any(
        isinstance(one, Dihedral) or (isinstance(one, Flip) and not one.vertical) for one in placed
    )


def setup_aug_tfms(tfms: Sequence[BatchTransform]) -> list[BatchTransform]:
    """Return the same transforms, with all geometric ones composed into one and all those in logit space into another.

    A ``BatchAugmentation`` composes by itself and does the same with and without this; it shows what will be one step.

    Args:
        tfms: Transforms, for example ``aug_transforms()``.

    Returns:
        The composed geometry, the composed colour (each if there is any), then the others in their order.

    Examples:
        >>> setup_aug_tfms([Contrast(), Flip(), Hue(), Rotate()])[0].transforms == (Flip(), Rotate())
        True
    """
    geometry: list[GeometricTransform] = []
    colours: list[ColourTransform] = []
    others: list[BatchTransform] = []
    for transform in tfms:
        for one in transform.transforms if isinstance(transform, Composed) else (transform,):
            if isinstance(one, GeometricTransform):
                geometry.append(one)
            elif isinstance(one, ColourTransform) and not isinstance(one, Hue):
                colours.append(one)
            else:
                others.append(one)
    composed = [Composed(tuple(kind)) for kind in (geometry, colours) if kind]
    return [*composed, *others]
