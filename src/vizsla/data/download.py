"""Download files, resumed and verified, and unpack archives of images, bounded and only into their folder.

What arrives goes into ``NAME.part``; only a file of the right size and SHA-256 gets its name. Where no SHA-256 is known, that
of the first download is written down in ``NAME.sha256.json``, and later downloads are held to it. A ``NAME.part.json`` says
which version of the file the part is of (its ETag or date), so that parts of two versions are never put together.

An archive from the internet is not trusted: names that lead out of the folder, links, devices, sizes that only a
decompression bomb has, and damaged data are refused, and what was written until then is removed.
"""

from __future__ import annotations

import bz2
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, url2pathname

from vizsla import __version__
from vizsla.errors import ConfigError, DataError, OutputError
from vizsla.files import atomic_write
from vizsla.machine import free_disk_bytes, home_folder, shown_bytes
from vizsla.text import one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

_BLOCK = 2**18
_TIMEOUT_SECONDS = 30.0
_SECONDS_BETWEEN_LINES = 10.0
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)$")

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before each new try after a dropped connection; a try that brings any bytes starts over from the first."""


def download_file(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    force: bool = False,
    pauses_seconds: Sequence[float] = PAUSES_SECONDS,
) -> Path:
    """Download a file; calls for one target at the same time, from any process, wait for each other.

    Args:
        url: An ``http``, ``https`` or ``file`` address.
        target: Where it goes; its folder is made. A ``file`` address is used where it is, and nothing is written.
        size: In bytes, if known.
        sha256: In hexadecimal, if known.
        force: Download it even if it is there; what is there stays until the new one is whole.
        pauses_seconds: Waits before each new try after a dropped connection.

    Returns:
        ``target``, or the path of a ``file`` address.

    Raises:
        ConfigError: The address is of another kind.
        DataError: The file cannot be downloaded, or is not what was expected. Only what a later call can go on with stays.
        OutputError: It cannot be written; what came of it is removed.

    Examples:
        >>> download_file("https://example.com/pets.tgz", Path("pets.tgz"), size=811706944)
    """
    local = _local_path(url)
    if local is not None:
        _checked_sha256(local, url=url, size=size, sha256=sha256)
        return local
    part = _Part(target.with_name(f"{target.name}.part"), url=url, size=size)
    waiting = f"Another program is downloading {target.name}; waiting for it."
    with _locked(target.with_name(f".{target.name}.lock"), waiting=waiting):
        recorded = _recorded_sha256(target, url)
        if target.exists() and not force:
            try:
                _checked_sha256(target, url=url, size=size, sha256=sha256, recorded=recorded)
            except DataError:
                _say(f"{target} is damaged or of another version; downloading it again.")
            else:
                return target
        _say(f"Downloading {url} to {target}")
        with _Bar(f"Downloading {target.name}") as bar:
            part.fill(pauses_seconds, bar=bar)
        try:
            found = _checked_sha256(part.path, url=url, size=size, sha256=sha256, recorded=recorded)
            if sha256 is None and recorded is None:
                _record(target, url=url, size=part.size(), sha256=found)
            os.replace(part.path, target)  # noqa: PTH105 (Path.replace says less: its error lacks the target on some systems)
        except OSError as error:
            raise _unwritable(target, error) from error
        finally:
            part.remove()
    return target


def _local_path(url: str) -> Path | None:
    """Return the path of a ``file`` address, or None for one of the internet."""
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


def _checked_sha256(
    path: Path, *, url: str, size: int | None, sha256: str | None, recorded: str | None = None
) -> str:
    """Return the SHA-256 of a file that is as expected, or as it was when it first came."""
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        raise _unlike(url, f"it has {found_size:,} bytes, not {size:,}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known = recorded if sha256 is None else sha256.lower()
    if known is not None and found != known:
        when = " as when it was first downloaded" if sha256 is None else ""
        raise _unlike(url, f"its SHA-256 is {found}, not {known}{when}")
    return found


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256.json")


def _recorded_sha256(target: Path, url: str) -> str | None:
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


def _record(target: Path, *, url: str, size: int, sha256: str) -> None:
    path = _record_path(target)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"url": url, "size": size, "sha256": sha256, "first_downloaded": now}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    _say(
        f"No check sum is known for {url}. What came ({shown_bytes(size)}, SHA-256 {sha256}) is noted in {path}; "
        "later downloads must be the same."
    )


class _DroppedError(Exception):
    """Why a try failed that may succeed later."""


class _Part:
    """The part of a file that has arrived so far, and the note that says of which version it is."""

    def __init__(self, path: Path, *, url: str, size: int | None) -> None:
        self.path = path
        self._url = url
        self._expected_size = size
        self._note = path.with_name(f"{path.name}.json")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def fill(self, pauses_seconds: Sequence[float], *, bar: _Bar) -> None:
        """Download the rest, in as many tries as it takes; the part stays only if the connection kept breaking."""
        failures = 0
        while True:
            before = self.size()
            try:
                self._try_once(bar)
                return
            except _DroppedError as drop:
                failures = 0 if self.size() > before else failures
                if failures >= len(pauses_seconds):
                    raise self._gave_up(drop, num_tries=failures + 1) from drop
                bar.line(f"{drop}; trying again in {pauses_seconds[failures]:g} s")
                time.sleep(pauses_seconds[failures])
                failures += 1

    def _try_once(self, bar: _Bar) -> None:
        version = self._version()
        start = 0 if version is None else self.size()
        headers = {"User-Agent": f"vizsla/{__version__}", "Accept-Encoding": "identity"}
        if version is not None and start:
            headers |= {"Range": f"bytes={start}-", "If-Range": version}
        try:
            response = _open(Request(self._url, headers=headers))
        except HTTPError as error:
            with error:
                if error.code in _TEMPORARY_STATUS:
                    text = f"The server answered {error.code} ({error.reason})"
                    raise _DroppedError(text) from error
                if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise DataError(
                        f"Cannot download {self._url}: the server answered {error.code} ({error.reason}). "
                        "Check the address."
                    ) from error
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return  # it was whole already
                self.remove()
                raise _DroppedError("The server has not as much as was begun with") from error
        with response:
            start = _continued_at(response, start)
            length = response.headers.get("Content-Length") or ""
            total = start + int(length) if length.isdecimal() else None
            try:
                self._check_announced(total, start=start)
                if not start:
                    self._begin(response.headers)
                self._receive(response, start=start, total=total, bar=bar)
            except OSError as error:
                self.remove()
                raise _unwritable(self.path, error) from error
            except (DataError, OutputError):
                self.remove()
                raise

    def _check_announced(self, total: int | None, *, start: int) -> None:
        """Refuse, before it is transferred, what cannot be right or has no room."""
        if total is None:
            return
        if self._expected_size is not None and total != self._expected_size:
            raise _unlike(self._url, f"it has {total:,} bytes, not {self._expected_size:,}")
        folder = self.path.parent
        free = free_disk_bytes(folder)
        if total - start > free:
            raise OutputError(
                f"Cannot download {self._url} to {folder}: it takes {shown_bytes(total - start)}, and {shown_bytes(free)} "
                "are free there. Free some space, or set VIZSLA_HOME to a folder on another disk."
            )

    def _begin(self, headers: Any) -> None:
        """Throw away what was there and note which version begins now, if the server says it."""
        self.remove()
        tag = headers.get("ETag")
        version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        if version:
            self._note.write_text(json.dumps({"url": self._url, "version": version}), "utf-8")

    def _receive(self, response: Any, *, start: int, total: int | None, bar: _Bar) -> None:
        done = start
        most = total if self._expected_size is None else self._expected_size
        with self.path.open("ab" if start else "wb", buffering=0) as file:
            while True:
                try:
                    data = response.read1(_BLOCK)
                except (OSError, HTTPException) as error:
                    raise _DroppedError(f"The connection broke after {done:,} bytes") from error
                if not data:
                    break
                done += len(data)
                if most is not None and done > most:
                    raise _unlike(response.url, f"it has more than {most:,} bytes")
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                bar.move(done, total)
        if total is not None and done < total:
            raise _DroppedError(f"The connection ended after {done:,} of {total:,} bytes")

    def _gave_up(self, drop: _DroppedError, *, num_tries: int) -> DataError:
        end = "Check the connection, and try again later."
        if self.size() == 0 or self._version() is None:
            self.remove()
        else:
            kept = shown_bytes(self.size())
            end = f"{kept} are kept; check the connection, and call it again to go on from there."
        return DataError(f"Cannot download {self._url}: {drop}; {num_tries} tries were made. {end}")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _version(self) -> str | None:
        """Return what the server called the version that the part is of."""
        try:
            note: Any = json.loads(self._note.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        version = (
            note.get("version") if isinstance(note, dict) and note.get("url") == self._url else None
        )
        return version if isinstance(version, str) and version.isprintable() else None


def _open(request: Request) -> Any:
    try:
        return build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        came = "connection to" if isinstance(error, URLError) else "answer from"
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"Cannot download {request.full_url}: the server's certificate is not valid ({reason}). "
                "Check the address, and the certificates of this system."
            ) from error
        raise _DroppedError(f"No {came} {request.host} ({reason})") from error


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


def _continued_at(response: Any, start: int) -> int:
    """Return from which byte on the server sends: ``start`` if it agreed, else 0."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range") or "")
    if match is None or int(match[1]) != start:
        raise _DroppedError("The server sent another part than was asked for")
    return start


