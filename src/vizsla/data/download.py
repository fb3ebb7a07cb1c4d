"""Download files, resumed and verified, and unpack archives of images, bounded and only into their folder.

A download goes to ``NAME.part`` and gets its name only when its size and SHA-256 are right. ``NAME.part.json`` notes which
version of the file the part belongs to (its ETag or date), so that parts of two versions are never joined. Where no SHA-256
is known, ``NAME.sha256.json`` notes that of the first download, and later downloads must match it.

An archive from the internet is not trusted. Names that lead out of the folder, links, devices, sizes that only a
decompression bomb has, and damaged data are refused, and everything written until then is removed.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import math
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
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, url2pathname

from vizsla import __version__
from vizsla.errors import ConfigError, DataError, OutputError, VizslaError
from vizsla.files import atomic_write
from vizsla.machine import free_disk_bytes, home_folder, shown_bytes
from vizsla.text import one_line, printable, quoted, say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Move = Callable[[int, int | None], None]

_BLOCK = 2**18
_SECONDS_BETWEEN_LINES = 10.0
_TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before each new try after a dropped connection; a try that brings any bytes starts over from the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for a server, and how much to take from it.

    Attributes:
        timeout: Seconds without an answer or a byte.
        num_pauses: How many of ``PAUSES_SECONDS`` to wait; None is all.
        most_seconds: Seconds for one try, however steadily the bytes drip; None is any.
        most_bytes: Largest file; None is any.
        quiet: Whether to print nothing about new tries.
    """

    timeout: float = 30.0
    num_pauses: int | None = None
    most_seconds: float | None = None
    most_bytes: int | None = None
    quiet: bool = False


def download_file(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    force: bool = False,
) -> Path:
    """Download a file and return its path. Calls for one target, from any process, wait for each other.

    A ``file`` address is used where it is, and nothing is written. ``force`` downloads a file that is there again; the old
    one stays until the new one is whole.

    Raises:
        ConfigError: The address is of another kind.
        DataError: The file cannot be downloaded, or is not the expected one. Only a part that can be continued is kept.
        OutputError: It cannot be written; nothing of it is kept.

    Examples:
        >>> download_file("https://example.com/pets.tgz", Path("pets.tgz"), size=811706944)
    """
    local = _local_path(url)
    if local is not None:
        _checked_sha256(local, url=url, size=size, sha256=sha256)
        return local
    part = _Part(target.with_name(f"{target.name}.part"), url=url, patience=Patience(), size=size)
    waiting = f"Another program is downloading {target.name}; waiting for it."
    with _locked(target.with_name(f".{target.name}.lock"), waiting=waiting):
        recorded = _recorded_sha256(target, url)
        if target.exists() and not force:
            try:
                _checked_sha256(target, url=url, size=size, sha256=sha256, recorded=recorded)
            except DataError:
                say(f"{target} is damaged or from another version; downloading it again.")
            else:
                return target
        say(f"Downloading {url} to {target}")
        with _progress(f"Downloading {target.name}") as move:
            part.fill(move)
        try:
            with _writing(target):
                found = _checked_sha256(
                    part.path, url=url, size=size, sha256=sha256, recorded=recorded
                )
                if sha256 is None and recorded is None:
                    _record(target, url=url, size=part.size(), sha256=found)
                part.path.replace(target)
        finally:
            part.remove()
    return target


def fetch(url: str, path: Path, *, patience: Patience, label: str = "") -> None:
    """Download a file to ``path``, which is replaced; a ``file`` address is copied. Unlike ``download_file`` it notes and locks nothing.

    Until the file is whole it is ``.NAME.part`` beside it, which a later call continues. With a ``label`` a bar is drawn.

    Raises:
        ConfigError: The address is of another kind.
        DataError: The file cannot be downloaded, or is too large or too slow.
        OutputError: It cannot be written.
    """
    local = _local_path(url)
    part = _Part(path.with_name(f".{path.name}.part"), url=url, patience=patience)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if local is not None:
            shutil.copyfile(local, part.path)
        elif label:
            with _progress(label) as move:
                part.fill(move)
        else:
            part.fill(lambda _done, _total: None)
        part.path.replace(path)
    part.remove()


