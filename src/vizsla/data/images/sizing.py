"""Bring images to one size: the item transforms that do it, and the resampling that they share.

A sizing works in two steps, so that the slow one is done once: ``presize`` makes what is kept of an image, and ``part`` says
which part of that one training step sees (``view`` cuts it out). Validation sees what ``presize`` makes of the image. Boxes
are those of fastai's transforms of the same names.

Resampling is bilinear over the area that each new pixel covers, as Pillow does it. torch does the same with vector
instructions, in 0.55 instead of 3.6 ms from 1000 x 750 to 613 x 460. Pillow does it where torch has none for the processor,
and for images so large that copying them first takes too long. The two differ by one grey level in about 2 of 1,000 values
(2,700 random sizes up to 1,200 pixels), by two in 4 of 1,000,000,000, and never by more. Both resize along the rows, round to
whole levels, resize along the columns and round again. torch's weights have 15 binary digits and Pillow's 22, which moves a
value by less than 0.1. So the first rounding differs by at most one level, a weighted mean of such values by less than 1.1, and
the second rounding by at most two. JPEG decoders differ by as much, so that is accepted; the key of a cached image names the
resampler that made it.

Pillow counts (width, height) and x before y; sizes here are (height, width). H, W: sides of an array.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vizsla.augment.geometry import RandomResizedCropGPU
from vizsla.errors import ConfigError
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

Pixels = NDArray[np.uint8]
"""RGB, uint8 ``(H, W, 3)``."""

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the image; may reach beyond it."""

ResizeMethod = Literal["crop", "pad", "squish"]
PadMode = Literal["reflection", "border", "zeros"]

MAX_COPIED_PIXELS = 2**22
"""Pillow's images and torch's lie differently in memory. Copying 12 million pixels takes 25 ms, as long as torch saves."""

MAX_STRIP_WINDOWS = 8
"""Longest strip, in windows. Only the middle is kept of a longer image, so that 20000 x 10 pixels stay affordable."""

TYPICAL_STRIP_WINDOWS = 1.5
"""Length of a typical strip in windows: most photos are 4:3 or 3:2."""

REDUCING_GAP = 3.0
"""How many times the size that is wanted a decoder keeps of a JPEG at least, as Pillow's argument of that name says it.

libjpeg can decode 1/2, 1/4 or 1/8 of the pixels, but not as sharp as resampling does. Against files decoded in full, the
probabilities of 400 images at 96 pixels are within 0.01 for 58 % of them with a gap of 1, 83 % with 1.5, 97.5 % with 2 and
99.5 % with 3, which takes 2.0 instead of 1.8 ms for a photograph (1.2 to 4.2 ms of 18 for one of 12 million pixels)."""

NUM_TRIES = 10
"""How often a random part is drawn that does not fit into the image, before the middle is taken."""

_MAX_BOX_PIXELS = 2**25
_NUMPY_PAD: dict[str, Literal["reflect", "edge"]] = {"reflection": "reflect", "border": "edge"}


