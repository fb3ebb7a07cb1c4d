"""Read files at addresses (s3://, gs://, hf://, http(s)://) through fsspec, and keep what was fetched on disk.

A request takes some 20 to 100 ms whatever it fetches, so files are fetched in blocks of 8 MB: the images of a shard come up in
random order, and the first one brings its neighbours along. Blocks are kept in ``block_folder()``, within a quarter of the free
space. Once that is full, those of earlier runs make room; after that only the bytes that are asked for are fetched. The
size and time of a file are asked for once, when it is listed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import threading
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from vizsla.errors import DataError, MissingExtraError, VizslaError
from vizsla.machine import free_disk_bytes, home_folder
from vizsla.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fsspec import AbstractFileSystem

Found = TypeVar("Found")

BLOCK_BYTES = 8 * 2**20
SHARE_OF_FREE_DISK = 0.25
_WAITS = (0.2, 1.0)  # Seconds between tries.
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# An expired key of S3 is a "Bad Request" where only the length of a file is asked for.
_REFUSALS = re.compile(r"credential|forbidden|unauthori[sz]ed|authenticat|access ?denied|token|bad request|\b40[013]\b", re.IGNORECASE)  # fmt: skip


class UnreachableError(DataError):
    """Access to an address was refused, or the network failed: nothing is known to be wrong with the data."""


def block_folder() -> Path:
    """Return where blocks are kept, beside the cache of images: ``cache/blocks`` in ``$VIZSLA_HOME``."""
    return home_folder() / "cache" / "blocks"


def url_of(address: str) -> str:
    """Return an address with the two slashes that ``Path`` makes one."""
    return re.sub(r"^([^:/]+):/+", r"\1://", address)


_FACTS: dict[str, tuple[int, int]] = {}


def facts_at(address: str) -> tuple[int, int]:
    """Return the length of the file at an address and when it was last written, in nanoseconds.

    Where the server does not tell the time, it is a number made of the file's checksum, or 0.

    Raises:
        FileNotFoundError: There is no such file, or it is a folder.
        DataError: It cannot be reached, or access is refused.
        MissingExtraError: The package for the protocol is not installed.
    """
    known = _FACTS.get(address)
    if known is None:
        said = _ask(address, lambda files, path: files.info(path))
        if said.get("type") == "directory" or said.get("size") is None:
            raise FileNotFoundError(f"{url_of(address)} is not a file, or its server does not state its length")  # fmt: skip
        known = _FACTS[address] = _facts(said)
    return known


def look_again(address: str) -> None:
    """Ask the server again when the facts of a file are wanted next."""
    _FACTS.pop(address, None)


def list_files(address: str) -> list[str]:
    """Return the paths of all files below an address, relative to it and sorted; none if there is nothing. Errors as ``facts_at``."""

    def find(files: AbstractFileSystem, path: str) -> dict[str, Any]:
        files.invalidate_cache()
        found = dict(files.find(path, detail=True))
        if not found:
            files.ls(path)  # find leaves out what it cannot reach; this says why
        return {str(name)[len(path.rstrip("/")) + 1 :]: said for name, said in found.items()}

    try:
        found = _ask(address, find)
    except FileNotFoundError:
        return []
    for name, said in found.items():
        if said.get("size") is not None:
            _FACTS[f"{address}/{name}"] = _facts(said)
    return sorted(name for name in found if name)


def expand(pattern: str) -> list[str]:
    """Return the addresses of the files that a pattern with ``*`` or ``?`` means, sorted. Errors as ``facts_at``."""
    protocol = pattern.partition(":")[0]

    def find(files: AbstractFileSystem, path: str) -> list[str]:
        return [files.unstrip_protocol(str(name)) for name in files.glob(path)]

    return sorted(re.sub(r"^[^:]+://", f"{protocol}:/", name) for name in _ask(pattern, find))


def read_range(address: str, offset: int, length: int) -> bytes:
    """Return some bytes of the file at an address, from kept blocks where there are any. Errors as ``facts_at``."""
    size, modified_ns = facts_at(address)
    parts: list[bytes] = []
    end = min(offset + length, size)
    for number in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
        start = number * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, size)
        low, high = max(offset, start), min(end, stop)
        block = _BLOCKS.find(f"{address} {size} {modified_ns} {number}")
        with block.lock:
            part = block.read(low - start, high - start)
            if part is None and block.has_room(stop - start):
                data = _fetch(address, start, stop)
                block.keep(data)
                part = data[low - start : high - start]
        parts.append(_fetch(address, low, high) if part is None else part)
    return b"".join(parts)


class AddressFile(io.RawIOBase):
    """A file at an address, to be read from any place."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address, self._at = address, 0
        self._size, _ = facts_at(address)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, counted from the start, from here or from the end."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes there were."""
        data = read_range(self._address, self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(said: dict[str, Any]) -> tuple[int, int]:
    names = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified", "created")
    time_said = next((said[name] for name in names if said.get(name)), None)
    if isinstance(time_said, str):
        with contextlib.suppress(ValueError):
            time_said = datetime.fromisoformat(time_said)
    if isinstance(time_said, str):
        with contextlib.suppress(ValueError):
            time_said = parsedate_to_datetime(time_said)
    if isinstance(time_said, datetime):
        return int(said["size"]), int(time_said.timestamp() * 10**9)
    if isinstance(time_said, int | float):
        return int(said["size"]), int(time_said * 10**9)
    checksum = said.get("ETag") or said.get("etag") or said.get("sha") or said.get("blob_id") or ""
    digest = hashlib.blake2b(str(checksum).encode(), digest_size=7).digest()
    return int(said["size"]), int.from_bytes(digest) if checksum else 0


def _fetch(address: str, start: int, stop: int) -> bytes:
    data = _ask(address, lambda files, path: bytes(files.cat_file(path, start=start, end=stop)))  # pyright: ignore[reportArgumentType] (it is no text)
    if len(data) != stop - start:
        raise DataError(
            f"{url_of(address)} gave {len(data):,} bytes instead of {stop - start:,}: the file has changed, or "
            "its server cannot send parts of a file. Download the data, and give its folder."
        )
    return data


def _ask(address: str, question: Callable[[AbstractFileSystem, str], Found]) -> Found:
    """Return what the file system of an address answers; try again where the network fails."""
    url = url_of(address)
    protocol = url.partition(":")[0]
    for wait in (*_WAITS, None):
        try:
            files, path = _file_system(url, protocol)
            return question(files, path)
        except VizslaError:
            raise
        except Exception as error:
            # Of a web server any failure is a FileNotFoundError with the true one behind it.
            cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
            if cause is None or getattr(cause, "status", 0) == 404:
                raise
            said = f"{type(cause).__name__}: {one_line(cause)}"[:300]
            if isinstance(cause, PermissionError) or _REFUSALS.search(said):
                raise UnreachableError(
                    f"Access to {url} was refused ({said}). Check this machine's credentials for {protocol}://, "
                    "then start again; --resume continues train, predict and embed."
                ) from error
            if wait is None:
                raise UnreachableError(
                    f"{url} cannot be read ({said}). Check the address and the network, then start again; "
                    "--resume continues train, predict and embed."
                ) from error
            time.sleep(wait)
    raise AssertionError


def _file_system(url: str, protocol: str) -> tuple[AbstractFileSystem, str]:
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url, use_listings_cache=False)  # a file may be there now
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        if package is None:
            raise DataError(f"{url} cannot be opened: {one_line(error)}") from error
        package = package if error.name != "fsspec" else "fsspec"
        raise MissingExtraError(package, extra="shards", purpose=f"read {protocol}://") from error
    except ValueError as error:
        raise DataError(
            f"{url} cannot be opened: {one_line(error)}. Give a folder, or an address with s3://, gs://, hf:// or https://."
        ) from error