def _local_path(url: str) -> Path | None:
    """Return the path of a ``file`` address, or None for one on the internet."""
    try:
        parts = urlsplit(url)
    except ValueError as error:  # half an IPv6 address
        raise ConfigError(
            f"{url!r} is not a valid address ({error}). Check the address."
        ) from error
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


def _ascii_address(url: str) -> str:
    """Return an address as servers are asked for it: names of hosts in IDNA, other letters and spaces escaped."""
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return quote(parts._replace(netloc=host, fragment="").geturl(), safe="!#$%&'()*+,/:;=?@[]~")


def _checked_sha256(
    path: Path, *, url: str, size: int | None, sha256: str | None, recorded: str | None = None
) -> str:
    """Return the SHA-256 of a file, which must be the expected one or else the recorded one."""
    found_size = path.stat().st_size
    if size is not None and found_size != size:
        raise _unexpected(url, f"it has {found_size:,} bytes, not {size:,}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known = recorded if sha256 is None else sha256.lower()
    if known is not None and found != known:
        when = " as when it was first downloaded" if sha256 is None else ""
        raise _unexpected(url, f"its SHA-256 is {found}, not {known}{when}")
    return found


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256.json")


def _recorded_sha256(target: Path, url: str) -> str | None:
    """Return the SHA-256 of the first download from this address, if one was noted."""
    try:
        record = json.loads(_record_path(target).read_text("utf-8"))
        return str(record["sha256"]) if record["url"] == url else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"Cannot read {_record_path(target)}, the checksum noted at the first download of {target.name}: "
            f"{error}. Delete this file to accept the next download."
        ) from error


def _record(target: Path, *, url: str, size: int, sha256: str) -> None:
    path = _record_path(target)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"url": url, "size": size, "sha256": sha256, "first_downloaded": now}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    say(
        f"No published checksum for {url}. The checksum of this download ({shown_bytes(size)}, SHA-256 {sha256}) "
        f"is saved in {path}, and later downloads must match it."
    )


class _DroppedError(Exception):
    """Why a try failed that may succeed later."""


