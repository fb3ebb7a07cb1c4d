"""Transforms as notebooks write them: functions that know their inverse, their order, and the set of images they are for.

They act when called. Loaders take those that a user wrote in ``item_tfms`` and ``batch_tfms`` too: ``on_pixels`` and ``on_batch``
are what the engine calls then.
"""

from __future__ import annotations

import copy
import inspect
import sys
from functools import cached_property, wraps
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.augment.batch_augmentation import BatchTransform, act, instances
from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.labels import CategoryMap, is_several
from vizsla.errors import ConfigError, LabelError
from vizsla.lists import L
from vizsla.notebook.images import PILImage
from vizsla.notebook.tensors import TensorCategory, TensorImage, TensorMultiCategory
from vizsla.text import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vizsla.data.table.block import OutputBlock

_METHODS = ("encodes", "decodes", "setups")
_TENSOR_ORDER = 5
"""From this order on an image is a tensor, before it a ``PILImage``: ``ToTensor`` has it."""


# ── labels that show themselves ──────────────────────────────────────────────────────────────────────────────────────


class TitledStr(str):
    """A text that is shown as the title of an image."""

    __slots__ = ()

    def show(self, ctx: Axes | None = None, **_: Any) -> Axes | None:
        """Set it as the title of axes, or print it where there are none."""
        return _show_title(self, ctx)


class Category(TitledStr):
    """The name of a class."""

    __slots__ = ()


class MultiCategory(L[Any]):
    """The names of the classes of an image."""

    def show(self, ctx: Axes | None = None, sep: str = ";", **_: Any) -> Axes | None:
        """Set them as the title of axes, or print them where there are none."""
        return _show_title(sep.join(map(str, self)), ctx)


def _show_title(text: object, ctx: Axes | None) -> Axes | None:
    if ctx is None:
        say(str(text))
    else:
        ctx.set_title(str(text))
    return ctx


# ── a transform ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Overload:
    """One of the functions of a name, and the types of what it takes."""

    def __init__(self, function: Callable[..., Any], *, is_method: bool) -> None:
        self.function = function
        self.is_method = is_method

    @cached_property
    def types(self) -> tuple[Any, ...]:
        """What the first argument may be; ``object`` where nothing says it."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
            first = parameters[1 if self.is_method else 0]
        except (ValueError, TypeError, IndexError):  # a builtin, or no argument
            return (object,)
        hint: Any = first.annotation
        if isinstance(hint, str):
            try:
                hint = get_type_hints(self.function).get(first.name)
            except (NameError, TypeError):
                hint = None
        return _classes_of(hint)

    def distance(self, kind: type) -> int | None:
        """Return how far a class is from the types, 0 for one of them; None if it is of none."""
        line = kind.__mro__
        found = [
            line.index(one) if one in line else len(line) - 2
            for one in self.types
            if issubclass(kind, one)
        ]
        return min(found, default=None)


def _nearest(overloads: Sequence[_Overload], kind: type) -> _Overload | None:
    """Return the function for a class: the one whose annotation is nearest to it, of several the last defined."""
    measured = [(one.distance(kind), one) for one in overloads]
    fitting = [(far, one) for far, one in measured if far is not None]
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def _classes_of(hint: Any) -> tuple[Any, ...]:
    parts = hint if isinstance(hint, tuple) else None
    if get_origin(hint) in (Union, UnionType):
        parts = get_args(hint)
    if parts is not None:
        return tuple(one for part in parts for one in _classes_of(part))
    hint = type(None) if hint is None and parts is not None else get_origin(hint) or hint
    is_open = hint in (Any, inspect.Parameter.empty) or not isinstance(hint, type)
    return (object,) if is_open else (hint,)


class _ClassBody(dict[str, Any]):
    """The names of a class body, where ``encodes``, ``decodes`` and ``setups`` may be defined once for each type."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name in _METHODS and inspect.isfunction(value):
            value = [_Overload(value, is_method=True), *self.get(name, ())]
        super().__setitem__(name, value)


class _TransformClass(type):
    """Collects the functions of a name, those of the base class after its own."""

    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **_: Any) -> _ClassBody:
        return _ClassBody()

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _TransformClass:
        inherited: dict[str, list[_Overload]] = getattr(bases[0], "overloads", {}) if bases else {}
        own = {one: body[one] for one in _METHODS if one in body}
        overloads = {one: [*own.get(one, ()), *inherited.get(one, ())] for one in _METHODS}
        callable_ones = {one: _as_method(overloads[one]) for one in own}
        return super().__new__(cls, name, bases, {**body, **callable_ones, "overloads": overloads})


