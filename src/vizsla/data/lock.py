"""The path of a lock file in, the right to be alone out: for processes and threads that would write the same files."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vizsla.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

_LOOK_AGAIN_SECONDS = 0.2
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Generator[None]:
    """Be the only one with this lock until the block ends; wait while another has it.

    The system gives the lock back when a process ends, however it ends. The file stays: removing it would let two in.

    Args:
        path: The lock file; its folder must exist.
        on_wait: Called once if there is a wait.

    Raises:
        OutputError: The file cannot be made, or the disk knows no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror}. Choose another place; VIZSLA_HOME names the folder that is used."
        ) from error
    try:
        while not _taken_now(descriptor, path):
            if on_wait is not None:
                on_wait()
                on_wait = None
            time.sleep(_LOOK_AGAIN_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken_now(descriptor: int, path: Path) -> bool:
    """Take the lock if nobody has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise OutputError(
            f"The disk of {path} has no file locks ({error.strerror}), so two programs could spoil each other's files. "
            "Choose a place on another disk; VIZSLA_HOME names the folder that is used."
        ) from error
    return True