class _Part:
    """The part of a file that has arrived so far, with a note of the version that it belongs to."""

    def __init__(
        self, path: Path, *, url: str, patience: Patience, size: int | None = None
    ) -> None:
        self.path = path
        self._url = url
        self._patience = patience
        self._expected_size = size
        self._note = path.with_name(f"{path.name}.json")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def fill(self, move: Move) -> None:
        """Download the rest, in as many tries as it takes; the part stays only if the connection kept breaking."""
        failures, pauses = 0, PAUSES_SECONDS[: self._patience.num_pauses]
        while True:
            before = self.size()
            try:
                return self._try_once(move)
            except _DroppedError as drop:
                if self.size() > before:
                    failures = 0
                if failures == len(pauses):
                    advice = "Check the connection, and try again later."
                    if self.size() and self._version():
                        kept = shown_bytes(self.size())
                        advice = f"{kept} are kept. Check the connection, and run it again to resume from there."
                    else:
                        self.remove()
                    raise DataError(
                        f"Cannot download {self._url}: {drop}, after {failures + 1} tries. {advice}"
                    ) from drop
                if not self._patience.quiet:
                    say(f"Interrupted: {drop}; trying again in {pauses[failures]:g} s")
                time.sleep(pauses[failures])
                failures += 1

    def _try_once(self, move: Move) -> None:
        version = self._version()
        start = self.size() if version else 0
        headers = {"User-Agent": f"vizsla/{__version__}", "Accept-Encoding": "identity"}
        if version and start:
            headers |= {"Range": f"bytes={start}-", "If-Range": version}
        try:
            request = Request(_ascii_address(self._url), headers=headers)
            response = build_opener(_SafeRedirects).open(request, timeout=self._patience.timeout)
        except HTTPError as error:
            with error:
                if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    if error.headers.get("Content-Range") == f"bytes */{start}":
                        return  # the part is the whole file
                    self.remove()
                    raise _DroppedError(
                        "the file on the server is shorter than the part already downloaded"
                    ) from error
                answer = f"the server answered {error.code} ({error.reason})"
                if error.code in _TEMPORARY_STATUS:
                    raise _DroppedError(answer) from error
                raise DataError(
                    f"Cannot download {self._url}: {answer}. Check the address."
                ) from error
        except (InvalidURL, ValueError, OverflowError) as error:
            raise DataError(
                f"Cannot download {self._url!r}: not a valid address ({one_line(error)}). Check the address."
            ) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            answer = f"no answer from {urlsplit(self._url).netloc} ({reason})"
            if not isinstance(reason, ssl.SSLCertVerificationError):
                raise _DroppedError(answer) from error
            raise DataError(
                f"Cannot download {self._url}: {answer}. Check the address and this system's certificates."
            ) from error
        with response:
            try:
                with _writing(self.path):
                    self._receive(response, start=start, move=move)
            except VizslaError:
                self.remove()
                raise

    def _receive(self, response: Any, *, start: int, move: Move) -> None:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            start = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise _DroppedError("the server sent a different part of the file than requested")
        length = response.headers.get("Content-Length") or ""
        total = start + int(length) if length.isdecimal() else None
        self._check_announced(total, start=start)
        if not start:
            self._begin(response.headers)
        done = start
        most = total if self._expected_size is None else self._expected_size
        most_bytes, seconds = self._patience.most_bytes, self._patience.most_seconds
        last = math.inf if seconds is None else time.monotonic() + seconds
        with self.path.open("ab" if start else "wb") as file:
            while True:
                try:
                    data = response.read1(_BLOCK)
                except (OSError, HTTPException) as error:
                    raise _DroppedError(f"the connection broke after {done:,} bytes") from error
                if not data:
                    break
                done += len(data)
                if most is not None and done > most:
                    raise _unexpected(self._url, f"it has more than {most:,} bytes")
                if most_bytes is not None and done > most_bytes:
                    raise _too_much(self._url, most_bytes)
                if time.monotonic() > last:
                    raise DataError(
                        f"Cannot download {self._url}: only {done:,} bytes arrived in {seconds:g} seconds. Use a "
                        "longer timeout."
                    )
                file.write(data)
                move(done, total)
        if total is not None and done < total:
            raise _DroppedError(f"the connection ended after {done:,} of {total:,} bytes")

    def _check_announced(self, total: int | None, *, start: int) -> None:
        """Refuse a wrong or too large file before it is transferred."""
        if total is None:
            return
        if self._expected_size is not None and total != self._expected_size:
            raise _unexpected(self._url, f"it has {total:,} bytes, not {self._expected_size:,}")
        most = self._patience.most_bytes
        if most is not None and total > most:
            raise _too_much(self._url, most)
        folder = self.path.parent
        free = free_disk_bytes(folder)
        if total - start > free:
            raise OutputError(
                f"Cannot download {self._url} to {folder}: it takes {shown_bytes(total - start)}, and {shown_bytes(free)} "
                "are free there. Free some space, or set VIZSLA_HOME to a folder on another disk."
            )

    def _begin(self, headers: Any) -> None:
        """Remove the old part, and note which version begins now, if the server says it."""
        self.remove()
        tag = headers.get("ETag")
        version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
        if version:
            self._note.write_text(json.dumps({"url": self._url, "version": version}), "utf-8")

    def _version(self) -> str | None:
        """Return what the server called the version that the part belongs to."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            version = note["version"] if note["url"] == self._url else None
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return version if isinstance(version, str) and version.isprintable() else None


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects, but never to other kinds of addresses or out of https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise DataError(
                f"Cannot download {req.full_url}: the server redirects to {newurl!r}, which is not a secure "
                "address. Use an address that does not redirect there."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _unexpected(url: str, why: str) -> DataError:
    return DataError(
        f"The file from {url} is not the expected file: {why}. It was discarded: the file was replaced, or "
        "someone tampered with the transfer. Try again, or give a copy of your own as file:///PATH."
    )


def _too_much(url: str, most: int) -> DataError:
    return DataError(f"Cannot download {url}: it is larger than {shown_bytes(most)}.")


@contextmanager
def _writing(place: Path) -> Generator[None]:
    """Turn errors of writing into ours. NotImplementedError: the disk has no locks."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"Cannot write {place}: {getattr(error, 'strerror', None) or error}. Free some space, or choose another place; "
            "data sets go to the folder that VIZSLA_HOME names."
        ) from error


