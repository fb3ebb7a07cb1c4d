"""An RGB picture in, the same in another size out: bilinear over the area that each new pixel covers, as Pillow does it.

torch does the same with vector instructions, in 0.55 instead of 3.6 ms from 1000 x 750 to 613 x 460. Where torch has none for
the processor, and for images that would first have to be copied at great length, Pillow does it.

The two differ by one grey level in about 2 of 1,000 values (2,700 random sizes up to 1,200 pixels), by two in 4 of 1,000,000,000,
and never by more. Both resize along the rows, round to whole levels, resize along the columns and round again. torch's weights
have 15 binary digits and Pillow's 22, which moves a value by less than 0.1. So the first rounding differs by at most one level, a
weighted mean of such values by less than 1.1, and the second rounding by at most two. Decoders of JPEG differ by as much, so that
is accepted; what is kept on disk knows who made it (``resampler``). H, W: sides of an array.

An RGB picture of any size in, one of the presize out: the middle of it, or a strip that a training crop slides along.

Pillow counts (width, height) and x before y; everything public here is (height, width). H, W: sides of an array.

An RGB picture of any size in, a part of it out: random parts scaled to one size, parts that are only cut, and a bound for its sides.

These stand beside ``Resize`` where a notebook asks for them as item transforms; boxes are those of fastai's transforms of the
same names. Pillow counts (width, height) and x before y; everything public here is (height, width). H, W: sides of an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from PIL import Image

from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_COPIED_PIXELS = 2**22
"""Pillow's pictures and torch's lie differently in memory. 12 million pixels take 25 ms to copy, as long as is won."""


@cache
def resampler() -> str:
    """Return who resizes on this machine, ``"torch"`` or ``"Pillow"``: what is cached depends on it."""
    fast = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return "torch" if fast else "Pillow"


def resized(picture: Image.Image, *, size: Size) -> Image.Image:
    """Return a picture in another size.

    Args:
        picture: RGB, any size.
        size: ``(height, width)``.
    """
    if _is_for_pillow(picture, size=size):
        # Along the rows first, always: from version 13 on Pillow alone may decide otherwise, which changes one value in four.
        rows = picture.resize((size[1], picture.height), Image.Resampling.BILINEAR)
        return rows.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return Image.fromarray(_resized(np.array(picture), size=size))


def pixels_of(picture: Image.Image, *, size: Size) -> NDArray[np.uint8]:
    """Return the pixels of a picture in another size; the same as those of ``resized``, without a copy or two.

    Args:
        picture: RGB, any size.
        size: ``(height, width)``.

    Returns:
        uint8 ``(height, width, 3)``; they may be read-only.
    """
    if _is_for_pillow(picture, size=size):
        return np.asarray(resized(picture, size=size))
    return _resized(np.array(picture), size=size)


def _is_for_pillow(picture: Image.Image, *, size: Size) -> bool:
    same = (picture.height, picture.width) == size
    too_large = picture.width * picture.height > MAX_COPIED_PIXELS
    return same or too_large or resampler() != "torch"


def resized_pixels(pixels_u8: NDArray[np.uint8], *, size: Size) -> NDArray[np.uint8]:
    """Return pixels in another size.

    Args:
        pixels_u8: uint8 ``(H, W, 3)``, also a view of a larger picture; left as it is.
        size: ``(height, width)``.

    Returns:
        uint8 ``(height, width, 3)``, with memory of its own.
    """
    if pixels_u8.shape[:2] == size:
        return pixels_u8.copy()
    if resampler() != "torch":
        return np.asarray(resized(Image.fromarray(pixels_u8), size=size))
    flags = pixels_u8.flags
    # torch wants memory that it could write to, and a view would not have its fast order.
    is_usable = flags.writeable and flags.c_contiguous
    return _resized(pixels_u8 if is_usable else pixels_u8.copy(), size=size)


def _resized(pixels_u8: NDArray[np.uint8], *, size: Size) -> NDArray[np.uint8]:
    # Channels-last memory: only there torch has the fast way, which starts no threads.
    images = torch.from_numpy(pixels_u8)[None].permute(0, 3, 1, 2)
    found = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())


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

    Examples:
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

    Examples:
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
