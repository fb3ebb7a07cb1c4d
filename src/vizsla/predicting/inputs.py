"""Paths, folders and lists of paths in, the pictures one by one out, in a fixed order and without keeping them.

A folder is walked one folder at a time, so that only the names of one folder (and of those above it) are in memory.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.data.problems import listed, quoted
from vizsla.data.sources import MAX_NESTED_LINKS, check_folder, get_image_files, is_picture_name
from vizsla.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

STDIN = "-"
"""Stands for a list of paths on standard input."""

_CHUNK_BYTES = 1 << 16
_LONGEST_PATH = 1 << 20  # Bytes; a list without separators must not fill the memory.


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSource:
    """Where the paths of pictures come from.

    Attributes:
        paths: Pictures, folders whose pictures are all taken, and ``-`` for a list on standard input.
        lists: Files that list pictures, one path for each line; ``-`` for standard input. They come after ``paths``.
        null: The paths of lists end with a zero byte instead of a line break, as ``find -print0`` writes them.
    """

    paths: Sequence[Path | str] = ()
    lists: Sequence[Path | str] = ()
    null: bool = False

    @property
    def num_known(self) -> int | None:
        """How many pictures there are, where that can be told without looking."""
        if self.lists or any(str(path) == STDIN or Path(path).is_dir() for path in self.paths):
            return None
        return len(self.paths)

    def check(self) -> None:
        """Find out before anything is computed what can be found out.

        Raises:
            DataError: A path or list does not exist, a folder has no pictures, or nothing was given.
        """
        if not self.paths and not self.lists:
            raise DataError(
                "No pictures were given. Give paths of pictures, folders, or a list of paths."
            )
        given = [*self.paths, *self.lists]
        if sum(str(path) == STDIN for path in given) > 1:
            raise DataError(
                "Standard input (-) was given more than once, and can be read only once."
            )
        missing = [quoted(path) for path in given if str(path) != STDIN and not _exists(Path(path))]
        if missing:
            raise DataError(
                f"There is no such file or folder:\n{listed(missing)}\n"
                "Check the spelling; give pictures, or folders of them."
            )
        for path in map(Path, self.paths):
            if path.is_dir() and next(walk_pictures(path), None) is None:
                get_image_files(path)  # It says what is there instead.

    def pictures(self) -> Iterator[str]:
        """Yield the paths, in the order in which they were given, those of a folder sorted.

        Raises:
            DataError: A folder or list cannot be read, or a list is separated otherwise.
        """
        for path in self.paths:
            if str(path) == STDIN:
                yield from read_list(sys.stdin.buffer, null=self.null, name="standard input")
            elif Path(path).is_dir():
                yield from walk_pictures(Path(path))
            else:
                yield str(path)
        for path in self.lists:
            if str(path) == STDIN:
                yield from read_list(sys.stdin.buffer, null=self.null, name="standard input")
                continue
            try:
                with Path(path).open("rb") as file:
                    yield from read_list(file, null=self.null, name=str(path))
            except OSError as error:
                raise DataError(
                    f"The list {quoted(path)} cannot be read: {error.strerror}. Give a text file of paths."
                ) from error


def read_list(file: BinaryIO, *, null: bool, name: str) -> Iterator[str]:
    """Yield the paths of a list as they come; empty lines are left out.

    Args:
        file: Bytes, for example a pipe.
        null: See ``PathSource``.
        name: What messages call it.

    Raises:
        DataError: A path has a zero byte or is longer than any path.
    """
    separator = b"\0" if null else b"\n"
    rest = b""
    # read1 gives what is there: whoever writes paths into a pipe gets answers before it is full.
    read = getattr(file, "read1", file.read)
    while chunk := read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        for path in whole:
            yield from _listed_path(path, null=null, name=name)
        if len(rest) > _LONGEST_PATH:
            raise DataError(
                f"A path in {name} is longer than a million bytes. Give one path for each line"
                f"{', or leave out --null' if null else ''}."
            )
    yield from _listed_path(rest, null=null, name=name)


def _listed_path(path: bytes, *, null: bool, name: str) -> Iterator[str]:
    if not null:
        path = path.removesuffix(b"\r")
        if b"\0" in path:
            raise DataError(f"The paths in {name} end with zero bytes. Add --null.")
    if path:
        yield os.fsdecode(path)


def walk_pictures(folder: Path) -> Iterator[str]:
    """Yield the pictures below a folder in the order of ``get_image_files``, which sorts them all.

    Args:
        folder: Symbolic links in it are followed, loops are not; names that start with a dot are left out.

    Raises:
        DataError: A folder cannot be read.
    """
    check_folder(folder)
    yield from _walk(str(folder), above=frozenset({_identity(str(folder))}), num_links=0)


def _walk(folder: str, *, above: frozenset[tuple[int, int]], num_links: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its pictures do, by its name and the separator after it.
            names = sorted(
                entry.name + "/" * _is_folder(entry)
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        raise DataError(
            f"The folder {quoted(folder)} cannot be read: {error.strerror}. "
            "Change its permissions, or give a folder that does not contain it."
        ) from error
    for name in names:
        path = os.path.join(folder, name.removesuffix("/"))  # noqa: PTH118 (a Path of each is slow)
        if not name.endswith("/"):
            # A broken link is kept: it is reported as missing.
            if is_picture_name(name) and (os.path.islink(path) or os.path.isfile(path)):  # noqa: PTH113, PTH114
                yield path
            continue
        links = num_links + os.path.islink(path)  # noqa: PTH114
        identity = _identity(path)
        if identity in above:
            continue
        if links > MAX_NESTED_LINKS:
            raise DataError(
                f"More than {MAX_NESTED_LINKS} linked folders lie inside one another at {quoted(path)}. "
                "Remove the symbolic links that point back up."
            )
        yield from _walk(path, above=above | {identity}, num_links=links)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 (a Path for each folder would be made for nothing)
    return status.st_dev, status.st_ino


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name that is too long for the file system
        return False
