"""Numbers that a person chooses come in, a validated description of the augmentation goes out; nothing is drawn here.

The small classes (``Flip``, ``Rotate``, ...) say what may happen to a picture and how strongly; ``aug_transforms`` makes
the usual list of them. Argument order follows the notebook API of fastai 2. Of a list, the first geometric transform
decides the size, the interpolation and the padding of all (``merge.merge_transforms``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from vizsla.augment.acting import Acting
from vizsla.augment.options import (
    Draw,
    Mode,
    PadMode,
    check_choice,
    check_geometry,
    check_range,
    store_size,
)
from vizsla.augment.pixels import (
    Brightness,
    Contrast,
    Hue,
    Normalize,
    RandomErasing,
    Saturation,
)
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.types import Size

LARGEST_WARP = 0.7
"""At 1/sqrt(2) the perspective of ``Warp`` folds the picture onto a line."""


@dataclass(frozen=True, slots=True)
class Flip(Acting):
    """Mirror left and right.

    Args:
        p: Probability, per picture, that it acts.
        draw: Fixed: 1 mirrors, 0 does not; or one per picture; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the picture: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    p: float = 0.5
    draw: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_geometry(self, p=self.p, mode=self.mode, pad_mode=self.pad_mode)


@dataclass(frozen=True, slots=True)
class Dihedral(Acting):
    """Apply one of the 8 symmetries of the square.

    Args:
        p: Probability, per picture, that it acts.
        draw: Fixed: 0 as it is, 1 mirrored left to right, 2 upside down, 3 4 5 turned anticlockwise by 90 180 270 degrees,
            6 transposed, 7 transposed along the other diagonal; or one per picture; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the picture: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    p: float = 0.5
    draw: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_geometry(self, p=self.p, mode=self.mode, pad_mode=self.pad_mode)


@dataclass(frozen=True, slots=True)
class Rotate(Acting):
    """Turn about the middle.

    Args:
        max_deg: Largest angle either way, degrees.
        p: Probability, per picture, that it acts.
        draw: Fixed degrees, positive is clockwise; or one per picture; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the picture: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    max_deg: float = 10
    p: float = 0.5
    draw: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_geometry(self, p=self.p, mode=self.mode, pad_mode=self.pad_mode)
        check_range(self, "max_deg", self.max_deg, low=0, high=360)


@dataclass(frozen=True, slots=True)
class Zoom(Acting):
    """Magnify (factor above 1) or shrink about a random point.

    Args:
        min_zoom: Smallest factor.
        max_zoom: Largest factor.
        p: Probability, per picture, that it acts.
        draw: Fixed factor; or one per picture; ``None``: random.
        draw_x: Fixed place of the point that stays, 0 left to 1 right; or one per picture; ``None``: random.
        draw_y: The same, 0 top to 1 bottom; or one per picture; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the picture: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    min_zoom: float = 1.0
    max_zoom: float = 1.1
    p: float = 0.5
    draw: Draw = None
    draw_x: Draw = None
    draw_y: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_geometry(self, p=self.p, mode=self.mode, pad_mode=self.pad_mode)
        check_range(self, "min_zoom", self.min_zoom, low=0.01, high=self.max_zoom)
        check_range(self, "max_zoom", self.max_zoom, low=self.min_zoom, high=100)


@dataclass(frozen=True, slots=True)
class Warp(Acting):
    """Change the perspective, as if the camera stood elsewhere.

    Args:
        magnitude: How far corners move at most, in half-widths; below 0.7.
        p: Probability, per picture and direction, that it acts.
        draw_x: Fixed move along x; or one per picture; ``None``: random.
        draw_y: Fixed move along y; or one per picture; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the picture: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    magnitude: float = 0.2
    p: float = 0.5
    draw_x: Draw = None
    draw_y: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_geometry(self, p=self.p, mode=self.mode, pad_mode=self.pad_mode)
        check_range(self, "magnitude", self.magnitude, low=0, high=LARGEST_WARP)


