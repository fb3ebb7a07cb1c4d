"""Read an image by its path alone: a file, one at an address, or a member of a tar shard, named as if the shard were a folder.

pets/000.tar/cat/17.jpg is the member cat/17.jpg of pets/000.tar.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vizsla.data.storage import addresses
from vizsla.data.storage.rows import is_on_hub, is_saved_split, open_rows
from vizsla.data.storage.shards import has_gone, open_shard
from vizsla.paths import is_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Facts(NamedTuple):
    """What changes when the bytes of an image do.

    Attributes:
        num_bytes: Its length.
        modified_ns: When the file that holds it was last written, nanoseconds since 1970.
    """

    num_bytes: int
    modified_ns: int


class Container(Protocol):
    """A file that holds images by name. Methods raise FileNotFoundError for a name that it does not hold."""

    @property
    def modified_ns(self) -> int:
        """When the file was last written, nanoseconds since 1970."""
        ...

    def num_bytes(self, name: str) -> int:
        """Return the length of an image."""
        ...

    def read(self, name: str, *, last: int | None = None) -> bytes:
        """Return the bytes of an image, or the ``last`` ones."""
        ...


_OPENERS: dict[str, Callable[[str], Container]] = {".tar": open_shard, ".parquet": open_rows}
_OPENED: set[str] = set()
_ENDS = re.compile(rf"(?:{'|'.join(map(re.escape, _OPENERS))})(?=[/\\])")


def read_bytes(path: Path | str, *, last: int | None = None) -> bytes:
    """Return the bytes of an image, or the ``last`` ones of them.

    Raises:
        OSError: As for an ordinary file; a name that a shard does not hold is a FileNotFoundError.
        DataError: The shard is damaged or has gone since an image of it was read, or its address cannot be reached.
    """
    text = os.fspath(path)
    if (found := _in_container(text)) is not None:
        return found[0].read(found[1], last=last)
    try:
        with open(text, "rb", buffering=0) as file:  # noqa: PTH123 (a Path for nothing)
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            return file.read()
    except FileNotFoundError:
        if (found := _in_saved_dataset(text)) is not None:
            return found[0].read(found[1], last=last)
        if not is_address(text):
            _refuse_gone(text)
            raise
    num_bytes, _ = addresses.facts_at(text)
    length = num_bytes if last is None else min(last, num_bytes)
    return addresses.read_range(text, num_bytes - length, length)


def facts_of(path: Path | str) -> Facts:
    """Return what changes when the bytes of an image do; errors as ``read_bytes``."""
    text = os.fspath(path)
    if (found := _in_container(text)) is not None:
        return Facts(found[0].num_bytes(found[1]), found[0].modified_ns)
    try:
        facts = os.stat(text)  # noqa: PTH116 (a third of the time of Path.stat, and paid for every image)
        return Facts(facts.st_size, facts.st_mtime_ns)
    except FileNotFoundError:
        if (found := _in_saved_dataset(text)) is not None:
            return Facts(found[0].num_bytes(found[1]), found[0].modified_ns)
        if not is_address(text):
            _refuse_gone(text)
            raise
    return Facts(*addresses.facts_at(text))


def is_there(path: Path | str) -> bool:
    """Return whether there is an image to read.

    Raises:
        DataError: As ``read_bytes``.
    """
    text = os.fspath(path)
    try:
        if (found := _in_container(text)) is not None:
            return found[0].num_bytes(found[1]) >= 0
        if os.path.isfile(text):  # noqa: PTH113 (Path.is_file fails on names that are too long)
            return True
        if (found := _in_saved_dataset(text)) is not None:
            return found[0].num_bytes(found[1]) >= 0
        if not is_address(text):
            return False
        return addresses.facts_at(text)[0] >= 0
    except FileNotFoundError:
        return False


def absolute(path: Path | str) -> str:
    """Return a path that means the same from any folder; an address does already. Links stay as they are given."""
    return os.fspath(path) if is_address(path) else os.path.abspath(path)  # noqa: PTH100


def _in_container(path: str) -> tuple[Container, str] | None:
    """Return the container that a path leads into and the name in it, or None."""
    for found in _ENDS.finditer(path):
        try:  # a folder may have any name
            container = _OPENERS[found[0]](path[: found.end()])
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        _OPENED.add(path[: found.end()])
        return container, path[found.end() + 1 :].replace(os.sep, "/")
    if is_on_hub(path):
        place, _, name = path.rpartition(os.sep)
        return open_rows(place), name
    return None


def _refuse_gone(path: str) -> None:
    """Raise DataError if a missing path leads into a file that was there before: all of its images are missing, not this one."""
    for found in _ENDS.finditer(path):
        if path[: found.end()] in _OPENED:
            raise has_gone(path[: found.end()])


def _in_saved_dataset(path: str) -> tuple[Container, str] | None:
    """Return the saved dataset that a missing path leads into, and the row; its folder has any name, so this costs a look."""
    place, name = os.path.split(path)
    return (open_rows(place), name) if name and is_saved_split(place) else None