def _unlike(url: str, why: str) -> DataError:
    return DataError(
        f"The file from {url} is not the one that was expected: {why}. It is not used. The transfer may have been "
        "tampered with, or the file was replaced. Try again; if you have the file from elsewhere, give its address as "
        "file:///PATH."
    )


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}. Free some space, or choose another place; "
        "VIZSLA_HOME names the folder that is used."
    )


@contextmanager
def _locked(path: Path, *, waiting: str) -> Generator[None]:
    """Be the only one with a lock file until the block ends; its folder is made. The system frees the lock of a killed program."""
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                _say(waiting)
                stack.enter_context(lock.acquire())
        except (OSError, NotImplementedError) as error:
            reason = error if isinstance(error, OSError) else OSError(str(error))
            raise _unwritable(path, reason) from error
        yield


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class _Bar:
    """Shows how far a transfer is: a bar in a terminal, which goes away, or a line now and then elsewhere."""

    def __init__(self, label: str) -> None:
        from rich import progress
        from rich.console import Console

        self._label = label
        self._console = Console(file=sys.stdout, soft_wrap=True)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)
        self._last = time.monotonic()

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def move(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` bytes of ``total`` are there; ``total`` is None while it is not known."""
        if self._console.is_terminal:
            self._progress.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            of = "" if total is None else f" of {shown_bytes(total)}"
            self.line(f"{self._label}: {shown_bytes(done)}{of}")

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


_HEADER_ROOM = 2**20
"""Bytes that the headers between two files may take: names of a few thousand letters at most, in truth."""
_RATIO_ROOM = 10 * 2**20
"""Small archives may grow by any factor up to this size: a list of names compresses a thousandfold."""
_DRIVE = re.compile(r"^[A-Za-z]:")
_STARTS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# RuntimeError: a zip file has a password.
_DAMAGED = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may unpack to: bytes, files and folders, times its own size (10 MiB are always allowed)."""

    max_bytes: int = 200 * 10**9
    max_files: int = 5_000_000
    max_ratio: int = 100


class _RefusedError(Exception):
    """Why an archive is not unpacked, in words that continue "The archive PATH is not unpacked: ..."."""


class _Entry(NamedTuple):
    """A file in an archive, or a folder, whose content is None."""

    name: str
    size: int
    content: IO[bytes] | None


def extract_archive(
    archive: Path,
    folder: Path,
    *,
    limits: Limits = Limits(),
    progress: Callable[[int], None] | None = None,
) -> None:
    """Unpack a tar file (plain, gzip, bzip2 or xz) or a zip file into a new folder.

    Its first bytes tell which, not its name. Permissions, owners and times in it are not applied.

    Args:
        archive: The file.
        folder: Must not exist, its parent must. It is removed when anything fails.
        limits: What it may unpack to.
        progress: Called with the number of bytes written so far.

    Raises:
        DataError: The archive is damaged, no archive, or holds what it must not; the message says which entry.
        OutputError: The folder cannot be written to.
    """
    with _writing(folder):
        folder.mkdir()
    try:
        most = min(limits.max_bytes, max(_RATIO_ROOM, limits.max_ratio * archive.stat().st_size))
        with archive.open("rb") as raw:
            start = raw.read(8)
        is_zip = start.startswith(_ZIP_STARTS)
        entries = _zip_entries(archive, most) if is_zip else _tar_entries(archive, most, start)
        num_bytes = 0
        for number, entry in enumerate(entries, start=1):
            if number > limits.max_files:
                raise _RefusedError(f"it has more than {limits.max_files:,} files")
            place = _place(folder, entry.name)
            if entry.content is None:
                with _writing(place):
                    place.mkdir(parents=True, exist_ok=True)
                continue
            for num_written in _write_file(place, entry):
                num_bytes += num_written
                if num_bytes > most:
                    raise _RefusedError(
                        f"its files are larger than {shown_bytes(most)} together, which no archive of images of its size "
                        "holds"
                    )
                if progress is not None:
                    progress(num_bytes)
    except _RefusedError as refusal:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"The archive {quoted(archive)} is not unpacked: {refusal}. Nothing of it was kept. "
            "Get it again from a source that you trust."
        ) from refusal
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _place(folder: Path, name: str) -> Path:
    """Return where an entry goes; stricter than tarfile's filter "data", and for zip files too."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    rooted = name.startswith(("/", "\\")) or _DRIVE.match(name)
    # A colon names a hidden stream of another file on Windows.
    streams = os.name == "nt" and ":" in name
    if rooted or ".." in parts or "\0" in name or streams:
        raise _RefusedError(f"the name {quoted(name)} in it leads out of the folder")
    return folder.joinpath(*parts)


def _write_file(place: Path, entry: _Entry) -> Iterator[int]:
    """Write a file block by block; yield the number of bytes of each, before it is written."""
    if place.is_dir():  # also where the name is "."
        raise _RefusedError(f"{quoted(entry.name)} is both a file and a folder in it")
    content, left = cast("IO[bytes]", entry.content), entry.size
    with _writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("wb", buffering=0)
    with content, file:
        while left:
            try:
                data = content.read(min(left, _BLOCK))
            except _DAMAGED as error:
                raise _RefusedError(
                    f"it is damaged at the file {quoted(entry.name)} ({one_line(error)})"
                ) from error
            if not data:
                raise _RefusedError(f"it ends within the file {quoted(entry.name)}")
            left -= len(data)
            yield len(data)
            with _writing(place):
                file.write(data)


def _tar_entries(archive: Path, most: int, start: bytes) -> Iterator[_Entry]:
    opened = next((opener for mark, opener in _STARTS if start.startswith(mark)), None)
    stream = cast("IO[bytes]", archive.open("rb") if opened is None else opened(archive, "rb"))
    with stream:
        reader = _CountedReader(stream, most=most + _RATIO_ROOM)
        try:
            # As a stream, so that nothing is read twice and no header can send the reader elsewhere.
            tar = tarfile.open(  # noqa: SIM115
                fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=_BLOCK
            )
        except tarfile.TarError as error:
            raise _RefusedError(
                f"it is neither a tar nor a zip file (it begins with {start!r})"
            ) from error
        with tar:
            while (member := _next_member(tar, reader)) is not None:
                content = None
                if not member.isdir():
                    if not member.isreg() or member.issparse():
                        raise _special(member.name, is_link=member.issym() or member.islnk())
                    if member.size < 0:
                        raise _RefusedError(f"{quoted(member.name)} in it has a negative size")
                    reader.allow(member.size)
                    content = tar.extractfile(member)
                yield _Entry(member.name, member.size, content)
        reader.allow(most)
        while reader.read(_BLOCK):  # to the end: the check sum of the compressed data stands there
            pass


def _next_member(tar: tarfile.TarFile, reader: _CountedReader) -> tarfile.TarInfo | None:
    reader.allow(0)
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError) as error:
        raise _RefusedError(f"it is damaged ({one_line(error)})") from error
    cast("Any", tar).members = []  # otherwise it keeps them all
    return member


def _special(name: str, *, is_link: bool) -> _RefusedError:
    kind = "link" if is_link else "device, pipe or other special file"
    return _RefusedError(f"{quoted(name)} in it is a {kind}")


class _CountedReader:
    """Reads a decompressed stream up to limits that it is told; more than that is a bomb or a damaged header."""

    def __init__(self, stream: IO[bytes], *, most: int) -> None:
        self._stream = stream
        self._most = most
        self._read = 0
        self.allow(0)

    def allow(self, num_bytes: int) -> None:
        """Allow so many bytes from here on, and what the reader of the archive reads ahead."""
        self._allowed = self._read + num_bytes + _HEADER_ROOM + 2 * _BLOCK

    def read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except _DAMAGED as error:
            raise _RefusedError(f"it is damaged or cut off ({one_line(error)})") from error
        self._read += len(data)
        if self._read > self._most:
            raise _RefusedError(
                f"it unpacks to more than {shown_bytes(self._most)}, which no archive of images of its size does"
            )
        if self._read > self._allowed:
            raise _RefusedError("one of its headers is larger than 1 MiB")
        return data


def _zip_entries(archive: Path, most: int) -> Iterator[_Entry]:
    try:
        opened = zipfile.ZipFile(archive)
    except _DAMAGED as error:
        raise _RefusedError(f"it is damaged ({one_line(error)})") from error
    with opened:
        declared = sum(entry.file_size for entry in opened.infolist())
        if declared > most:
            raise _RefusedError(
                f"its files are {shown_bytes(declared)} together, more than the {shown_bytes(most)} that an archive of "
                "images of its size holds"
            )
        for entry in opened.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(entry.filename, is_link=kind == stat.S_IFLNK)
            try:
                content = None if entry.is_dir() else opened.open(entry)
            except _DAMAGED as error:
                raise _RefusedError(
                    f"{quoted(entry.filename)} in it cannot be read ({one_line(error)})"
                ) from error
            yield _Entry(entry.filename, entry.file_size, content)


@contextmanager
def _writing(place: Path) -> Generator[None]:
    """Say in our words what the system refuses to write."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Cannot write {place}: {error.strerror or error}. What was unpacked until then is removed. "
            "Free some space, or choose another place."
        ) from error


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
_SIZES = {
    URLs.PETS: 811_706_944,
    URLs.DOGS: 839_285_364,
    URLs.IMAGENETTE: 1_557_161_267,
    URLs.IMAGENETTE_160: 99_003_388,
    URLs.IMAGENETTE_320: 341_663_724,
    URLs.IMAGEWOOF: 1_343_715_595,
    URLs.IMAGEWOOF_160: 92_612_825,
    URLs.IMAGEWOOF_320: 328_387_740,
    URLs.IMAGEWANG: 2_900_347_689,
    URLs.IMAGEWANG_160: 191_498_213,
    URLs.IMAGEWANG_320: 669_826_647,
    URLs.MNIST: 15_683_414,
    URLs.MNIST_SAMPLE: 3_214_948,
    URLs.MNIST_TINY: 342_207,
    URLs.MNIST_VAR_SIZE_TINY: 565_372,
    URLs.CIFAR: 168_168_549,
    URLs.CIFAR_100: 169_168_619,
    URLs.FLOWERS: 345_236_087,
    URLs.FOOD: 5_686_607_260,
    URLs.CARS: 1_957_803_273,
    URLs.CUB_200_2011: 1_150_585_339,
    URLs.CALTECH_101: 131_740_031,
    URLs.PLANET_SAMPLE: 15_523_994,
    URLs.PLANET_TINY: 997_569,
    URLs.PASCAL_2007: 1_637_796_771,
    URLs.BIWI_HEAD_POSE: 452_316_199,
    URLs.BIWI_SAMPLE: 593_774,
}
_SHA256 = {
    URLs.IMAGENETTE: "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    URLs.IMAGENETTE_160: "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    URLs.IMAGENETTE_320: "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    URLs.MNIST: "9e18edaa3a08b065d8f80a019ca04329e6d9b3e391363414a9bd1ada30563672",
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
        ConfigError: The address is of another kind, or does not end in a file name.
        DataError: It cannot be downloaded, is not what was expected, or is unsafe to unpack.
        OutputError: It cannot be written.

    Examples:
        >>> path = untar_data(URLs.PETS)
    """
    name, stem = _names(url)
    home = home_folder() if base is None else Path(base).expanduser()
    folder = home / (c_key if data is None else data) / stem
    if folder.is_dir() and not force_download:
        return folder
    _local_path(url)  # a wrong address is refused before a folder is made
    waiting = f"Another program is making {folder}; waiting for it."
    with _locked(folder.with_name(f".{stem}.lock"), waiting=waiting):
        if folder.is_dir() and not force_download:
            return folder
        place = home / ("archive" if archive is None else archive) / name
        file = download_file(
            url, place, size=_SIZES.get(url), sha256=_SHA256.get(url), force=force_download
        )
        _unpack(file, folder)
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
    try:
        if fresh.exists():  # of a program that was killed; we have the lock
            shutil.rmtree(fresh)
        with _Bar(f"Unpacking {archive.name}") as bar:
            extract_archive(archive, fresh, progress=bar.move)
        # What macOS adds to archives does not count.
        entries = [at for at in fresh.iterdir() if not at.name.startswith((".", "__MACOSX"))]
        if not entries:
            raise DataError(f"The archive {archive} holds no files. Check its address.")
        only = entries[0] if len(entries) == 1 and entries[0].is_dir() else fresh
        _put_in_place(only, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; a folder of that name goes away only after that."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists():
        shutil.rmtree(old)
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