def _as_method(overloads: list[_Overload]) -> Callable[[Transform, Any], Any]:
    @wraps(overloads[0].function)
    def method(self: Transform, x: Any) -> Any:
        return self.call_nearest(overloads, x)

    return method


class Transform(metaclass=_TransformClass):
    """A function with an optional inverse, an order among other transforms, and the set it applies to.

    Give it functions, use it as a decorator, or write a class with ``encodes`` and, where it has an inverse, ``decodes``; ``setups``
    looks at the items first. A method may be defined several times, once for each type of what comes in (as its annotation says):
    what fits no annotation passes unchanged. A tuple is transformed element by element.

    In ``item_tfms`` it sees each image as a ``PILImage`` (a ``TensorImage`` of bytes if its annotation says so, or its order is 5 or
    more), in ``batch_tfms`` a batch as a float ``TensorImage``. Labels never pass through it there. It runs in the reading threads,
    each time on a copy of itself; ``seed``, an integer, depends on the run's seed, the epoch and the image alone: draw
    random numbers from ``random.Random(self.seed)`` or ``np.random.default_rng(self.seed)`` and runs are repeatable.

    Args:
        enc: The function, or several for different types.
        dec: Its inverse.
        split_idx: 0: only for training, 1: only for validation; None: for both.
        order: Transforms with a smaller order are applied first.

    Examples:
        >>> @Transform
        ... def add_one(x: int):
        ...     return x + 1
        >>> add_one((1, 2.0))
        (2, 2.0)
    """

    split_idx: int | None = None
    order: int = 0
    seed: int = 0
    implied: ClassVar[bool] = False
    """Whether loaders do it anyway, whatever the list of transforms says."""
    overloads: ClassVar[dict[str, list[_Overload]]]
    _name: str | None = None
    _given: dict[str, list[_Overload]] | None = None

    def __init__(
        self,
        enc: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        dec: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        split_idx: int | None = None,
        order: int | None = None,
    ) -> None:
        encoders, decoders = L(enc), L(dec)
        self.split_idx = self.split_idx if split_idx is None else split_idx
        own_order = getattr(encoders[0], "order", self.order) if encoders else self.order
        self.order = own_order if order is None else order
        if not all(map(callable, [*encoders, *decoders])):
            raise ConfigError(
                f"A Transform must be built from functions. Received: enc={enc!r}, dec={dec!r}. Write "
                "Transform(function)."
            )
        if encoders:
            self._name = _name_of(encoders[0])
            self._given = {
                "encodes": [_Overload(one, is_method=False) for one in reversed(encoders)],
                "decodes": [_Overload(one, is_method=False) for one in reversed(decoders)],
            }

    @property
    def name(self) -> str:
        """The name of its class, or of its function."""
        return self._name or type(self).__name__

    @property
    def function(self) -> Callable[..., Any]:
        """The function that it was made of, or itself."""
        return self if self._given is None else self._given["encodes"][-1].function

    def __repr__(self) -> str:
        encoders, decoders = (len(self._overloads(one)) for one in ("encodes", "decodes"))
        return f"{self.name}(enc:{encoders},dec:{decoders})"

    def __call__(self, x: Any, *, split_idx: int | None = None) -> Any:
        """Return something transformed; ``split_idx`` is the set it belongs to."""
        return self._apply("encodes", x, split_idx=split_idx)

    def decode(self, x: Any, *, split_idx: int | None = None) -> Any:
        """Return what it was before; unchanged where there is no inverse."""
        return self._apply("decodes", x, split_idx=split_idx)

    def setup(self, items: Any = None, train_setup: bool = False) -> None:
        """Look at items (with ``train_setup`` those for training) before it acts."""
        seen = getattr(items, "train", items) if train_setup else items
        for overload in self._overloads("setups")[:1]:
            overload.function(self, seen)

    def _apply(self, method: str, x: Any, *, split_idx: int | None) -> Any:
        if self.split_idx is not None and split_idx != self.split_idx:
            return x
        return self._each(method, x)

    def _each(self, method: str, x: Any) -> Any:
        if isinstance(x, tuple) and not hasattr(x, "_fields"):
            return tuple(self._each(method, one) for one in x)
        return self._one(method, x)

    def _one(self, method: str, x: Any) -> Any:
        return self.call_nearest(self._overloads(method), x)

    def call_nearest(self, overloads: Sequence[_Overload], x: Any) -> Any:
        """Return the result of the function whose annotation is nearest to ``x``; ``x`` itself where none fits."""
        overload = _nearest(overloads, type(x))
        if overload is None:
            return x
        found = overload.function(self, x) if overload.is_method else overload.function(x)
        return _in_kind_of(x, found)

    def _overloads(self, method: str) -> list[_Overload]:
        if self._given is not None and self._given.get(method):
            return self._given[method]
        return self.overloads[method]

    # What loaders call:

    def check_takes_images(self, where: Literal["item_tfms", "batch_tfms"]) -> None:
        """Raise a ConfigError if it changes no image in such a list."""
        self._image_kind(where)

    def on_pixels(
        self, pixels: NDArray[np.uint8], *, draws: Sequence[float], training: bool
    ) -> NDArray[np.uint8]:
        """Return an image uint8 ``(H, W, 3)`` transformed; two ``draws`` in [0, 1) decide all that is left to chance."""
        kind = self._image_kind("item_tfms")
        image: Any = pixels
        if kind is not np.ndarray:
            image = PILImage.create(pixels)
        if kind is TensorImage:
            image = ToTensor()(image)
        found = self._with_draws(draws)(image, split_idx=0 if training else 1)
        if isinstance(found, Tensor):
            found = found.as_subclass(Tensor).permute(1, 2, 0).numpy()
        return np.asarray(found)

    def on_batch(self, images: Tensor, *, draws: Sequence[float], training: bool) -> Tensor:
        """Return images float ``(B, 3, H, W)``, 0-1, transformed; ``draws`` as in ``on_pixels``."""
        found = self._with_draws(draws)(TensorImage(images), split_idx=0 if training else 1)
        return found.as_subclass(Tensor) if isinstance(found, Tensor) else found

    def _image_kind(self, where: Literal["item_tfms", "batch_tfms"]) -> type:
        """Return as what it takes images."""
        batches = where == "batch_tfms"
        kinds = (TensorImage,) if batches else (PILImage, TensorImage, np.ndarray)
        far = {kind: _nearest(self._overloads("encodes"), kind) for kind in kinds}
        named = [kind for kind, one in far.items() if one is not None and object not in one.types]
        if named:
            return named[0]
        if not any(far.values()):
            raise ConfigError(
                f"{type(self).__name__} in {where} changes no image: encodes is for other types than "
                f"{', '.join(kind.__name__ for kind in kinds)}. "
                + (
                    f"Put it into {'item_tfms' if batches else 'batch_tfms'}, or annotate its argument with one of them. "
                )
                + "Labels are made by get_y."
            )
        return TensorImage if self.order >= _TENSOR_ORDER else kinds[0]

    def _with_draws(self, draws: Sequence[float]) -> Transform:
        """Return a copy, which one thread has to itself, with its own seed."""
        own = copy.copy(self)
        own.seed = int(draws[1] * 2**24)
        return own


