"""The index of a tar shard: where each file lies in it, how long it is, and what its label files say; made once and kept.

A tar has no table of contents: its headers are read one after another, once. The index is kept in ``index_folder()``, an array file
for each shard, written whole or not at all, so a run that was stopped goes on with the shards that are left. A shard whose size or
time changes is read again. N: files in a shard.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import secrets
import stat
import tarfile
import threading
import zlib
from array import array
from bisect import bisect_left
from io import BufferedReader
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vizsla.data.storage import addresses
from vizsla.errors import DataError, OutputError
from vizsla.machine import home_folder
from vizsla.paths import is_address
from vizsla.text import joined, one_line, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_VERSION = 1
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}
_LONGEST_LABEL = 1_000  # Bytes of a .cls file.


def index_folder() -> Path:
    """Return where the indexes of shards are kept, beside the cache of images: ``cache/shards`` in ``$VIZSLA_HOME``."""
    return home_folder() / "cache" / "shards"


def key_of(name: str) -> str:
    """Return what the files of one image share, as WebDataset has it: the name up to the first dot behind the folder."""
    end = name.find(".", name.rfind("/") + 1)
    return name if end < 0 else name[:end]


class Shard:
    """A tar file with its index; its files are read in any order.

    Attributes:
        path: The tar file, which may be at an address.
        is_remote: Whether it is.
        modified_ns: When it was last written, nanoseconds since 1970.
        special: Names of its links and devices, which hold no image.
        has_end: Whether it ends as a tar does; else its last files may be missing.
    """

    def __init__(
        self,
        path: str,
        *,
        is_remote: bool,
        arrays: Mapping[str, NDArray[Any]],
        note: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.is_remote = is_remote
        self.size: int = note["num_bytes"]
        self.modified_ns: int = note["modified_ns"]
        self.special: tuple[str, ...] = tuple(note["special"])
        self.has_end: bool = note["has_end"]
        self._names = arrays["names"].tobytes()
        self._ends, self._offsets, self._lengths, self._labels = (
            arrays[name].data for name in ("ends", "offsets", "lengths", "labels")
        )
        self._label_texts: list[str] = note["label_texts"]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._offsets)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return [_text(self._name(position)) for position in range(len(self))]

    def num_bytes(self, name: str) -> int:
        """Return the length of a file; raise FileNotFoundError for one that the shard does not hold."""
        return self._lengths[self._position(name)]

    def labels(self) -> dict[str, str]:
        """Return what each ``.cls`` file says, by its name without that ending; longer ones than any label are left out."""
        labelled = (
            (position, number) for position, number in enumerate(self._labels) if number >= 0
        )
        return {
            _text(self._name(position)).removesuffix(".cls"): self._label_texts[number]
            for position, number in labelled
        }

    def read(self, name: str, *, last: int | None = None) -> bytes:
        """Return the bytes of a file, or its ``last`` ones; errors as ``num_bytes``."""
        position = self._position(name)
        offset, length = self._offsets[position], self._lengths[position]
        if last is not None and last < length:
            offset, length = offset + length - last, last
        if self.is_remote:
            try:
                return addresses.read_range(self.path, offset, length)
            except FileNotFoundError as error:
                raise has_gone(self.path) from error
        data = self._pread(offset, length)
        if len(data) < length:
            raise OSError(errno.EIO, f"{self.path} ends in the middle of this file")
        return data

    def _pread(self, offset: int, length: int) -> bytes:
        if not hasattr(os, "pread"):  # Windows
            with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 (a Path for nothing)
                file.seek(offset)
                return file.read(length)
        # Opening the shard for each image would take as long as reading it. One that is replaced here closes with its last reader.
        file = _FILES.get(self.path)
        if file is None or file[0] is not self:
            for earlier in list(_FILES)[: max(0, len(_FILES) + 1 - _MOST_OPEN)]:
                _FILES.pop(earlier, None)
            file = _FILES[self.path] = (self, _OpenFile(self.path))
        return os.pread(file[1].descriptor, length, offset)

    def _name(self, position: int) -> bytes:
        return self._names[self._ends[position] : self._ends[position + 1]]

    def _position(self, name: str) -> int:
        wanted = name.encode("utf-8", "surrogateescape")
        position = bisect_left(range(len(self)), wanted, key=self._name)
        if position == len(self) or self._name(position) != wanted:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.path}/{name}")
        return position


def has_gone(path: str) -> DataError:
    """Return the error about a file of images that was there when the program began."""
    return DataError(
        f"{quoted(path)} was there before, and is not there any more. Bring it back and start again: train, predict and embed go on "
        "with --resume."
    )


class _OpenFile:
    """A file that is open for as long as somebody holds this."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            os.close(self.descriptor)


