"""A tar or zip file from somewhere in, a folder with its files out, whole or not at all; nothing is written elsewhere.

An archive from the internet is not trusted: names that lead out of the folder, links, devices, sizes that only a
decompression bomb has, and damaged data are refused, and what was written until then is removed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from vizsla.data.problems import quoted
from vizsla.data.room import shown_bytes
from vizsla.errors import DataError, OutputError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_BLOCK = 2**18
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


class Progress(Protocol):
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
        self._allowed = self._read + num_bytes + _HEADER_ROOM + 2 * _BLOCK

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise _RefusedError(f"it is damaged or cut off ({_one_line(error)})") from error
        self._read += len(data)
        if self._read > self._most:
            raise _RefusedError(
                f"it unpacks to more than {shown_bytes(self._most)}, which no archive of pictures of its size does"
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

    def __init__(self, root: Path, *, limits: Limits, most: int, progress: Progress | None) -> None:
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
                    data = source.read(min(left, _BLOCK))
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
                        f"its files are larger than {shown_bytes(self._most)} together, which no archive of pictures of "
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
    archive: Path, folder: Path, *, limits: Limits | None = None, progress: Progress | None = None
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
            tar = tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=_BLOCK)  # noqa: SIM115
        except tarfile.TarError as error:
            raise _RefusedError(
                f"it is neither a tar nor a zip file (it begins with {start!r})"
            ) from error
        with tar:
            while (member := _next_member(tar, reader)) is not None:
                _add_member(tar, member, reader, target)
        reader.allow(most)
        while reader.read(_BLOCK):  # to the end: the check sum of the compressed data stands there
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
                "pictures of its size holds"
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
