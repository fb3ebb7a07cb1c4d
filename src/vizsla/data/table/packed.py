"""What stands in a folder that ``vizsla pack`` wrote, and how it becomes images with labels and split again.

``manifest.json`` is written last, so a folder that has it is whole. ``rows.csv`` has a line for each image in the order of the
table that was packed: its member of a shard, its target as numbers, its split, and where it came from.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from vizsla.data.storage import facts_of, read_bytes
from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from vizsla.data.table.labels import LabelledImages
from vizsla.errors import DataError, LabelError
from vizsla.paths import ImagePaths
from vizsla.text import counted, joined, quoted
from vizsla.types import LABEL_SEPARATOR, ClassType, Task, typed_class

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vizsla.data.table.block import OutputBlock

MANIFEST, ROWS, CLASSES = "manifest.json", "rows.csv", "classes.txt"
FORMAT = "vizsla pack 1"
COLUMNS = ("image", "target", "split", "source")
UNKNOWN = "?"
"""The target of an image without a label; that of an image with none of several labels is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A finished shard of a pack.

    Attributes:
        name: File name.
        split: ``train``, ``valid``, ``test``, or ``none`` for images without a label in neither set.
        num_images: Images in it.
        num_bytes: Size of the file.
        sha256: Digest of the file, as hex.
        end: Images of the whole order that are done with after it, unreadable ones included.
    """

    name: str
    split: str
    num_images: int
    num_bytes: int
    sha256: str
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        format: ``FORMAT``.
        plan: Digest of the data and the settings; shards of one plan belong together.
        source: What was packed.
        task: As in the table.
        classes: Names in the order of the numbers in ``.cls`` and ``rows.csv``.
        class_type: As in the table.
        seed: Of the order.
        size: Short side in pixels that larger images were brought to; None if they are as they were.
        image_format: What those were written as.
        shards: In the order of writing.
        unreadable: Images that were left out, by their paths, and why.
        counts: Images of each class, by split; empty for numbers.
        rows_sha256: Digest of ``rows.csv``; empty until all is written.
    """

    format: str = FORMAT
    plan: str
    source: str
    task: Task
    classes: tuple[str, ...]
    class_type: ClassType
    seed: int
    size: int | None
    image_format: str
    shards: tuple[Shard, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    counts: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    rows_sha256: str = ""

    def to_json(self) -> bytes:
        """Return it as JSON with a line for each field."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_manifest(file: Path) -> Manifest | None:
    """Return the manifest in a file; None if there is no such file, or it is that of something else.

    Raises:
        DataError: It is damaged, or of a newer version.
    """
    try:
        found: Any = msgspec.json.decode(read_bytes(file))
    except (OSError, msgspec.DecodeError):
        return None
    name = found.get("format") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not str(name).startswith(FORMAT[:-1]):
        return None
    if name != FORMAT:
        raise DataError(
            f"{quoted(file)} is in a newer format, {name!r}. This vizsla reads {FORMAT!r}: pip install --upgrade "
            "vizsla."
        )
    try:
        return msgspec.convert(found, Manifest)
    except msgspec.ValidationError as error:
        raise DataError(f"{quoted(file)} is damaged: {error}. Pack the data again.") from error


def packed_images(folder: Path) -> tuple[LabelledImages, list[str], OutputBlock] | None:
    """Return the images of a folder that ``vizsla pack`` wrote, their splits, and the block of their labels; None for another folder.

    Rows and classes are in the order of the table that was packed.

    Raises:
        DataError: A shard is missing or of another size than the manifest says, or a file is damaged.
    """
    manifest = read_manifest(folder / MANIFEST)
    if manifest is None:
        return None
    if faults := list(_faults(folder, manifest)):
        raise DataError(
            f"{counted(len(faults), 'shard')} of {quoted(folder)} cannot be used: {joined(faults, limit=5)}. Copy "
            "them again, or pack the data again, which keeps the intact ones."
        )
    vocab = [typed_class(name, manifest.class_type) for name in manifest.classes]
    missed = LabelError("it had no label when it was packed")

    def label(cell: str) -> Any:
        if cell == UNKNOWN:
            return missed
        parts = cell.split(LABEL_SEPARATOR) if cell else []
        if manifest.task == "regression":
            return tuple(map(float, parts))
        names = [vocab[int(part)] for part in parts]
        return names[0] if manifest.task == "category" else names

    file = folder / ROWS
    try:
        _, *records = csv.reader(io.StringIO(read_bytes(file).decode(), newline=""))
        labels = tuple(label(target) for _, target, _, _ in records)
    except (OSError, ValueError, LookupError) as error:
        raise DataError(
            f"{quoted(file)} is missing or damaged: {error}. Pack the data again."
        ) from error
    images = LabelledImages(
        root=folder,
        paths=ImagePaths(folder / image for image, *_ in records),
        labels=labels,
        names=manifest.classes if manifest.task == "regression" else (),
        advice=f"Labels were taken from {quoted(manifest.source)} when it was packed.",
        in_doubt=(),
        notes=(f"labels, classes and split from {quoted(folder / MANIFEST)}",),
    )
    blocks: dict[Task, OutputBlock] = {
        "category": CategoryBlock(vocab=vocab),  # pyright: ignore[reportArgumentType] (typed classes)
        "multi_category": MultiCategoryBlock(vocab=vocab),  # pyright: ignore[reportArgumentType]
        "regression": RegressionBlock(),
    }
    return images, [split for _, _, split, _ in records], blocks[manifest.task]


def _faults(folder: Path, manifest: Manifest) -> Iterable[str]:
    for shard in manifest.shards:
        try:
            there = facts_of(folder / shard.name).num_bytes
        except OSError:
            yield f"{shard.name} is missing"
            continue
        if there != shard.num_bytes:
            yield f"{shard.name} has {there:,} bytes instead of {shard.num_bytes:,}"
