"""Write images, labels and split into tar shards that WebDataset and vizsla read: shuffled, checksummed, resumable.

The order of the rows follows from the seed, and the bytes of every shard from that order, so a call that was cut off goes on where
the last finished shard ends. ``table/packed.py`` says what stands in the folder, and reads it back.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from PIL import Image

from vizsla.data.images.decode import Truncated, cause_of, decode_image, read_bytes
from vizsla.data.images.heic import is_heic
from vizsla.data.images.sizing import REDUCING_GAP, enlarged, resize, size_of
from vizsla.data.loading.loader import read_ahead
from vizsla.data.storage import facts_of
from vizsla.data.table.check import class_counts
from vizsla.data.table.from_words import resolve_data
from vizsla.data.table.packed import (
    CLASSES,
    COLUMNS,
    MANIFEST,
    ROWS,
    UNKNOWN,
    Manifest,
    Shard,
    read_manifest,
)
from vizsla.data.table.sources import is_image_name
from vizsla.errors import ConfigError, DataError, OutputError, PictureError
from vizsla.files import OURS, atomic_write, check_vacant, only_writer
from vizsla.machine import worker_count
from vizsla.seeding import generator
from vizsla.text import counted, listed, quoted, valid_unicode
from vizsla.types import LABEL_SEPARATOR, ImageTable, is_labelled, is_usable_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vizsla.data.table.fixes import Fixes
    from vizsla.machine import NumWorkers

PackedFormat = Literal["jpeg", "png", "webp"]

QUALITY = 95
"""Of JPEG (without subsampled colours) and WebP, for images that are made smaller. Nobody has measured what other values cost."""

SHARD_MB = 256
"""Large enough to be read at the speed of the disk or the network, small enough to be sent again after an error."""

_PROGRESS, _LOCK = f"{OURS}pack.json", f"{OURS}pack.lock"
_BLOCK = 512
"""Bytes: a tar file has a header of one block for each member, whose data is filled up to whole blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """What ``pack`` wrote.

    Attributes:
        folder: Where the shards are.
        num_images: Images in them.
        num_bytes: Size of all shards.
        num_shards: Shards, those that an earlier call had finished included.
        num_kept: Shards that an earlier call had finished.
        unreadable: ``(path, cause)`` of images that were left out.
    """

    folder: Path
    num_images: int
    num_bytes: int
    num_shards: int
    num_kept: int
    unreadable: tuple[tuple[str, str], ...]


