"""The C library's allocator and Python's collector in, the same with habits that suit a server out.

Each thread that decodes has memory of its own from glibc, which it keeps for the next picture. Pictures of visitors differ by a
factor of a thousand in size, so a server would in time hold the largest in every thread. And each part of such memory is of 64
MB at most: a network's largest maps do not fit beside each other, so that their pages were asked of the system again for each
batch, 500 for each picture with two such places, and 40 with one.
"""

from __future__ import annotations

import ctypes
import gc
import platform
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_M_ARENA_MAX = -8
_NUM_ARENAS = 1


@cache
def _library() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc on Linux; others need no help, or know none of this."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def share_memory_between_threads() -> bool:
    """Let all threads of this process allocate from one common place; to be called before there are threads.

    Returns:
        Whether the allocator could be told.
    """
    library = _library()
    return library is not None and bool(library.mallopt(_M_ARENA_MAX, _NUM_ARENAS))


def give_back_freed_memory() -> bool:
    """Give free memory back to the system; takes some milliseconds, and the next batch some more.

    Returns:
        Whether there was any.
    """
    library = _library()
    return library is not None and bool(library.malloc_trim(0))


@contextmanager
def long_lived_objects_set_aside() -> Generator[None]:
    """Let Python not look for garbage among the objects that are there already, while the block runs.

    The modules of torch and timm alone are 400,000 objects: all threads stood still for 0.2 seconds each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