_OPEN: dict[str, Shard] = {}
_FILES: dict[str, tuple[Shard, _OpenFile]] = {}
_MOST_OPEN = 200  # A process may open 1,024 files as a rule, and some systems 256.
_LOCKS: dict[str, threading.Lock] = {}


def open_shard(path: str) -> Shard:
    """Return a shard as it is now, with the index that is kept of it or a new one.

    Raises:
        OSError: There is no such file, or it cannot be read; a folder is an IsADirectoryError.
        DataError: It is compressed, cut off or damaged.
        OutputError: The index cannot be kept.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 (paid for every image)
        facts, is_remote = (found.st_size, found.st_mtime_ns), False
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    except FileNotFoundError:
        if not is_address(path):
            raise
        facts, is_remote = addresses.facts_at(path), True
    known = _OPEN.get(path)
    if known is not None and (known.size, known.modified_ns) == facts:
        return known
    with _LOCKS.setdefault(path, threading.Lock()):
        _OPEN[path] = shard = _indexed(path, facts, is_remote=is_remote)
    return shard


def _indexed(path: str, facts: tuple[int, int], *, is_remote: bool) -> Shard:
    place = path if is_remote else os.path.abspath(path)  # noqa: PTH100 (a link stays the link that was given)
    name = hashlib.blake2b(place.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    file = index_folder() / f"{name}.safetensors"
    about = {"version": _VERSION, "num_bytes": facts[0], "modified_ns": facts[1]}
    if (kept := _kept(file, about)) is not None:
        return Shard(path, is_remote=is_remote, arrays=kept[0], note=kept[1])
    with (
        BufferedReader(addresses.AddressFile(path), 1 << 18) if is_remote else open(path, "rb")  # noqa: PTH123
    ) as opened:
        arrays, found = _read_index(opened, path=path, num_bytes=facts[0])
    note = about | found
    # Not synced, which takes 10 ms for each of a thousand shards: after a power cut an index is made again.
    temporary = file.with_suffix(f".{secrets.token_hex(6)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file(dict(arrays), temporary, metadata={"index": json.dumps(note)})
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"Cannot write the index of shards to the folder {file.parent}: {one_line(error)}. Set VIZSLA_HOME to "
            "another folder."
        ) from error
    return Shard(path, is_remote=is_remote, arrays=arrays, note=note)


def _kept(
    file: Path, about: Mapping[str, int]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    """Return the arrays and the note of an index, or None if it is not there, damaged, or of an earlier state of the shard."""
    try:
        with safe_open(file, framework="np") as opened:  # pyright: ignore[reportUnknownVariableType] (untyped)
            note: dict[str, Any] = json.loads(opened.metadata()["index"])
            if any(note.get(name) != value for name, value in about.items()):
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}, note  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return None


# ── reading the headers ───────────────────────────────────────────────────────────────────────────────────────────────


def _read_index(
    file: BinaryIO, *, path: str, num_bytes: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of an index, sorted by name, and what else is known of the shard."""
    names: list[bytes] = []
    offsets, lengths, labels = array("q"), array("q"), array("i")
    texts: dict[str, int] = {}
    special: list[str] = []
    has_end = False
    for member in _members(file, path=path, num_bytes=num_bytes):
        name = posixpath.normpath(b"/" + member.name.lstrip(b"/"))[1:]
        if member.length is None:
            has_end = has_end or not member.name
            special += [_text(name)] if member.name else []
            continue
        label = -1
        if name.endswith(b".cls") and member.length <= _LONGEST_LABEL:
            file.seek(member.offset)
            text = file.read(member.length).decode("utf-8", "replace").strip()
            label = texts.setdefault(text, len(texts))
        names.append(name)
        offsets.append(member.offset)
        lengths.append(member.length)
        labels.append(label)
    order = sorted(range(len(names)), key=names.__getitem__)
    ordered = [names[position] for position in order]
    if twice := sorted({name for name, following in pairwise(ordered) if name == following}):
        raise DataError(
            f"The shard {quoted(path)} holds several files with the same name: "
            f"{joined([repr(_text(name)) for name in twice], limit=3)}. Create it again with a unique name for "
            "each image."
        )
    arrays = {
        "names": np.frombuffer(b"".join(ordered), dtype=np.uint8),
        "ends": np.fromiter(accumulate(map(len, ordered), initial=0), np.int64, len(names) + 1),
        "offsets": np.asarray(offsets, dtype=np.int64)[order],
        "lengths": np.asarray(lengths, dtype=np.int64)[order],
        "labels": np.asarray(labels, dtype=np.int32)[order],
    }
    return arrays, {"special": special, "has_end": has_end, "label_texts": list(texts)}


