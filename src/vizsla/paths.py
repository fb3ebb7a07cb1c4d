"""Paths of very many files in about 30 bytes each; a ``Path`` is made when one is asked for.

A hundred thousand ``Path`` take 32 MB and as many texts 11, so a table of a million images would hold a third of a GB for
names alone; these take 3 MB for each hundred thousand (``benchmarks/growth.py`` measures it).
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, repeat
from operator import eq, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 3


class ImagePaths(Sequence[Path]):
    """Paths of files, kept as folders and names.

    Equal to any sequence of the same paths.

    Examples:
        >>> ImagePaths(["pets/1.jpg", "pets/2.jpg"])[1].name
        '2.jpg'
    """

    __slots__ = ("_ends", "_folder_of", "_folders", "_names")

    def __init__(self, paths: Iterable[Path | str] = ()) -> None:
        texts = (str(path if isinstance(path, Path) else Path(path)) for path in paths)
        parts = ((text[: (cut := text.rfind(os.sep) + 1)], text[cut:]) for text in texts)
        self._keep((folder, [name for _, name in run]) for folder, run in groupby(parts, itemgetter(0)))  # fmt: skip

    @classmethod
    def of(cls, paths: Iterable[Path | str]) -> ImagePaths:
        """Return the paths themselves if they are of this class, else a copy that is."""
        return paths if isinstance(paths, ImagePaths) else cls(paths)

    @classmethod
    def in_folders(cls, runs: Iterable[tuple[str, Sequence[str]]]) -> ImagePaths:
        """Return the paths of files that are given folder by folder.

        Args:
            runs: (folder, names of files in it). A folder is written as ``Path`` does it, with a separator at its end, or
                is empty; it may be given more than once.
        """
        made = cls.__new__(cls)
        made._keep(runs)
        return made

    def _keep(self, runs: Iterable[tuple[str, Sequence[str]]]) -> None:
        number_of: dict[str, int] = {}
        folder_of, ends, names = array("I"), array("Q", (0,)), bytearray()
        for folder, run in runs:
            folder_of.extend(repeat(number_of.setdefault(folder, len(number_of)), len(run)))
            joined = "".join(run)
            is_ascii = joined.isascii()
            parts: Sequence[str | bytes] = run if is_ascii else [_encoded(name) for name in run]
            names += joined.encode() if is_ascii else _encoded(joined)
            ends.extend(accumulate(map(len, parts), initial=ends.pop()))
        self._folders = tuple(number_of)
        self._folder_of = folder_of[:]  # a copy has no room to grow
        self._ends = ends[:]
        self._names = bytes(names)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders, each once, as text with a separator at its end."""
        return self._folders

    @property
    def folder_numbers(self) -> Sequence[int]:
        """The position of each path's folder in ``folders``."""
        return self._folder_of

    def text(self, position: int) -> str:
        """Return a path as text, in a tenth of the time that a ``Path`` takes."""
        number = self._folder_of[position]
        position %= len(self._folder_of)
        return self._folders[number] + self._name(position)

    def _name(self, position: int) -> str:
        name = self._names[self._ends[position] : self._ends[position + 1]]
        return name.decode("utf-8", "surrogatepass")

    def texts(self) -> Iterator[str]:
        """Yield all paths as texts."""
        return map(self.text, range(len(self)))

    def chosen(self, positions: Sequence[int]) -> ImagePaths:
        """Return the paths at some positions, counted from 0, in this order."""
        return ImagePaths.in_folders(
            (self._folders[self._folder_of[position]], (self._name(position),))
            for position in positions
        )

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self._folder_of)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> ImagePaths: ...
    def __getitem__(self, index: int | slice) -> Path | ImagePaths:
        """Return a path, or some of them."""
        if isinstance(index, slice):
            return self.chosen(range(len(self))[index])
        return Path(self.text(index))

    def __iter__(self) -> Iterator[Path]:
        """Yield the paths."""
        # Joining a Path and a name takes half the time of making a Path of the whole text.
        folders = [Path(folder) for folder in self._folders]
        for position, number in enumerate(self._folder_of):
            yield folders[number] / self._name(position)

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same paths."""
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        """Return what a tuple of the paths returns."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """Return the first paths and how many there are."""
        shown = ", ".join(repr(str(path)) for path in self[:_SHOWN])
        more = f", ... {len(self):,} in all" if len(self) > _SHOWN else ""
        return f"ImagePaths([{shown}{more}])"


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address on the internet, or names a dataset there (hf:OWNER/NAME); ``Path`` makes one slash of two."""
    return re.match(r"\w[\w.+-]+:/|hf:\w", str(path)) is not None


def _encoded(name: str) -> bytes:
    """Return a name as bytes; names that are not valid Unicode hold lone surrogates."""
    return name.encode("utf-8", "surrogatepass")
