"""The address of a file in, the whole and checked file on the disk out, or an error and nothing that looks like it.

What arrives goes into ``NAME.part`` (``transfer.py``); only a file of the right size and SHA-256 gets its name. Where no
SHA-256 is known, that of the first download is written down in ``NAME.sha256.json``, and later downloads are held to it.

The path of a lock file in, the right to be alone out: for processes and threads that would write the same files.

How many bytes are done in, a moving bar in a terminal or a line now and then elsewhere out.

The address of a file in, its bytes in a part file out; a dropped connection is taken up where it ended.

Beside ``NAME.part`` a ``NAME.part.json`` says which version of the file it is a part of (its ETag or date, as the server
named it), so that parts of two versions are never put together.

A tar or zip file from somewhere in, a folder with its files out, whole or not at all; nothing is written elsewhere.

An archive from the internet is not trusted: names that lead out of the folder, links, devices, sizes that only a
decompression bomb has, and damaged data are refused, and what was written until then is removed.

The address of a data set in, the folder with its files out; it is downloaded and unpacked the first time.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import ssl
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    url2pathname,
)

from vizsla import __version__
from vizsla.errors import ConfigError, DataError, OutputError
from vizsla.files import atomic_write
from vizsla.machine import free_disk_bytes, home_folder, shown_bytes
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from rich.console import Console
    from rich.progress import Progress

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


_SECONDS_BETWEEN_LINES = 10.0


class TransferBar:
    """Shows how far a transfer is.

    Args:
        label: What is being done.
        console: Where to write.
        bar: Of a terminal, running; None to write lines.
    """

    def __init__(self, label: str, *, console: Console, bar: Progress | None) -> None:
        self._label = label
        self._console = console
        self._bar = bar
        self._task = None if bar is None else bar.add_task(label, total=None)
        self._last = time.monotonic()

    def move(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` bytes of ``total`` are there; ``total`` is None while it is not known."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            of = "" if total is None else f" of {shown_bytes(total)}"
            self.line(f"{self._label}: {shown_bytes(done)}{of}")

    def line(self, text: str) -> None:
        """Write a line as it is, above a bar."""
        self._console.print(text, markup=False, highlight=False)


@contextmanager
def transfer_bar(label: str, *, quiet: bool = False) -> Generator[TransferBar]:
    """Show how a transfer goes on while the block runs; the bar goes away, lines stay.

    Args:
        label: What is being done.
        quiet: Show nothing.

    Yields:
        What shows it.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, soft_wrap=True, quiet=quiet)
    if quiet or not console.is_terminal:
        yield TransferBar(label, console=console, bar=None)
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield TransferBar(label, console=console, bar=bar)


def say(text: str, *, quiet: bool = False) -> None:
    """Write one line to standard output as it is.

    Args:
        text: The line.
        quiet: Do not.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, soft_wrap=True, quiet=quiet)
    console.print(text, markup=False, highlight=False)


_TIMEOUT_SECONDS = 30.0
_BLOCK = 2**18
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)$")


class _DroppedError(Exception):
    """Why a try failed that may succeed later."""


class _OfNoUseError(Exception):
    """What came so far is of no use to a later call.

    Args:
        error: What to raise.
    """

    def __init__(self, error: DataError | OutputError) -> None:
        super().__init__(str(error))
        self.error = error


def fetch(
    url: str, part: Path, *, size: int | None, pauses_seconds: Sequence[float], bar: TransferBar
) -> None:
    """Fill a part file, in as many tries as it takes; what is there from an earlier call is gone on with.

    Args:
        url: ``http`` or ``https``.
        part: The file; its folder must exist.
        size: In bytes, if it is known.
        pauses_seconds: Waits before each new try; a try that brings any bytes starts over from the first.
        bar: Shows it.

    Raises:
        DataError: The server does not give it, or gives another size. Only after a connection that kept breaking the
            part file stays, for a later call to go on with.
        OutputError: It cannot be written, or the disk has no room for it.
    """
    failures = 0
    while True:
        before = _size(part)
        try:
            _try_once(url, part, size=size, bar=bar)
            return
        except _DroppedError as drop:
            failures = 0 if _size(part) > before else failures
            if failures >= len(pauses_seconds):
                raise _gave_up(url, part, drop, tries=failures + 1) from drop
            bar.line(f"{drop}; trying again in {pauses_seconds[failures]:g} s")
            time.sleep(pauses_seconds[failures])
            failures += 1
        except _OfNoUseError as failure:
            forget(part)
            raise failure.error from failure.error.__cause__


def forget(part: Path) -> None:
    """Remove a part file and what is known of it."""
    for path in (part, _note_path(part)):
        path.unlink(missing_ok=True)


def unlike(url: str, why: str) -> DataError:
    """Return the error for a file that is not the expected one."""
    return DataError(
        f"The file from {url} is not the one that was expected: {why}. It is not used. The transfer may have been "
        "tampered with, or the file was replaced. Try again; if you have the file from elsewhere, give its address as "
        "file:///PATH."
    )


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a path that the system does not let us write."""
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}. Free some space, or choose another place; "
        "VIZSLA_HOME names the folder that is used."
    )


