"""Flip, Dihedral, Rotate, Zoom, Warp, RandomResizedCropGPU: each with its options, its random draw and its 3x3 matrix.

A new geometric transform is one class here, and its line in the list of public names. Argument order follows the notebook
API of fastai 2. ``batch_augmentation.py`` says what a map is.

Shape legend: B images, T tries, K values; maps are float64 ``(B, 3, 3)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import (
    CropTransform,
    Draw,
    Draws,
    GeometricTransform,
    check_options,
)
from vizsla.errors import ConfigError
from vizsla.types import SYMMETRIES

if TYPE_CHECKING:
    from vizsla.augment.kernels import Mode, PadMode
    from vizsla.types import Size

_LARGEST_WARP = 0.7
"""At 1/sqrt(2) the perspective of ``Warp`` folds the image onto a line."""

_TRIES = 10
"""How often a window is drawn before the middle is taken instead; torchvision and fastai use the same number."""

_SYMMETRIES = tuple(
    ((0, 1 - 2 * rows), (1 - 2 * columns, 0))
    if transposed
    else ((1 - 2 * columns, 0), (0, 1 - 2 * rows))
    for transposed, rows, columns in SYMMETRIES  # The last two say whether these are reversed.
)
"""The matrices of ``Dihedral``, in the order of its draws."""


@dataclass(frozen=True, slots=True)
class Flip(GeometricTransform):
    """Mirror left and right, or top and bottom.

    Args:
        p: Probability, per image, that it acts.
        draw: Fixed: 1 mirrors, 0 does not; or one per image; ``None``: random.
        size: (height, width) of what comes out, or one number; ``None``: unchanged.
        mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
        pad_mode: What is seen outside the image: ``"reflection"``, ``"border"`` or ``"zeros"``.
        align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.
        batch: Draw once for a whole batch (for its first row) instead of once per image.
        vertical: Exchange top and bottom instead.
    """

    p: float = 0.5
    draw: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False
    vertical: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_options(self)

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return ``(B, 1)``: 1 mirrors, 0 does not."""
        acts, fresh, _, _ = _uniform(self, draws, stream)
        return draws.values(torch.ones_like(fresh), draw=self.draw, acts=acts, neutral=0)[:, None]

    def matrix(self, values: Tensor) -> Tensor:
        """Return the maps ``(B, 3, 3)``."""
        first, zero = values[:, 0], torch.zeros_like(values[:, 0])
        across, down = (zero + 1, 1 - 2 * first) if self.vertical else (1 - 2 * first, zero + 1)
        return _matrix((across, zero, zero), (zero, down, zero))