@dataclass(frozen=True, slots=True)
class RandomResizedCropGPU(Acting):
    """Cut a window of random area and shape out of each picture and resize it.

    Each picture has its own window. In validation it is the middle: the largest one of an allowed ratio.

    Args:
        size: (height, width) of what comes out, or one number.
        min_scale: Smallest share of the area.
        ratio: Smallest and largest width / height.
        mode: Interpolation, unless geometric transforms decide it.
        valid_scale: The sides of the window of validation are multiplied by it.
        max_scale: Largest share of the area.
    """

    size: int | Size
    min_scale: float = 0.08
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mode: Mode = "bilinear"
    valid_scale: float = 1.0
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self, "mode", self.mode, get_args(Mode))
        store_size(self)
        object.__setattr__(self, "ratio", tuple(self.ratio))
        low, high = self.ratio
        check_range(self, "min_scale", self.min_scale, low=1e-6, high=self.max_scale)
        check_range(self, "max_scale", self.max_scale, low=self.min_scale, high=1)
        check_range(self, "valid_scale", self.valid_scale, low=0.01, high=1)
        check_range(self, "ratio[0]", low, low=0.01, high=high)
        check_range(self, "ratio[1]", high, low=low, high=100)


MatrixTransform = Flip | Dihedral | Rotate | Zoom
GeometricTransform = MatrixTransform | Warp
ColourTransform = Brightness | Contrast | Saturation


@dataclass(frozen=True, slots=True)
class ComposedGeometry(Acting):
    """Geometric transforms that act as one map, with one interpolation; made by ``setup_aug_tfms``.

    Args:
        transforms: At least one, in the order in which they act. The first decides size, interpolation and padding.
    """

    transforms: tuple[GeometricTransform, ...]


@dataclass(frozen=True, slots=True)
class ComposedColour(Acting):
    """Colour transforms that act between one logit and one sigmoid; made by ``setup_aug_tfms``.

    Args:
        transforms: At least one, in the order in which they act.
    """

    transforms: tuple[ColourTransform, ...]


BatchTransform = (
    GeometricTransform
    | RandomResizedCropGPU
    | ColourTransform
    | Hue
    | RandomErasing
    | Normalize
    | ComposedGeometry
    | ComposedColour
)


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
        do_flip: Mirror half of the pictures.
        flip_vert: Use all 8 symmetries of the square instead of the mirror (aerial, microscope pictures).
        max_rotate: Degrees; 0 switches it off.
        min_zoom: Smallest factor.
        max_zoom: Largest factor; at most 1, together with ``min_zoom`` at least 1, switches zoom off.
        max_lighting: Strength of brightness and contrast, 0-1; 0 switches them off.
        max_warp: Strength of the perspective; 0 switches it off.
        p_affine: Probability of each of warp, rotate and zoom.
        p_lighting: Probability of each of brightness and contrast.
        xtra_tfms: More transforms, after these.
        size: Size of the pictures that come out, one number or (height, width).
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
        batch: Draw once per batch instead of once per picture.
        min_scale: Below 1, a random square window of at least this share of the area is cut out and resized to ``size``.

    Returns:
        Transforms for a ``BatchAugmentation``.

    Raises:
        ConfigError: A value cannot work, or ``min_scale`` is given without ``size``.

    Example:
        >>> augment = BatchAugmentation(aug_transforms(size=224, min_scale=0.75), seed=1)
    """
    if min_scale != 1.0 and size is None:
        raise ConfigError(
            "aug_transforms(min_scale=...) cuts windows of different sizes and needs size=, the size that all of them "
            f"get. Received: min_scale={min_scale}, size=None"
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


def setup_aug_tfms(tfms: Sequence[BatchTransform]) -> list[BatchTransform]:
    """Return the same transforms with everything geometric made one, and everything in logit space made one.

    A ``BatchAugmentation`` composes by itself, so it does the same with and without this; it shows what will be one step.

    Args:
        tfms: Transforms, for example ``aug_transforms()``.

    Returns:
        The composed geometry, the composed colour (each if there is any), then the others in their order.

    Example:
        >>> setup_aug_tfms([Contrast(), Flip(), Hue(), Rotate()])[0].transforms == (Flip(), Rotate())
        True
    """
    geometric: list[GeometricTransform] = []
    colours: list[ColourTransform] = []
    others: list[BatchTransform] = []
    for transform in tfms:
        match transform:
            case ComposedGeometry():
                geometric.extend(transform.transforms)
            case ComposedColour():
                colours.extend(transform.transforms)
            case Flip() | Dihedral() | Rotate() | Zoom() | Warp():
                geometric.append(transform)
            case Brightness() | Contrast() | Saturation():
                colours.append(transform)
            case _:
                others.append(transform)
    composed: list[BatchTransform] = []
    if geometric:
        composed.append(ComposedGeometry(tuple(geometric)))
    if colours:
        composed.append(ComposedColour(tuple(colours)))
    return composed + others