def _try_once(url: str, part: Path, *, size: int | None, bar: TransferBar) -> None:
    validator = _validator(part, url)
    start = 0 if validator is None else _size(part)
    headers = {"User-Agent": f"vizsla/{__version__}", "Accept-Encoding": "identity"}
    if validator is not None and start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        response = _open(Request(url, headers=headers))
    except HTTPError as error:
        with error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _status_error(url, error) from error
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # it was whole already
            forget(part)
            raise _DroppedError("The server has not as much as was begun with") from error
    with response:
        start = _continued_at(response, start)
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        _check_announced(url, part, total=total, start=start, size=size)
        if not start:
            _begin(part, url=url, headers=response.headers)
        _copy(
            response, part, start=start, total=total, most=total if size is None else size, bar=bar
        )


def _open(request: Request) -> Any:
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        _SafeRedirects(),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError:
        raise
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"Cannot download {request.full_url}: the server's certificate is not valid ({error.reason}). "
                "Check the address, and the certificates of this system."
            ) from error
        raise _DroppedError(f"No connection to {request.host} ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _DroppedError(f"No answer from {request.host} ({error})") from error


class _SafeRedirects(HTTPRedirectHandler):
    """Follows a server that says a file is elsewhere, but never to other kinds of addresses or out of https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DataError(
                f"Cannot download {req.full_url}: the server sends to {newurl!r}, which is not a safe address."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _status_error(url: str, error: HTTPError) -> Exception:
    if error.code in _TEMPORARY_STATUS:
        return _DroppedError(f"The server answered {error.code} ({error.reason})")
    return DataError(
        f"Cannot download {url}: the server answered {error.code} ({error.reason}). Check the address."
    )


def _gave_up(url: str, part: Path, drop: _DroppedError, *, tries: int) -> DataError:
    end = "Check the connection, and try again later."
    if _size(part) == 0 or _validator(part, url) is None:
        forget(part)
    else:
        end = f"{shown_bytes(_size(part))} are kept; check the connection, and call it again to go on from there."
    return DataError(f"Cannot download {url}: {drop}; {tries} tries were made. {end}")


def _continued_at(response: Any, start: int) -> int:
    """Return from which byte on the server sends: ``start`` if it agreed, else 0."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range") or "")
    if match is None or int(match[1]) != start:
        raise _DroppedError("The server sent another part than was asked for")
    return start


def _check_announced(
    url: str, part: Path, *, total: int | None, start: int, size: int | None
) -> None:
    """Refuse, before it is transferred, what cannot be right or has no room."""
    if total is None:
        return
    if size is not None and total != size:
        raise _OfNoUseError(unlike(url, f"it has {total:,} bytes, not {size:,}"))
    try:
        free = free_disk_bytes(part.parent)
    except OSError as error:
        raise unwritable(part.parent, error) from error
    if total - start > free:
        raise OutputError(
            f"Cannot download {url} to {part.parent}: it takes {shown_bytes(total - start)}, and {shown_bytes(free)} are "
            "free there. Free some space, or set VIZSLA_HOME to a folder on another disk."
        )