def _in_kind_of(given: Any, found: Any) -> Any:
    """Return what a function made of something in the class that it had, if only that was lost."""
    kind = type(given)
    if kind is type(found) or not issubclass(kind, type(found)):
        return found
    if isinstance(found, Tensor):
        return found.as_subclass(kind)
    if isinstance(found, Image.Image):
        return given.create(found)
    return kind(found) if isinstance(given, TitledStr) else found


def _name_of(thing: Any) -> str:
    name = "__name__" if inspect.isbuiltin(thing) else "__qualname__"
    found: str | None = getattr(thing, name, None)
    return found or str(type(thing).__name__)


class DisplayedTransform(Transform):
    """A transform that prints with its settings."""

    @property
    def name(self) -> str:
        """Its name and settings."""
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        settings = {name: vars(self)[name] for name in names if name in vars(self)}
        name = super().name
        return f"{name} -- {settings}\n" if settings else f"{name}"


class ItemTransform(Transform):
    """A transform that gets a tuple, such as (image, label), in one piece."""

    def _each(self, method: str, x: Any) -> Any:
        if not isinstance(x, tuple):
            return self._one(method, x)
        found = self._one(method, list(x))
        return tuple(found) if isinstance(found, list) else found

    def _image_kind(self, where: Literal["item_tfms", "batch_tfms"]) -> type:
        raise ConfigError(
            f"{type(self).__name__} is an ItemTransform in {where}, for image and label together. Labels are in a table before the first "
            "image is read: make labels in get_y, and write a Transform for images."
        )