# ── blocks on disk ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Block:
    """A block of a file and its place on disk."""

    def __init__(self, path: Path, lock: threading.Lock, blocks: _Blocks) -> None:
        self.lock, self._path, self._blocks = lock, path, blocks

    def read(self, start: int, stop: int) -> bytes | None:
        """Return some of its bytes, or None if it is not kept."""
        try:
            with self._path.open("rb", buffering=0) as file:
                if file.seek(0, os.SEEK_END) < stop:  # a disk that was full, or a power cut
                    return None
                file.seek(start)
                return file.read(stop - start)
        except OSError:
            return None

    def has_room(self, num_bytes: int) -> bool:
        """Return whether it can be kept; blocks that this program has not used make room."""
        return self._blocks.make_room(num_bytes)

    def keep(self, data: bytes) -> None:
        """Write it, whole or not at all; without it the bytes are fetched again."""
        temporary = self._path.with_suffix(f".{secrets.token_hex(6)}")
        try:
            temporary.write_bytes(data)
            temporary.replace(self._path)
        except OSError:
            self._blocks.close()
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


class _Blocks:
    """The blocks of a folder, and how much room there is for more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks = [threading.Lock() for _ in range(256)]
        self._folder: Path | None = None
        self._room = 0
        self._unused: list[tuple[int, int, Path]] = []  # Of earlier runs: time, bytes, file.
        self._used: set[str] = set()

    def find(self, name: str) -> _Block:
        """Return a block by its name, which need not be kept."""
        folder = block_folder()
        with self._lock:
            if folder != self._folder:
                self._open(folder)
            digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16)
            self._used.add(digest.hexdigest())
        return _Block(folder / digest.hexdigest(), self._locks[digest.digest()[0]], self)

    def make_room(self, num_bytes: int) -> bool:
        """Reserve room, if there is any."""
        with self._lock:
            while self._room < num_bytes and self._unused:
                _, freed, path = self._unused.pop()
                if path.name not in self._used:
                    with contextlib.suppress(OSError):
                        path.unlink()
                        self._room += freed
            if self._room < num_bytes:
                return False
            self._room -= num_bytes
            return True

    def close(self) -> None:
        """Keep no more blocks: the disk does not take them."""
        with self._lock:
            self._room, self._unused = 0, []

    def _open(self, folder: Path) -> None:
        self._folder, self._room, self._unused = folder, 0, []
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = [(facts.st_mtime_ns, facts.st_size, path) for path in folder.iterdir() for facts in (path.stat(),)]  # fmt: skip
            used = sum(size for _, size, _ in found)
            self._room = int(SHARE_OF_FREE_DISK * (free_disk_bytes(folder) + used)) - used
            self._unused = sorted(found, reverse=True)


_BLOCKS = _Blocks()