def _copy(
    response: Any, part: Path, *, start: int, total: int | None, most: int | None, bar: TransferBar
) -> None:
    done = start
    try:
        file = part.open("ab" if start else "wb", buffering=0)
    except OSError as error:
        raise _unwritable_part(part, error) from error
    with file:
        while True:
            try:
                data = response.read1(_BLOCK)
            except (OSError, HTTPException) as error:
                raise _DroppedError(f"The connection broke after {done:,} bytes") from error
            if not data:
                break
            done += len(data)
            if most is not None and done > most:
                raise _OfNoUseError(unlike(response.url, f"it has more than {most:,} bytes"))
            try:
                _write_all(file, data)
            except OSError as error:
                raise _unwritable_part(part, error) from error
            bar.move(done, total)
    if total is not None and done < total:
        raise _DroppedError(f"The connection ended after {done:,} of {total:,} bytes")


def _write_all(file: Any, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _begin(part: Path, *, url: str, headers: Any) -> None:
    """Throw away what was there and note which version begins now, if the server says it."""
    forget(part)
    tag = headers.get("ETag")
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    if version:
        try:
            _note_path(part).write_text(json.dumps({"url": url, "version": version}), "utf-8")
        except OSError as error:
            raise _unwritable_part(part, error) from error


def _unwritable_part(part: Path, error: OSError) -> _OfNoUseError:
    failure = unwritable(part, error)
    failure.__cause__ = error
    return _OfNoUseError(failure)


def _validator(part: Path, url: str) -> str | None:
    """Return what the server called the version that the part file is of."""
    try:
        note: Any = json.loads(_note_path(part).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("url") != url:
        return None
    version = note.get("version")
    return version if isinstance(version, str) and version.isprintable() else None


_BLOCK_archives = 2**18
_HEADER_ROOM = 2**20
"""Bytes that the headers between two files may take: names of a few thousand letters at most, in truth."""
_RATIO_ROOM = 10 * 2**20
"""Small archives may grow by any factor up to this size: a list of names compresses a thousandfold."""
_DRIVE = re.compile(r"^[A-Za-z]:")
_STARTS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_DAMAGED = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        max_bytes: All files together.
        max_files: Files and folders.
        max_ratio: Times the size of the archive; up to 10 MiB are always allowed.
    """

    max_bytes: int = 200 * 10**9
    max_files: int = 5_000_000
    max_ratio: int = 100


class ExtractionProgress(Protocol):
    """Is told how many bytes have been dealt with so far."""

    def __call__(self, done: int, /) -> None:
        """Show it."""
        ...


class _RefusedError(Exception):
    """Why an archive is not unpacked, in words that continue "The archive PATH is not unpacked: ..."."""


class _CountedReader:
    """Reads a stream up to limits that it is told; more than that is a bomb or a damaged header.

    Args:
        stream: Decompressed data.
        most: Bytes in all.
    """

    def __init__(self, stream: IO[bytes], *, most: int) -> None:
        self._stream = stream
        self._most = most
        self._allowed = 0
        self._read = 0

    def allow(self, num_bytes: int) -> None:
        """Allow so many bytes from here on, and what the reader of the archive reads ahead."""
        self._allowed = self._read + num_bytes + _HEADER_ROOM + 2 * _BLOCK_archives

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise _RefusedError(f"it is damaged or cut off ({_one_line(error)})") from error
        self._read += len(data)
        if self._read > self._most:
            raise _RefusedError(
                f"it unpacks to more than {shown_bytes(self._most)}, which no archive of images of its size does"
            )
        if self._read > self._allowed:
            raise _RefusedError("one of its headers is larger than 1 MiB")
        return data


class _Folder:
    """Writes the files of an archive below a folder, and counts them.

    Args:
        root: Exists and is empty.
        limits: For all of them.
        most: Bytes in all.
        progress: Told of the bytes written.
    """

    def __init__(
        self, root: Path, *, limits: Limits, most: int, progress: ExtractionProgress | None
    ) -> None:
        self._root = root
        self._limits = limits
        self._most = most
        self._progress = progress
        self._num_entries = 0
        self._num_bytes = 0

    def add_folder(self, name: str) -> None:
        """Make a folder; the folder itself, ``./`` in many tar files, is there already."""
        self._count()
        with _written_to(self._place(name)) as place:
            place.mkdir(parents=True, exist_ok=True)

    def add_file(self, name: str, source: IO[bytes], *, size: int) -> None:
        """Copy a file of ``size`` bytes."""
        self._count()
        place = self._place(name)
        if place.is_dir():  # also where the name is "."
            raise _RefusedError(f"{quoted(name)} is both a file and a folder in it")
        left = size
        with _written_to(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            file = place.open("wb")
        with file:
            while left:
                try:
                    data = source.read(min(left, _BLOCK_archives))
                except _DAMAGED as error:
                    raise _RefusedError(
                        f"it is damaged at the file {quoted(name)} ({_one_line(error)})"
                    ) from error
                if not data:
                    raise _RefusedError(f"it ends within the file {quoted(name)}")
                left -= len(data)
                self._num_bytes += len(data)
                if self._num_bytes > self._most:
                    raise _RefusedError(
                        f"its files are larger than {shown_bytes(self._most)} together, which no archive of images of "
                        "its size holds"
                    )
                with _written_to(place):
                    file.write(data)
                if self._progress is not None:
                    self._progress(self._num_bytes)
            with _written_to(place):
                file.flush()

    def _count(self) -> None:
        self._num_entries += 1
        if self._num_entries > self._limits.max_files:
            raise _RefusedError(f"it has more than {self._limits.max_files:,} files")

    def _place(self, name: str) -> Path:
        """Return where a file goes; posix and Windows separators count alike, whatever the system."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        rooted = name.startswith(("/", "\\")) or _DRIVE.match(name)
        # A colon names a hidden stream of another file on Windows.
        streams = os.name == "nt" and ":" in name
        if rooted or ".." in parts or "\0" in name or streams:
            raise _RefusedError(f"the name {quoted(name)} in it leads out of the folder")
        return self._root.joinpath(*parts)


def extract_archive(
    archive: Path,
    folder: Path,
    *,
    limits: Limits | None = None,
    progress: ExtractionProgress | None = None,
) -> None:
    """Unpack a tar file (plain, gzip, bzip2 or xz) or a zip file into a new folder.

    Permissions, owners and times in the archive are not applied.

    Args:
        archive: The file; what it is shows in its first bytes, not in its name.
        folder: Where the files go; it must not exist, its parent must. When anything fails, it is removed.
        limits: What it may unpack to; None for the defaults.
        progress: Told of the bytes written so far.

    Raises:
        DataError: The archive is damaged, no archive, or holds what it must not; the message says which entry.
        OutputError: The folder cannot be written to.
    """
    limits = limits or Limits()
    with _written_to(folder):
        folder.mkdir()
    try:
        size = archive.stat().st_size
        most = min(limits.max_bytes, max(_RATIO_ROOM, limits.max_ratio * size))
        target = _Folder(folder, limits=limits, most=most, progress=progress)
        with archive.open("rb") as raw:
            start = raw.read(8)
        if start.startswith(_ZIP_STARTS):
            _extract_zip(archive, target, most=most)
        else:
            _extract_tar(archive, target, most=most, start=start)
    except _RefusedError as refusal:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"The archive {quoted(archive)} is not unpacked: {refusal}. Nothing of it was kept. "
            "Get it again from a source that you trust."
        ) from refusal
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _extract_tar(archive: Path, target: _Folder, *, most: int, start: bytes) -> None:
    opened = next((opener for mark, opener in _STARTS if start.startswith(mark)), None)
    stream = cast("IO[bytes]", archive.open("rb") if opened is None else opened(archive, "rb"))
    with stream:
        reader = _CountedReader(stream, most=most + _RATIO_ROOM)
        reader.allow(0)
        try:
            # As a stream, so that nothing is read twice and no header can send the reader elsewhere.
            tar = tarfile.open(  # noqa: SIM115
                fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=_BLOCK_archives
            )
        except tarfile.TarError as error:
            raise _RefusedError(
                f"it is neither a tar nor a zip file (it begins with {start!r})"
            ) from error
        with tar:
            while (member := _next_member(tar, reader)) is not None:
                _add_member(tar, member, reader, target)
        reader.allow(most)
        while reader.read(
            _BLOCK_archives
        ):  # to the end: the check sum of the compressed data stands there
            pass


def _next_member(tar: tarfile.TarFile, reader: _CountedReader) -> tarfile.TarInfo | None:
    reader.allow(0)
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError) as error:
        raise _RefusedError(f"it is damaged ({_one_line(error)})") from error
    cast("Any", tar).members = []  # otherwise it keeps them all
    return member