@contextmanager
def _locked(path: Path, *, waiting: str) -> Generator[None]:
    """Hold a lock file until the block ends; its folder is made. The system frees the lock of a killed program."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(waiting)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _progress(label: str) -> Generator[Move]:
    """Give a function of the bytes done and in all (None: not known) that moves a bar, or elsewhere than in a terminal prints a line now and then."""
    from rich import progress
    from rich.console import Console

    console = Console(file=sys.stdout)
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(printable(label), total=None)
    last = time.monotonic()

    def move(done: int, total: int | None) -> None:
        nonlocal last
        if console.is_terminal:
            bar.update(task, completed=done, total=total)
        elif time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{label}: {shown_bytes(done)}" + (f" of {shown_bytes(total)}" if total else ""))

    with bar:
        yield move


MAX_UNPACKED_BYTES = 200 * 10**9
MAX_FILES = 5_000_000
_MAX_RATIO = 100
"""Times its own size that an archive may unpack to."""
_RATIO_ROOM = 10 * 2**20
"""Small archives may grow by any factor up to this size: a list of names compresses a thousandfold."""
_HEADER_ROOM = 2**20
"""Bytes that the headers between two files may take; real ones hold names of a few thousand letters at most."""
_DRIVE = re.compile(r"^[A-Za-z]:")
_STARTS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
# RuntimeError: a zip file has a password. OSError is not here: while a file is unpacked it means that writing failed.
_DAMAGED = (EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError)  # fmt: skip


class _RefusedError(Exception):
    """Why an archive is not unpacked, in words that continue "The archive PATH is not unpacked: ..."."""


_Entry = tuple[str, int, IO[bytes] | None]
"""Name, size and content of a file in an archive, or of a folder, which has no content."""


def extract_archive(archive: Path, folder: Path, *, move: Move | None = None) -> None:
    """Unpack a tar file (plain, gzip, bzip2 or xz) or a zip file into a new folder, which is removed when anything fails.

    The first bytes decide the kind of archive, not its name. Permissions, owners and times in it are not applied.
    ``move`` is called with the number of bytes written so far, and None.

    Raises:
        DataError: The archive is damaged, no archive, or holds what it must not; the message names the entry.
        OutputError: The folder cannot be written to.
    """
    with _writing(folder):
        folder.mkdir()
    try:
        most = min(MAX_UNPACKED_BYTES, max(_RATIO_ROOM, _MAX_RATIO * archive.stat().st_size))
        with archive.open("rb") as raw:
            start = raw.read(8)
        is_zip = start.startswith(_ZIP_STARTS)
        entries = _zip_entries(archive) if is_zip else _tar_entries(archive, most, start)
        num_bytes = 0
        for number, (name, size, content) in enumerate(entries, start=1):
            num_bytes += size
            if number > MAX_FILES:
                raise _RefusedError(f"it has more than {MAX_FILES:,} files")
            if num_bytes > most:  # no file gives more bytes than it declares
                raise _too_large(most)
            place = _place(folder, name)
            with _writing(place):
                if content is None:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                if place.is_dir():  # also where the name is "."
                    raise _RefusedError(f"{quoted(name)} is both a file and a folder in it")
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with content, place.open("wb") as file:
                        shutil.copyfileobj(content, file, _BLOCK)
                except _DAMAGED as error:
                    raise _RefusedError(
                        f"it is damaged at the file {quoted(name)} ({one_line(error)})"
                    ) from error
            if move is not None:
                move(num_bytes, None)
    except _RefusedError as refusal:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"The archive {quoted(archive)} was not unpacked: {refusal}. Nothing was kept. Download it again from "
            "a source you trust."
        ) from refusal
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _too_large(most: int) -> _RefusedError:
    return _RefusedError(
        f"it unpacks to more than {shown_bytes(most)}, far too much for an archive of images of its size"
    )


def _place(folder: Path, name: str) -> Path:
    """Return where an entry goes; stricter than tarfile's filter "data", and for zip files too."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    rooted = name.startswith(("/", "\\")) or _DRIVE.match(name)
    # A colon names a hidden stream of another file on Windows.
    streams = os.name == "nt" and ":" in name
    if rooted or ".." in parts or "\0" in name or streams:
        raise _RefusedError(f"the name {quoted(name)} in it leads out of the folder to unpack to")
    return folder.joinpath(*parts)