@dataclass(frozen=True, slots=True)
class Dihedral(GeometricTransform):
    """Apply one of the 8 symmetries of the square.

    Args:
        p: Probability, per image, that it acts.
        draw: Fixed: 0 as it is, 1 mirrored left to right, 2 upside down, 3 4 5 turned anticlockwise by 90 180 270 degrees,
            6 transposed, 7 transposed along the other diagonal; or one per image; ``None``: random.
        size: As for ``Flip``, and so are the options that follow.
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: What -1 and 1 are.
        batch: Draw once for a whole batch.
    """

    p: float = 0.5
    draw: Draw = None
    size: int | Size | None = None
    mode: Mode = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        check_options(self)

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return ``(B, 1)``: 0 to 7, as for ``draw``."""
        acts, fresh, _, _ = _uniform(self, draws, stream)
        return draws.values((fresh * 8).floor(), draw=self.draw, acts=acts, neutral=0)[:, None]

    def matrix(self, values: Tensor) -> Tensor:
        """Return the maps ``(B, 3, 3)``."""
        zero = torch.zeros_like(values[:, 0])
        x, y = values.new_tensor(_SYMMETRIES)[values[:, 0].long()].unbind(1)
        return _matrix((x[:, 0], x[:, 1], zero), (y[:, 0], y[:, 1], zero))


@dataclass(frozen=True, slots=True)
class Rotate(GeometricTransform):
    """Turn about the middle.

    Args:
        max_deg: Largest angle either way, degrees.
        p: Probability, per image, that it acts.
        draw: Fixed degrees, positive is clockwise; or one per image; ``None``: random.
        size: As for ``Flip``, and so are the options that follow.
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: What -1 and 1 are.
        batch: Draw once for a whole batch.
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
        check_options(self, max_deg=(0, 360))

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return ``(B, 1)``: degrees."""
        acts, fresh, _, _ = _uniform(self, draws, stream)
        degrees = (fresh * 2 - 1) * self.max_deg
        return draws.values(degrees, draw=self.draw, acts=acts, neutral=0)[:, None]

    def matrix(self, values: Tensor) -> Tensor:
        """Return the maps ``(B, 3, 3)``."""
        angle, zero = values[:, 0].deg2rad(), torch.zeros_like(values[:, 0])
        return _matrix((angle.cos(), angle.sin(), zero), (-angle.sin(), angle.cos(), zero))


@dataclass(frozen=True, slots=True)
class Zoom(GeometricTransform):
    """Magnify (factor above 1) or shrink about a random point.

    Args:
        min_zoom: Smallest factor.
        max_zoom: Largest factor.
        p: Probability, per image, that it acts.
        draw: Fixed factor; or one per image; ``None``: random.
        draw_x: Fixed place of the point that stays, 0 left to 1 right; or one per image; ``None``: random.
        draw_y: The same, 0 top to 1 bottom; or one per image; ``None``: random.
        size: As for ``Flip``, and so are the options that follow.
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: What -1 and 1 are.
        batch: Draw once for a whole batch.
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
        check_options(self, min_zoom=(0.01, self.max_zoom), max_zoom=(self.min_zoom, 100))

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return ``(B, 3)``: the factor, x and y of the point that stays (0-1)."""
        acts, fresh, x, y = _uniform(self, draws, stream)
        factor = self.min_zoom + (self.max_zoom - self.min_zoom) * fresh
        factor = draws.values(factor, draw=self.draw, acts=acts, neutral=1)
        x, y = draws.fixed_or(x, draw=self.draw_x), draws.fixed_or(y, draw=self.draw_y)
        return torch.stack([factor, x, y], dim=1)

    def matrix(self, values: Tensor) -> Tensor:
        """Return the maps ``(B, 3, 3)``."""
        scale, zero = 1 / values[:, 0], torch.zeros_like(values[:, 0])
        x, y = ((1 - scale) * (2 * values[:, at] - 1) for at in (1, 2))
        return _matrix((scale, zero, x), (zero, scale, y))


@dataclass(frozen=True, slots=True)
class Warp(GeometricTransform):
    """Change the perspective, as if the camera stood elsewhere.

    Args:
        magnitude: How far corners move at most, in half-widths; below 0.7.
        p: Probability, per image and direction, that it acts.
        draw_x: Fixed move along x; or one per image; ``None``: random.
        draw_y: Fixed move along y; or one per image; ``None``: random.
        size: As for ``Flip``, and so are the options that follow.
        mode: Interpolation.
        pad_mode: What is seen outside the image.
        align_corners: What -1 and 1 are.
        batch: Draw once for a whole batch.
    """

    is_perspective: ClassVar[bool] = True

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
        check_options(self, magnitude=(0, _LARGEST_WARP))

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return ``(B, 2)``: moves along x and y, in half-widths and half-heights; each acts on its own."""
        uniform = draws.uniform(stream, count=4, same_for_all=self.batch)
        fresh = (uniform[:, 2:] * 2 - 1) * self.magnitude
        moves = [
            draws.values(fresh[:, at], draw=draw, acts=uniform[:, at] < self.p, neutral=0)
            for at, draw in enumerate((self.draw_x, self.draw_y))
        ]
        return torch.stack(moves, dim=1)

    def matrix(self, values: Tensor) -> Tensor:
        """Return the perspectives that take four moved corners back to the corners of the square.

        With draws (a, b) the points (-1-b, -1-a), (-1+b, 1+a), (1+b, -1+a), (1-b, 1-a) go to (-1, -1), (-1, 1), (1, -1),
        (1, 1). Such a map has 8 unknowns; the symmetry of the points makes it [[1, s, u], [s, 1, v], [u, v, 1]] with
        s = 2ab / (1 - a^2 - b^2), u = -a - bs, v = -b - as.
        """
        a, b = values.unbind(1)
        s = 2 * a * b / (1 - a**2 - b**2)
        u, v = -a - b * s, -b - a * s
        one = torch.ones_like(a)
        return torch.stack([one, s, u, s, one, v, u, v, one], dim=1).view(-1, 3, 3)


