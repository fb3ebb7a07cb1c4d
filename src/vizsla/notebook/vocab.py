"""Labels in, the classes in the order of their numbers out: a tuple that prints as a list and knows each class's number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vizsla.data.table.labels import build_vocab

if TYPE_CHECKING:
    from collections.abc import Iterable


class CategoryMap(tuple[Any, ...]):
    """The classes, each once; ``vocab[3]`` is the class of number 3, ``vocab.o2i["beagle"]`` the number of a class.

    Args:
        col: Labels; missing ones are passed over. A pandas categorical gives its categories in their own order.
        sort: Whether to sort (upper case before lower), else in order of appearance.
        add_na: Whether ``"#na#"`` comes first, for labels that are no class.
        strict: Whether to leave out categories of a pandas categorical that no label has.

    Attributes:
        o2i: The number of each class.

    Example:
        >>> CategoryMap(["b", "a", "b"])
        ['a', 'b']
    """

    o2i: dict[Any, int]

    def __new__(
        cls, col: Iterable[Any], sort: bool = True, add_na: bool = False, strict: bool = False
    ) -> CategoryMap:
        """Return the classes among labels."""
        made = super().__new__(cls, build_vocab(col, sort=sort, add_na=add_na, strict=strict))
        made.o2i = {name: number for number, name in enumerate(made)}
        return made

    def __eq__(self, other: object) -> bool:
        """Return whether ``other``, a list or a tuple, holds the same classes in the same order."""
        return isinstance(other, list | tuple) and list(self) == list(other)

    def __hash__(self) -> int:
        """Return the hash of the tuple."""
        return super().__hash__()

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def items(self) -> CategoryMap:
        """The classes."""
        return self