def _add_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, reader: _CountedReader, target: _Folder
) -> None:
    if member.isdir():
        target.add_folder(member.name)
        return
    if not member.isreg() or member.issparse():
        kind = "link" if member.issym() or member.islnk() else "device, pipe or other special file"
        raise _RefusedError(f"{quoted(member.name)} in it is a {kind}")
    if member.size < 0:
        raise _RefusedError(f"{quoted(member.name)} in it has a negative size")
    reader.allow(member.size)
    content = tar.extractfile(member)
    if content is None:
        raise _RefusedError(f"{quoted(member.name)} in it cannot be read")
    with content:
        target.add_file(member.name, content, size=member.size)


def _extract_zip(archive: Path, target: _Folder, *, most: int) -> None:
    try:
        opened = zipfile.ZipFile(archive)
    except (*_DAMAGED, ValueError) as error:
        raise _RefusedError(f"it is damaged ({_one_line(error)})") from error
    with opened:
        declared = sum(entry.file_size for entry in opened.infolist())
        if declared > most:
            raise _RefusedError(
                f"its files are {shown_bytes(declared)} together, more than the {shown_bytes(most)} that an archive of "
                "images of its size holds"
            )
        for entry in opened.infolist():
            _add_entry(opened, entry, target)


def _add_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: _Folder) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "link" if kind == stat.S_IFLNK else "device, pipe or other special file"
        raise _RefusedError(f"{quoted(entry.filename)} in it is a {what}")
    if entry.is_dir():
        target.add_folder(entry.filename)
        return
    try:
        content = opened.open(entry)
    except (*_DAMAGED, RuntimeError, ValueError) as error:  # RuntimeError: it has a password
        raise _RefusedError(
            f"{quoted(entry.filename)} in it cannot be read ({_one_line(error)})"
        ) from error
    with content:
        target.add_file(entry.filename, content, size=entry.file_size)


