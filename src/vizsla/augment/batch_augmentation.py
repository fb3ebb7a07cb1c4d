"""From a list of transforms and (seed, epoch, rows) to augmented images: one map, one colour step, one resampling.

Every transform is one class that owns its options, its random draw and what it does: a 3x3 matrix, a window, a change of the
colour step, or blocks to cover. Its base class says which of these it is: ``GeometricTransform``, ``CropTransform``,
``ColourTransform`` or ``ErasingTransform``. ``BatchAugmentation`` draws for all of them, composes, and applies the result.

A map takes coordinates of the **output** (x, y, 1), x to the right and y down, both from -1 to 1, to those of the source:
source = P . A . C . output, with A the product of flips, rotations and zooms, P the perspectives, C the crop. Resizing needs
no entry: output and source span -1 to 1 with any number of pixels.

Random numbers depend on (seed, stream, epoch, row) only (``seeding.counter_uniform``), never on the batch that an image
happens to be in. They are a few numbers per image and stay on the CPU, wherever the images are. Drawing and
composing take a few dozen operations: 4 ms for a batch of 64 on a slow core, and hardly more for sixteen such batches. So
they are done for several batches at once (``BatchAugmentation.ahead``).

Shape legend: B images, K values that a transform draws per image; maps are float64 ``(B, 3, 3)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    cast,
    get_args,
    runtime_checkable,
)

import torch
from torch import Tensor

from vizsla.augment.apply import Changes, Sampling, apply_changes, plan_changes
from vizsla.augment.kernels import ColourStep, Erasing, Mode, PadMode
from vizsla.augment.normalize import Normalize
from vizsla.errors import ConfigError
from vizsla.machine import Blocks
from vizsla.seeding import BATCHES_AT_ONCE, counter_uniform
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    from numpy.typing import NDArray

DrawFunction = Callable[[Tensor], "Tensor | Sequence[float] | float"]
Draw = float | Sequence[float] | DrawFunction | None
"""Fixed values: one number, one per image of a batch, a function that makes them, or ``None`` for random ones.

A function is called with the images ``(B, 3, H, W)`` as they come in (uint8 in training) and returns numbers like the others.
"""

_MAX_BLOCKS = 4
"""Blocks of memory for results: the consumer has a batch, and holds the one before until the next is there."""

_CHOICES = {"mode": get_args(Mode), "pad_mode": get_args(PadMode)}

_Kind = TypeVar("_Kind")


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Random numbers for the images of some rows, int64 ``(B,)`` on the CPU, in one epoch of a run.

    ``images`` are the images as they come in, for transforms whose ``draw`` is a function of them.
    """

    seed: int
    epoch: int
    rows: Tensor
    images: Tensor | None = None

    def uniform(self, stream: str, *, count: int, same_for_all: bool = False) -> Tensor:
        """Return float64 ``(B, count)`` in [0, 1); with ``same_for_all`` those of the first row for every image."""
        rows = self.rows[:1].expand(len(self.rows)) if same_for_all else self.rows
        return counter_uniform(self.seed, stream, epoch=self.epoch, rows=rows, count=count).double()

    def fixed_or(self, fresh: Tensor, *, draw: Draw) -> Tensor:
        """Return the values ``(B,)`` that the user fixed, or the fresh ones if none were fixed."""
        if draw is None:
            return fresh
        if not isinstance(draw, (float, int, Sequence)):
            if self.images is None:
                raise ConfigError(
                    "Draws computed by a function need the images: give Draws(images=...). "
                    f"Received: {draw!r}, without images"
                )
            made = draw(self.images)
            draw = made.detach().cpu().double().tolist() if isinstance(made, Tensor) else made
        if isinstance(draw, Sequence):
            if len(draw) < len(fresh):
                raise ConfigError(
                    f"A list of fixed draws needs one number per image: give at least {len(fresh)}, or one number for all. "
                    f"Received {len(draw)}: {draw!r}"
                )
            return torch.tensor(draw[: len(fresh)], dtype=fresh.dtype)
        return torch.full_like(fresh, draw)

    def values(self, fresh: Tensor, *, draw: Draw, acts: Tensor, neutral: float) -> Tensor:
        """Return fixed or fresh values ``(B,)`` where a transform acts, and the neutral one elsewhere."""
        values = self.fixed_or(fresh, draw=draw)
        return torch.where(acts, values, torch.full_like(values, neutral))