class _Member(NamedTuple):
    """A file in a tar. Without a length it is a link or a device, and without a name the end."""

    name: bytes
    offset: int
    length: int | None


def _members(file: BinaryIO, *, path: str, num_bytes: int) -> Iterator[_Member]:
    """Yield the files of a tar in their order.

    The plain headers that nearly all files have are read here, in a quarter of the time of ``tarfile``, which reads the others.
    """
    if not num_bytes:
        raise _unreadable(path, at=0, num_bytes=0)
    at, archive = 0, None
    while at < num_bytes:
        file.seek(at)
        header = file.read(_BLOCK)
        if not any(header):
            _check_rest(file, path=path, at=at)
            yield _Member(b"", at, None)
            return
        is_sound = len(header) == _BLOCK and _has_checksum(header)
        if is_sound and header[156] in b"0\0" and header[257:262] == b"ustar" and header[124] < 128:
            name = header[:100].partition(b"\0")[0]
            if header[262] == 0 and header[345]:  # POSIX, not GNU
                name = header[345:500].partition(b"\0")[0] + b"/" + name
            length, offset = int(header[124:136].strip(b"\0 ") or b"0", 8), at + _BLOCK
            at = offset + -(-length // _BLOCK) * _BLOCK
        else:
            if not at and header[:2] in _COMPRESSED:
                raise DataError(
                    f"The shard {quoted(path)} is compressed ({_COMPRESSED[header[:2]]}), so its images cannot be "
                    "read one by one. Decompress it to a .tar file; as images are already compressed, it will "
                    "hardly be larger."
                )
            try:
                file.seek(at)
                archive = archive or tarfile.TarFile(fileobj=file)
                file.seek(at)
                info = tarfile.TarInfo.fromtarfile(archive)
            except (tarfile.TarError, ValueError, OSError) as error:
                raise _unreadable(path, at=at, num_bytes=num_bytes) from error
            name, offset = info.name.encode("utf-8", "surrogateescape"), info.offset_data
            has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
            at = offset + (-(-info.size // _BLOCK) * _BLOCK if has_data else 0)
            if not info.isreg() or info.issparse():
                if not info.isdir():
                    yield _Member(name, offset, None)
                continue
            length = info.size
        if offset + length > num_bytes:
            raise DataError(
                f"The shard {quoted(path)} is cut off: {quoted(_text(name))} in it has {length:,} bytes, and only "
                f"{max(0, num_bytes - offset):,} are there. Copy the shard again, or create it again."
            )
        yield _Member(name, offset, length)


def _has_checksum(header: bytes) -> bool:
    """Return whether the sum of a header is what it says; an Adler checksum holds the sum, and takes a tenth of the time."""
    try:
        said = int(header[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    blank = header[:148] + b"        " + header[156:]
    return (zlib.adler32(blank) & 0xFFFF) == (1 + said) % 65_521


def _check_rest(file: BinaryIO, *, path: str, at: int) -> None:
    """Raise DataError if anything but zeros follows the end of a tar."""
    while chunk := file.read(1 << 20):
        if any(chunk):
            raise DataError(
                f"The shard {quoted(path)} ends at byte {at:,} but more data follows, as if two archives had been "
                "joined with cat. Give them separately, or join them with tar --concatenate."
            )


def _unreadable(path: str, *, at: int, num_bytes: int) -> DataError:
    if not num_bytes:
        return DataError(f"The shard {quoted(path)} is empty. Copy or write it again.")
    if not at:
        return DataError(
            f"{quoted(path)} is not a tar file: it does not begin with a tar header. Copy it again, or create it "
            "again."
        )
    if num_bytes - at < _BLOCK:
        return DataError(
            f"The shard {quoted(path)} is cut off at byte {num_bytes:,}, inside a header. Copy it again, or "
            "create it again."
        )
    return DataError(
        f"The shard {quoted(path)} is damaged: at byte {at:,} the header of a file is expected. Copy it again, or "
        "create it again."
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
