"""``L``, a list that prints short and takes any index, and the small helpers that notebooks expect by name.

Importing this module changes nothing; ``patch_path`` gives ``pathlib.Path`` its listing and its short form.
"""

from __future__ import annotations

import itertools
import mimetypes
import operator
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    Places = slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor

Item = TypeVar("Item")

SHOWN_AT_MOST = 20
"""Items that a collection prints before ``...``."""


def collection_text(items: Sequence[object], *, limit: int = SHOWN_AT_MOST) -> str:
    """Return a collection as notebooks print it: its length, its first items, and ``...`` if there are more.

    Only the printed items are asked for.

    Examples:
        >>> collection_text(range(30), limit=3)
        '(#30) [0,1,2...]'
    """
    shown = ",".join(repr(items[place]) for place in range(min(limit, len(items))))
    return f"(#{len(items)}) [{shown}{'...' if len(items) > limit else ''}]"


class L(list[Item]):
    """A list that prints its length and its first 20 items, takes lists of places and masks as index, and maps itself.

    Anything but a collection is wrapped: None gives an empty list; a text, a number, an array, a tensor or a path gives a list of
    one.

    Args:
        items: A collection, an iterator, one thing, or None.
        *more: Further items; then ``items`` is the first of them, whatever it is.
        use_list: Whether to take an array, a tensor or a text apart as well.

    Examples:
        >>> L("a", "b", "c")[[True, False, True]].map(str.upper)
        (#2) ['A','C']
    """

    def __init__(self, items: Any = None, *more: Any, use_list: bool = False) -> None:
        super().__init__(_listed((items, *more) if more else items, take_apart=use_list))

    @reprlib.recursive_repr("(#...)")
    def __repr__(self) -> str:
        return collection_text(self)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, place: Places) -> L[Item]: ...
    def __getitem__(self, place: Any) -> Any:
        """Return one item, or those of a slice, of a list of places or of a mask as a new collection."""
        if isinstance(place, slice):
            return self._new(super().__getitem__(place))
        if _is_one_place(place):
            return super().__getitem__(place)
        places = _places(place, length=len(self))
        return self._new([super(L, self).__getitem__(each) for each in places])

    def __add__(self, other: Any) -> L[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._new([*self, *_listed(other)])

    def __radd__(self, other: Any) -> L[Any]:
        return self._new([*_listed(other), *self])

    def __iadd__(self, other: Any) -> L[Item]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.extend(_listed(other))
        return self

    def __mul__(self, times: SupportsIndex) -> L[Item]:
        return self._new(super().__mul__(times))

    def copy(self) -> L[Item]:
        """Return a collection of the same items."""
        return self._new(self)

    def map(self, function: Callable[..., Any]) -> L[Any]:
        """Return the results of a function for each item."""
        return self._new([function(item) for item in self])

    def filter(self, function: Callable[[Item], object] = bool, negate: bool = False) -> L[Item]:
        """Return the items for which a function is true (or false with ``negate``); by default the items that are not empty or zero."""
        return self._new([item for item in self if bool(function(item)) != negate])

    def sorted(
        self, key: Callable[[Item], Any] | str | int | None = None, reverse: bool = False
    ) -> L[Item]:
        """Return the items in order.

        Args:
            key: What to order by: a function of an item, the name of an attribute, or a place within each item.
            reverse: Largest first.
        """
        by: Callable[[Any], Any] | None
        if isinstance(key, str):
            by = operator.attrgetter(key)
        elif isinstance(key, int):
            by = operator.itemgetter(key)
        else:
            by = key
        return self._new(sorted(self, key=by, reverse=reverse))  # pyright: ignore[reportArgumentType]

    def itemgot(self, *places: Any) -> L[Any]:
        """Return ``item[place]`` of each item; with several places ``item[first][second]`` and so on."""
        found: list[Any] = list(self)
        for place in places:
            found = [item[place] for item in found]
        return self._new(found)

    def attrgot(self, name: str, default: Any = None) -> L[Any]:
        """Return an attribute of each item (for a dict, the value of that key), or ``default`` where it is missing."""
        return self._new(
            item.get(name, default) if isinstance(item, dict) else getattr(item, name, default)
            for item in self
        )

    def unique(self, sort: bool = False) -> L[Item]:
        """Return each item once, in order of first appearance, or sorted."""
        once = list(dict.fromkeys(self))
        return self._new(sorted(once) if sort else once)  # pyright: ignore[reportArgumentType]

    def zip(self) -> L[Any]:
        """Return the first elements of the items together, then the second ones, and so on, up to the shortest."""
        return self._new(zip(*self))  # pyright: ignore[reportArgumentType] # noqa: B905

    def concat(self) -> L[Any]:
        """Return the items of the items in one collection."""
        return self._new(itertools.chain.from_iterable(_listed(item) for item in self))

    def _new(self, items: Iterable[Any]) -> L[Any]:
        """Return a collection of exactly these items, even of a single one."""
        new = type(self)()
        new.extend(items)
        return new


def _listed(items: Any, *, take_apart: bool = False) -> Iterable[Any]:
    """Return the items of a collection, or one thing as a list of one."""
    if items is None:
        return ()
    whole = isinstance(items, str | bytes) or _is_array(items)
    if (whole and not take_apart) or not isinstance(items, Iterable):
        return (items,)
    return items


def _is_array(thing: object) -> bool:
    """Whether it is an array, a tensor, a table or an image, which counts as one item."""
    return any(hasattr(thing, name) for name in ("__array__", "__array_interface__", "iloc"))


def _is_one_place(place: Any) -> bool:
    if isinstance(place, Tensor | np.ndarray):
        return place.ndim == 0
    return hasattr(place, "__index__")


def _places(places: Any, *, length: int) -> list[int]:
    """Return integers for a list of places, or for a mask."""
    listed = places.tolist() if isinstance(places, Tensor | np.ndarray) else list(places)
    if not listed or not all(isinstance(place, bool | np.bool_) for place in listed):
        return [operator.index(place) for place in listed]
    if len(listed) != length:
        raise ConfigError(
            f"A mask has one value for each of the {length} items. Received: {len(listed)} values"
        )
    return [place for place, wanted in enumerate(listed) if wanted]


class Endless:
    """Iterators that never end; each access gives a new one."""

    @property
    def count(self) -> Iterator[int]:
        """0, 1, 2, ..."""
        return itertools.count()

    @property
    def zeros(self) -> Iterator[int]:
        """0, 0, 0, ..."""
        return itertools.repeat(0)

    @property
    def ones(self) -> Iterator[int]:
        """1, 1, 1, ..."""
        return itertools.repeat(1)

    @property
    def nones(self) -> Iterator[None]:
        """None, None, None, ..."""
        return itertools.repeat(None)


Inf = Endless()
"""Endless iterators: ``Inf.count``, ``Inf.zeros``, ``Inf.ones``, ``Inf.nones``."""


def first(items: Iterable[Item], function: Callable[[Item], object] | None = None) -> Item | None:
    """Return the first item (for which a function is true), or None."""
    return next((item for item in items if function is None or function(item)), None)


def noop(x: Any = None) -> Any:
    """Return ``x``."""
    return x


def tensor(
    *values: Any,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return numbers as a tensor; 64-bit floats become 32-bit ones, as networks have them.

    Args:
        *values: A number, a list (of lists), an array, an image, a table, a tensor, or a list of tensors of one shape;
            several arguments are taken as a list of them.
        dtype: Type of the result; None keeps that of the values.
        device: Device of the result; None keeps a tensor where it is.

    Returns:
        A tensor with its own memory; a tensor that already fits is returned itself.

    Raises:
        ConfigError: They are not numbers, or lists of different lengths.

    Examples:
        >>> tensor(0.5, 1, 2)
        tensor([0.5000, 1.0000, 2.0000])
    """
    given: Any = values[0] if len(values) == 1 else list(values)
    try:
        found = given if isinstance(given, Tensor) else _as_tensor(given)
        if dtype is None and found.dtype == torch.float64:
            dtype = torch.float32
        return found.to(device=device, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"tensor takes numbers, lists of equal lengths, arrays and tensors ({error}). "
            f"Received: {reprlib.repr(given)}"
        ) from error


def _as_tensor(given: Any) -> Tensor:
    if hasattr(given, "iloc"):
        given = given.to_numpy()
    elif isinstance(given, Iterable) and not _is_array(given):
        given = list(given)
        if given and all(isinstance(each, Tensor) for each in given):
            return torch.stack(given)
    if _is_array(given):
        # A copy: torch may not write into memory that is read-only, and an array's owner may.
        return torch.from_numpy(np.array(given))
    return torch.tensor(given)


def set_seed(s: int, reproducible: bool = False) -> None:
    """Set the seeds of torch, numpy and Python at once; ``reproducible`` also picks cuDNN's deterministic, perhaps slower, algorithms.

    vizsla's own draws come from the seed of the data loaders; this is for code around it.
    """
    import random  # noqa: TID251 (seeding the generators that others use is what this is for)

    random.seed(s)
    np.random.seed(s % 2**32)  # noqa: NPY002, TID251 (as above)
    torch.manual_seed(s)
    if reproducible:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def patch_path() -> None:
    """Give ``pathlib.Path`` the method ``ls`` and the attribute ``BASE_PATH``, for the whole program.

    ``path.ls()`` lists a folder. With ``Path.BASE_PATH = folder`` paths below that folder print relative to it; the paths themselves
    do not change. Calling it again changes nothing.
    """
    for name, value in (("ls", _ls), ("BASE_PATH", None)):
        if not hasattr(Path, name):
            setattr(Path, name, value)
    Path.__repr__ = _path_text


def _ls(
    self: Path,
    n_max: int | None = None,
    file_type: str | None = None,
    file_exts: str | Sequence[str] | None = None,
) -> L[Path]:
    """List the files and folders in a folder by name, hidden ones too.

    Args:
        self: The folder.
        n_max: Return at most this many.
        file_type: Only files of this kind, as ``mimetypes`` knows them: ``"image"``, ``"text"``.
        file_exts: Only files with this ending or one of these, such as ``".jpg"``.
    """
    endings = {ending.lower() for ending in L(file_exts)}
    if file_type is not None:
        known = mimetypes.types_map.items()
        endings |= {ending for ending, kind in known if kind.startswith(f"{file_type}/")}
    anything = file_type is None and file_exts is None
    found = sorted(self.iterdir(), key=operator.attrgetter("name"))
    chosen = [path for path in found if anything or path.suffix.lower() in endings]
    return L(chosen[:n_max])


def _path_text(self: Path) -> str:
    base = getattr(Path, "BASE_PATH", None)
    shown = self
    if base is not None and self.is_relative_to(base):
        shown = self.relative_to(base)
    return f"Path({shown.as_posix()!r})"


imagenet_stats = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's red, green and blue, for pixels 0-1."""


class ResizeMethod(StrEnum):
    """How ``Resize`` makes an image square."""

    Crop = "crop"
    Pad = "pad"
    Squish = "squish"


class PadMode(StrEnum):
    """What is seen outside an image."""

    Zeros = "zeros"
    Border = "border"
    Reflection = "reflection"


@dataclass(frozen=True)
class ItemGetter:
    """Takes one part of an item: ``item[i]``."""

    i: Any

    def __call__(self, item: Any) -> Any:
        """Return that part of an item."""
        return item[self.i]


@dataclass(frozen=True)
class AttrGetter:
    """Takes the attribute ``nm`` of an item, or ``default`` where it is missing."""

    nm: str
    default: Any = None

    def __call__(self, item: Any) -> Any:
        """Return that attribute of an item."""
        return getattr(item, self.nm, self.default)