def _tar_entries(archive: Path, most: int, start: bytes) -> Iterator[_Entry]:
    opened = next((opener for mark, opener in _STARTS if start.startswith(mark)), open)
    with cast("IO[bytes]", opened(archive, "rb")) as stream:
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
            while True:
                reader.allow(0)
                try:
                    member = tar.next()
                except (tarfile.TarError, ValueError) as error:
                    raise _RefusedError(f"it is damaged ({one_line(error)})") from error
                if member is None:
                    break
                cast("Any", tar).members = []  # otherwise it keeps them all
                content = None
                if not member.isdir():
                    if not member.isreg() or member.issparse():
                        raise _special(member.name, is_link=member.issym() or member.islnk())
                    if member.size < 0:
                        raise _RefusedError(f"{quoted(member.name)} in it has a negative size")
                    reader.allow(member.size)
                    content = tar.extractfile(member)
                yield member.name, member.size, content
        reader.allow(most)
        while reader.read(_BLOCK):  # to the end: the checksum of the compressed data is there
            pass


def _special(name: str, *, is_link: bool) -> _RefusedError:
    kind = "link" if is_link else "device, pipe or other special file"
    return _RefusedError(f"{quoted(name)} in it is a {kind}")


class _CountedReader:
    """Reads a decompressed stream up to the limits that it is given; more is a bomb or a damaged header."""

    def __init__(self, stream: IO[bytes], *, most: int) -> None:
        self._stream = stream
        self._most = most
        self._read = 0
        self.allow(0)

    def allow(self, num_bytes: int) -> None:
        """Allow this many bytes from here on, and what the reader of the archive reads ahead."""
        self._allowed = self._read + num_bytes + _HEADER_ROOM + 2 * _BLOCK

    def read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (OSError, *_DAMAGED) as error:
            raise _RefusedError(f"it is damaged or cut off ({one_line(error)})") from error
        self._read += len(data)
        if self._read > self._most:
            raise _too_large(self._most)
        if self._read > self._allowed:
            raise _RefusedError("one of its headers is larger than 1 MiB")
        return data


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    try:
        opened = zipfile.ZipFile(archive)
    except (OSError, *_DAMAGED) as error:
        raise _RefusedError(f"it is damaged ({one_line(error)})") from error
    with opened:
        for entry in opened.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(entry.filename, is_link=kind == stat.S_IFLNK)
            try:
                content = None if entry.is_dir() else opened.open(entry)
            except (OSError, *_DAMAGED) as error:
                raise _RefusedError(
                    f"{quoted(entry.filename)} in it cannot be read ({one_line(error)})"
                ) from error
            yield entry.filename, entry.file_size, content


_KNOWN: dict[str, tuple[int, str | None]] = {}
"""Size and SHA-256 of the data sets of ``URLs``.

Sizes: the table that fastai 2 checks its downloads against. SHA-256: only where two independent sources agree (Imagenette:
TensorFlow Datasets and FastAI.jl; MNIST: FastAI.jl and users of the archive's original); else that of the first download is
noted.
"""


def _known(path: str, size: int, sha256: str | None = None) -> str:
    url = f"https://s3.amazonaws.com/fast-ai-{path}"
    _KNOWN[url] = size, sha256
    return url


