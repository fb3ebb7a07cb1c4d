"""Item transforms as a notebook lists them in, an ``ItemPipeline`` out: what happens to one picture between decoding and batch.

A picture is decoded, the functions before the sizing work on it, the sizing (``Resize``, ``RandomResizedCrop`` ...) brings it
to its size, the functions after it work on the result. A function takes and returns uint8 ``(H, W, 3)``, RGB; it runs in
the reading threads. ``FlipItem`` and ``DihedralItem`` stand among the functions after it, wherever they are listed, and act in
training only. H, W: sides.

Pixels of one picture and random numbers in, the picture mirrored or turned out: item transforms that need no interpolation.

They act in training only, after the picture has its size, so that what is cached does not depend on them. H, W: sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vizsla.augment.batch_augmentation import BatchTransform
from vizsla.data.images.sizing import CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from vizsla.types import Size

_Picture = TypeVar("_Picture", "NDArray[np.uint8]", Image.Image)
_SYMMETRIES = 8


@dataclass(frozen=True, slots=True)
class FlipItem:
    """Mirrors pictures left and right, each picture of an epoch for itself.

    Called on a picture it acts at once, with numbers from torch's default generator.

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

    def view(self, pixels: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return the picture or its mirror image, as a view.

        Args:
            pixels: uint8 ``(H, W, 3)``.
            draws: One number in [0, 1).
        """
        return symmetry(pixels, 1) if draws[0] < self.p else pixels

    def __call__(self, picture: _Picture) -> _Picture:
        """Return an array or a Pillow picture, mirrored or not."""
        return _at_once(self, picture)


@dataclass(frozen=True, slots=True)
class DihedralItem:
    """Applies one of the 8 symmetries of the square, each picture of an epoch for itself; for pictures without an up and down.

    Sides that differ are swapped by half of the symmetries, so it needs a square size. Called on a picture it acts at once,
    with numbers from torch's default generator.

    Args:
        p: Probability that it acts; one of the 8 leaves a picture as it is.

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

    def view(self, pixels: NDArray[np.uint8], *, draws: Sequence[float]) -> NDArray[np.uint8]:
        """Return the picture in one of its symmetries, as a view.

        Args:
            pixels: uint8 ``(H, W, 3)``.
            draws: Two numbers in [0, 1).
        """
        return symmetry(pixels, int(_SYMMETRIES * draws[1])) if draws[0] < self.p else pixels

    def __call__(self, picture: _Picture) -> _Picture:
        """Return an array or a Pillow picture in one of its symmetries."""
        return _at_once(self, picture)


RandomFlip = FlipItem | DihedralItem
"""Item transforms that are random in training and do nothing otherwise."""


def symmetry(pixels: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return one of the 8 symmetries of a picture, as a view; the numbers are those of the batch transform ``Dihedral``.

    Args:
        pixels: ``(H, W, 3)``.
        number: 0 as it is, 1 mirrored left to right, 2 upside down, 3 4 5 turned anticlockwise by 90 180 270 degrees,
            6 transposed, 7 transposed along the other diagonal.
    """
    if number in {3, 4, 5}:
        return np.rot90(pixels, number - 2)
    if number in {6, 7}:
        pixels = pixels.transpose(1, 0, 2)
    if number in {2, 7}:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if number in {1, 7} else pixels


def _at_once(flip: RandomFlip, picture: _Picture) -> _Picture:
    draws = torch.rand(flip.num_draws).tolist()
    if isinstance(picture, Image.Image):
        return Image.fromarray(np.ascontiguousarray(flip.view(np.asarray(picture), draws=draws)))
    return np.ascontiguousarray(flip.view(cast("NDArray[np.uint8]", picture), draws=draws))


def _check_probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ConfigError(f"{name}(p=...) must be from 0 to 1. Received: {p!r}")


PictureFunction = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""A custom item transform: uint8 ``(H, W, 3)`` to uint8 ``(H, W, 3)``; it may write into what it is given."""

Sizing = Resize | RandomResizedCrop | RandomCrop | CropPad | RatioResize
"""What brings pictures to a size; there is at most one among the item transforms."""

ItemTransform = Sizing | RandomFlip | PictureFunction
ItemTransforms = ItemTransform | Sequence[ItemTransform] | None

_SIZINGS = (Resize, RandomResizedCrop, RandomCrop, CropPad, RatioResize)
_FLIPS = (FlipItem, DihedralItem)


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemPipeline:
    """What is done to each picture, in this order.

    Attributes:
        before: Functions that see the whole decoded picture. What they make is not cached: nobody can tell whether a
            function still does tomorrow what it did today, or whether it is random.
        sizing: Brings the picture to its size; None leaves it at its own.
        after: Functions that see the picture at its size; they are called anew each time it is used. Random flips among
            them act in training only.
    """

    before: tuple[PictureFunction, ...] = ()
    sizing: Sizing | None = None
    after: tuple[RandomFlip | PictureFunction, ...] = ()

    def cover(self, *, training: bool) -> Size | None:
        """Return the size that a decoder must cover; None where every pixel is wanted.

        Args:
            training: As for ``kept``.
        """
        if self.sizing is None or self.before:
            return None
        return self.sizing.cover(training=training)

    @property
    def num_draws(self) -> int:
        """Random numbers that a training view takes."""
        flips = sum(one.num_draws for one in self.after if isinstance(one, _FLIPS))
        return self._num_sizing_draws + flips

    @property
    def functions(self) -> tuple[PictureFunction, ...]:
        """All functions of the user's own."""
        return (*self.before, *(one for one in self.after if not isinstance(one, _FLIPS)))

    @property
    def _num_sizing_draws(self) -> int:
        return 0 if self.sizing is None else self.sizing.num_draws

    def kept(self, picture: Image.Image, *, training: bool, name: str) -> NDArray[np.uint8]:
        """Return what is worth keeping of a picture: as validation sees it, or what training takes its random views of.

        Args:
            picture: Upright RGB, any size.
            training: Whether random views will be taken.
            name: How messages name the picture.

        Returns:
            uint8 ``(H, W, 3)``, read-only.

        Raises:
            ConfigError: A function failed.
        """
        if self.before:
            picture = Image.fromarray(_applied(self.before, np.array(picture), name=name))
        if isinstance(self.sizing, Resize):
            pixels = self.sizing.pixels(picture, training=training)
        else:
            if self.sizing is not None:
                picture = self.sizing.strip(picture) if training else self.sizing.centred(picture)
            pixels = np.asarray(picture)
        pixels.setflags(write=False)
        return pixels

    def training_view(
        self, kept: NDArray[np.uint8], *, draws: Sequence[float], name: str
    ) -> NDArray[np.uint8]:
        """Return what one training step sees of a picture.

        Args:
            kept: As ``kept`` with ``training`` returned it.
            draws: ``num_draws`` numbers in [0, 1).
            name: How messages name the picture.

        Raises:
            ConfigError: A function failed.
        """
        view = kept if self.sizing is None else self.sizing.window(kept, draws=draws)
        return self._after(view, draws=draws[self._num_sizing_draws :], name=name)

    def finished(self, view: NDArray[np.uint8], *, name: str) -> NDArray[np.uint8]:
        """Return what validation sees: a picture at its size after the functions that follow; without any, ``view`` itself.

        Args:
            view: uint8 ``(H, W, 3)``; it is not changed.
            name: How messages name the picture.

        Raises:
            ConfigError: A function failed.
        """
        return self._after(view, draws=None, name=name)

    def _after(
        self, view: NDArray[np.uint8], *, draws: Sequence[float] | None, name: str
    ) -> NDArray[np.uint8]:
        """Return a picture after what follows the sizing; without draws random flips do nothing."""
        first = 0
        is_own = False  # Functions may write into what they get.
        for one in self.after:
            if not isinstance(one, _FLIPS):
                view = _applied((one,), view if is_own else view.copy(), name=name)
                is_own = True
            elif draws is not None:
                view = one.view(view, draws=draws[first : first + one.num_draws])
                first += one.num_draws
        return view


def item_pipeline(item_tfms: ItemTransforms | ItemPipeline) -> ItemPipeline:
    """Return item transforms as a pipeline.

    Args:
        item_tfms: None, one transform, or a list of them in the order in which they shall work.

    Raises:
        ConfigError: Something else, or more than one that brings pictures to a size.

    Examples:
        >>> item_pipeline([np.fliplr, Resize(224)]).sizing.size
        (224, 224)
    """
    if isinstance(item_tfms, ItemPipeline):
        return item_tfms
    listed: list[Any] = list(item_tfms) if isinstance(item_tfms, list | tuple) else [item_tfms]
    transforms = [transform for transform in listed if transform is not None]
    places = [place for place, one in enumerate(transforms) if isinstance(one, _SIZINGS)]
    usable = all(callable(one) and not isinstance(one, type | BatchTransform) for one in transforms)
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
    if (
        size is not None
        and size[0] != size[1]
        and any(isinstance(one, DihedralItem) for one in after)
    ):
        raise ConfigError(
            f"DihedralItem turns pictures by 90 degrees and needs a square size. Received: {sizing!r}. "
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


def _applied(
    functions: tuple[PictureFunction, ...], pixels: NDArray[np.uint8], *, name: str
) -> NDArray[np.uint8]:
    for function in functions:
        try:
            result: Any = function(pixels)
        except Exception as error:
            raise ConfigError(
                f"The item transform {function_name(function)} failed on the picture {name}: "
                f"{type(error).__name__}: {error}. It was given uint8 values of shape {pixels.shape}; correct it, or leave it out."
            ) from error
        pixels = _checked(result, function=function, name=name)
    return pixels


def _checked(result: Any, *, function: PictureFunction, name: str) -> NDArray[np.uint8]:
    is_picture = (
        isinstance(result, np.ndarray)
        and result.dtype == np.uint8
        and result.ndim == 3
        and result.shape[2] == 3
        and 0 not in result.shape
    )
    if not is_picture:
        what = (
            f"{result.dtype} of shape {result.shape}"
            if isinstance(result, np.ndarray)
            else type(result).__name__
        )
        raise ConfigError(
            f"The item transform {function_name(function)} must return a numpy array of uint8 values and shape "
            f"(height, width, 3). For the picture {name} it returned: {what}"
        )
    return np.ascontiguousarray(result)
