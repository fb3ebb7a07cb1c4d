"""``L``: a list that prints short, takes any index and has the methods of a pipeline, as notebooks in the style of fastai expect."""

from __future__ import annotations

import functools
import itertools
import operator
import random  # noqa: TID251 (``shuffle`` follows the seed of the notebook)
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

import numpy as np

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

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
    """A list that prints its length and its first 20 items, and takes lists of places and masks as index.

    Anything but a collection is wrapped: None gives an empty list; a text, a number, a dict, an array, a tensor or a path gives a
    list of one. Methods return new collections and leave this one as it is.

    Args:
        items: A collection, an iterator, one thing, or None.
        *more: Further items; then ``items`` is the first of them, whatever it is.
        use_list: Whether to take a text, an array or a tensor apart as well.

    Examples:
        >>> L("a", "b", "c")[[True, False, True]].map(str.upper)
        (#2) ['A','C']
    """

    def __init__(self, items: Any = None, *more: Any, use_list: bool = False) -> None:
        super().__init__(_listed((items, *more) if more else items, take_apart=use_list))

    @classmethod
    def range(cls, start: Any, stop: int | None = None, step: int = 1) -> L[int]:
        """Return the numbers of ``range``; of a collection, all its places."""
        first = len(start) if hasattr(start, "__len__") else start
        return cls()._new(range(first) if stop is None else range(first, stop, step))

    @classmethod
    def split(cls, text: str, sep: str | None = None, maxsplit: int = -1) -> L[str]:
        """Return the parts of a text, as ``str.split``."""
        return cls()._new(text.split(sep, maxsplit))

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
        if is_one_place(place):
            return super().__getitem__(place)
        return chosen(self, place)

    def __setitem__(self, place: Any, value: Any) -> None:
        """Set one item, or those of a slice, of a list of places or of a mask: each to the same thing, or to one of a list."""
        if isinstance(place, slice) or is_one_place(place):
            super().__setitem__(place, value)  # pyright: ignore[reportCallIssue, reportArgumentType]
            return
        places = _places(place, length=len(self))
        is_one = isinstance(value, str) or not isinstance(value, Iterable)
        for each, new in zip(places, itertools.repeat(value) if is_one else value, strict=False):
            super().__setitem__(each, new)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def __invert__(self) -> L[bool]:
        """Return ``not`` of each item, which turns a mask round."""
        return self._new(not item for item in self)

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

    def map(self, function: Any, *args: Any, **options: Any) -> L[Any]:
        """Return the results for each item.

        Args:
            function: A function; a text with ``{}``, which is filled with the item; or a dict or list, whose entry is looked up.
            *args: Given to the function before the item.
            **options: Given to it by name.
        """
        if isinstance(function, str):
            call = function.format
        else:
            call = function if callable(function) else function.__getitem__
        return self._new(call(*args, item, **options) for item in self)

    def starmap(self, function: Callable[..., Any], *args: Any, **options: Any) -> L[Any]:
        """Return the results for each item taken apart: ``function(*args, *item)``."""
        return self._new(function(*args, *item, **options) for item in self)  # pyright: ignore[reportGeneralTypeIssues]

    def map_dict(self, function: Callable[..., Any], *args: Any, **options: Any) -> dict[Item, Any]:
        """Return the result for each item under that item."""
        return {item: function(item, *args, **options) for item in self}

    def filter(
        self, function: Callable[..., object] = bool, negate: bool = False, **options: Any
    ) -> L[Item]:
        """Return the items for which a function is true (or false with ``negate``); by default the items that are not empty or zero."""
        return self._new(item for item in self if bool(function(item, **options)) != negate)

    def argwhere(
        self, function: Callable[..., object], negate: bool = False, **options: Any
    ) -> L[int]:
        """Return the places of the items that ``filter`` keeps."""
        return self._new(
            place for place, item in enumerate(self) if bool(function(item, **options)) != negate
        )

    def argfirst(self, function: Callable[[Item], object], negate: bool = False) -> int | None:
        """Return the place of the first item that ``filter`` keeps, or None."""
        return next(iter(self.argwhere(function, negate)), None)

    def first(
        self, function: Callable[[Item], object] | None = None, negate: bool = False
    ) -> Item | None:
        """Return the first item (that ``filter`` keeps), or None."""
        return next(iter(self if function is None else self.filter(function, negate)), None)

    def sorted(
        self, key: Callable[[Item], Any] | str | int | None = None, reverse: bool = False
    ) -> L[Item]:
        """Return the items in order.

        Args:
            key: What to order by: a function of an item, the name of an attribute, or a place within each item.
            reverse: Largest first.
        """
        return self._new(sorted(self, key=_getter(key), reverse=reverse))  # pyright: ignore[reportArgumentType]

    def shuffle(self) -> L[Item]:
        """Return the items in an order drawn by Python's ``random``."""
        return self._new(random.sample(self, len(self)))

    def groupby(
        self,
        key: Callable[[Item], Any] | str | int,
        val: Callable[[Item], Any] | str | int | None = None,
    ) -> dict[Any, L[Any]]:
        """Return the items (or what ``val`` takes of them) by their key; both as in ``sorted``."""
        key_of, value_of = _getter(key), _getter(val)
        groups: dict[Any, L[Any]] = {}
        for item in self:
            value = item if value_of is None else value_of(item)
            groups.setdefault(item if key_of is None else key_of(item), self._new(())).append(value)
        return groups

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

    def val2idx(self) -> dict[Item, int]:
        """Return the place of each item, as a dict."""
        return {item: place for place, item in enumerate(self)}

    def enumerate(self) -> L[tuple[int, Item]]:
        """Return (place, item) for each item."""
        return self._new(enumerate(self))

    def zip(self, cycled: bool = False) -> L[Any]:
        """Return the first elements of the items together, then the second ones, and so on, up to the shortest.

        With ``cycled`` up to the length of the first; the others begin again where they end.
        """
        parts = [*self[:1], *(L(each).cycle() if cycled else each for each in self[1:])]
        return self._new(zip(*parts))  # noqa: B905

    def zipwith(self, *others: Any, cycled: bool = False) -> L[Any]:
        """Return each item together with those of other collections, as ``zip``."""
        return self._new([self, *others]).zip(cycled)

    def map_zip(
        self, function: Callable[..., Any], *args: Any, cycled: bool = False, **options: Any
    ) -> L[Any]:
        """Return the results for what ``zip`` puts together, as ``starmap``."""
        return self.zip(cycled).starmap(function, *args, **options)

    def map_zipwith(
        self, function: Callable[..., Any], *others: Any, cycled: bool = False, **options: Any
    ) -> L[Any]:
        """Return the results for what ``zipwith`` puts together, as ``starmap``."""
        return self.zipwith(*others, cycled=cycled).starmap(function, **options)

    def concat(self) -> L[Any]:
        """Return the items of the items in one collection."""
        return self._new(itertools.chain.from_iterable(_listed(item) for item in self))

    def cycle(self) -> Iterator[Any]:
        """Yield the items again and again; None where there are none."""
        return itertools.cycle(self or [None])

    def reduce(self, function: Callable[[Any, Any], Any], initial: Any = None) -> Any:
        """Return what is left when a function joins two items at a time, from ``initial`` on."""
        return functools.reduce(function, self if initial is None else [initial, *self])

    def sum(self) -> Any:
        """Return the sum of the items."""
        return self.reduce(operator.add, 0)

    def product(self) -> Any:
        """Return the product of the items."""
        return self.reduce(operator.mul, 1)

    def _new(self, items: Iterable[Any]) -> L[Any]:
        """Return a collection of exactly these items, even of a single one."""
        new = type(self)()
        new.extend(items)
        return new


