"""An RGB picture of any size in, a part of it out: random parts scaled to one size, parts that are only cut, and a bound for its sides.

These stand beside ``Resize`` where a notebook asks for them as item transforms; boxes are those of fastai's transforms of the
same names. Pillow counts (width, height) and x before y; everything public here is (height, width). H, W: sides of an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from vizsla.data.presize import Box, PadMode, Resize, cut_or_padded, in_kind
from vizsla.data.resample import resized, resized_pixels
from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

NUM_TRIES = 10
"""So often a random part may turn out not to fit into the picture before the middle is taken."""


@dataclass(frozen=True, slots=True, init=False)
class RandomResizedCrop:
    """Takes a random part of each picture, of random area and shape, and scales it to one size; another part each epoch.

    Validation sees the middle: the picture is scaled to a little more than ``size`` and its edge cut off, its shape kept.
    (fastai squashes the whole picture into the target's shape there, which shows the network shapes it never learned.)

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        min_scale: Smallest area of the part, as a share of the picture's.
        ratio: Smallest and largest width / height of the part.
        val_xtra: What validation scales the picture up by before the edge is cut off, as a share of the longer side of
            ``size``; rounded up to a multiple of 8 pixels.
        max_scale: Largest area of the part.

    Raises:
        ConfigError: One of them is out of its range.

    Example:
        >>> RandomResizedCrop(224, min_scale=0.35)(Image.new("RGB", (500, 375))).size
        (224, 224)
    """

    size: Size
    min_scale: float
    ratio: tuple[float, float]
    val_xtra: float
    max_scale: float

    def __init__(
        self,
        size: int | Size,
        min_scale: float = 0.08,
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        val_xtra: float = 0.14,
        max_scale: float = 1.0,
    ) -> None:
        if not 0 < min_scale <= max_scale <= 1:
            raise ConfigError(
                "0 < min_scale <= max_scale <= 1 are shares of the picture's area. "
                f"Received: min_scale={min_scale!r}, max_scale={max_scale!r}"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigError(f"ratio is (smallest, largest) width / height. Received: {ratio!r}")
        if not 0 <= val_xtra <= 1:
            raise ConfigError(f"val_xtra is a share from 0 to 1. Received: {val_xtra!r}")
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "min_scale", float(min_scale))
        object.__setattr__(self, "ratio", (float(ratio[0]), float(ratio[1])))
        object.__setattr__(self, "val_xtra", float(val_xtra))
        object.__setattr__(self, "max_scale", float(max_scale))

    @property
    def num_draws(self) -> int:
        """Random numbers that ``window`` takes: area and shape of each try, and a place."""
        return 2 * NUM_TRIES + 2

    @property
    def valid_size(self) -> Size:
        """``(height, width)`` that validation scales a picture to before its edge is cut off."""
        extra = 8 * math.ceil(max(self.size) * self.val_xtra / 8)
        return self.size[0] + extra, self.size[1] + extra

    def cover(self, *, training: bool) -> Size | None:
        """Return the size that a decoder must cover; in training so much that the smallest part has enough pixels.

        Args:
            training: Whether the picture is for ``strip`` or for ``centred``.
        """
        if not training:
            return self.valid_size
        enlarged = [math.ceil(side / math.sqrt(self.min_scale)) for side in self.size]
        return enlarged[0], enlarged[1]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``."""
        return in_kind(self.centred(picture), picture)

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the middle of the picture at ``size``; what validation and prediction see.

        Args:
            picture: RGB, any size.
        """
        scaled = Resize(self.valid_size).centred(picture)
        left, top = (scaled.width - self.size[1]) // 2, (scaled.height - self.size[0]) // 2
        return scaled.crop((left, top, left + self.size[1], top + self.size[0]))

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return the whole picture, shrunk by a whole factor where even the smallest part has pixels to spare.

        Args:
            picture: RGB, any size.
        """
        height, width = self.cover(training=True) or picture.size
        factor = min(picture.width // width, picture.height // height)
        return picture if factor < 2 else picture.reduce(factor)

    def window(self, strip_u8: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return what one training step sees.

        Args:
            strip_u8: uint8 ``(H, W, 3)``, as ``strip`` gives it.
            draws: ``num_draws`` numbers in [0, 1).

        Returns:
            uint8 ``(height, width, 3)``.
        """
        left, top, right, bottom = self.box((strip_u8.shape[0], strip_u8.shape[1]), draws=draws)
        return resized_pixels(strip_u8[top:bottom, left:right], size=self.size)

    def scaled(self, picture: Image.Image, box: Box) -> Image.Image:
        """Return the part of a picture inside of a box, scaled to ``size``.

        Args:
            picture: RGB, any size.
            box: Inside of the picture.
        """
        return resized(picture.crop(box), size=self.size)

    def box(self, picture_size: Size, *, draws: Sequence[float]) -> Box:
        """Return a random part of a picture.

        Args:
            picture_size: ``(height, width)`` of the picture.
            draws: ``num_draws`` numbers in [0, 1): area and shape of each try in turn, then x and y.
        """
        height, width = picture_size
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area_draw, shape_draw in zip(
            draws[: 2 * NUM_TRIES : 2], draws[1 : 2 * NUM_TRIES : 2], strict=True
        ):
            share = self.min_scale + (self.max_scale - self.min_scale) * area_draw
            ratio = math.exp(log_low + (log_high - log_low) * shape_draw)
            box_width = max(1, round(math.sqrt(share * height * width * ratio)))
            box_height = max(1, round(math.sqrt(share * height * width / ratio)))
            if box_width <= width and box_height <= height:
                left = int(draws[-2] * (width - box_width + 1))
                top = int(draws[-1] * (height - box_height + 1))
                return left, top, left + box_width, top + box_height
        return self._middle(picture_size)

    def _middle(self, picture_size: Size) -> Box:
        """Return the largest part in the middle whose shape is allowed."""
        height, width = picture_size
        box_width = min(width, max(1, int(height * self.ratio[1])))
        box_height = min(height, max(1, int(width / self.ratio[0])))
        left, top = (width - box_width) // 2, (height - box_height) // 2
        return left, top, left + box_width, top + box_height


@dataclass(frozen=True, slots=True, init=False)
class CropPad:
    """Cuts the middle out of each picture without scaling it; what is too small is padded.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        pad_mode: What is added: ``"zeros"`` (black), ``"border"`` pixels repeated, or ``"reflection"``.

    Raises:
        ConfigError: One of the arguments is none of these.
    """

    size: Size
    pad_mode: PadMode

    def __init__(self, size: int | Size, pad_mode: PadMode = "zeros") -> None:
        if pad_mode not in get_args(PadMode):
            raise ConfigError(
                f"CropPad has no pad_mode={pad_mode!r}. Use one of {', '.join(get_args(PadMode))}."
            )
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "pad_mode", str(pad_mode))

    @property
    def num_draws(self) -> int:
        """Random numbers that ``window`` takes."""
        return 0

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return None: nothing is scaled, so every pixel must be decoded.

        Args:
            training: Of no matter.
        """
        return None

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``."""
        return in_kind(self.centred(picture), picture)

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the middle of the picture at ``size``.

        Args:
            picture: RGB, any size.
        """
        return _cut_middle(picture, self.size, pad_mode=self.pad_mode)

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``: training sees nothing else.

        Args:
            picture: RGB, any size.
        """
        return self.centred(picture)

    def window(self, strip_u8: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:  # noqa: ARG002 (others draw)
        """Return ``strip_u8`` itself.

        Args:
            strip_u8: As ``strip`` gives it.
            draws: None are needed.
        """
        return strip_u8


@dataclass(frozen=True, slots=True, init=False)
class RandomCrop:
    """Cuts a part out of each picture without scaling it, in validation the middle; what is too small is padded with black.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.

    Raises:
        ConfigError: The size is not positive.
    """

    size: Size

    def __init__(self, size: int | Size) -> None:
        object.__setattr__(self, "size", as_size(size))

    @property
    def num_draws(self) -> int:
        """Random numbers that ``window`` takes: x and y."""
        return 2

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return None: nothing is scaled, so every pixel must be decoded.

        Args:
            training: Of no matter.
        """
        return None

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``."""
        return in_kind(self.centred(picture), picture)

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the middle of the picture at ``size``; what validation and prediction see.

        Args:
            picture: RGB, any size.
        """
        return _cut_middle(picture, self.size, pad_mode="zeros")

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return the whole picture, padded to ``size`` where it is smaller.

        Args:
            picture: RGB, any size.
        """
        at_least = max(picture.height, self.size[0]), max(picture.width, self.size[1])
        return _cut_middle(picture, at_least, pad_mode="zeros")

    def window(self, strip_u8: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return what one training step sees, as a view.

        Args:
            strip_u8: uint8 ``(H, W, 3)``, as ``strip`` gives it.
            draws: Two numbers in [0, 1): x and y.

        Returns:
            uint8 ``(height, width, 3)``.
        """
        height, width = self.size
        left = int(draws[0] * (strip_u8.shape[1] - width + 1))
        top = int(draws[1] * (strip_u8.shape[0] - height + 1))
        return strip_u8[top : top + height, left : left + width]


@dataclass(frozen=True, slots=True)
class RatioResize:
    """Scales each picture so that its longer side has ``max_sz`` pixels; pictures keep their shapes.

    Batches of pictures of different shapes are refused, so this is for batches of one, or pictures of one shape.

    Args:
        max_sz: Pixels of the longer side.

    Raises:
        ConfigError: It is not positive.
    """

    max_sz: int

    def __post_init__(self) -> None:
        as_size(self.max_sz)

    @property
    def size(self) -> Size | None:
        """None: pictures keep their shapes."""
        return None

    @property
    def num_draws(self) -> int:
        """Random numbers that ``window`` takes."""
        return 0

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return the square of the longer side.

        Args:
            training: Of no matter.
        """
        return self.max_sz, self.max_sz

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``."""
        return in_kind(self.centred(picture), picture)

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the scaled picture.

        Args:
            picture: RGB, any size.
        """
        longer = max(picture.size)
        height = max(1, picture.height * self.max_sz // longer)
        width = max(1, picture.width * self.max_sz // longer)
        return Resize((height, width)).centred(picture)

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``: training sees nothing else.

        Args:
            picture: RGB, any size.
        """
        return self.centred(picture)

    def window(self, strip_u8: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:  # noqa: ARG002 (others draw)
        """Return ``strip_u8`` itself.

        Args:
            strip_u8: As ``strip`` gives it.
            draws: None are needed.
        """
        return strip_u8


def _cut_middle(picture: Image.Image, size: Size, *, pad_mode: PadMode) -> Image.Image:
    left, top = (picture.width - size[1]) // 2, (picture.height - size[0]) // 2
    return cut_or_padded(picture, (left, top, left + size[1], top + size[0]), pad_mode=pad_mode)