# ── transforms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def act(
    transforms: Sequence[BatchTransform],
    images: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images after some transforms, composed as in training: one interpolation, one colour step.

    For looking, and for calls by hand: random numbers come from ``generator`` (``None``: torch's default), not from rows. A
    ``Normalize`` acts after the other transforms. ``images`` are one image ``(C, H, W)`` or a batch ``(B, C, H, W)``, uint8
    0-255 or float 0-1; the result has their class and their dtype, float32 for uint8.
    """
    augmentation = BatchAugmentation(transforms)
    plain = as_batch(images)
    seed = int(torch.randint(2**62, (), generator=generator))
    draws = Draws(seed=seed, epoch=0, rows=torch.arange(len(plain)), images=plain)
    found = apply_changes(plain, augmentation.draw_changes(draws, plain, training=True))
    if augmentation.normalize is not None:
        found = augmentation.normalize(found)
    return in_form_of(images, found)


def _act_alone(
    self: BatchTransform, images: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return images with this one transform applied at once, as in ``Rotate(draw=30, p=1)(images)``; see ``act``."""
    return act([self], images, generator=generator)


class GeometricTransform(ABC):
    """A transform that is a map of coordinates; the first one of a list decides size and sampling for all.

    A subclass is a frozen dataclass with these options, checked by ``check_options``.
    """

    __slots__ = ()
    __call__ = _act_alone

    is_perspective: ClassVar[bool] = False
    """Whether its map is applied after the affine ones, to the whole rectangle instead of to a square."""

    size: int | Size | None
    mode: Mode
    pad_mode: PadMode
    align_corners: bool
    batch: bool

    @abstractmethod
    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return float64 ``(B, K)``, what ``matrix`` needs to know of each image."""

    @abstractmethod
    def matrix(self, values: Tensor) -> Tensor:
        """Return the maps ``(B, 3, 3)`` for values from ``sample``; affine ones for a square image."""


class CropTransform(ABC):
    """A transform that restricts the map to a window of the source; a list has one at most."""

    __slots__ = ()
    __call__ = _act_alone

    size: int | Size
    mode: Mode

    @abstractmethod
    def window(
        self, draws: Draws, stream: str, *, source_size: Size, align_corners: bool
    ) -> Tensor:
        """Return the maps ``(B, 3, 3)`` of training, a window for each image."""

    @abstractmethod
    def middle(self, count: int, *, source_size: Size, align_corners: bool) -> Tensor:
        """Return the maps ``(count, 3, 3)`` of validation, the same window for each image."""


class ColourTransform(ABC):
    """A transform that changes the one colour step of a list. A subclass is a frozen dataclass with these options."""

    __slots__ = ()
    __call__ = _act_alone

    neutral: ClassVar[float]
    """The strength that changes nothing."""

    p: float
    draw: Draw
    batch: bool

    def sample(self, draws: Draws, stream: str) -> Tensor:
        """Return float64 ``(B,)``, how strongly it acts on each image."""
        chance, uniform = draws.uniform(stream, count=2, same_for_all=self.batch).unbind(1)
        fresh = self.strength(uniform)
        return draws.values(fresh, draw=self.draw, acts=chance < self.p, neutral=self.neutral)

    @abstractmethod
    def strength(self, uniform: Tensor) -> Tensor:
        """Return random strengths ``(B,)`` from numbers that are uniform in [0, 1)."""

    @abstractmethod
    def follow(self, step: ColourStep, values: Tensor) -> ColourStep:
        """Return the step followed by this transform with these strengths ``(B,)``."""


class ErasingTransform(ABC):
    """A transform that covers blocks when everything else is done; a list has one at most."""

    __slots__ = ()
    __call__ = _act_alone

    @abstractmethod
    def blocks(
        self, draws: Draws, stream: str, *, size: Size, normalize: Normalize | None
    ) -> Erasing:
        """Return what is covered in images of this size, and with what."""


@dataclass(frozen=True, slots=True)
class Composed:
    """Transforms that act as one, in this order; made by ``setup_aug_tfms``. The first geometric one decides size and sampling."""

    __call__ = _act_alone

    transforms: tuple[GeometricTransform | ColourTransform, ...]


@runtime_checkable
class OwnTransform(Protocol):
    """A transform that a user wrote, for items or for batches: code, which no model file holds (``vizsla.Transform``).

    Attributes:
        order: Place among others.
        split_idx: The only set it is for, 0 for training; None for both.
        implied: Whether loaders do it anyway.
    """

    order: int
    split_idx: int | None
    implied: ClassVar[bool]

    def check_takes_images(self, where: Literal["item_tfms", "batch_tfms"]) -> None:
        """Raise a ConfigError if it changes no image in such a list."""
        ...

    def on_pixels(
        self, pixels: NDArray[np.uint8], *, draws: Sequence[float], training: bool
    ) -> NDArray[np.uint8]:
        """Return an image uint8 ``(H, W, 3)`` transformed; two ``draws`` in [0, 1) decide all that is left to chance."""
        ...

    def on_batch(self, images: Tensor, *, draws: Sequence[float], training: bool) -> Tensor:
        """Return images float ``(B, 3, H, W)``, 0-1, transformed."""
        ...


NUM_OWN_DRAWS = 2
"""Random numbers that an ``OwnTransform`` takes."""

BatchTransform = (
    GeometricTransform | CropTransform | ColourTransform | ErasingTransform | Composed | Normalize
)


def instances(transforms: Sequence[Any], *, keep_implied: bool = False) -> list[Any]:
    """Return transforms, of classes of transforms an object each, without None and, unless kept, those that loaders do anyway.

    Other classes, such as ``int``, are functions.

    Raises:
        ConfigError: A class needs arguments.
    """
    made = [_made(one) if isinstance(one, type) else one for one in transforms if one is not None]
    if keep_implied:
        return made
    return [one for one in made if not (isinstance(one, OwnTransform) and one.implied)]


def check_options(transform: object, **limits: tuple[float, float]) -> None:
    """Check the options of a transform, and store sizes and draws as tuples, so that a transform is a value.

    Probabilities ``p`` lie in [0, 1] and the other options in their limits (each number of a tuple on its own); ``mode`` and
    ``pad_mode`` are known words, ``size`` is a size, and an option whose name begins with ``draw`` is a ``Draw``.
    """
    owner, limits = type(transform).__name__, {"p": (0, 1), **limits}
    for name in (one.name for one in fields(cast("Any", transform))):
        value: Any = getattr(transform, name)
        if name in limits:
            low, high = limits[name]
            if not all(
                low <= one <= high for one in (value if isinstance(value, tuple) else (value,))
            ):
                raise ConfigError(
                    f"{owner}({name}=...) must be from {low:g} to {high:g}. Received: {value!r}"
                )
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise ConfigError(
                f"{owner}({name}=...) must be one of {', '.join(_CHOICES[name])}. Received: {value!r}"
            )
        elif name == "size" and value is not None:
            object.__setattr__(transform, name, as_size(value))
        elif name.startswith("draw") and isinstance(value, (list, tuple)):
            numbers = tuple(float(number) for number in cast("Sequence[float]", value))
            object.__setattr__(transform, name, numbers)
        elif name.startswith("draw") and not (
            isinstance(value, float | int | None) or callable(value)
        ):
            raise ConfigError(
                f"{owner}({name}=...) is a number, a list with one number per image, or a function that makes them from "
                f"the batch. Received: {value!r}"
            )


def stream_names(transforms: Sequence[object]) -> tuple[str, ...]:
    """Return a stream of random numbers for each transform: its class, and which one of that class it is."""
    classes = [type(transform).__name__.lower() for transform in transforms]
    return tuple(f"augment/{name}/{classes[:at].count(name)}" for at, name in enumerate(classes))


def _made(kind: type) -> object:
    if not any("__call__" in vars(base) for base in kind.__mro__):
        return kind
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(
            f"{kind.__name__} in a list of transforms needs arguments, as in {kind.__name__}(...). {error}."
        ) from error


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class BatchAugmentation:
    """Turns uint8 batches into float batches of one size, augmented in training.

    Geometry and colour may be mixed in a list, which may hold one crop, one erasing and one ``Normalize`` at most. The latter
    changes no image. ``size``, (height, width) of what comes out, is as given, or that of the crop, or of the first geometric
    transform; ``None``: unchanged. ``transforms`` holds composed ones one by one, ``sampling`` is that of the first geometric
    transform. Transforms that a user wrote act on the result, in their order.

    Examples:
        >>> augment = BatchAugmentation(aug_transforms(size=224), seed=1)
        >>> batch = next(dls.train.loader.batches())  # of bytes
        >>> images = augment(batch.images, rows=batch.rows, epoch=0, training=True)
    """

    def __init__(
        self,
        transforms: Sequence[BatchTransform | OwnTransform] = (),
        *,
        size: Size | None = None,
        seed: int = 0,
    ) -> None:
        self.transforms = tuple(_one_by_one(transforms))
        own = [one for one in self.transforms if isinstance(one, OwnTransform)]
        self.own = tuple(sorted(own, key=lambda one: one.order))
        self._geometry = self._of_kind(GeometricTransform)
        self._colours = self._of_kind(ColourTransform)
        self._crop = _only(self._of_kind(CropTransform))
        self._erasing = _only(self._of_kind(ErasingTransform))
        alone = any(_looks_at_the_batch(t) for t, _ in (*self._geometry, *self._colours))
        self._batches_at_once = 1 if alone else BATCHES_AT_ONCE
        self.crop = None if self._crop is None else self._crop[0]
        normalize = _only(self._of_kind(Normalize))
        self.normalize = None if normalize is None else normalize[0]
        first = self._geometry[0][0] if self._geometry else None
        self.sampling = Sampling() if self.crop is None else Sampling(mode=self.crop.mode)
        if first is not None:
            self.sampling = Sampling(
                mode=first.mode, pad_mode=first.pad_mode, align_corners=first.align_corners
            )
        wanted = [size, *(t.size for t in (self.crop, first) if t is not None)]
        self.size = next((as_size(one) for one in wanted if one is not None), None)
        self.seed = seed
        self._memory = Blocks(max_blocks=_MAX_BLOCKS)

    def _of_kind(self, kind: type[_Kind]) -> list[tuple[_Kind, str]]:
        """Return the transforms of a kind, each with its stream of random numbers."""
        named = zip(self.transforms, stream_names(self.transforms), strict=True)
        return [(transform, stream) for transform, stream in named if isinstance(transform, kind)]

    def __call__(self, images_u8: Tensor, *, rows: Tensor, epoch: int, training: bool) -> Tensor:
        """Return the images as the network gets them, apart from normalisation, and leave those given as they are.

        Rows, int64 ``(B,)`` on the CPU, decide with the seed and the epoch what happens to each image in training. Otherwise
        images are resized (the middle, if the transforms crop) and no more. The result is float32 ``(B, 3, h, w)``, 0-1,
        channels-last; an image to which nothing happens is its uint8 values over 255, exactly.
        """
        return self.ahead([rows], epoch=epoch, training=training)(0, images_u8)

    def ahead(
        self, plan: Sequence[Tensor], *, epoch: int, training: bool
    ) -> Callable[[int, Tensor], Tensor]:
        """Return a function of (number of a batch in the plan, its images) that augments, as a call of this object does.

        The plan holds the rows of the batches that will come. Random numbers are drawn for ``BATCHES_AT_ONCE`` of them at
        once, which does not change them. Where they depend on the batch or on pixels, they are drawn for each batch alone.
        """
        kind: tuple[Size, torch.device] | None = None  # Size and device of the images drawn for.
        drawn: dict[int, Changes] = {}

        def augment(number: int, images_u8: Tensor) -> Tensor:
            nonlocal kind
            _check_batch(images_u8, plan[number])
            this_kind = (images_u8.shape[2], images_u8.shape[3]), images_u8.device
            if kind != this_kind or number not in drawn:
                kind = this_kind
                some = tuple(plan[number : number + self._batches_at_once])
                draws = Draws(seed=self.seed, epoch=epoch, rows=torch.cat(some), images=images_u8)
                changes = self.draw_changes(draws, images_u8, training=training)
                drawn.clear()
                ends = accumulate(map(len, some), initial=0)
                for at, (start, end) in enumerate(pairwise(ends), number):
                    drawn[at] = changes.of(slice(start, end))
            images = apply_changes(images_u8, drawn[number], memory=self._memory)
            for place, one in enumerate(self.own):
                stream = f"augment/own/{place}"
                draws = counter_uniform(
                    self.seed, stream, epoch=epoch, rows=plan[number][:1], count=NUM_OWN_DRAWS
                )
                images = _check_own(one, images, draws=draws[0].tolist(), training=training)
            return images

        return augment

    def draw_changes(self, draws: Draws, images: Tensor, *, training: bool) -> Changes:
        """Draw and compose what is done to images of the size and on the device of ``images``, without touching a pixel."""
        source_size = images.shape[-2], images.shape[-1]
        size, colour, erasing = self.size or source_size, None, None
        with torch.no_grad(), _one_thread():
            if training:
                warp = self.training_map(draws, source_size=source_size)
                colour = self.colour_step(draws)
                if self._erasing is not None:
                    transform, stream = self._erasing
                    erasing = transform.blocks(draws, stream, size=size, normalize=self.normalize)
            else:
                warp = self.validation_map(len(draws.rows), source_size=source_size)
            return plan_changes(
                warp,
                source_size=source_size,
                size=size,
                sampling=self.sampling,
                colour=colour,
                erasing=erasing,
                device=images.device,
            )

    def training_map(self, draws: Draws, *, source_size: Size) -> Tensor:
        """Draw and compose the geometry of training: float64 ``(B, 3, 3)``; exactly the identity where nothing happens."""
        affine = _identity(len(draws.rows))
        perspectives: list[Tensor] = []
        for transform, stream in self._geometry:
            matrix = transform.matrix(transform.sample(draws, stream))
            if transform.is_perspective:
                perspectives.append(matrix)
            else:
                affine = affine @ matrix
        total = correct_aspect(affine, source_size=source_size)
        for matrix in perspectives:
            total = matrix @ total
        if self._crop is not None:
            crop, stream = self._crop
            align_corners = self.sampling.align_corners
            total = total @ crop.window(
                draws, stream, source_size=source_size, align_corners=align_corners
            )
        return total

    def validation_map(self, count: int, *, source_size: Size) -> Tensor:
        """Return the maps of validation: the middle window if the transforms crop, else the whole image."""
        if self.crop is None:
            return _identity(count)
        return self.crop.middle(
            count, source_size=source_size, align_corners=self.sampling.align_corners
        )

    def colour_step(self, draws: Draws) -> ColourStep | None:
        """Draw and compose the colour of training: one step per image, ``None`` if no transform changes colours."""
        if not self._colours:
            return None
        step = ColourStep.neutral(len(draws.rows))
        for transform, stream in self._colours:
            step = transform.follow(step, transform.sample(draws, stream))
        return step


def correct_aspect(affine: Tensor, *, source_size: Size) -> Tensor:
    """Return maps that act on an image of this size as the given ones do on a square: rotations do not shear."""
    height, width = source_size
    factors = affine.new_tensor([[1, height / width, 1], [width / height, 1, 1], [1, 1, 1]])
    return affine * factors


def as_batch(images: Tensor) -> Tensor:
    """Return one image or a batch as plain images ``(B, C, H, W)``."""
    if images.ndim not in {3, 4}:
        raise ConfigError(
            "Transforms take a TensorImage of one image (channels, height, width) or of a batch "
            f"(batch, channels, height, width). Received: shape {tuple(images.shape)}"
        )
    plain = images.as_subclass(Tensor)
    return plain[None] if plain.ndim == 3 else plain


def in_form_of(images: Tensor, found: Tensor) -> Tensor:
    """Return float images in the form of those that came in: their class, their dtype, one or a batch."""
    if images.dtype.is_floating_point:
        found = found.to(images.dtype)
    return (found[0] if images.ndim == 3 else found).as_subclass(type(images))


def _looks_at_the_batch(transform: GeometricTransform | ColourTransform) -> bool:
    """Whether what happens to an image depends on the other images of its batch, or on pixels."""
    names = [one.name for one in fields(cast("Any", transform)) if one.name.startswith("draw")]
    numbers = all(isinstance(getattr(transform, name), float | int | None) for name in names)
    return transform.batch or not numbers


def _one_by_one(
    transforms: Sequence[BatchTransform | OwnTransform],
) -> Generator[BatchTransform | OwnTransform]:
    for transform in instances(transforms):
        if isinstance(transform, Composed):
            yield from transform.transforms
        elif isinstance(transform, BatchTransform):
            yield transform
        elif isinstance(transform, OwnTransform):
            transform.check_takes_images("batch_tfms")
            yield transform
        else:
            raise ConfigError(
                "A batch transform is an object such as Flip(), Rotate() or Brightness(), or "
                "Transform(function) with a function of image batches; Resize and other item "
                f"transforms go into item_tfms. Received: {transform!r}"
            )


def _check_own(
    transform: OwnTransform, images: Tensor, *, draws: Sequence[float], training: bool
) -> Tensor:
    """Return a batch after a transform that a user wrote."""
    found: Any = transform.on_batch(images, draws=draws, training=training)
    is_batch = isinstance(found, Tensor) and found.ndim == 4 and found.is_floating_point()
    if not is_batch or found.shape[:2] != images.shape[:2]:
        what = (
            f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.80}"
        )
        raise ConfigError(
            f"The batch transform {transform!r} must return float images ({len(images)}, 3, height, width). Received: {what}"
        )
    return found


def _only(found: list[tuple[_Kind, str]]) -> tuple[_Kind, str] | None:
    """Return the one transform there is, with its stream, or ``None``."""
    if len(found) > 1:
        raise ConfigError(
            "A list of transforms can hold only one of these; remove the others. Received: "
            f"{[transform for transform, _ in found]}"
        )
    return found[0] if found else None


def _identity(count: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)


@contextmanager
def _one_thread() -> Generator[None]:
    """Keep small operations on this thread: exp or sqrt of 640 numbers are not worth waiting for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_batch(images_u8: Tensor, rows: Tensor) -> None:
    if images_u8.dtype != torch.uint8 or images_u8.ndim != 4 or images_u8.shape[1] != 3:
        raise ConfigError(
            "Augmentation takes uint8 images (batch, 3, height, width) with values 0-255. "
            f"Received: {images_u8.dtype} {tuple(images_u8.shape)}"
        )
    if rows.shape != images_u8.shape[:1] or rows.device.type != "cpu":
        raise ConfigError(
            f"Augmentation needs the table row of each of the {len(images_u8)} images, on the CPU. "
            f"Received: rows of shape {tuple(rows.shape)} on {rows.device}"
        )
