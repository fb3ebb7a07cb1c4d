"""Write a file so that it appears whole or not at all, and keep two processes from writing to one place.

Both hold a lock of the system (flock) while they write. It ends with the process, however that ends, so what a killed process left
is recognised by its free lock, and removed by the next one that writes there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import shutil
import sys
import time
import zlib
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
    errno.ESTALE: "The network folder is gone: connect it again, or choose another place.",
    errno.ENOTCONN: "The network folder is gone: connect it again, or choose another place.",
}
# What write() and fsync() say without naming a file.
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EPERM, errno.ESTALE, errno.ENOTCONN}  # fmt: skip

OURS = ".vizsla-"
"""How the names of files that are there only while something is written begin."""

_ABANDONED_AFTER_SECONDS = 24 * 3600.0
_LOCKED_BYTE = 1 << 62  # behind the end of any file: on Windows a locked byte cannot be written


@contextmanager
def atomic_write(path: Path | str) -> Generator[Path]:
    """Give a temporary path to write to; after the block it replaces ``path``, whose folder must exist, in one step.

    The temporary file exists (empty) when the block starts, so an unwritable folder is found before any work is done.
    It has the folder and the suffix of ``path``: some writers choose the format by the suffix. When the block fails for
    any reason, Ctrl-C and a full disk included, the temporary file is removed and ``path`` is as it was; after a kill, the
    next call for a file in that folder removes it. A symbolic link stays a link: the file that it points to is replaced.

    Raises:
        OutputError: The file cannot be written; the message has the path and the operating system's reason. Errors of
            the block that are not about this file pass through unchanged.

    Examples:
        >>> with atomic_write("history.csv") as temporary:
        ...     temporary.write_text("epoch,loss")
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        what = "there is a folder of that name" if target.is_dir() else "it is a device or a pipe"
        raise OutputError(f"Cannot write {target}: {what}. Give the path of a file.")
    place = target.resolve() if target.is_symlink() else target
    temporary = place  # until there is one
    with ExitStack() as held:
        try:
            remove_leftovers(place.parent)
            temporary = _new_temporary(place, held=held)
            yield temporary
            _sync(temporary, flags=os.O_RDWR)
            held.close()  # Windows does not rename an open file.
            os.replace(temporary, place)  # noqa: PTH105 (Path.replace says less: its error lacks the target on some systems)
        except OSError as error:
            if not _is_about(error, place):
                raise
            cure = _CURES.get(error.errno or 0, "Choose another place.")
            kept = "What was there before is untouched." if target.exists() else "Nothing was left there."  # fmt: skip
            raise OutputError(
                f"Cannot write {target}: {error.strerror or error}. {kept} {cure}"
            ) from error
        finally:
            held.close()
            if temporary != place:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
    # The new name must reach the disk too; Windows and some network disks cannot be asked for that.
    with contextlib.suppress(OSError):
        _sync(place.parent, flags=os.O_RDONLY)