@dataclass(frozen=True, slots=True, init=False)
class Sizing(ABC):
    """Brings images to a size. The defaults are for one that scales nothing and shows training what validation sees.

    ``size`` is the ``(height, width)`` that training and validation see; None where images keep their shapes.
    """

    size: Size | None
    num_draws: ClassVar[int] = 0
    """Random numbers that ``part`` takes."""

    @property
    def name(self) -> str:
        """The transform and its settings, as fastai names it."""
        settings = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        return f"{type(self).__name__} -- {settings}\n"

    @abstractmethod
    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return what is kept of an RGB image: what validation sees, or what training takes its parts of; maybe read-only."""

    def presize_pixels(self, pixels: Pixels, *, training: bool) -> Pixels:
        """Return what ``presize`` makes of an array, without making a Pillow image if that can be avoided."""
        found = self.presize_box(size_of(pixels), training=training)
        if found is None:
            return self.presize(Image.fromarray(pixels), training=training)
        (left, top, right, bottom), size = found
        return resize(pixels[top:bottom, left:right], size=size)

    def presize_box(self, size: Size, *, training: bool) -> tuple[Box, Size] | None:  # noqa: ARG002
        """Return which box of an image of this size ``presize`` scales to which size; None if it does anything else."""
        return None

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002
        """Return the size that a decoder must cover so that no pixels are made up; None if every pixel is needed."""
        return None

    def num_windows(self) -> float | None:
        """Return about how many times ``size`` training keeps of an image; None if unknown, or if parts are scaled."""
        return None

    def part(self, size: Size, draws: Sequence[float]) -> Box:  # noqa: ARG002
        """Return which part of an image of this size, presized for training, one step sees; draws are in [0, 1)."""
        return 0, 0, size[1], size[0]

    def view(self, presized: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return that part of a presized image, at ``size``: a slice of it if nothing needs to be scaled."""
        left, top, right, bottom = self.part(size_of(presized), draws)
        seen = presized[top:bottom, left:right]
        if self.size is None or seen.shape[:2] == self.size:
            return seen
        return resize(seen, size=self.size)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return an RGB image as validation sees it, of the kind that came in: a class of notebooks has ``create`` for that."""
        found = Image.fromarray(self.presize(image, training=False))
        create = getattr(type(image), "create", None)
        return found if create is None else create(found)


@dataclass(frozen=True, slots=True, init=False)
class Resize(Sizing):
    """Resizes images of all sizes to one size; smaller images are enlarged.

    The boxes are those of fastai's ``Resize``, computed with integers, so no pixel is lost to rounding. Training with
    ``"crop"``
    keeps a strip: the image scaled so that a window of ``size`` spans it one way and slides the other way.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        method: ``"crop"`` takes the largest part of the right shape, ``"pad"`` adds to the short side, ``"squish"``
            changes the shape.
        pad_mode: What ``"pad"`` adds: the image mirrored, its ``"border"`` pixels repeated, or ``"zeros"`` (black).
        reducing_gap: How many times ``size`` a JPEG is decoded at least, where it has more pixels, from 1 on; see
            ``REDUCING_GAP``. Model files that do not state it were trained with 1.

    Raises:
        ConfigError: The size is not positive, ``method`` or ``pad_mode`` is unknown, or the gap is below 1.

    Examples:
        >>> Resize(224)(Image.new("RGB", (500, 375))).size
        (224, 224)
    """

    size: Size
    method: ResizeMethod
    pad_mode: PadMode
    reducing_gap: float
    num_draws: ClassVar[int] = 1  # Where the window lies.

    def __init__(
        self,
        size: int | Size,
        method: ResizeMethod = "crop",
        pad_mode: PadMode = "reflection",
        *,
        reducing_gap: float = REDUCING_GAP,
    ) -> None:
        _check_word("Resize", "method", method, get_args(ResizeMethod))
        _check_word("Resize", "pad_mode", pad_mode, get_args(PadMode))
        if not 1 <= reducing_gap < math.inf:
            raise ConfigError(
                f"reducing_gap must be a number of at least 1. Received: {reducing_gap!r}"
            )
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "method", str(method))
        object.__setattr__(self, "pad_mode", str(pad_mode))
        object.__setattr__(self, "reducing_gap", float(reducing_gap))

    def num_windows(self) -> float | None:
        """Return a typical strip's length for ``"crop"``, else 1."""
        return TYPICAL_STRIP_WINDOWS if self.method == "crop" else 1.0

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002 (others differ in training)
        """Return ``size``, ``reducing_gap`` times."""
        return enlarged(self.size, self.reducing_gap)

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return the image at ``size``, cut or padded alike on both sides; in training its strip for ``"crop"``."""
        if training and self.method == "crop":
            box, size = self._strip_box(size_of(image))
            return resize(cut_or_padded(image, box), size=size)
        return self.placed(image, at_x=0.5, at_y=0.5)

    def presize_box(self, size: Size, *, training: bool) -> tuple[Box, Size] | None:
        """Return the box of a strip or of the middle, and the size it is scaled to; None for ``"pad"``."""
        if self.method == "pad":
            return None
        if training and self.method == "crop":
            return self._strip_box(size)
        return self.box(size), self.size

    def part(self, size: Size, draws: Sequence[float]) -> Box:
        """Return a window anywhere along the long side of a strip; the only draw says where."""
        return window_box(size, self.size, x=draws[0], y=draws[0])

    def placed(self, image: Image.Image, *, at_x: float, at_y: float) -> Pixels:
        """Return the ``box`` of an image at ``size``. A box of more than 33 million pixels is first shrunk by a whole factor."""
        left, top, right, bottom = self.box(size_of(image))
        factor = math.ceil(math.sqrt((right - left) * (bottom - top) / _MAX_BOX_PIXELS))
        image = image if factor <= 1 else image.reduce(factor)
        box = self.box(size_of(image), at_x=at_x, at_y=at_y)
        return resize(cut_or_padded(image, box, pad_mode=self.pad_mode), size=self.size)

    def box(self, size: Size, *, at_x: float = 0.5, at_y: float = 0.5) -> Box:
        """Return the part of an image of this size that becomes the result; it reaches beyond the image for ``"pad"``.

        ``at_x`` and ``at_y`` place it in the room that it has: 0 left or top, 1 right or bottom.
        """
        height, width = size
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

    def _strip_box(self, image_size: Size) -> tuple[Box, Size]:
        """Return which part of an image a strip shows, and at what size.

        One side is as in ``size``, the other 1 to ``MAX_STRIP_WINDOWS`` times as long.
        """
        kept_height, kept_width = image_size
        height, width = self.size
        if kept_width * height >= kept_height * width:
            longest = max(1, MAX_STRIP_WINDOWS * width * kept_height // height)
            kept_width = min(longest, kept_width)
            width = _strip_side(width, kept_width * height, kept_height)
        else:
            longest = max(1, MAX_STRIP_WINDOWS * height * kept_width // width)
            kept_height = min(longest, kept_height)
            height = _strip_side(height, kept_height * width, kept_width)
        left, top = (image_size[1] - kept_width) // 2, (image_size[0] - kept_height) // 2
        return (left, top, left + kept_width, top + kept_height), (height, width)


@dataclass(frozen=True, slots=True, init=False)
class RandomResizedCrop(Sizing):
    """Crops a random part of each image, with random area and shape, and resizes it; a different part in each epoch.

    Validation takes the centre: the image is resized to a little more than ``size``, keeping its shape, and the edges are
    cropped.
    (fastai squashes the whole image into the target's shape there, which shows the network shapes it never learned.)

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        min_scale: Smallest area of the part, as a share of the image's.
        ratio: Smallest and largest width / height of the part.
        val_xtra: In validation, extra size before the edges are cropped, as a share of the longer side of ``size``; rounded
            up to a multiple of 8 pixels.
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
    num_draws: ClassVar[int] = 2 * NUM_TRIES + 2  # Area and shape of each try, and a place.

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
                "min_scale and max_scale are shares of the image's area: 0 < min_scale <= max_scale <= 1. "
                f"Received: min_scale={min_scale!r}, max_scale={max_scale!r}"
            )
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ConfigError(
                f"ratio must be (smallest, largest) width / height, with smallest above 0. Received: {ratio!r}"
            )
        if not 0 <= val_xtra <= 1:
            raise ConfigError(f"val_xtra must be from 0 to 1. Received: {val_xtra!r}")
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "min_scale", float(min_scale))
        object.__setattr__(self, "ratio", (float(ratio[0]), float(ratio[1])))
        object.__setattr__(self, "val_xtra", float(val_xtra))
        object.__setattr__(self, "max_scale", float(max_scale))

    @property
    def valid_size(self) -> Size:
        """``(height, width)`` that validation scales an image to before its edge is cut off."""
        extra = 8 * math.ceil(max(self.size) * self.val_xtra / 8)
        return self.size[0] + extra, self.size[1] + extra

    def cover(self, *, training: bool) -> Size:
        """Return ``valid_size``, ``REDUCING_GAP`` times; in training the size at which the smallest part has enough pixels."""
        if not training:
            return enlarged(self.valid_size, REDUCING_GAP)
        return enlarged(self.size, 1 / math.sqrt(self.min_scale))

    def for_batches(self) -> RandomResizedCropGPU:
        """Return the batch transform that does the same."""
        return RandomResizedCropGPU(
            self.size, min_scale=self.min_scale, ratio=self.ratio, max_scale=self.max_scale
        )

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return the middle at ``size``; in training the whole image, shrunk by a whole factor where pixels are to spare."""
        if training:
            height, width = self.cover(training=True)
            factor = min(image.width // width, image.height // height)
            return np.asarray(image if factor < 2 else image.reduce(factor))
        scaled = Resize(self.valid_size).presize(image, training=False)
        return cut_middle(Image.fromarray(scaled), self.size)

    def part(self, size: Size, draws: Sequence[float]) -> Box:
        """Return a random part; the draws are area and shape of each try in turn, then x and y."""
        height, width = size
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area_draw, shape_draw in zip(
            draws[: 2 * NUM_TRIES : 2], draws[1 : 2 * NUM_TRIES : 2], strict=True
        ):
            share = self.min_scale + (self.max_scale - self.min_scale) * area_draw
            ratio = math.exp(log_low + (log_high - log_low) * shape_draw)
            box_width = max(1, round(math.sqrt(share * height * width * ratio)))
            box_height = max(1, round(math.sqrt(share * height * width / ratio)))
            if box_width <= width and box_height <= height:
                return window_box(size, (box_height, box_width), x=draws[-2], y=draws[-1])
        # The largest part in the middle whose shape is allowed.
        box_width = min(width, max(1, int(height * self.ratio[1])))
        box_height = min(height, max(1, int(width / self.ratio[0])))
        return _middle_box(size, (box_height, box_width))


@dataclass(frozen=True, slots=True, init=False)
class CropPad(Sizing):
    """Crops the centre of each image without resizing; smaller images are padded.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.
        pad_mode: What is added: ``"zeros"`` (black), ``"border"`` pixels repeated, or ``"reflection"``.

    Raises:
        ConfigError: An argument has another value.
    """

    size: Size
    pad_mode: PadMode

    def __init__(self, size: int | Size, pad_mode: PadMode = "zeros") -> None:
        _check_word("CropPad", "pad_mode", pad_mode, get_args(PadMode))
        object.__setattr__(self, "size", as_size(size))
        object.__setattr__(self, "pad_mode", str(pad_mode))

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:  # noqa: ARG002
        """Return the middle of the image at ``size``."""
        return cut_middle(image, self.size, pad_mode=self.pad_mode)


@dataclass(frozen=True, slots=True, init=False)
class RandomCrop(Sizing):
    """Crops a random part of each image without resizing, in validation the centre; smaller images are padded with black.

    Args:
        size: Pixels, one number for a square or ``(height, width)``.

    Raises:
        ConfigError: The size is not positive.
    """

    size: Size
    num_draws: ClassVar[int] = 2  # x and y.

    def __init__(self, size: int | Size) -> None:
        object.__setattr__(self, "size", as_size(size))

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return the middle at ``size``; in training the whole image, padded to ``size`` where it is smaller."""
        at_least = max(image.height, self.size[0]), max(image.width, self.size[1])
        return cut_middle(image, at_least if training else self.size)

    def part(self, size: Size, draws: Sequence[float]) -> Box:
        """Return a window anywhere in the image; the draws are x and y."""
        return window_box(size, self.size, x=draws[0], y=draws[1])


