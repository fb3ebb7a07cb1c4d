"""Keep features of very many images in a file: written once, gone on with after a kill, read some images at a time.

They are written as a file is, not through a memory map: a full disk is then an error, where a mapped page would end the process.
They are read through a memory map of a single block, so that what was read before is not held.

float32, as in memory, so that the head is the same wherever they are kept. float16 would halve the file, and moved logits by up to
0.006 (``benchmarks/LOG.md``).

Shapes: N images, V views of each, D features.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.errors import OutputError
from vizsla.files import atomic_write
from vizsla.machine import free_disk_bytes, free_memory_bytes, shown_bytes

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from torch import Tensor

COPIES_IN_MEMORY = 3
"""While batches are joined; then two of them are free again."""
_NOTED_EVERY_BYTES = 64 * 2**20
"""Of features: half a second on a GPU, a minute on two cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFeatures:
    """Features in a file, float32 ``(N, V, D)``, of which those of some images are read at a time: ``features[positions]``.

    Attributes:
        path: The file, nothing but the numbers.
        stored: How many images, views and features are in it.
        images: int64 positions of the images that count; None for all.
        views: Positions of the views that count; None for all.
    """

    path: Path
    stored: tuple[int, int, int]
    images: Tensor | None = None
    views: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """The number of images."""
        return self.stored[0] if self.images is None else len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """N, V and D."""
        _, num_views, num_features = self.stored
        return len(self), num_views if self.views is None else len(self.views), num_features

    def __getitem__(self, positions: slice | Tensor) -> Tensor:
        """Read the features of some images into memory."""
        where = positions if self.images is None else self.images[positions]
        mapped = np.memmap(self.path, dtype=np.float32, mode="r", shape=self.stored)
        values = torch.from_numpy(np.array(mapped[where if isinstance(where, slice) else where.numpy()]))  # fmt: skip
        return values if self.views is None else values[:, list(self.views)]

    def some(
        self, *, images: Tensor | None = None, views: tuple[int, ...] | None = None
    ) -> StoredFeatures:
        """Return these features for some of the images or of the views alone, by their positions; nothing is read."""
        if images is not None and self.images is not None:
            images = self.images[images]
        if views is not None and self.views is not None:
            views = tuple(self.views[view] for view in views)
        return StoredFeatures(
            path=self.path,
            stored=self.stored,
            images=self.images if images is None else images,
            views=self.views if views is None else views,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureStore:
    """Where features go that do not fit into memory.

    Attributes:
        folder: Made when it is needed.
        identity: What the features depend on, as JSON values: those of another identity are not gone on with.
        resume: Whether to go on with what a killed run left in the folder.
        memory_bytes: What may be taken of memory; None is half of what is free.
    """

    folder: Path
    identity: Mapping[str, Any]
    resume: bool = False
    memory_bytes: int | None = None

    def is_needed(self, num_bytes: int) -> bool:
        """Return whether features of this size do not fit into memory."""
        free = free_memory_bytes() // 2 if self.memory_bytes is None else self.memory_bytes
        return COPIES_IN_MEMORY * num_bytes > free

    def prepare(self, num_bytes: int) -> str:
        """Make the folder, and return a line about what will be in it.

        Raises:
            OutputError: It cannot be made, or its disk has too little room.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            there = sum(file.stat().st_size for file in self.folder.iterdir())
            free = free_disk_bytes(self.folder)
        except OSError as error:
            raise OutputError(
                f"Cannot store features in {self.folder}: {error.strerror}. Choose another folder for the run."
            ) from error
        if num_bytes > free + there:
            raise OutputError(
                f"The features of these images take {shown_bytes(num_bytes)}: too much for memory, while "
                f"{self.folder} has only {shown_bytes(free)} free. Choose a folder for the run on a larger disk, "
                "or free some space."
            )
        return (
            f"Features: {shown_bytes(num_bytes)} stored on disk in {self.folder} until the head is fitted, "
            "because they do not fit in memory."
        )

    @contextmanager
    def writing(self, name: str, *, shape: tuple[int, int, int]) -> Generator[FeatureWriter]:
        """Give what writes features of a shape into a file of a name, or goes on with it.

        What is there in the end is noted, also after Ctrl-C.

        Raises:
            OutputError: The disk is full or gone.
        """
        identity = json.loads(json.dumps({**self.identity, "shape": shape}))
        path = self.folder / name
        note = path.with_suffix(".json")
        bytes_each = 4 * shape[1] * shape[2]
        num_done = self._num_done(path, note, identity=identity, bytes_each=bytes_each)
        try:
            with path.open("r+b" if num_done else "wb") as file:
                file.seek(num_done * bytes_each)
                file.truncate()
                writer = FeatureWriter(
                    file,
                    note=note,
                    identity=identity,
                    num_done=num_done,
                    features=StoredFeatures(path=path, stored=shape),
                )
                try:
                    yield writer
                finally:
                    writer.keep()
        except OSError as error:
            raise OutputError(
                f"Cannot write features to {path}: {error.strerror or error}. Choose a folder for the run on "
                "another disk, or free some space; then --resume continues from what was written."
            ) from error

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _num_done(self, path: Path, note: Path, *, identity: Any, bytes_each: int) -> int:
        """Return of how many images a killed run left features of the same identity."""
        if not self.resume:
            return 0
        try:
            left = json.loads(note.read_text(encoding="utf-8"))
            num_done = int(left["images"])
            is_there = path.stat().st_size >= num_done * bytes_each
        except (OSError, ValueError, LookupError, TypeError):
            return 0
        return num_done if is_there and left["of"] == identity else 0


class FeatureWriter:
    """Writes features batch by batch, and notes beside them how many images are safely on disk.

    Attributes:
        num_done: Images whose features are written.
        features: What can be read once all are.
    """

    def __init__(
        self,
        file: IO[bytes],
        *,
        note: Path,
        identity: Any,
        num_done: int,
        features: StoredFeatures,
    ) -> None:
        self.num_done = num_done
        self.features = features
        self._file = file
        self._note = note
        self._identity = identity
        self._num_bytes = 0  # Since the last note.

    def add(self, values: Tensor) -> None:
        """Write the features of the next images, float32 ``(B, V, D)``."""
        self._num_bytes += self._file.write(values.cpu().contiguous().numpy().data)
        self.num_done += len(values)
        if self._num_bytes >= _NOTED_EVERY_BYTES:
            self.keep()

    def keep(self) -> None:
        """Bring everything to the disk, then say so in the note: after a power cut it never promises too much."""
        self._file.flush()
        os.fsync(self._file.fileno())
        with atomic_write(self._note) as temporary:
            temporary.write_text(json.dumps({"images": self.num_done, "of": self._identity}))
        self._num_bytes = 0