@contextmanager
def atomic_folder(path: Path | str) -> Generator[Path]:
    """Give a new folder to write files to; after the block it appears at ``path``, where nothing or an empty folder may be.

    When the block fails for any reason nothing is left; after a kill, the next call for this path removes what is.

    Raises:
        OutputError: There is something already, or the folder cannot be written. Errors of the block that are not about its files
            pass through unchanged.
    """
    check_vacant(Path(path))
    target = Path(os.path.abspath(path))  # noqa: PTH100 (a link stays the link that was typed)
    temporary = target.with_name(f"{OURS}{target.name}.part-folder")
    with only_writer(target.with_name(f"{OURS}{target.name}.lock"), of=target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file, flags=os.O_RDWR)
            if target.is_dir():
                target.rmdir()  # Windows renames to no folder that is there.
            temporary.rename(target)
        except OSError as error:
            inside = (
                error.filename is not None
                and temporary in Path(os.fsdecode(error.filename)).parents
            )
            if not inside and not _is_about(error, target):
                raise
            cure = _CURES.get(error.errno or 0, "Choose another place.")
            raise OutputError(
                f"Cannot write the folder {target}: {error.strerror or error}. Nothing was left there. {cure}"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_vacant(path: Path) -> None:
    """Raise OutputError if a new folder cannot be written at a path: something is there, or its parent is not."""
    with contextlib.suppress(PermissionError):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            return
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists. Choose another name for the folder, or remove it first.")
    if not path.parent.is_dir():
        raise OutputError(
            f"Cannot write {path}: there is no folder {path.parent}. Choose another place."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed writers left in a folder; those of living ones, and what cannot be removed, stay."""
    found: list[os.DirEntry[str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [each for each in entries if each.name.startswith(OURS) and ".part" in each.name]
    for entry in found:
        with contextlib.suppress(OSError), ExitStack() as held:
            is_free = _lock(_opened(entry.path, os.O_RDWR, held=held))
            # Some network disks do not tell other machines of locks, or have none.
            if is_free is None or (is_free and not entry.name.startswith(_prefix())):
                is_free = time.time() - entry.stat().st_mtime > _ABANDONED_AFTER_SECONDS
            if is_free:
                _remove(Path(entry.path), held=held)


def _new_temporary(place: Path, *, held: ExitStack) -> Path:
    """Make a temporary file beside a file and lock it."""
    while True:
        temporary = place.parent / f"{_prefix()}{secrets.token_hex(6)}.part{place.suffix}"
        # Not tempfile: it makes files that only their owner can read, and the result would keep that.
        descriptor = _opened(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, held=held)
        # Between the two, another process may have taken it for a leftover.
        if _lock(descriptor) is not False and temporary.exists():
            return temporary
        held.close()


def _prefix() -> str:
    return f"{OURS}{zlib.crc32(platform.node().encode()):08x}-"


def _opened(path: Path | str, flags: int, *, held: ExitStack) -> int:
    descriptor = os.open(path, flags, 0o666)
    held.callback(os.close, descriptor)
    return descriptor


def _lock(descriptor: int) -> bool | None:
    """Lock an open file without waiting; return False if another process has it locked, None if this disk has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is what Windows raises
        return False
    except OSError:
        return None
    return True


def _remove(path: Path, *, held: ExitStack) -> None:
    """Remove a file that is held; Windows does not remove open files, and others do it best under the lock."""
    if sys.platform == "win32":
        held.close()
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def read_whole(file: BinaryIO) -> bytes:
    """Return all bytes of an open file, from its beginning where it can go back; raise ValueError if it gives none."""
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        data: Any = file.read()
    except (OSError, ValueError) as error:  # closed, or text that is not text
        reason = str(error).rstrip(".")
    else:
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        reason = f"its read() gives {type(data).__name__}, not bytes"
    raise ValueError(f"{reason}. Give a file that is open for reading bytes: open(PATH, 'rb').")


@contextmanager
def only_writer(lock: Path, *, of: Path) -> Generator[None]:
    """Keep other processes from writing to ``of`` until the block ends, by a lock file beside or in it, removed at the end.

    On network folders this holds between machines where the server grants locks (NFS 4, SMB). On a disk without locks the file
    alone counts: after a kill on another machine it has to be removed by hand, as the message says.

    Raises:
        OutputError: Another process is writing there (the message has its number, machine and start), or the lock file cannot be
            written.
    """
    with ExitStack() as held:
        try:
            writer = _claimed(lock, held=held)
        except OSError as error:
            cure = _CURES.get(error.errno or 0, "Choose another place.")
            raise OutputError(f"Cannot write to {of}: {error.strerror or error}. {cure}") from error
        if writer:
            raise OutputError(
                f"Another process is writing to {of}: {writer}. Wait until it has ended, or choose another place. If there is no such "
                f"process any more, remove {lock}."
            )
        try:
            yield
        finally:
            _remove(lock, held=held)


def writer_of(lock: Path) -> str:
    """Return which living process holds a lock file, in words; empty if none does."""
    with contextlib.suppress(OSError), ExitStack() as held:
        is_free = _lock(_opened(lock, os.O_RDWR, held=held))
        if not is_free:
            return _described(lock, has_locks=is_free is False)
    return ""


def _claimed(lock: Path, *, held: ExitStack) -> str:
    """Open and lock a lock file, and note in it who did; return who has it if it is another process."""
    while True:
        descriptor = _opened(lock, os.O_CREAT | os.O_RDWR, held=held)
        is_free = _lock(descriptor)
        writer = "" if is_free else _described(lock, has_locks=is_free is False)
        if writer:
            return writer
        # The former holder may just have removed this file.
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            break
        held.close()
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    note = {"process": os.getpid(), "machine": platform.node(), "since": now}
    with contextlib.suppress(OSError):  # A full disk is found by what is written under the lock.
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(note).encode())
    return ""


def _described(lock: Path, *, has_locks: bool) -> str:
    """Return who wrote a lock file; without locks, empty if nobody did or it was a process of this machine that has ended."""
    try:
        note: dict[str, Any] = json.loads(lock.read_text("utf-8"))
        pid, machine, since = int(note["process"]), str(note["machine"]), str(note["since"])
    except (OSError, ValueError, LookupError, TypeError):
        return "one that has just begun" if has_locks else ""
    if not has_locks and machine == platform.node() and sys.platform != "win32":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass  # It lives, and is another user's.
    return f"process {pid} on {machine}, since {since}"


def _is_about(error: OSError, place: Path) -> bool:
    """Return whether an error is one of writing; a block may also fail on another file or on a network connection."""
    if error.filename is None:
        return error.errno in _WRITE_ERRORS
    path = Path(os.fsdecode(error.filename))
    return path == place or (path.parent == place.parent and path.name.startswith(OURS))


def _sync(path: Path, *, flags: int) -> None:
    """Wait until a file is on the disk; a full disk may show only now."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
