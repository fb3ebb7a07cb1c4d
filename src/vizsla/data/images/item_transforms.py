"""What happens to one image between decoding and batch, as a notebook lists it: functions, a sizing, flips.

An image is decoded, the functions before the sizing work on it, the sizing (``Resize``, ``RandomResizedCrop`` ...) brings it
to its size, the functions after it work on the result. A function takes and returns uint8 ``(H, W, 3)``, RGB; it runs in
the reading threads. ``FlipItem`` and ``DihedralItem`` stand among the functions after it, wherever they are listed, and act in
training only, so that what is cached does not depend on them. H, W: sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from vizsla.augment.batch_augmentation import BatchTransform
from vizsla.data.images.sizing import Pixels, Sizing, view
from vizsla.errors import ConfigError
from vizsla.types import SYMMETRIES

if TYPE_CHECKING:
    from vizsla.types import Size

AnyImage = TypeVar("AnyImage", Pixels, Image.Image)


@dataclass(frozen=True, slots=True)
class FlipItem:
    """Mirrors images left and right, each image of an epoch for itself.

    Called on an image it acts at once, with numbers from torch's default generator.

    Args:
        p: Probability that it acts.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        _check_probability("FlipItem", self.p)

    @property
    def num_draws(self) -> int:
        """Random numbers that ``view`` takes."""
        return 1

    def view(self, pixels: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return the image or its mirror image, as a view; the draw is in [0, 1)."""
        return symmetry(pixels, 1) if draws[0] < self.p else pixels

    def __call__(self, image: AnyImage) -> AnyImage:
        """Return an array or a Pillow image, mirrored or not."""
        return _act_at_once(self, image)


@dataclass(frozen=True, slots=True)
class DihedralItem:
    """Applies one of the 8 symmetries of the square, each image of an epoch for itself; for images without an up and down.

    Sides that differ are swapped by half of the symmetries, so it needs a square size. Called on an image it acts at once,
    with numbers from torch's default generator.

    Args:
        p: Probability that it acts; one of the 8 leaves an image as it is.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 1.0

    def __post_init__(self) -> None:
        _check_probability("DihedralItem", self.p)

    @property
    def num_draws(self) -> int:
        """Random numbers that ``view`` takes."""
        return 2

    def view(self, pixels: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return the image in one of its symmetries, as a view; the draws are two numbers in [0, 1)."""
        return symmetry(pixels, int(len(SYMMETRIES) * draws[1])) if draws[0] < self.p else pixels

    def __call__(self, image: AnyImage) -> AnyImage:
        """Return an array or a Pillow image in one of its symmetries."""
        return _act_at_once(self, image)


RandomFlip = FlipItem | DihedralItem
"""Item transforms that are random in training and do nothing otherwise."""

_FLIPS = (FlipItem, DihedralItem)

ImageFunction = Callable[[Pixels], Pixels]
"""A custom item transform: uint8 ``(H, W, 3)`` to uint8 ``(H, W, 3)``; it may write into what it is given."""

ItemTransform = Sizing | RandomFlip | ImageFunction
ItemTransforms = ItemTransform | Sequence[ItemTransform] | None


def symmetry(pixels: Pixels, number: int) -> Pixels:
    """Return one of ``SYMMETRIES`` of an image, as a view."""
    transposed, rows_reversed, columns_reversed = SYMMETRIES[number]
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    pixels = pixels[::-1] if rows_reversed else pixels
    return pixels[:, ::-1] if columns_reversed else pixels


def _act_at_once(flip: RandomFlip, image: AnyImage) -> AnyImage:
    draws = torch.rand(flip.num_draws).tolist()
    if isinstance(image, Image.Image):
        return Image.fromarray(np.ascontiguousarray(flip.view(np.asarray(image), draws=draws)))
    return np.ascontiguousarray(flip.view(cast("Pixels", image), draws=draws))


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"{name}(p=...) must be from 0 to 1. Received: {p!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemPipeline:
    """What is done to each image, in this order.

    Attributes:
        before: Functions that see the whole decoded image. What they make is not cached: nobody can tell whether a
            function still does tomorrow what it did today, or whether it is random.
        sizing: Brings the image to its size; None leaves it at its own.
        after: Functions that see the image at its size; they are called each time it is used. Random flips among
            them act in training only.
    """

    before: tuple[ImageFunction, ...] = ()
    sizing: Sizing | None = None
    after: tuple[RandomFlip | ImageFunction, ...] = ()

    @property
    def num_draws(self) -> int:
        """Random numbers that a training view takes."""
        own = 0 if self.sizing is None else self.sizing.num_draws
        return own + sum(one.num_draws for one in self.after if isinstance(one, _FLIPS))

    @property
    def functions(self) -> tuple[ImageFunction, ...]:
        """All functions of the user's own."""
        return (*self.before, *(one for one in self.after if not isinstance(one, _FLIPS)))

    def cover(self, *, training: bool) -> Size | None:
        """Return the size that a decoder must cover; None where every pixel is wanted."""
        if self.sizing is None or self.before:
            return None
        return self.sizing.cover(training=training)

    def view(self, presized: Pixels, *, draws: Sequence[float] | None, name: str) -> Pixels:
        """Return what a network is shown of what is kept of an image.

        Args:
            presized: uint8 ``(H, W, 3)``; it is not changed.
            draws: ``num_draws`` numbers in [0, 1) for a training view. None: as validation sees it, without random flips.
            name: How messages name the image.

        Raises:
            ConfigError: A function failed.
        """
        seen, first = presized, 0
        if draws is not None and self.sizing is not None:
            seen, first = view(self.sizing, presized, draws=draws), self.sizing.num_draws
        is_own = False  # Functions may write into what they get.
        for one in self.after:
            if not isinstance(one, _FLIPS):
                seen = run_functions((one,), seen if is_own else seen.copy(), name=name)
                is_own = True
            elif draws is not None:
                seen = one.view(seen, draws=draws[first : first + one.num_draws])
                first += one.num_draws
        return seen


def item_pipeline(item_tfms: ItemTransforms | ItemPipeline) -> ItemPipeline:
    """Return item transforms as a pipeline.

    Args:
        item_tfms: None, one transform, or a list of them in the order in which they work.

    Raises:
        ConfigError: Something else, or more than one that brings images to a size.

    Examples:
        >>> item_pipeline([np.fliplr, Resize(224)]).sizing.size
        (224, 224)
    """
    if isinstance(item_tfms, ItemPipeline):
        return item_tfms
    listed: list[Any] = list(item_tfms) if isinstance(item_tfms, list | tuple) else [item_tfms]
    transforms = [transform for transform in listed if transform is not None]
    usable = all(callable(one) and not isinstance(one, type | BatchTransform) for one in transforms)
    places = [place for place, one in enumerate(transforms) if isinstance(one, Sizing)]
    if len(places) > 1 or not usable:
        raise ConfigError(
            "item_tfms is one Resize, as in Resize(460), or another of RandomResizedCrop, RandomCrop, CropPad and "
            "RatioResize, or a list with one of them, FlipItem or DihedralItem, and functions of uint8 arrays. "
            f"Received: {item_tfms!r}"
        )
    place = places[0] if places else -1
    sizing: Sizing | None = transforms[place] if places else None
    first = transforms[:place] if places else []
    early = [one for one in first if isinstance(one, _FLIPS)]
    after = (*early, *transforms[place + 1 :])
    size = None if sizing is None else sizing.size
    turns = any(isinstance(one, DihedralItem) for one in after)
    if turns and size is not None and size[0] != size[1]:
        raise ConfigError(
            f"DihedralItem turns images by 90 degrees and needs a square size. Received: {sizing!r}. "
            "Use a square, or FlipItem."
        )
    return ItemPipeline(
        before=tuple(one for one in first if not isinstance(one, _FLIPS)),
        sizing=sizing,
        after=after,
    )


def function_name(function: Callable[..., object]) -> str:
    """Return how messages name a function: its module-free name, or how it prints."""
    return getattr(function, "__qualname__", None) or repr(function)


def run_functions(functions: Sequence[ImageFunction], pixels: Pixels, *, name: str) -> Pixels:
    """Return pixels after functions of the user's own.

    Args:
        functions: Called one after the other.
        pixels: uint8 ``(H, W, 3)``; may be written to.
        name: How messages name the image.

    Raises:
        ConfigError: A function raised something, or returned something else than such an array.
    """
    for function in functions:
        try:
            result: Any = function(pixels)
        except Exception as error:
            raise ConfigError(
                f"The item transform {function_name(function)} failed on the image {name}: "
                f"{type(error).__name__}: {error}. It was given uint8 values of shape {pixels.shape}; correct it, or leave it out."
            ) from error
        is_array = isinstance(result, np.ndarray)
        is_image = is_array and result.dtype == np.uint8 and result.ndim == 3
        if not is_image or result.shape[2] != 3 or 0 in result.shape:
            what = f"{result.dtype} of shape {result.shape}" if is_array else type(result).__name__
            raise ConfigError(
                f"The item transform {function_name(function)} must return a numpy array of uint8 values and shape "
                f"(height, width, 3). For the image {name} it returned: {what}"
            )
        pixels = np.ascontiguousarray(result)
    return pixels