@dataclass(frozen=True, slots=True)
class Chain(Sizing):
    """One sizing after another, such as ``Resize(256)`` and ``RandomCrop(224)``; only the last is random.

    Args:
        first: Acts in training as in validation.
        then: Acts on its result.
    """

    first: Sizing
    then: Sizing
    size: Size | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.then.size)

    @property
    def num_draws(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] (a ClassVar of the others)
        """Random numbers that ``part`` takes."""
        return self.then.num_draws

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002
        """Return the size that a decoder must cover for the first."""
        return self.first.cover(training=False)

    def num_windows(self) -> float | None:
        """Return what the last keeps, if it scales nothing."""
        return self.then.num_windows()

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:
        """Return what the last keeps of the first's result."""
        seen = Image.fromarray(self.first.presize(image, training=False))
        return self.then.presize(seen, training=training)

    def part(self, size: Size, draws: Sequence[float]) -> Box:
        """Return the part that the last takes."""
        return self.then.part(size, draws)


@dataclass(frozen=True, slots=True)
class RatioResize(Sizing):
    """Resizes each image so that its longer side has ``max_sz`` pixels; images keep their shapes.

    For batches of one image, or images of the same shape; other batches are refused.

    Args:
        max_sz: Pixels of the longer side.

    Raises:
        ConfigError: It is not positive.
    """

    size: None = field(init=False, repr=False, default=None)
    max_sz: int

    def __post_init__(self) -> None:
        as_size((self.max_sz, 1))

    def cover(self, *, training: bool) -> Size | None:  # noqa: ARG002
        """Return the square of the longer side, ``REDUCING_GAP`` times."""
        return enlarged((self.max_sz, self.max_sz), REDUCING_GAP)

    def presize(self, image: Image.Image, *, training: bool) -> Pixels:  # noqa: ARG002
        """Return the scaled image."""
        longer = max(image.size)
        height = max(1, image.height * self.max_sz // longer)
        width = max(1, image.width * self.max_sz // longer)
        return Resize((height, width)).presize(image, training=False)


# ── sizes and boxes ─────────────────────────────────────────────────────────────────────────────────────────────────


def size_of(image: Image.Image | Pixels) -> Size:
    """Return the ``(height, width)`` of an image or of its pixels."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    return image.height, image.width


def enlarged(size: Size, factor: float) -> Size:
    """Return a size, both sides multiplied and rounded up."""
    return math.ceil(size[0] * factor), math.ceil(size[1] * factor)


def window_box(size: Size, window: Size, *, x: float, y: float) -> Box:
    """Return a window, ``(height, width)``, inside of an image of a size; x and y in [0, 1) place it.

    If they are uniform, every whole pixel is equally likely.
    """
    left = int(x * (size[1] - window[1] + 1))
    top = int(y * (size[0] - window[0] + 1))
    return left, top, left + window[1], top + window[0]


def cut_or_padded(image: Image.Image, box: Box, *, pad_mode: PadMode = "zeros") -> Image.Image:
    """Return the part of an RGB image inside of a box that overlaps it, padded where the box reaches beyond the image.

    Only the part inside of the box is mirrored.
    """
    left, top, right, bottom = box
    if box == (0, 0, *image.size):
        return image
    if pad_mode == "zeros":
        return image.crop(box)
    inside = (max(0, left), max(0, top), min(image.width, right), min(image.height, bottom))
    part = image.crop(inside)
    if inside == box:
        return part
    rows, columns = (inside[1] - top, bottom - inside[3]), (inside[0] - left, right - inside[2])
    mode = _NUMPY_PAD[pad_mode]
    return Image.fromarray(np.pad(np.asarray(part), (rows, columns, (0, 0)), mode=mode))


def cut_middle(image: Image.Image, size: Size, *, pad_mode: PadMode = "zeros") -> Pixels:
    """Return the middle of an image, padded where the image is smaller than ``size``."""
    box = _middle_box(size_of(image), size)
    return np.asarray(cut_or_padded(image, box, pad_mode=pad_mode))


def _middle_box(size: Size, window: Size) -> Box:
    left, top = (size[1] - window[1]) // 2, (size[0] - window[0]) // 2
    return left, top, left + window[1], top + window[0]


def _strip_side(window_side: int, numerator: int, denominator: int) -> int:
    """Return the rounded quotient, but at least a window and at most ``MAX_STRIP_WINDOWS`` of them."""
    rounded = (2 * numerator + denominator) // (2 * denominator)
    return min(max(window_side, rounded), MAX_STRIP_WINDOWS * window_side)


def _check_word(owner: str, name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{owner} has no {name}={value!r}. Use one of {', '.join(known)}.")


# ── resampling ────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def resampler() -> str:
    """Return what resizes on this machine, ``"torch"`` or ``"Pillow"``; part of the key of every cached image."""
    fast = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return "torch" if fast else "Pillow"


def resize(image: Image.Image | Pixels, *, size: Size) -> Pixels:
    """Return an RGB image, or the pixels of one (maybe a view of a larger image), in another size.

    The result is read-only if Pillow made it, else it has memory of its own.
    """
    is_array = isinstance(image, np.ndarray)
    height, width = size_of(image)
    if (height, width) == size:
        return image.copy() if is_array else np.asarray(image)
    too_large = not is_array and height * width > MAX_COPIED_PIXELS
    if too_large or resampler() != "torch":
        image = Image.fromarray(image) if is_array else image
        # Always along the rows first: from version 13 on Pillow may choose otherwise by itself, which changes one value in four.
        rows = image.resize((size[1], height), Image.Resampling.BILINEAR)
        return np.asarray(rows.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    # torch wants memory that it could write to. Its fast path, which starts no threads, is for whole channels-last images only.
    is_usable = is_array and image.flags.writeable and image.flags.c_contiguous
    pixels = image if is_array and is_usable else np.array(image)
    images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    found = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())
