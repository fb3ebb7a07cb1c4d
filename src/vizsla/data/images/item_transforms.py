"""What happens to one image between decoding and batch, as a notebook lists it: functions, a sizing, flips.

An image is decoded; functions listed before the sizing see it whole; the sizing (``Resize``, ``RandomResizedCrop`` ...) brings
it to its size; functions listed after it see the result. A function takes and returns uint8 ``(H, W, 3)``, RGB, and runs in
the reading threads. ``FlipItem`` and ``DihedralItem`` always work after the sizing, wherever they are listed, and in training
only, so that cached pixels do not depend on them. H, W: sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from PIL import Image

from vizsla.augment.batch_augmentation import (
    NUM_OWN_DRAWS,
    BatchTransform,
    OwnTransform,
    instances,
)
from vizsla.augment.geometry import Dihedral, Flip
from vizsla.data.images.sizing import Chain, Pixels, Sizing
from vizsla.errors import ConfigError
from vizsla.types import SYMMETRIES

if TYPE_CHECKING:
    from vizsla.types import Size

AnyImage = TypeVar("AnyImage", Pixels, Image.Image)


@dataclass(frozen=True, slots=True)
class RandomFlip(ABC):
    """An item transform that acts with probability ``p`` in training and does nothing otherwise."""

    p: float
    num_draws: ClassVar[int]
    """Random numbers that ``view`` takes."""

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(
                f"{type(self).__name__}(p=...) must be from 0 to 1. Received: {self.p!r}"
            )

    @abstractmethod
    def view(self, pixels: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return a view of an image, flipped or not; draws are in [0, 1)."""

    @abstractmethod
    def for_batches(self) -> BatchTransform:
        """Return the batch transform that does the same."""

    def __call__(self, image: AnyImage) -> AnyImage:
        """Return an array or a Pillow image, flipped or not."""
        draws = torch.rand(self.num_draws).tolist()
        if isinstance(image, Image.Image):
            return Image.fromarray(np.ascontiguousarray(self.view(np.asarray(image), draws=draws)))
        return np.ascontiguousarray(self.view(cast("Pixels", image), draws=draws))


@dataclass(frozen=True, slots=True)
class FlipItem(RandomFlip):
    """Mirrors images left and right, each image of an epoch independently.

    Called on an image it acts at once, with numbers from torch's default generator.

    Args:
        p: Probability that it acts.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 0.5
    num_draws: ClassVar[int] = 1

    def view(self, pixels: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return the image or its mirror image, as a view."""
        return symmetry(pixels, 1) if draws[0] < self.p else pixels

    def for_batches(self) -> BatchTransform:
        """Return the batch transform that does the same."""
        return Flip(p=self.p)


@dataclass(frozen=True, slots=True)
class DihedralItem(RandomFlip):
    """Applies one of the 8 symmetries of the square, each image of an epoch independently.

    For images without a natural orientation.

    Half of the symmetries swap the sides, so it needs a square size. Called on an image it acts at once, with numbers from
    torch's default generator.

    Args:
        p: Probability that it acts; one of the 8 leaves an image as it is.

    Raises:
        ConfigError: ``p`` is not from 0 to 1.
    """

    p: float = 1.0
    num_draws: ClassVar[int] = 2

    def view(self, pixels: Pixels, *, draws: Sequence[float]) -> Pixels:
        """Return the image in one of its symmetries, as a view."""
        return symmetry(pixels, int(len(SYMMETRIES) * draws[1])) if draws[0] < self.p else pixels

    def for_batches(self) -> BatchTransform:
        """Return the batch transform that does the same."""
        return Dihedral(p=self.p)


ImageFunction = Callable[[Pixels], Pixels]
"""A custom item transform: uint8 ``(H, W, 3)`` to uint8 ``(H, W, 3)``; it may write into what it is given."""


@dataclass(frozen=True)
class Grey:
    """Networks see grey images. Readers keep the colours: the classifier makes them grey, so a model file does, too."""


ItemTransform = Sizing | RandomFlip | ImageFunction | OwnTransform | Grey
ItemTransforms = ItemTransform | Sequence[ItemTransform] | None


