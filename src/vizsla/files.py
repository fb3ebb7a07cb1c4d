"""Write a file so that it appears whole or not at all; the old file stays until then."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vizsla.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Generator

_CURES = {
    errno.ENOSPC: "Free some space, or choose a place on another disk.",
    errno.EDQUOT: "Free some space, or choose a place on another disk.",
    errno.EFBIG: "Files of this size are not allowed there: choose another place or raise the limit.",
    errno.ENOENT: "Create the folder first, or choose another place.",
    errno.ENOTDIR: "A part of the path is a file, not a folder: choose another place.",
    errno.EROFS: "The disk is mounted read-only: choose another place.",
    errno.EACCES: "The folder may not be written to: change its permissions or choose another place.",
    errno.EPERM: "The folder may not be written to: change its permissions or choose another place.",
}
# What write() and fsync() say without naming a file.
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPERM}


@contextmanager
def atomic_write(path: Path | str) -> Generator[Path]:
    """Give a temporary path to write to; after the block it replaces ``path``, whose folder must exist, in one step.

    The temporary file exists (empty) when the block starts, so an unwritable folder is found before any work is done.
    It has the folder and the suffix of ``path``: some writers choose the format by the suffix. When the block fails for
    any reason, Ctrl-C and a full disk included, the temporary file is removed and ``path`` is as it was. A symbolic link
    stays a link: the file that it points to is replaced.

    Raises:
        OutputError: The file cannot be written; the message has the path and the operating system's reason. Errors of
            the block that are not about this file pass through unchanged.

    Examples:
        >>> with atomic_write("history.csv") as temporary:
        ...     temporary.write_text("epoch,loss")
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(
            f"Cannot write {target}: there is a folder of that name. Give the path of a file."
        )
    place = target.resolve() if target.is_symlink() else target
    temporary = place.parent / f".vizsla-{secrets.token_hex(6)}.part{place.suffix}"
    try:
        # Not tempfile: it makes files that only their owner can read, and the result would keep that.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _sync(temporary, flags=os.O_RDWR)
        os.replace(temporary, place)  # noqa: PTH105 (Path.replace says less: its error lacks the target on some systems)
    except OSError as error:
        if not _is_about(error, temporary, place):
            raise
        cure = _CURES.get(error.errno or 0, "Choose another place.")
        kept = "What was there before is untouched." if target.exists() else "Nothing was left there."  # fmt: skip
        raise OutputError(
            f"Cannot write {target}: {error.strerror or error}. {kept} {cure}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    # The new name must reach the disk too; Windows and some network disks cannot be asked for that.
    with contextlib.suppress(OSError):
        _sync(place.parent, flags=os.O_RDONLY)


def _is_about(error: OSError, temporary: Path, place: Path) -> bool:
    """Return whether an error is one of writing; a block may also fail on another file or on a network connection."""
    if error.filename is None:
        return error.errno in _WRITE_ERRORS
    return Path(os.fsdecode(error.filename)) in (temporary, place)


def _sync(path: Path, *, flags: int) -> None:
    """Wait until a file is on the disk; a full disk may show only now."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