@contextmanager
def _written_to(place: Path) -> Generator[Path]:
    """Say in our words what the system refuses to write."""
    try:
        yield place
    except OSError as error:
        raise OutputError(
            f"Cannot write {place}: {error.strerror or error}. What was unpacked until then is removed. "
            "Free some space, or choose another place."
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before each new try after a dropped connection; a try that brings any bytes starts over from the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What is known of a file before it is there.

    Attributes:
        size: In bytes; None if unknown.
        sha256: In hexadecimal; None if unknown.
    """

    size: int | None = None
    sha256: str | None = None


def download(
    url: str,
    target: Path,
    *,
    expected: Expected | None = None,
    force: bool = False,
    quiet: bool = False,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> Path:
    """Bring a file from the internet to a place on the disk.

    Calls for one target at the same time, from any process, wait for each other.

    Args:
        url: An ``http``, ``https`` or ``file`` address.
        target: Where it goes; its folder is made. A ``file`` address is used where it is, and nothing is written.
        expected: Its size and SHA-256, if they are known.
        force: Download it even if it is there; what is there stays until the new one is whole.
        quiet: Say nothing.
        pauses_seconds: Waits before each new try after a dropped connection.

    Returns:
        ``target``, or the path of a ``file`` address.

    Raises:
        ConfigError: It is another kind of address.
        DataError: It cannot be had, or is not what was expected. What came of it is removed, except the beginning of a
            file that a later call can go on with.
        OutputError: It cannot be written; what came of it is removed.

    Example:
        >>> download("https://example.com/pets.tgz", Path("pets.tgz"), expected=Expected(size=811706944))
    """
    expected = expected or Expected()
    local = local_path(url)
    if local is not None:
        _checked(local, url=url, expected=expected, recorded=None)
        return local
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    waiting = f"Another program is downloading {target.name}; waiting for it."
    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, on_wait=lambda: say(waiting, quiet=quiet)):
        recorded = _recorded(target, url)
        if target.exists() and not force:
            try:
                _checked(target, url=url, expected=expected, recorded=recorded)
            except DataError:
                say(
                    f"{target} is damaged or of another version; downloading it again.", quiet=quiet
                )
            else:
                return target
        _download_now(
            url, target, expected=expected, recorded=recorded, quiet=quiet, pauses=pauses_seconds
        )
    return target


def local_path(url: str) -> Path | None:
    """Return the path of a ``file`` address, or None for one of the internet.

    Args:
        url: An address.

    Raises:
        ConfigError: It is another kind of address, or names a file of another machine.
        DataError: There is no such file.
    """
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ConfigError(
            "An address begins with https://, http:// or file:/// (Path(...).absolute().as_uri() gives the last). "
            f"Received: {url!r}"
        )
    path = Path(url2pathname(parts.path))
    if not path.is_file():
        raise DataError(f"There is no file {quoted(path)}. Check the address {url!r}.")
    return path


def _download_now(
    url: str,
    target: Path,
    *,
    expected: Expected,
    recorded: str | None,
    quiet: bool,
    pauses: Sequence[float],
) -> None:
    part = target.with_name(f"{target.name}.part")
    say(f"Downloading {url} to {target}", quiet=quiet)
    with transfer_bar(f"Downloading {target.name}", quiet=quiet) as bar:
        fetch(url, part, size=expected.size, pauses_seconds=pauses, bar=bar)
    try:
        found = _checked(part, url=url, expected=expected, recorded=recorded)
        if expected.sha256 is None and recorded is None:
            _record(target, url=url, found=found, quiet=quiet)
        os.replace(part, target)  # noqa: PTH105 (Path.replace says less: its error lacks the target on some systems)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        forget(part)


def _checked(path: Path, *, url: str, expected: Expected, recorded: str | None) -> Expected:
    """Return size and SHA-256 of a file that is as expected."""
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        raise unlike(url, f"it has {size:,} bytes, not {expected.size:,}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known = recorded if expected.sha256 is None else expected.sha256.lower()
    if known is not None and sha256 != known:
        when = " as when it was first downloaded" if expected.sha256 is None else ""
        raise unlike(url, f"its SHA-256 is {sha256}, not {known}{when}")
    return Expected(size=size, sha256=sha256)


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256.json")


def _recorded(target: Path, url: str) -> str | None:
    """Return the SHA-256 that a file from this address had when it first came."""
    try:
        record: Any = json.loads(_record_path(target).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read {_record_path(target)}, which says what {target.name} was like when it first came: {error}. "
            "Delete it to trust the next download."
        ) from error
    same = isinstance(record, dict) and record.get("url") == url
    return str(record["sha256"]) if same and "sha256" in record else None


def _record(target: Path, *, url: str, found: Expected, quiet: bool) -> None:
    path = _record_path(target)
    record = {
        "url": url,
        "size": found.size,
        "sha256": found.sha256,
        "first_downloaded": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    say(
        f"No check sum is known for {url}. What came ({shown_bytes(found.size or 0)}, SHA-256 {found.sha256}) is noted "
        f"in {path}; later downloads must be the same.",
        quiet=quiet,
    )


_S3 = "https://s3.amazonaws.com/fast-ai-"
_ENDINGS = re.compile(r"\.(tgz|tbz2?|txz|tar|zip|tar\.(gz|bz2|xz))$", re.IGNORECASE)


class URLs:
    """Addresses of the data sets that lessons use, as fast.ai publishes them; each has its own licence."""

    PETS = f"{_S3}imageclas/oxford-iiit-pet.tgz"
    DOGS = f"{_S3}sample/dogscats.tgz"
    IMAGENETTE = f"{_S3}imageclas/imagenette2.tgz"
    IMAGENETTE_160 = f"{_S3}imageclas/imagenette2-160.tgz"
    IMAGENETTE_320 = f"{_S3}imageclas/imagenette2-320.tgz"
    IMAGEWOOF = f"{_S3}imageclas/imagewoof2.tgz"
    IMAGEWOOF_160 = f"{_S3}imageclas/imagewoof2-160.tgz"
    IMAGEWOOF_320 = f"{_S3}imageclas/imagewoof2-320.tgz"
    IMAGEWANG = f"{_S3}imageclas/imagewang.tgz"
    IMAGEWANG_160 = f"{_S3}imageclas/imagewang-160.tgz"
    IMAGEWANG_320 = f"{_S3}imageclas/imagewang-320.tgz"
    MNIST = f"{_S3}imageclas/mnist_png.tgz"
    MNIST_SAMPLE = f"{_S3}sample/mnist_sample.tgz"
    MNIST_TINY = f"{_S3}sample/mnist_tiny.tgz"
    MNIST_VAR_SIZE_TINY = f"{_S3}imageclas/mnist_var_size_tiny.tgz"
    CIFAR = f"{_S3}sample/cifar10.tgz"
    CIFAR_100 = f"{_S3}imageclas/cifar100.tgz"
    FLOWERS = f"{_S3}imageclas/oxford-102-flowers.tgz"
    FOOD = f"{_S3}imageclas/food-101.tgz"
    CARS = f"{_S3}imageclas/stanford-cars.tgz"
    CUB_200_2011 = f"{_S3}imageclas/CUB_200_2011.tgz"
    CALTECH_101 = f"{_S3}imageclas/caltech_101.tgz"
    PLANET_SAMPLE = f"{_S3}sample/planet_sample.tgz"
    PLANET_TINY = f"{_S3}sample/planet_tiny.tgz"
    PASCAL_2007 = f"{_S3}imagelocal/pascal_2007.tgz"
    BIWI_HEAD_POSE = f"{_S3}imagelocal/biwi_head_pose.tgz"
    BIWI_SAMPLE = f"{_S3}sample/biwi_sample.tgz"


# Sizes: the table that fastai 2 checks its downloads against. SHA-256: only where two independent sources agree (Imagenette:
# TensorFlow Datasets and FastAI.jl; MNIST: FastAI.jl and users of the archive's original). The others are noted when they
# first come.
_EXPECTED = {
    URLs.PETS: Expected(size=811_706_944),
    URLs.DOGS: Expected(size=839_285_364),
    URLs.IMAGENETTE: Expected(
        size=1_557_161_267,
        sha256="6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    ),
    URLs.IMAGENETTE_160: Expected(
        size=99_003_388, sha256="64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5"
    ),
    URLs.IMAGENETTE_320: Expected(
        size=341_663_724, sha256="569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c"
    ),
    URLs.IMAGEWOOF: Expected(size=1_343_715_595),
    URLs.IMAGEWOOF_160: Expected(size=92_612_825),
    URLs.IMAGEWOOF_320: Expected(size=328_387_740),
    URLs.IMAGEWANG: Expected(size=2_900_347_689),
    URLs.IMAGEWANG_160: Expected(size=191_498_213),
    URLs.IMAGEWANG_320: Expected(size=669_826_647),
    URLs.MNIST: Expected(
        size=15_683_414, sha256="9e18edaa3a08b065d8f80a019ca04329e6d9b3e391363414a9bd1ada30563672"
    ),
    URLs.MNIST_SAMPLE: Expected(size=3_214_948),
    URLs.MNIST_TINY: Expected(size=342_207),
    URLs.MNIST_VAR_SIZE_TINY: Expected(size=565_372),
    URLs.CIFAR: Expected(size=168_168_549),
    URLs.CIFAR_100: Expected(size=169_168_619),
    URLs.FLOWERS: Expected(size=345_236_087),
    URLs.FOOD: Expected(size=5_686_607_260),
    URLs.CARS: Expected(size=1_957_803_273),
    URLs.CUB_200_2011: Expected(size=1_150_585_339),
    URLs.CALTECH_101: Expected(size=131_740_031),
    URLs.PLANET_SAMPLE: Expected(size=15_523_994),
    URLs.PLANET_TINY: Expected(size=997_569),
    URLs.PASCAL_2007: Expected(size=1_637_796_771),
    URLs.BIWI_HEAD_POSE: Expected(size=452_316_199),
    URLs.BIWI_SAMPLE: Expected(size=593_774),
}


def untar_data(
    url: str,
    archive: Path | str | None = None,
    data: Path | str | None = None,
    c_key: str = "data",
    force_download: bool = False,
    base: Path | str | None = None,
) -> Path:
    """Return the folder of a data set; the first time it is downloaded and unpacked.

    Folders are named within ``$VIZSLA_HOME``, or ``~/.vizsla``. The archive is kept. A folder that exists is taken as it
    is: it appears under its name only when it is whole.

    Args:
        url: An ``https``, ``http`` or ``file`` address of a tar or zip file, such as ``URLs.PETS``.
        archive: Folder for the archive; None: ``archive``.
        data: Folder in which that of the data set is made; None: the one named ``c_key``.
        c_key: See ``data``.
        force_download: Download and unpack it again. What is there stays until the new one is whole.
        base: Folder within which the others are named; None: see above.

    Returns:
        The folder, named as the archive without its ending. Where all that the archive holds lies in one folder, it is
        that folder.

    Raises:
        ConfigError: Another kind of address, or one that does not end in a file name.
        DataError: It cannot be downloaded, is not what was expected, or is unsafe to unpack.
        OutputError: It cannot be written.

    Example:
        >>> path = untar_data(URLs.PETS)
    """
    name, stem = _names(url)
    home = home_folder() if base is None else Path(base).expanduser()
    folder = home / (c_key if data is None else data) / stem
    if folder.is_dir() and not force_download:
        return folder
    local = local_path(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder.parent, error) from error
    waiting = f"Another program is making {folder}; waiting for it."
    with locked(folder.with_name(f".{stem}.lock"), on_wait=lambda: say(waiting)):
        if folder.is_dir() and not force_download:
            return folder
        place = home / ("archive" if archive is None else archive) / name
        if local is None:
            local = download(url, place, expected=_EXPECTED.get(url), force=force_download)
        _unpack(local, folder)
    return folder


def _names(url: str) -> tuple[str, str]:
    """Return the name of an archive, and that of its folder."""
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    stem = _ENDINGS.sub("", name) if _ENDINGS.search(name) else Path(name).stem
    if not stem.strip(". ") or "\0" in name:
        raise ConfigError(
            f"The address of a data set ends in the name of its archive, as in {URLs.PETS}. Received: {url!r}"
        )
    return name, stem


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive beside ``folder`` and move it there when it is whole."""
    fresh = folder.with_name(f".{folder.name}.part")
    if fresh.exists():  # of a program that was killed; we have the lock
        with _written_to_datasets(fresh):
            shutil.rmtree(fresh)
    with transfer_bar(f"Unpacking {archive.name}") as bar:
        extract_archive(archive, fresh, progress=bar.move)
    try:
        _put_in_place(_inner(fresh, archive), folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _inner(fresh: Path, archive: Path) -> Path:
    """Return the only folder in what was unpacked, or all of it; what macOS adds to archives does not count."""
    entries = [entry for entry in fresh.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    if not entries:
        raise DataError(f"The archive {archive} holds no files. Check its address.")
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else fresh


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; a folder of that name goes away only after that."""
    old = folder.with_name(f".{folder.name}.old")
    with _written_to_datasets(folder):
        if old.exists():
            shutil.rmtree(old)
        replaced = folder.exists()
        if replaced:
            os.rename(folder, old)  # noqa: PTH104 (as os.replace in files.py)
        try:
            os.rename(fresh, folder)  # noqa: PTH104
        except OSError:
            if replaced:
                os.rename(old, folder)  # noqa: PTH104
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _written_to_datasets(place: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(place, error) from error