class URLs:
    """Addresses of the data sets that lessons use, as fast.ai publishes them; each has its own licence."""

    PETS = _known("imageclas/oxford-iiit-pet.tgz", 811_706_944)
    DOGS = _known("sample/dogscats.tgz", 839_285_364)
    IMAGENETTE = _known(
        "imageclas/imagenette2.tgz",
        1_557_161_267,
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    )
    IMAGENETTE_160 = _known(
        "imageclas/imagenette2-160.tgz",
        99_003_388,
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
    )
    IMAGENETTE_320 = _known(
        "imageclas/imagenette2-320.tgz",
        341_663_724,
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    )
    IMAGEWOOF = _known("imageclas/imagewoof2.tgz", 1_343_715_595)
    IMAGEWOOF_160 = _known("imageclas/imagewoof2-160.tgz", 92_612_825)
    IMAGEWOOF_320 = _known("imageclas/imagewoof2-320.tgz", 328_387_740)
    IMAGEWANG = _known("imageclas/imagewang.tgz", 2_900_347_689)
    IMAGEWANG_160 = _known("imageclas/imagewang-160.tgz", 191_498_213)
    IMAGEWANG_320 = _known("imageclas/imagewang-320.tgz", 669_826_647)
    MNIST = _known(
        "imageclas/mnist_png.tgz",
        15_683_414,
        "9e18edaa3a08b065d8f80a019ca04329e6d9b3e391363414a9bd1ada30563672",
    )
    MNIST_SAMPLE = _known("sample/mnist_sample.tgz", 3_214_948)
    MNIST_TINY = _known("sample/mnist_tiny.tgz", 342_207)
    MNIST_VAR_SIZE_TINY = _known("imageclas/mnist_var_size_tiny.tgz", 565_372)
    CIFAR = _known("sample/cifar10.tgz", 168_168_549)
    CIFAR_100 = _known("imageclas/cifar100.tgz", 169_168_619)
    FLOWERS = _known("imageclas/oxford-102-flowers.tgz", 345_236_087)
    FOOD = _known("imageclas/food-101.tgz", 5_686_607_260)
    CARS = _known("imageclas/stanford-cars.tgz", 1_957_803_273)
    CUB_200_2011 = _known("imageclas/CUB_200_2011.tgz", 1_150_585_339)
    CALTECH_101 = _known("imageclas/caltech_101.tgz", 131_740_031)
    PLANET_SAMPLE = _known("sample/planet_sample.tgz", 15_523_994)
    PLANET_TINY = _known("sample/planet_tiny.tgz", 997_569)
    PASCAL_2007 = _known("imagelocal/pascal_2007.tgz", 1_637_796_771)
    BIWI_HEAD_POSE = _known("imagelocal/biwi_head_pose.tgz", 452_316_199)
    BIWI_SAMPLE = _known("sample/biwi_sample.tgz", 593_774)


def untar_data(
    url: str,
    archive: Path | str | None = None,
    data: Path | str | None = None,
    c_key: str = "data",
    force_download: bool = False,
    base: Path | str | None = None,
) -> Path:
    """Return the folder of a data set, which is downloaded and unpacked the first time.

    Folders are named within ``$VIZSLA_HOME``, or ``~/.vizsla``. The archive is kept. A folder that exists is returned as it
    is: it gets its name only when it is whole.

    Args:
        url: An ``https``, ``http`` or ``file`` address of a tar or zip file, such as ``URLs.PETS``.
        archive: Folder for the archive; ``None`` is ``archive``.
        data: Folder in which the folder of the data set is made; ``None`` is the one named ``c_key``.
        c_key: See ``data``.
        force_download: Download and unpack it again. The old folder stays until the new one is whole.
        base: Folder within which the others are named; ``None`` is the one above.

    Returns:
        The folder, named as the archive without its ending. Where everything in the archive lies in one folder, it is that
        folder.

    Raises:
        ConfigError: The address is of another kind, or does not end in a file name.
        DataError: The data set cannot be downloaded, is not the expected one, or is unsafe to unpack.
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
        size, sha256 = _KNOWN.get(url, (None, None))
        file = download_file(url, place, size=size, sha256=sha256, force=force_download)
        _unpack(file, folder)
    return folder


def _names(url: str) -> tuple[str, str]:
    """Return the name of an archive, and that of its folder."""
    name = re.split(r"[/\\]", unquote(urlsplit(url).path))[-1]
    stem = re.sub(r"\.(tar\.(gz|bz2|xz)|[^.]*)$", "", name, flags=re.IGNORECASE)
    if not stem.strip(". ") or "\0" in name:
        raise ConfigError(
            f"The address of a data set ends in the name of its archive, as in {URLs.PETS}. Received: {url!r}"
        )
    return name, stem


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive beside ``folder``; an old folder is removed only when the new one has taken its place."""
    fresh, old = (folder.with_name(f".{folder.name}.{ending}") for ending in ("part", "old"))
    try:
        with _writing(folder):
            if fresh.exists():  # of a program that was killed; we have the lock
                shutil.rmtree(fresh)
            with _progress(f"Unpacking {archive.name}") as move:
                extract_archive(archive, fresh, move=move)
            # What macOS adds to archives does not count.
            entries = [at for at in fresh.iterdir() if not at.name.startswith((".", "__MACOSX"))]
            if not entries:
                raise DataError(f"The archive {archive} holds no files. Check its address.")
            only_folder = len(entries) == 1 and entries[0].is_dir()
            if old.exists():
                shutil.rmtree(old)
            replaced = folder.exists()
            if replaced:
                folder.rename(old)
            try:
                (entries[0] if only_folder else fresh).rename(folder)
            except OSError:
                if replaced:
                    old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