class RandTransform(DisplayedTransform):
    """A transform that acts with probability ``p``, by default in training only.

    ``before_call`` is called first; override it to draw what ``encodes`` needs.

    Args:
        p: Probability that it acts.
        before_call: Called instead of the method of that name.
        **kwargs: As ``Transform`` takes them.
    """

    split_idx = 0
    p: float = 1.0
    do: bool = True
    _chance: float | None = None

    def __init__(
        self, p: float = 1.0, *, before_call: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.p = p
        if before_call is not None:
            self.before_call = before_call

    def before_call(self, b: Any, split_idx: int | None) -> None:  # noqa: ARG002
        """Decide in ``self.do`` whether to act on ``b``."""
        chance = float(torch.rand(())) if self._chance is None else self._chance
        self.do = chance < self.p

    def __call__(self, b: Any, *, split_idx: int | None = None) -> Any:
        """Return something transformed, if chance wants it."""
        self.before_call(b, split_idx=split_idx)
        return super().__call__(b, split_idx=split_idx) if self.do else b

    def _with_draws(self, draws: Sequence[float]) -> Transform:
        own = super()._with_draws(draws)
        own._chance = draws[0]  # pyright: ignore[reportAttributeAccessIssue]
        return own


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class ToTensor(Transform):
    """Converts an image to a ``TensorImage``, uint8 ``(3, H, W)``. Loaders do it anyway."""

    order = 5
    implied = True

    def encodes(self, image: Image.Image) -> Any:
        """Return the pixels."""
        pixels = np.array(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return TensorImage(torch.from_numpy(np.ascontiguousarray(planes)))


class IntToFloatTensor(DisplayedTransform):
    """Divides images by 255. Loaders do it anyway.

    Args:
        div: What images are divided by.
        div_mask: What segmentation masks would be divided by; there are none.
    """

    order = 10
    implied = True

    def __init__(self, div: float = 255.0, div_mask: int = 1) -> None:
        super().__init__()
        self.div, self.div_mask = div, div_mask

    def encodes(self, images: TensorImage) -> Any:
        """Return float values."""
        return images.float() / self.div

    def decodes(self, images: TensorImage) -> Any:
        """Return whole numbers from 0 to ``div``."""
        return (images.clamp(0.0, 1.0) * self.div).long() if self.div else images


# ── labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Categorize(DisplayedTransform):
    """Converts a class to its number, and back when decoding.

    Args:
        vocab: The classes; None takes those of the items for training.
        sort: Whether to sort them.
        add_na: Whether a class ``"#na#"`` at position 0 takes other labels.

    Raises:
        LabelError: A label is not a class.
    """

    order = 1

    def __init__(
        self, vocab: Iterable[Any] | None = None, sort: bool = True, add_na: bool = False
    ) -> None:
        super().__init__()
        self.sort, self.add_na = sort, add_na
        self.vocab: CategoryMap | None = None
        if vocab is not None:
            self.vocab = CategoryMap(vocab, sort=sort, add_na=add_na)

    def setups(self, items: Any) -> None:
        """Take the classes from labels."""
        if self.vocab is None and items is not None:
            self.vocab = CategoryMap(items, sort=self.sort, add_na=self.add_na)

    def encodes(self, o: Any) -> Any:
        """Return the number of a class."""
        return TensorCategory(self._number(o))

    def decodes(self, o: Any) -> Any:
        """Return the class of a number."""
        name = self._classes()[int(o)]
        return Category(name) if isinstance(name, str) else name

    def output_block(self) -> OutputBlock:
        """Return the block of a ``DataBlock`` that does the same."""
        return CategoryBlock(vocab=_given_classes(self), sort=self.sort, add_na=self.add_na)

    def _classes(self) -> CategoryMap:
        if self.vocab is None:
            raise ConfigError(
                f"{type(self).__name__} does not know the classes yet. Give vocab=[...], call setup(labels), or "
                "use it in TfmdLists or Datasets, which find the classes."
            )
        return self.vocab

    def _number(self, label: Any) -> int:
        classes = self._classes()
        number = classes.o2i.get(label, 0 if self.add_na else None)
        if number is None:
            raise LabelError(
                f"The label {label!r} is not a class of the images for training: {list(classes)[:20]}."
            )
        return number


class MultiCategorize(Categorize):
    """Converts a list of classes to a list of numbers.

    Args:
        vocab: The classes, in their order; None takes those of the items for training, sorted.
        add_na: As ``Categorize`` takes it.
    """

    def __init__(self, vocab: Iterable[Any] | None = None, add_na: bool = False) -> None:
        super().__init__(vocab, sort=vocab is None, add_na=add_na)

    def setups(self, items: Any) -> None:
        """Take the classes from lists of them."""
        if self.vocab is None and items is not None:
            seen = [label for labels in items for label in labels]
            self.vocab = CategoryMap(seen, add_na=self.add_na)

    def encodes(self, o: Any) -> Any:
        """Return the numbers of classes."""
        if not is_several(o):
            raise LabelError(
                f"MultiCategorize takes a list of classes. Received: {o!r}. Put a single class in a list."
            )
        numbers = torch.tensor([self._number(label) for label in o], dtype=torch.int64)
        return numbers.as_subclass(TensorMultiCategory)

    def decodes(self, o: Any) -> Any:
        """Return the classes of numbers."""
        return MultiCategory([self._classes()[int(number)] for number in o])

    def output_block(self) -> OutputBlock:
        """Return the block of a ``DataBlock`` that does the same."""
        return MultiCategoryBlock(vocab=_given_classes(self), add_na=self.add_na)


class OneHotEncode(DisplayedTransform):
    """Makes a list of numbers zeros and ones, one for each class.

    Args:
        c: How many classes there are; None asks the ``MultiCategorize`` before it.
    """

    order = 2

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, items: Any) -> None:
        """Ask how many classes there are."""
        self.c = len(items.vocab) if self.c is None else self.c

    def encodes(self, o: Any) -> Any:
        """Return zeros and ones."""
        if self.c is None:
            raise ConfigError("OneHotEncode does not know the number of classes. Give c=...")
        found = torch.zeros(self.c)
        found[[int(number) for number in o]] = 1
        return TensorMultiCategory(found)

    def decodes(self, o: Any) -> Any:
        """Return the numbers that have a one."""
        return L([place for place, one in enumerate(o) if one])


class EncodedMultiCategorize(MultiCategorize):
    """Takes zeros and ones, one for each class, as they are.

    Args:
        vocab: The classes, in their order.
    """

    def __init__(self, vocab: Iterable[Any]) -> None:
        super().__init__(CategoryMap(vocab, sort=False))

    def encodes(self, o: Any) -> Any:
        """Return zeros and ones as floats."""
        return TensorMultiCategory(torch.as_tensor(o).float())

    def decodes(self, o: Any) -> Any:
        """Return the classes that have a one."""
        return super().decodes([place for place, one in enumerate(o) if one])

    def output_block(self) -> OutputBlock:
        """Return the block of a ``DataBlock`` that does the same."""
        return MultiCategoryBlock(encoded=True, vocab=self._classes())


class RegressionSetup(DisplayedTransform):
    """Makes numbers a float tensor.

    Args:
        c: How many numbers an image has; None counts those of the first one.
    """

    def __init__(self, c: int | None = None) -> None:
        super().__init__()
        self.c = c

    def setups(self, items: Any) -> None:
        """Count the numbers of the first item."""
        if self.c is None and items is not None and len(items):
            self.c = len(items[0]) if hasattr(items[0], "__len__") else 1

    def encodes(self, numbers: Any) -> Any:
        """Return numbers as floats."""
        return torch.as_tensor(numbers).float()

    def decodes(self, numbers: Any) -> Any:
        """Return Python's numbers."""
        return numbers.item() if numbers.ndim == 0 else tuple(numbers.tolist())

    def output_block(self) -> OutputBlock:
        """Return the block of a ``DataBlock`` that does the same."""
        return RegressionBlock(n_out=self.c)


def _given_classes(transform: Categorize) -> Sequence[Any] | None:
    """Return the classes without ``"#na#"``, which a block adds itself."""
    classes = transform.vocab
    return classes if classes is None else list(classes)[1 if transform.add_na else 0 :]


# ── one after the other ──────────────────────────────────────────────────────────────────────────────────────────────


class Pipeline:
    """Transforms that act one after the other when called, those of a smaller ``order`` first; ``decode`` goes back.

    Neighbouring batch transforms are composed as in training: one interpolation, one colour step. A ``Normalize`` among them acts
    after the others.

    Args:
        funcs: Transforms, and functions; classes of transforms are called without arguments.
        split_idx: The set of images that it is for, see ``Transform``.
        generator: Source of random draws of batch transforms; ``None``: torch's default generator (``torch.manual_seed``).

    Attributes:
        fs: The transforms in their order.

    Examples:
        >>> composed = Pipeline(setup_aug_tfms([Rotate(draw=30, p=1, size=224), Zoom(draw=1.2, p=1)]))(images)
        >>> Pipeline([parent_label, str.upper])(Path("pets/beagle/1.jpg"))
        'BEAGLE'
    """

    def __init__(
        self,
        funcs: Any = None,
        split_idx: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.split_idx = split_idx
        self.generator = generator
        listed: Iterable[Any] = funcs.fs if isinstance(funcs, Pipeline) else L(funcs)
        steps = [as_transform(one) for one in listed if one is not None]
        self.fs: L[Any] = L(sorted(steps, key=lambda one: getattr(one, "order", 0)))

    def __call__(self, x: Any) -> Any:
        """Return something transformed.

        Args:
            x: What the first transform takes: for batch transforms images ``(C, H, W)`` or ``(B, C, H, W)``, uint8 0-255 or
                float 0-1.

        Raises:
            ConfigError: A transform cannot be composed with its neighbours (two crops, for example).
        """
        waiting: list[BatchTransform] = []
        for step in self.fs:
            if isinstance(step, BatchTransform):
                waiting.append(step)
                continue
            x, waiting = self._composed(waiting, x), []
            own = isinstance(step, Transform)
            x = step(x, split_idx=self.split_idx) if own else step(x)
        return self._composed(waiting, x)

    def _composed(self, transforms: list[BatchTransform], images: Any) -> Any:
        if not transforms:
            return images
        return TensorImage(act(transforms, TensorImage(images), generator=self.generator))

    def decode(self, o: Any, full: bool = True) -> Any:
        """Return what something was before; without ``full`` only as far as it can show itself."""
        for step in reversed(self.fs):
            if not full and _can_show(o):
                return o
            if isinstance(step, Transform):
                o = step.decode(o, split_idx=self.split_idx)
            elif hasattr(step, "decode"):
                o = step.decode(o)
        return o

    def show(self, o: Any, ctx: Axes | None = None, **kwargs: Any) -> Axes | None:
        """Draw something on axes, or print it, as far decoded as needed."""
        shown = self.decode(o, full=False)
        for one in shown if isinstance(shown, tuple) else (shown,):
            if hasattr(one, "show"):
                ctx = one.show(ctx=ctx, **kwargs)
            elif isinstance(one, int | float | str):
                ctx = _show_title(one, ctx)
        return ctx

    def set_up(self, items: Any, *, train_setup: bool = True) -> None:
        """Let each transform look at items after the transforms before it."""
        steps, self.fs = self.fs, L()
        for step in steps:
            if isinstance(step, Transform):
                step.setup(items, train_setup)
            self.fs.append(step)

    def __getitem__(self, index: int) -> Any:
        """Return one of the transforms."""
        return self.fs[index]

    def __len__(self) -> int:
        """Return how many transforms there are."""
        return len(self.fs)

    def __repr__(self) -> str:
        names = [one.name if isinstance(one, Transform) else _name_of(one) for one in self.fs]
        return "Pipeline: " + " -> ".join(name for name in names if name != "noop")

    @property
    def vocab(self) -> CategoryMap | None:
        """The classes, if one of the transforms knows them."""
        return next((one.vocab for one in self.fs if getattr(one, "vocab", None)), None)

    @property
    def c(self) -> int:
        """Number of classes or of predicted numbers; 0 if none of the transforms knows it."""
        known = [one.c for one in self.fs if getattr(one, "c", None)]
        return known[0] if known else len(self.vocab or ())


def as_transform(step: Any) -> Any:
    """Return a step of a pipeline: a function as a transform, a class as an object of it, and what can be called otherwise as it is."""
    made = instances([step], keep_implied=True)[0]
    if not callable(made):
        raise ConfigError(
            f"A pipeline must consist of functions and transforms. Received: {step!r}"
        )
    is_ours = isinstance(made, Transform | Pipeline | BatchTransform) or hasattr(made, "num_draws")
    return made if is_ours else Transform(made)


def _can_show(o: Any) -> bool:
    return all(hasattr(one, "show") for one in (o if isinstance(o, tuple) else (o,)))


def store_attr(names: str | None = None, **attrs: Any) -> None:
    """In an ``__init__``, set an attribute for each of its arguments, or for those in ``names``, which commas separate."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] (only the caller's frame has its arguments)
    first, *rest = frame.f_code.co_varnames[
        : frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
    ]
    for name in rest if names is None else [one.strip() for one in names.split(",")]:
        setattr(frame.f_locals[first], name, frame.f_locals[name])
    for name, value in attrs.items():
        setattr(frame.f_locals[first], name, value)