@dataclass(frozen=True, slots=True)
class RandomResizedCropGPU(CropTransform):
    """Cut a window of random area and shape out of each image and resize it.

    Each image has its own window. In validation it is the middle: the largest one of an allowed ratio.

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
        object.__setattr__(self, "ratio", tuple(self.ratio))
        check_options(
            self,
            min_scale=(1e-6, self.max_scale),
            max_scale=(self.min_scale, 1),
            valid_scale=(0.01, 1),
            ratio=(0.01, 100),
        )
        if len(self.ratio) != 2 or self.ratio[0] > self.ratio[1]:
            raise ConfigError(
                f"RandomResizedCropGPU(ratio=...) is (smallest, largest). Received: {self.ratio!r}"
            )

    def window(
        self, draws: Draws, stream: str, *, source_size: Size, align_corners: bool
    ) -> Tensor:
        """Return the maps of training, ``(B, 3, 3)``."""
        uniform = draws.uniform(stream, count=2 * _TRIES + 2)
        boxes = self.boxes(uniform, source_size=source_size)
        return crop_matrix(boxes, source_size=source_size, align_corners=align_corners)

    def middle(self, count: int, *, source_size: Size, align_corners: bool) -> Tensor:
        """Return the maps of validation, ``(count, 3, 3)``."""
        box = centre_crop_box(source_size, ratio=self.ratio, scale=self.valid_scale)
        boxes = torch.tensor([box]).expand(count, 4)
        return crop_matrix(boxes, source_size=source_size, align_corners=align_corners)

    def boxes(self, uniform: Tensor, *, source_size: Size) -> Tensor:
        """Return windows, int64 ``(B, 4)``: top, left, height, width; the first of ten tries that fits, else the middle.

        A try has area U(min_scale, max_scale) of the image, width / height exp(U(log ratio)), sides rounded to pixels. The
        uniform numbers, ``(B, 2T + 2)``, are the areas of the tries, their shapes, row, column.
        """
        height, width = source_size
        area_BT = self.min_scale + (self.max_scale - self.min_scale) * uniform[:, :_TRIES]
        low, high = (math.log(ratio) for ratio in self.ratio)
        ratio_BT = (low + (high - low) * uniform[:, _TRIES : 2 * _TRIES]).exp()
        area_BT = area_BT * height * width
        sides_BT2 = torch.stack([area_BT / ratio_BT, area_BT * ratio_BT], dim=-1).sqrt().round()
        limits = torch.tensor([height, width])
        fits_BT = ((sides_BT2 <= limits) & (sides_BT2 >= 1)).all(dim=-1)
        first = fits_BT.int().argmax(dim=1)
        sides_B2 = sides_BT2[torch.arange(len(first)), first].long()
        corners_B2 = (uniform[:, 2 * _TRIES :] * (limits - sides_B2 + 1)).floor().long()
        middle = torch.tensor(centre_crop_box(source_size, ratio=self.ratio))
        return torch.where(
            fits_BT.any(dim=1, keepdim=True), torch.cat([corners_B2, sides_B2], dim=1), middle
        )


def centre_crop_box(
    source_size: Size, *, ratio: tuple[float, float], scale: float = 1.0
) -> tuple[int, int, int, int]:
    """Return the middle of an image at the nearest allowed width / height: top, left, height, width in pixels.

    Both sides of the window are multiplied by ``scale``.

    Examples:
        >>> centre_crop_box((20, 32), ratio=(3 / 4, 4 / 3))
        (0, 3, 20, 26)
    """
    height, width = source_size
    crop_height, crop_width = height, width
    if width < ratio[0] * height:
        crop_height = int(width / ratio[0])
    elif width > ratio[1] * height:
        crop_width = int(height * ratio[1])
    crop_height = max(1, int(crop_height * scale))
    crop_width = max(1, int(crop_width * scale))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crop_matrix(boxes: Tensor, *, source_size: Size, align_corners: bool = True) -> Tensor:
    """Return the maps that show only a window of the source; boxes are int64 ``(B, 4)``: top, left, height, width in pixels."""
    height, width = source_size
    top, left, crop_height, crop_width = boxes.double().unbind(1)
    zero = torch.zeros_like(top)
    # With aligned corners a side of n pixels is n - 1 steps long; a single pixel is seen as one step.
    inset = 1 if align_corners else 0
    across, down = max(width - inset, 1), max(height - inset, 1)
    scale_x, scale_y = (crop_width - inset) / across, (crop_height - inset) / down
    shift_x = (2 * left + crop_width - inset) / across - 1
    shift_y = (2 * top + crop_height - inset) / down - 1
    return _matrix((scale_x, zero, shift_x), (zero, scale_y, shift_y))


def _uniform(
    transform: Flip | Dihedral | Rotate | Zoom, draws: Draws, stream: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return whether a transform acts, bool ``(B,)``, and three uniform numbers, ``(B,)`` each."""
    chance, *numbers = draws.uniform(stream, count=4, same_for_all=transform.batch).unbind(1)
    return chance < transform.p, numbers[0], numbers[1], numbers[2]


def _matrix(x_row: tuple[Tensor, ...], y_row: tuple[Tensor, ...]) -> Tensor:
    """Return ``(B, 3, 3)`` from the first two rows, entries ``(B,)``."""
    zero = torch.zeros_like(x_row[0])
    rows = (*x_row, *y_row, zero, zero, zero + 1)
    return torch.stack(rows, dim=1).view(-1, 3, 3)