def symmetry(pixels: Pixels, number: int) -> Pixels:
    """Return one of ``SYMMETRIES`` of an image, as a view."""
    transposed, rows_reversed, columns_reversed = SYMMETRIES[number]
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    pixels = pixels[::-1] if rows_reversed else pixels
    return pixels[:, ::-1] if columns_reversed else pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemPipeline:
    """What is done to each image, in this order.

    Attributes:
        before: Functions that see the whole decoded image. Their results are not cached: nobody can tell whether a function
            is random, or will still do tomorrow what it did today.
        sizing: Brings the image to its size; None leaves it at its own.
        after: Functions that see the image at its size, called each time it is used, and random flips.
        grey: Whether networks see grey images, see ``Grey``.
    """

    before: tuple[ImageFunction | OwnTransform, ...] = ()
    sizing: Sizing | None = None
    after: tuple[RandomFlip | ImageFunction | OwnTransform, ...] = ()
    grey: bool = False

    @property
    def num_draws(self) -> int:
        """Random numbers that a training view takes: of the sizing, of what follows it, and of what comes before it."""
        own = 0 if self.sizing is None else self.sizing.num_draws
        return own + sum(map(_num_draws, (*self.after, *self.before)))

    @property
    def functions(self) -> tuple[ImageFunction | OwnTransform, ...]:
        """All functions and transforms that the user wrote."""
        return (*self.before, *(one for one in self.after if not isinstance(one, RandomFlip)))

    def cover(self, *, training: bool) -> Size | None:
        """Return the size that a decoder must cover; None if every pixel is needed."""
        if self.sizing is None or self.before:
            return None
        return self.sizing.cover(training=training)

    def prepare(
        self, pixels: Pixels, *, draws: Sequence[float] | None, training: bool, name: str
    ) -> Pixels:
        """Return a decoded image, which may be written to, as the sizing gets it; arguments as in ``view``."""
        first = self.num_draws - sum(map(_num_draws, self.before))
        own = None if draws is None else draws[first:]
        return run_functions(self.before, pixels, name=name, draws=own, training=training)

    def view(self, presized: Pixels, *, draws: Sequence[float] | None, name: str) -> Pixels:
        """Return what a network sees of a presized image, which is not changed.

        ``draws`` are ``num_draws`` numbers in [0, 1) for a training view; None is the view of validation. ``name`` is how
        messages name the image.
        """
        seen, first = presized, 0
        if draws is not None and self.sizing is not None:
            seen, first = self.sizing.view(presized, draws=draws), self.sizing.num_draws
        is_own = False  # Functions may write into what they get.
        for one in self.after:
            own = None if draws is None else draws[first : first + _num_draws(one)]
            first += _num_draws(one)
            if not isinstance(one, RandomFlip):
                seen = seen if is_own else seen.copy()
                seen = run_functions((one,), seen, name=name, draws=own, training=draws is not None)
                is_own = True
            elif own is not None:
                seen = one.view(seen, draws=own)
        return seen


def _num_draws(one: RandomFlip | ImageFunction | OwnTransform) -> int:
    if isinstance(one, RandomFlip):
        return one.num_draws
    return NUM_OWN_DRAWS if isinstance(one, OwnTransform) else 0


def item_pipeline(item_tfms: ItemTransforms | ItemPipeline) -> ItemPipeline:
    """Return item transforms, listed in the order in which they work, as a pipeline.

    Raises:
        ConfigError: One is not a transform, or something stands between two that bring images to a size.

    Examples:
        >>> item_pipeline([np.fliplr, Resize(224)]).sizing.size
        (224, 224)
    """
    if isinstance(item_tfms, ItemPipeline):
        return item_tfms
    listed: list[Any] = list(item_tfms) if isinstance(item_tfms, list | tuple) else [item_tfms]
    transforms = instances([one for one in listed if not isinstance(one, Grey)])
    usable = all(callable(one) and not isinstance(one, BatchTransform) for one in transforms)
    places = [place for place, one in enumerate(transforms) if isinstance(one, Sizing)]
    together = not places or places[-1] - places[0] == len(places) - 1
    if not together or not usable:
        raise ConfigError(
            "item_tfms must be one Resize, such as Resize(460), or a list. A list may hold Resize, "
            "RandomResizedCrop, RandomCrop, CropPad and RatioResize (next to one another), FlipItem or "
            f"DihedralItem, functions of uint8 arrays, and Transform. Received: {item_tfms!r}"
        )
    for one in transforms:
        if isinstance(one, OwnTransform):
            one.check_takes_images("item_tfms")
    place = places[0] if places else -1
    sizing: Sizing | None = transforms[place] if places else None
    for other in places[1:]:
        sizing = Chain(cast("Sizing", sizing), transforms[other])
    first = transforms[:place] if places else []
    early = [one for one in first if isinstance(one, RandomFlip) or _order(one) > _SIZING_ORDER]
    first = [one for one in first if one not in early]
    after = (*early, *transforms[place + max(1, len(places)) :])
    size = None if sizing is None else sizing.size
    turns = any(isinstance(one, DihedralItem) for one in after)
    if turns and size is not None and size[0] != size[1]:
        raise ConfigError(
            f"DihedralItem rotates images by 90 degrees, so it needs a square size. Received: {sizing!r}. Use a "
            "square, or FlipItem."
        )
    return ItemPipeline(
        before=tuple(sorted(first, key=_order)),
        sizing=sizing,
        after=tuple(sorted(after, key=_order)),
        grey=any(isinstance(one, Grey) for one in listed),
    )


_SIZING_ORDER = 1
"""A ``Transform`` of a larger order works after the sizing, wherever it is listed."""


def _order(one: RandomFlip | ImageFunction | OwnTransform) -> int:
    return one.order if isinstance(one, OwnTransform) else 0


def function_name(function: object) -> str:
    """Return how messages name a function: its name without the module, or its repr."""
    return getattr(function, "__qualname__", None) or repr(function)


def run_functions(
    functions: Sequence[ImageFunction | OwnTransform],
    pixels: Pixels,
    *,
    name: str,
    draws: Sequence[float] | None = None,
    training: bool = False,
) -> Pixels:
    """Return pixels, which may be written to, after functions and transforms that the user wrote.

    ``name`` is how messages name the image; ``draws`` are the random numbers of the transforms, None in validation.

    Raises:
        ConfigError: A function failed, or returned anything but uint8 ``(H, W, 3)``.
    """
    first = 0
    for function in functions:
        try:
            if isinstance(function, OwnTransform):
                own = (0.0, 0.0) if draws is None else draws[first : first + NUM_OWN_DRAWS]
                first += NUM_OWN_DRAWS
                result: Any = function.on_pixels(pixels, draws=own, training=training)
            else:
                result = function(pixels)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"The item transform {function_name(function)} failed on the image {name}: "
                f"{type(error).__name__}: {error}. It was given uint8 values of shape {pixels.shape}; correct the "
                "function, or remove it."
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
