"""A list of transforms comes in, one policy goes out: everything geometric in one map, everything in colour in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vizsla.augment.pixels import Hue, Normalize, RandomErasing
from vizsla.augment.policy import (
    BatchTransform,
    ColourTransform,
    ComposedColour,
    ComposedGeometry,
    Flip,
    GeometricTransform,
    MatrixTransform,
    RandomResizedCropGPU,
    Warp,
    setup_aug_tfms,
)
from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.augment.options import Mode, PadMode

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationPolicy:
    """A list of transforms, sorted by what they become part of; made by ``merge_transforms``.

    Attributes:
        matrices: Their product, left to right, is the affine part A of the map.
        warps: Perspectives P, applied after the affine part.
        crop: The window that the map is restricted to, or ``None``.
        colours: Applied in this order between one logit and one sigmoid.
        hues: Their shifts add up; a colour step of its own after the other.
        erasing: Applied last, in training.
        normalize: What the list said of normalisation; no picture is changed by it (see ``Normalize``).
        size: Size of the pictures that come out, ``None``: unchanged.
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
    """

    matrices: tuple[MatrixTransform, ...] = ()
    warps: tuple[Warp, ...] = ()
    crop: RandomResizedCropGPU | None = None
    colours: tuple[ColourTransform, ...] = ()
    hues: tuple[Hue, ...] = ()
    erasing: RandomErasing | None = None
    normalize: Normalize | None = None
    size: Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True


def merge_transforms(transforms: Sequence[BatchTransform]) -> AugmentationPolicy:
    """Sort a list of transforms into one policy.

    Args:
        transforms: In the order in which they act; geometry and colour may be mixed.

    Returns:
        The policy. Size, mode and padding are those of the first geometric transform; a crop's size comes before that.

    Raises:
        ConfigError: Something else than a transform is in the list, or more than one crop, erasing or normalisation.

    Example:
        >>> merge_transforms([Flip(p=1), Brightness()]).colours
        (Brightness(max_lighting=0.2, p=0.75, draw=None, batch=False),)
    """
    geometric: tuple[GeometricTransform, ...] = ()
    colours: tuple[ColourTransform, ...] = ()
    others: list[RandomResizedCropGPU | Hue | RandomErasing | Normalize] = []
    for transform in setup_aug_tfms(transforms):
        match transform:
            case ComposedGeometry():
                geometric = transform.transforms
            case ComposedColour():
                colours = transform.transforms
            case RandomResizedCropGPU() | Hue() | RandomErasing() | Normalize():
                others.append(transform)
            case _:
                raise ConfigError(
                    "A batch transform is a Flip, Dihedral, Rotate, Zoom, Warp, RandomResizedCropGPU, Brightness, "
                    f"Contrast, Saturation, Hue, RandomErasing or Normalize object. Received: {transform!r}"
                )
    crop = _only([t for t in others if isinstance(t, RandomResizedCropGPU)], "crop")
    first = geometric[0] if geometric else None
    wanted = crop or first
    return AugmentationPolicy(
        matrices=tuple(t for t in geometric if not isinstance(t, Warp)),
        warps=tuple(t for t in geometric if isinstance(t, Warp)),
        crop=crop,
        colours=colours,
        hues=tuple(t for t in others if isinstance(t, Hue)),
        erasing=_only([t for t in others if isinstance(t, RandomErasing)], "RandomErasing"),
        normalize=_only([t for t in others if isinstance(t, Normalize)], "Normalize"),
        size=None if wanted is None or wanted.size is None else as_size(wanted.size),
        mode=(first or crop or Flip()).mode,
        pad_mode=(first or Flip()).pad_mode,
        align_corners=(first or Flip()).align_corners,
    )


def _only(found: list[_Kind], what: str) -> _Kind | None:
    """Return the one there is, or ``None``."""
    if len(found) > 1:
        raise ConfigError(f"Only one {what} can be part of a policy; keep one. Received: {found}")
    return found[0] if found else None
