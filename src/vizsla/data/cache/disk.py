"""Keep prepared images in files of a cache folder, memory-mapped, for this process and others, now and later.

One file per image, ``ab/abcd....pic``, named by a hash of the key: a header of 64 bytes with the hash, the sides and a
checksum over everything, then the pixels, uint8 HWC. A file is written under a temporary name, renamed and never changed
afterwards, so any number of processes may share the folder; each read verifies the checksum. A run does not evict what it has
used itself: with more images than fit, it would otherwise throw each one away just before it is needed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import struct
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vizsla import __version__
from vizsla.errors import OutputError
from vizsla.machine import free_disk_bytes, home_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vizsla.data.cache.cache import ImageKey
    from vizsla.data.images.sizing import Pixels

SHARE_OF_FREE_DISK = 0.25
"""The default budget, as a share of the space that is free or taken by the cache already."""

_MAGIC = b"VIZPIC1\n"
_HEADER = struct.Struct("<8s32s4I8x")  # magic, hash of the key, height, width, channels, checksum
_CHECKSUM_AT = 52
_BLOCK_BYTES = 4096
_ABANDONED_AFTER_NS = 3600 * 10**9
_ENTRY, _PART = ".pic", ".part"


def cache_folder() -> Path:
    """Return where images are kept between runs: ``cache/pictures`` in ``$VIZSLA_HOME``, else in ``~/.vizsla``."""
    return home_folder() / "cache" / "pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskUse:
    """What a cache folder holds; the folder may not exist."""

    folder: Path
    num_images: int
    num_bytes: int  # Of disk space, in whole blocks.
    budget_bytes: int  # What a run may fill by default.


def disk_use(folder: Path) -> DiskUse:
    """Return what a cache folder holds, without making it; raise an OutputError if the system does not tell."""
    try:
        return _use(folder)
    except OSError as error:
        raise OutputError(
            f"Cannot read the cache {folder}: {error.strerror}. Set VIZSLA_HOME to another folder."
        ) from error


def _use(folder: Path) -> DiskUse:
    sizes = [_on_disk(facts.st_size) for _, facts in _files(folder, _ENTRY)]
    return DiskUse(
        folder=folder,
        num_images=len(sizes),
        num_bytes=sum(sizes),
        budget_bytes=int(SHARE_OF_FREE_DISK * (free_disk_bytes(folder) + sum(sizes))),
    )


def clear_disk_cache(folder: Path) -> DiskUse:
    """Remove all images from a cache folder and nothing else, and return what it held; running programs fill it again.

    Raises:
        OutputError: A file cannot be removed.
    """
    try:
        before = _use(folder)
        for suffix in (_ENTRY, _PART):
            for path, _ in _files(folder, suffix):
                path.unlink(missing_ok=True)
        for inner in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(OSError):  # Not empty, or no folder: not ours.
                inner.rmdir()
    except OSError as error:
        raise OutputError(
            f"Cannot clear the cache {folder}: {error.strerror}. Delete the folder yourself."
        ) from error
    return before


class DiskStore:
    """Images in a folder that outlives the process, which is made if necessary. Safe for many threads and processes at once.

    All images in the folder together take ``budget_bytes`` at most; None is a quarter of what is free.
    """

    def __init__(self, folder: Path, *, budget_bytes: int | None) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=folder).close()
            use = _use(folder)
        except OSError as error:
            raise OutputError(
                f"Cannot cache images in the folder {folder}: {error.strerror}. Set VIZSLA_HOME to another "
                "folder, or choose a cache mode other than disk."
            ) from error
        self.budget_bytes = use.budget_bytes if budget_bytes is None else budget_bytes
        # Others may add images between two of our looks into the folder.
        self._limit_bytes = self.budget_bytes - self.budget_bytes // 16
        self._lock = threading.Lock()
        self._started_ns = time.time_ns()
        self._used_bytes = use.num_bytes
        self._num_images = use.num_images
        self._added_bytes = 0  # Since the last look into the folder.
        self._full = False
        self._num_damaged = 0
        self._trouble = ""

    def find(self, key: ImageKey) -> Pixels | None:
        """Return the pixels of a key, mapped into memory and read-only; None if there are none or they are damaged."""
        digest = _digest(key)
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                pixels = _mapped(file.fileno(), num_bytes=facts.st_size, digest=digest)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble = error.strerror or "unreadable"
            return None
        if pixels is None:
            self._drop_damaged(path, num_bytes=facts.st_size)
        elif facts.st_mtime_ns < self._started_ns:
            now = time.time_ns()
            with contextlib.suppress(OSError):  # Evicted meanwhile; it stays mapped.
                os.utime(path, ns=(now, now))
        return pixels

    def keep(self, key: ImageKey, pixels: Pixels) -> None:
        """Write the pixels of a key if room can be made; after an error of the disk nothing more is written."""
        if self._trouble:
            return
        try:
            if self._make_room(_on_disk(_HEADER.size + pixels.nbytes)):
                self._store(key, pixels)
        except OSError as error:
            self._trouble = error.strerror or "unwritable"

    def describe(self) -> str:
        """Return how many images and bytes are kept, and where, and what went wrong."""
        notes = f", {self._num_damaged} damaged ones rebuilt" if self._num_damaged else ""
        if self._trouble:
            notes += f", storing stopped: {self._trouble}"
        return f"{self._num_images} images, {self._used_bytes / 1e6:.1f} MB on disk in {self.folder}{notes}"

    def _store(self, key: ImageKey, pixels: Pixels) -> None:
        digest = _digest(key)
        path = self._path(digest)
        pixels = np.ascontiguousarray(pixels)
        start = _HEADER.pack(_MAGIC, digest, *pixels.shape, 0)[:_CHECKSUM_AT]
        checksum = zlib.crc32(pixels.data, zlib.crc32(start))
        header = _HEADER.pack(_MAGIC, digest, *pixels.shape, checksum)
        try:
            try:
                _write(path, header, pixels)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write(path, header, pixels)
        except PermissionError:
            # On Windows an image that is in use cannot be replaced, and need not be.
            if not path.exists():
                raise

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.folder / name[:2] / f"{name}{_ENTRY}"

    def _drop_damaged(self, path: Path, *, num_bytes: int) -> None:
        with self._lock:
            self._num_damaged += 1
            self._num_images -= 1
            self._used_bytes -= _on_disk(num_bytes)
        with contextlib.suppress(OSError):
            path.unlink()

    def _make_room(self, num_bytes: int) -> bool:
        """Reserve room for one image; look into the folder, and evict, only now and then."""
        with self._lock:
            if self._full:
                return False
            over = self._used_bytes + num_bytes > self._limit_bytes
            if over or self._added_bytes + num_bytes > self.budget_bytes // 64:
                self._tidy(num_bytes)
                self._full = self._used_bytes + num_bytes > self._limit_bytes
                if self._full:
                    return False
            self._used_bytes += num_bytes
            self._added_bytes += num_bytes
            self._num_images += 1
            return True

    def _tidy(self, num_bytes: int) -> None:
        """Count the images; if they are too many, evict those that this run has not used, oldest use first."""
        _remove_abandoned(self.folder)
        entries = [
            (facts.st_mtime_ns, _on_disk(facts.st_size), path)
            for path, facts in _files(self.folder, _ENTRY)
        ]
        used, left = sum(size for _, size, _ in entries), len(entries)
        if used + num_bytes > self._limit_bytes:
            for used_ns, size, path in sorted(entries):
                # A little more than needed, so that the next image does not need to look again.
                if used_ns >= self._started_ns or used + num_bytes <= self._limit_bytes * 7 // 8:
                    break
                with contextlib.suppress(OSError):
                    path.unlink()
                    used, left = used - size, left - 1
        self._used_bytes, self._num_images, self._added_bytes = used, left, 0


def _digest(key: ImageKey) -> bytes:
    """Return 32 bytes that stand for a key and reveal nothing of the path."""
    parts = __version__, key.path, key.num_bytes, key.modified_ns, key.preparation, key.decoder
    return hashlib.blake2b(repr(parts).encode(), digest_size=32).digest()


def _mapped(descriptor: int, *, num_bytes: int, digest: bytes) -> Pixels | None:
    """Return the pixels of an open file, or None if it is incomplete, was changed, or belongs to another key."""
    if num_bytes <= _HEADER.size:
        return None
    view = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)  # The array keeps it open.
    magic, found, height, width, channels, checksum = _HEADER.unpack_from(view)
    shape_fits = _HEADER.size + height * width * channels == num_bytes and channels == 3
    if magic != _MAGIC or found != digest or not shape_fits:
        return None
    pixels = np.frombuffer(view, dtype=np.uint8, offset=_HEADER.size)
    if zlib.crc32(pixels.data, zlib.crc32(view[:_CHECKSUM_AT])) != checksum:
        return None
    return pixels.reshape(height, width, channels)


def _write(path: Path, header: bytes, pixels: Pixels) -> None:
    """Write a file that appears whole or not at all. It is not synced: after a power cut the checksum tells."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}{_PART}")
    try:
        with temporary.open("xb") as file:
            file.write(header)
            file.write(pixels.data)
        now = time.time_ns()  # The kernel's own clock for files lags by some milliseconds.
        os.utime(temporary, ns=(now, now))
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _files(folder: Path, suffix: str) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield our files in a folder, except those that vanish meanwhile; a folder that does not exist has none."""
    with contextlib.suppress(FileNotFoundError):
        for inner in sorted(folder.iterdir()):
            if len(inner.name) != 2 or inner.is_symlink() or not inner.is_dir():
                continue
            with contextlib.suppress(FileNotFoundError), os.scandir(inner) as entries:
                for entry in entries:
                    if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):
                            yield inner / entry.name, entry.stat(follow_symlinks=False)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files that a crash left."""
    before_ns = time.time_ns() - _ABANDONED_AFTER_NS
    for path, facts in _files(folder, _PART):
        if facts.st_mtime_ns < before_ns:
            with contextlib.suppress(OSError):
                path.unlink()


def _on_disk(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
