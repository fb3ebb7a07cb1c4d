"""The C library's allocator in, the same with habits that suit a server out: what a large picture took is given back.

Each thread that decodes has memory of its own from glibc, which it keeps for the next picture. Pictures of visitors differ by a
factor of a thousand in size, so a server would in time hold the largest in every thread.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_M_ARENA_MAX = -8
_NUM_ARENAS = 2


@cache
def _library() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc on Linux; others need no help, or know none of this."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def share_memory_between_threads() -> bool:
    """Let all threads of this process allocate from two common places; to be called before there are threads.

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