def chosen(items: Sequence[Item], places: Places) -> L[Item]:
    """Return the items at a list of places, or those where a mask is true; both may be arrays or tensors.

    Raises:
        ConfigError: A mask is not as long as the items.
    """
    found: L[Item] = L()
    found.extend(items[place] for place in _places(places, length=len(items)))
    return found


def is_array(thing: object) -> bool:
    """Whether it is an array, a tensor, a table or an image, which counts as one item."""
    return any(hasattr(thing, name) for name in ("__array__", "__array_interface__", "iloc"))


def _listed(items: Any, *, take_apart: bool = False) -> Iterable[Any]:
    """Return the items of a collection, or one thing as a list of one."""
    if items is None:
        return ()
    whole = isinstance(items, str | bytes | Mapping) or is_array(items)
    if (whole and not take_apart) or not isinstance(items, Iterable):
        return (items,)
    return items


def _getter(key: Callable[[Any], Any] | str | int | None) -> Callable[[Any], Any] | None:
    """Return a function that takes an attribute or a place of an item."""
    if isinstance(key, str):
        return operator.attrgetter(key)
    return operator.itemgetter(key) if isinstance(key, int) else key


def is_one_place(place: Any) -> bool:
    """Return whether it is a number, not a collection; arrays and tensors have ``__index__`` whatever their shape."""
    return hasattr(place, "__index__") and getattr(place, "ndim", 0) == 0


def _places(places: Any, *, length: int) -> list[int]:
    """Return integers for a list of places, or for a mask."""
    given = places.tolist() if hasattr(places, "tolist") else places
    listed: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    if listed and all(isinstance(place, bool | np.bool_) for place in listed):
        if len(listed) == length:
            return [place for place, wanted in enumerate(listed) if wanted]
        raise ConfigError(
            f"A mask must have one value for each of the {length} items. Received: {len(listed)} values"
        )
    try:
        return list(map(operator.index, listed))
    except TypeError:
        raise ConfigError(
            "Items are selected by a whole number, a list of them, or a mask, both with one axis. Received: "
            f"{reprlib.repr(listed)}"
        ) from None