def pack(
    data: ImageTable | Path | str,
    out: Path | str,
    *,
    labels: str = "auto",
    fixes: Fixes = None,
    size: int | None = None,
    image_format: PackedFormat = "jpeg",
    shard_mb: float = SHARD_MB,
    seed: int = 0,
    truncated: Truncated = "strict",
    on_bad: Literal["error", "skip"] = "error",
    num_workers: NumWorkers = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> Packed:
    """Pack images with labels and split into tar shards that vizsla and WebDataset loaders can read.

    Each image has a member with its bytes, one with the number of its class (``.cls``) and one with label, split, path and row
    (``.json``). Each split has its own shards, ``train-000000.tar`` and so on, whose images are shuffled, so that reading
    them in order is random enough. ``resolve_data(out)`` gives the table that was packed: same labels, classes, split and
    order of rows.

    After an interruption, call it again with the same arguments: finished shards are kept if their checksums are right.

    Args:
        data: A folder, a CSV file or whatever ``vizsla train`` takes, or a table, such as ``loaders.table``.
        out: A new folder, or that of an earlier call for the same data and settings.
        labels: Where labels come from, in the words of ``vizsla train --labels``; not for a table.
        fixes: A file of fixes, or what ``read_fixes`` returns; not for a table.
        size: Short side in pixels to which larger images are resized; None keeps the bytes of every image. Smaller and
            16-bit images are never changed.
        image_format: Format of resized images: ``"jpeg"`` and ``"webp"`` with quality 95, ``"png"`` lossless.
        shard_mb: Maximum size of a shard in megabytes; a larger image gets its own shard.
        seed: Decides the order, and the split if it is drawn at random.
        truncated: Whether JPEGs that end too early are refused (``"strict"``) or taken (``"ok"``).
        on_bad: Whether unreadable images are an error, raised after all others are packed, or skipped.
        num_workers: Threads that read images.
        on_progress: Called in this thread with the number of images done so far.

    Returns:
        What was written, and which images were skipped.

    Raises:
        DataError: Something is wrong with the data.
        PictureError: Images cannot be read and ``on_bad`` is ``"error"``. What was packed is kept for ``on_bad="skip"``.
        OutputError: ``out`` has something else in it, or cannot be written.
        ConfigError: An argument cannot work.

    Examples:
        >>> pack("pets", "shards", size=256)
    """
    folder = Path(out)
    check_place(folder)
    _check(size, image_format, shard_mb, on_bad)
    if isinstance(data, ImageTable):
        if labels != "auto" or fixes is not None:
            raise ConfigError(
                "A table already contains labels and fixes. Leave labels and fixes out."
            )
        table, source = data, str(data.root)
    else:
        table, source = resolve_data(data, labels=labels, fixes=fixes, seed=seed), str(data)
    order = _order(table, seed=seed)
    settings = (size, image_format if size else "", shard_mb, seed, truncated)
    plan = Manifest(
        plan=_digest(table, order, settings),
        source=valid_unicode(source),
        task=table.task,
        classes=tuple(map(valid_unicode, table.vocab)),
        class_type=table.class_type,
        seed=seed,
        size=size,
        image_format=image_format if size else "",
    )
    state = _read_state(folder)
    if state is not None and state.plan != plan.plan:
        raise OutputError(
            f"{folder} already has shards of other data or settings: {state.source}, seed {state.seed}, size "
            f"{state.size or 'unchanged'}. Choose another folder, or remove this one first."
        )
    folder.mkdir(exist_ok=True)
    with only_writer(folder / _LOCK, of=folder):
        before = _read_state(folder) or plan
        kept = _whole_shards(folder, before)
        done = replace(before, shards=kept, rows_sha256="")
        samples = _Samples(table, order, size=size, image_format=image_format, truncated=truncated)
        members = {row: name for shard in kept for row, name in _members(folder / shard.name)}
        if not before.rows_sha256 or len(kept) < len(before.shards):
            done = _write_shards(folder, done, samples, members, shard_mb, num_workers, on_progress)
        if done.unreadable and on_bad == "error":
            entries = [f"{quoted(path)}: {cause}" for path, cause in done.unreadable.items()]
            raise PictureError(
                f"{len(entries)} of {counted(len(order), 'image')} cannot be read:\n"
                f"{listed(entries)}\n"
                "Repair the files and pack into another folder, or skip them: --on-bad skip (on_bad='skip'), "
                "which keeps the finished shards."
            )
        if not members:
            raise DataError(
                f"None of {counted(len(order), 'image')} can be read. Nothing was packed."
            )
        _finish(folder, done, samples, members)
    return Packed(
        folder=folder,
        num_images=len(members),
        num_bytes=sum(shard.num_bytes for shard in done.shards),
        num_shards=len(done.shards),
        num_kept=len(kept),
        unreadable=tuple(done.unreadable.items()),
    )


def check_place(folder: Path) -> None:
    """Raise OutputError if a folder has something else in it than what an earlier call packed, or cannot be made."""
    has_just_begun = folder.is_dir() and {each.name for each in folder.iterdir()} == {_LOCK}
    if not has_just_begun and _read_state(folder) is None:
        check_vacant(folder)


def _check(size: int | None, image_format: str, shard_mb: float, on_bad: str) -> None:
    if size is not None and not is_usable_size((size, size)):
        raise ConfigError(
            f"size must be a positive number of pixels that images can have. Received: {size!r}"
        )
    if image_format not in get_args(PackedFormat):
        raise ConfigError(f"image_format must be one of {', '.join(get_args(PackedFormat))}. Received: {image_format!r}")  # fmt: skip
    if not shard_mb > 0:
        raise ConfigError(
            f"shard_mb must be a positive number of megabytes. Received: {shard_mb!r}"
        )
    if on_bad not in ("error", "skip"):
        raise ConfigError(f"on_bad must be 'error' or 'skip'. Received: {on_bad!r}")


# --- what is packed ---


def _order(table: ImageTable, *, seed: int) -> list[tuple[str, int]]:
    """Return (split, row) of all rows: one split after the other, shuffled."""
    is_test = is_labelled(table.targets)
    sets = {"train": table.train_rows, "valid": table.valid_rows}
    for rows in sets.values():
        is_test[rows] = False
    is_none = ~is_test
    is_none[torch.cat(list(sets.values()))] = False
    sets |= {"test": is_test.nonzero()[:, 0], "none": is_none.nonzero()[:, 0]}
    order: list[tuple[str, int]] = []
    for split, rows in sets.items():
        shuffled = rows[torch.randperm(len(rows), generator=generator(seed, f"pack {split}"))]
        order += [(split, row) for row in shuffled.tolist()]
    return order


def _digest(table: ImageTable, order: list[tuple[str, int]], settings: tuple[object, ...]) -> str:
    """Return a digest of everything that the bytes of the shards follow from, and of when each file was changed."""
    digest = hashlib.sha256(repr((settings, table.vocab, table.task, table.class_type)).encode())
    targets = table.targets.tolist()
    for split, row in order:
        try:
            facts = tuple(facts_of(table.file(row)))
        except OSError:
            facts = None
        digest.update(repr((split, row, table.shown_path(row), targets[row], facts)).encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """The members of an image in a shard, or why it cannot be read."""

    position: int
    split: str
    row: int
    members: tuple[tuple[str, bytes], ...] = ()
    cause: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in self.members)


class _Samples:
    """Makes the members of images, in threads; ``order`` has (split, row) of each."""

    def __init__(
        self,
        table: ImageTable,
        order: list[tuple[str, int]],
        *,
        size: int | None,
        image_format: PackedFormat,
        truncated: Truncated,
    ) -> None:
        self.table = table
        self.order = order
        self._size = size
        self._format = image_format
        self._truncated: Truncated = truncated

    def make(self, position: int) -> _Sample:
        """Read an image, check that it can be decoded, and return its members."""
        split, row = self.order[position]
        path = self.table.file(row)
        try:
            data, suffix = self._image(path)
        except PictureError as error:
            return _Sample(position=position, split=split, row=row, cause=cause_of(error))
        label = self._label(row)
        facts = {"row": row, "label": label, "split": split, "path": self.source(row)}
        members = [(f"{row:09}{suffix}", data)]
        if self.table.task == "category" and label is not None:
            members.append((f"{row:09}.cls", self.target(row).encode()))
        members.append((f"{row:09}.json", json.dumps(facts).encode()))
        return _Sample(position=position, split=split, row=row, members=tuple(members))

    def source(self, row: int) -> str:
        """Return where an image came from, as files show it."""
        return valid_unicode(self.table.shown_path(row))

    def target(self, row: int) -> str:
        """Return the target of a row as ``rows.csv`` has it: numbers of classes, or the numbers themselves."""
        target = self.table.targets[row]
        if not bool(is_labelled(target[None])):
            return UNKNOWN
        if self.table.task == "category":
            return str(int(target))
        is_set = self.table.task == "multi_category"
        parts = target.nonzero()[:, 0].tolist() if is_set else target.tolist()
        return LABEL_SEPARATOR.join(map(repr, parts))

    def _label(self, row: int) -> Any:
        target = self.table.targets[row]
        if not bool(is_labelled(target[None])):
            return None
        if self.table.task == "category":
            return self.table.classes[int(target)]
        if self.table.task == "multi_category":
            return [self.table.classes[place] for place in target.nonzero()[:, 0].tolist()]
        return target.tolist()

    def _image(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of an image in a shard, and the suffix of their kind."""
        data = read_bytes(path)
        wide: list[int] = []
        # A JPEG that is only checked is decoded at an eighth of its size.
        cover = enlarged((self._size, self._size), REDUCING_GAP) if self._size else (1, 1)
        image = decode_image(
            path, cover=cover, truncated=self._truncated, data=data, on_wide=wide.append
        )
        side = min(size_of(image))
        if self._size is None or side <= self._size or wide:
            return data, _suffix(path, data)
        height, width = (
            max(self._size, round(length * self._size / side)) for length in size_of(image)
        )
        small = Image.fromarray(resize(image, size=(height, width)))
        buffer = io.BytesIO()
        if self._format == "png":
            small.save(buffer, "PNG")
        elif self._format == "webp":
            small.save(buffer, "WEBP", quality=QUALITY)
        else:
            small.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue(), ".jpg" if self._format == "jpeg" else f".{self._format}"


_SUFFIX_OF_KIND = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}


def _suffix(path: str, data: bytes) -> str:
    """Return the suffix of an image: that of its name, or of its kind where the name has none."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (texts, not paths)
    if is_image_name(f"x{suffix}"):
        return suffix
    if is_heic(data):
        return ".heic"
    with Image.open(io.BytesIO(data)) as image:
        kind = (image.format or "").lower()
    return f".{_SUFFIX_OF_KIND.get(kind, kind)}"


# --- the shards ---


def _read_state(folder: Path) -> Manifest | None:
    """Return the manifest of a finished pack, or how far one that was cut off has come."""
    return read_manifest(folder / MANIFEST) or read_manifest(folder / _PROGRESS)


def _whole_shards(folder: Path, state: Manifest) -> tuple[Shard, ...]:
    """Return the first shards that are as they were written; all after one that is not are written again."""
    for place, shard in enumerate(state.shards):
        try:
            with (folder / shard.name).open("rb") as file:
                is_whole = hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
        except OSError:
            is_whole = False
        if not is_whole:
            return state.shards[:place]
    return state.shards


def _members(shard: Path) -> Iterator[tuple[int, str]]:
    """Yield the row of each image in a shard, and its path below the folder."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            row, _, suffix = member.name.partition(".")
            if suffix not in ("cls", "json"):
                yield int(row), f"{shard.name}/{member.name}"


def _write_shards(
    folder: Path,
    done: Manifest,
    samples: _Samples,
    members: dict[int, str],
    shard_mb: float,
    num_workers: NumWorkers,
    on_progress: Callable[[int], None] | None,
) -> Manifest:
    """Write the shards that are not there yet, noting after each how far it is, and tell ``members`` of their images."""
    start = done.shards[-1].end if done.shards else 0
    causes = dict(done.unreadable)
    num_workers = worker_count(num_workers)
    made = read_ahead(
        samples.make,
        range(start, len(samples.order)),
        num_workers=num_workers,
        max_waiting=32 * max(1, num_workers),
        num_bytes=lambda sample: sample.num_bytes,
    )

    def readable() -> Iterator[_Sample]:
        for sample in made:
            if sample.cause:
                causes[samples.source(sample.row)] = sample.cause
            else:
                yield sample
            if on_progress is not None:
                on_progress(sample.position + 1)

    _save(folder / _PROGRESS, done)
    (folder / MANIFEST).unlink(missing_ok=True)  # it names shards that are to be written again
    try:
        with closing(made):
            for name, run in groupby(readable(), _shard_names(done, int(shard_mb * 1e6))):
                shard = _write_shard(folder / name, run, members)
                done = replace(done, shards=(*done.shards, shard), unreadable=dict(causes))
                _save(folder / _PROGRESS, done)
    except KeyboardInterrupt as error:
        number = counted(len(done.shards), "finished shard")
        error.add_note(f"{number} kept in {folder}; run the same command to continue.")
        raise
    return replace(done, unreadable=dict(sorted(causes.items())))


def _shard_names(done: Manifest, max_bytes: int) -> Callable[[_Sample], str]:
    """Return a function that names the shard of each sample in turn: a new one where the split ends or no room is left."""
    numbers = Counter(shard.split for shard in done.shards)
    split, num_bytes = "", 0

    def name(sample: _Sample) -> str:
        nonlocal split, num_bytes
        if sample.split != split or num_bytes + sample.num_bytes > max_bytes:
            split, num_bytes = sample.split, 0
            numbers[split] += 1
        num_bytes += sample.num_bytes
        return f"{split}-{numbers[split] - 1:06}.tar"

    return name


def _write_shard(path: Path, samples: Iterable[_Sample], members: dict[int, str]) -> Shard:
    """Write one shard, and tell ``members`` of its images."""
    digest, num_images, split, end = hashlib.sha256(), 0, "", 0
    with atomic_write(path) as temporary, temporary.open("wb") as file:

        def write(data: bytes) -> None:
            file.write(data)
            digest.update(data)

        for sample in samples:
            for name, data in sample.members:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                write(header.tobuf(tarfile.USTAR_FORMAT))
                write(data)
                write(bytes(-len(data) % _BLOCK))
            members[sample.row] = f"{path.name}/{sample.members[0][0]}"
            num_images, split, end = num_images + 1, sample.split, sample.position + 1
        write(bytes(2 * _BLOCK))
        num_bytes = file.tell()
    return Shard(
        name=path.name,
        split=split,
        num_images=num_images,
        num_bytes=num_bytes,
        sha256=digest.hexdigest(),
        end=end,
    )


def _finish(folder: Path, done: Manifest, samples: _Samples, members: dict[int, str]) -> None:
    """Write the rows, the classes and, last, the manifest."""
    split_of = {row: split for split, row in samples.order}
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row in sorted(members):
        split = split_of[row]
        rows_of[split].append(row)
        rows.writerow((members[row], samples.target(row), split, samples.source(row)))
    table = samples.table
    counts = {
        split: dict(zip(table.vocab, class_counts(table, torch.tensor(own)), strict=False))
        for split, own in rows_of.items()
    }
    encoded = text.getvalue().encode()
    _save(folder / ROWS, encoded)
    _save(folder / CLASSES, "".join(f"{name}\n" for name in done.classes).encode())
    rows_sha256 = hashlib.sha256(encoded).hexdigest()
    _save(folder / MANIFEST, replace(done, counts=counts, rows_sha256=rows_sha256))
    (folder / _PROGRESS).unlink(missing_ok=True)


def _save(file: Path, content: Manifest | bytes) -> None:
    with atomic_write(file) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.to_json())
