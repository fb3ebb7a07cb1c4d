"""An RGB picture of any size in, one of the presize out: the middle of it, or a strip that a training crop slides along.

Pillow counts (width, height) and x before y; everything public here is (height, width). H, W: sides of an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from vizsla.data.resample import pixels_of, resized, resized_pixels
from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ResizeMethod = Literal["crop", "pad", "squish"]
PadMode = Literal["reflection", "border", "zeros"]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the picture; may lie outside of it."""

MAX_STRIP_WINDOWS = 8
"""A strip is at most so many windows long; of a longer picture its middle is kept, so that 20000 x 10 pixels stay affordable."""

_MAX_BOX_PIXELS = 2**25
_NUMPY_PAD: dict[str, Literal["reflect", "edge"]] = {"reflection": "reflect", "border": "edge"}


@dataclass(frozen=True, slots=True, init=False)
class Resize:
    """Brings pictures of all sizes to one size; small ones are enlarged.

    The boxes are those of fastai's ``Resize``, in integer arithmetic: no pixel is lost to rounding.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        method: ``"crop"`` takes the largest part of the right shape, ``"pad"`` adds to the short side, ``"squish"``
            changes the shape.
        pad_mode: What ``"pad"`` adds: the picture mirrored, its ``"border"`` pixels repeated, or ``"zeros"`` (black).

    Raises:
        ConfigError: One of the arguments is none of these.

    Example:
        >>> Resize(224)(Image.new("RGB", (500, 375))).size
        (224, 224)
    """

    size: Size
    method: ResizeMethod
    pad_mode: PadMode

    def __init__(
        self,
        size: int | Size,
        method: ResizeMethod = "crop",
        pad_mode: PadMode = "reflection",
    ) -> None:
        for name, value, known in (
            ("method", method, get_args(ResizeMethod)),
            ("pad_mode", pad_mode, get_args(PadMode)),
        ):
            if value not in known:
                raise ConfigError(f"Resize has no {name}={value!r}. Use one of {', '.join(known)}.")
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "method", str(method))
        object.__setattr__(self, "pad_mode", str(pad_mode))

    @property
    def num_draws(self) -> int:
        """Random numbers that ``window`` takes."""
        return 1

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return the size that a decoder must cover, so that pixels are never made up.

        Args:
            training: Whether the picture is for ``strip`` or for ``centred``.
        """
        return self.size

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return ``centred(picture)``."""
        return in_kind(self.centred(picture), picture)

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the picture at ``size``, cut or padded alike on both sides; what validation and prediction see.

        Args:
            picture: RGB, any size.
        """
        return self.placed(picture, at_x=0.5, at_y=0.5)

    def placed(self, picture: Image.Image, *, at_x: float, at_y: float) -> Image.Image:
        """Return the picture at ``size``, with the box of ``box``.

        Args:
            picture: RGB, any size. Where the box would hold more than 33 million pixels, the picture is first shrunk
                by a whole factor.
            at_x: See ``box``.
            at_y: See ``box``.
        """
        return resized(self._part(picture, at_x=at_x, at_y=at_y), size=self.size)

    def pixels(self, picture: Image.Image, *, training: bool) -> NDArray[np.uint8]:
        """Return the pixels of ``strip`` or of ``centred``, which takes less time than to make a picture of them first.

        Args:
            picture: RGB, any size.
            training: Whether those of ``strip`` are wanted.

        Returns:
            uint8 ``(H, W, 3)``; they may be read-only.
        """
        if training and self.method == "crop":
            part, size = self._strip_part(picture)
            return pixels_of(part, size=size)
        return pixels_of(self._part(picture, at_x=0.5, at_y=0.5), size=self.size)

    def pixels_of(self, pixels_u8: NDArray[np.uint8], *, training: bool) -> NDArray[np.uint8]:
        """Return the same as ``pixels`` of a picture that is an array already; not for ``"pad"``.

        Args:
            pixels_u8: uint8 ``(H, W, 3)``, at most 33 million pixels.
            training: See ``pixels``.
        """
        height, width = pixels_u8.shape[:2]
        if training and self.method == "crop":
            (left, top, right, bottom), size = self.strip_box((height, width))
        else:
            (left, top, right, bottom), size = self.box((height, width)), self.size
        return resized_pixels(pixels_u8[top:bottom, left:right], size=size)

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return the picture scaled so that a window of ``size`` spans it one way and slides the other way.

        Args:
            picture: RGB, any size.

        Returns:
            One side as in ``size``, the other at least as long and at most ``MAX_STRIP_WINDOWS`` times. Methods other
            than ``"crop"`` show the whole picture anyway: then it is the same as ``centred``.
        """
        if self.method != "crop":
            return self.centred(picture)
        part, size = self._strip_part(picture)
        return resized(part, size=size)

    def strip_box(self, picture_size: Size) -> tuple[Box, Size]:
        """Return which part of a picture ``strip`` shows, and at what size.

        Args:
            picture_size: ``(height, width)`` of the picture.

        Returns:
            The box inside of the picture, and ``(height, width)`` of the strip. For ``"squish"`` all of it and ``size``;
            for ``"pad"`` that is of no use.
        """
        kept_height, kept_width = picture_size
        height, width = self.size
        if self.method != "crop":
            return (0, 0, kept_width, kept_height), self.size
        if kept_width * height >= kept_height * width:
            longest = max(1, MAX_STRIP_WINDOWS * width * kept_height // height)
            kept_width = min(longest, kept_width)
            width = _between(width, _rounded(kept_width * height, kept_height))
        else:
            longest = max(1, MAX_STRIP_WINDOWS * height * kept_width // width)
            kept_height = min(longest, kept_height)
            height = _between(height, _rounded(kept_height * width, kept_width))
        left, top = (picture_size[1] - kept_width) // 2, (picture_size[0] - kept_height) // 2
        return (left, top, left + kept_width, top + kept_height), (height, width)

    def window(self, strip_u8: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return what one training step sees of a strip: a window anywhere along its long side, as a view.

        Args:
            strip_u8: uint8 ``(H, W, 3)``, as ``strip`` gives it.
            draws: One number in [0, 1).

        Returns:
            uint8 ``(height, width, 3)``.
        """
        if strip_u8.shape[:2] == self.size:
            return strip_u8
        return window(strip_u8, size=self.size, position=draws[0])

    def box(self, picture_size: Size, *, at_x: float = 0.5, at_y: float = 0.5) -> Box:
        """Return the part of a picture that becomes the result, in pixels of the picture.

        Args:
            picture_size: ``(height, width)`` of the picture.
            at_x: Where the box lies in the room that it has: 0 left, 1 right.
            at_y: The same, 0 top, 1 bottom.

        Returns:
            (left, top, right, bottom); outside of the picture where ``"pad"`` adds to it.
        """
        height, width = picture_size
        box_height, box_width = height, width
        if self.method != "squish":
            wide = width * self.size[0] >= height * self.size[1]
            if wide == (self.method == "crop"):
                box_width = max(1, height * self.size[1] // self.size[0])
            else:
                box_height = max(1, width * self.size[0] // self.size[1])
        left = int(at_x * (width - box_width))
        top = int(at_y * (height - box_height))
        return left, top, left + box_width, top + box_height

    def _strip_part(self, picture: Image.Image) -> tuple[Image.Image, Size]:
        """Return what ``strip`` scales, and to which size."""
        kept, size = self.strip_box((picture.height, picture.width))
        return (picture if kept == (0, 0, *picture.size) else picture.crop(kept)), size

    def _part(self, picture: Image.Image, *, at_x: float, at_y: float) -> Image.Image:
        """Return what ``placed`` scales."""
        picture = self._shrunk_where_huge(picture)
        box = self.box((picture.height, picture.width), at_x=at_x, at_y=at_y)
        if box == (0, 0, *picture.size):
            return picture
        return cut_or_padded(picture, box, pad_mode=self.pad_mode)

    def _shrunk_where_huge(self, picture: Image.Image) -> Image.Image:
        left, top, right, bottom = self.box((picture.height, picture.width))
        factor = math.ceil(math.sqrt((right - left) * (bottom - top) / _MAX_BOX_PIXELS))
        return picture if factor <= 1 else picture.reduce(factor)


def in_kind(found: Image.Image, picture: Image.Image) -> Image.Image:
    """Return a result as the kind of picture that came in: a class of notebooks has ``create`` for that.

    Args:
        found: A Pillow picture.
        picture: What it was made of.
    """
    create = getattr(type(picture), "create", None)
    return found if create is None else create(found)


def cut_or_padded(picture: Image.Image, box: Box, *, pad_mode: PadMode) -> Image.Image:
    """Return the part of a picture inside of a box; where the box reaches beyond the picture, it is padded.

    Args:
        picture: RGB, any size.
        box: See ``Box``; it overlaps the picture.
        pad_mode: See ``Resize``. What is mirrored is the part inside of the box.
    """
    left, top, right, bottom = box
    if pad_mode == "zeros":
        return picture.crop(box)
    inside = (max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom))
    part = picture.crop(inside)
    if inside == box:
        return part
    margins = (
        (inside[1] - top, bottom - inside[3]),
        (inside[0] - left, right - inside[2]),
        (0, 0),
    )
    return Image.fromarray(np.pad(np.asarray(part), margins, mode=_NUMPY_PAD[pad_mode]))


def window(strip_u8: NDArray[np.uint8], *, size: Size, position: float) -> NDArray[np.uint8]:
    """Return the part of a strip that one training step sees, as a view.

    Args:
        strip_u8: uint8 ``(H, W, 3)``, both sides at least ``size``, as ``Resize.strip`` gives it.
        size: ``(height, width)`` of the window.
        position: In [0, 1), where along the long side; every whole pixel is equally likely if it is uniform.

    Returns:
        uint8 ``(height, width, 3)``.
    """
    height, width = size
    top = int(position * (strip_u8.shape[0] - height + 1))
    left = int(position * (strip_u8.shape[1] - width + 1))
    return strip_u8[top : top + height, left : left + width]


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _between(window_side: int, side: int) -> int:
    return min(max(window_side, side), MAX_STRIP_WINDOWS * window_side)
