"""A table and some of its rows in, batches of uint8 pictures in a known order out, read in threads ahead of the consumer.

B: pictures of a batch; H, W: sides. Arrays are HWC as Pillow and the cache have them; batches are CHW views of that memory.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from vizsla.data.cache import PictureCache, PictureKey
from vizsla.data.decode import cause_of, open_picture
from vizsla.data.presize import Resize, window
from vizsla.errors import ConfigError, DataError, PictureError
from vizsla.seeding import counter_uniform, generator
from vizsla.types import Batch, PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray
    from PIL import Image

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_WORKERS = 16
"""More threads than this were not seen to decode faster: the interpreter lock is held between the pictures."""

PREFETCH_BYTES = 512 * 2**20
"""Pictures that wait for the consumer take at most this much memory (and never more than two batches wait)."""


def default_num_workers() -> int:
    """Return the number of CPU cores that this process may use, at most ``MAX_WORKERS``."""
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(MAX_WORKERS, os.cpu_count() or 1)


class PictureReader:
    """Turns one picture into the pixels that training or validation see; the same for a batch and for a single file.

    Args:
        resize: Brings all pictures to one size; None leaves each at its own.
        cache: Keeps what was read from files.
    """

    def __init__(self, *, resize: Resize | None, cache: PictureCache) -> None:
        self.resize = resize
        self.cache = cache

    def read(self, source: Path | str | bytes, *, training: bool = False) -> NDArray[np.uint8]:
        """Return the pixels of one picture.

        Args:
            source: A file, or the bytes of one (which are not cached).
            training: Give the strip that a random window slides along, not the centred picture.

        Returns:
            uint8 ``(H, W, 3)``, read-only.

        Raises:
            PictureError: The picture cannot be read; the message names it and says why.
        """
        make = partial(self._make, source, training=training)
        if isinstance(source, bytes):
            return make()
        part = "strip" if training else "centred"
        try:
            key = PictureKey.of_file(Path(source), preparation=f"{part} {self.resize!r}")
        except OSError:
            return make()  # It says what is wrong with the file.
        return self.cache.get(key, make)

    def prepare(self, picture: Image.Image, *, training: bool = False) -> NDArray[np.uint8]:
        """Return the pixels of a picture that is open already.

        Args:
            picture: Upright RGB, as ``open_picture`` and ``to_rgb`` give it.
            training: As for ``read``.

        Returns:
            uint8 ``(H, W, 3)``, read-only.
        """
        if self.resize is not None:
            picture = self.resize.strip(picture) if training else self.resize.centred(picture)
        pixels = np.asarray(picture)
        pixels.setflags(write=False)
        return pixels

    def _make(self, source: Path | str | bytes, *, training: bool) -> NDArray[np.uint8]:
        cover = None if self.resize is None else self.resize.size
        return self.prepare(open_picture(source, cover=cover), training=training)


class PictureLoader:
    """Batches of uint8 pictures from some rows of a table.

    In training the rows are shuffled anew each epoch and of every picture a random window is taken along its long side.
    Both depend on the seed, the epoch and the row alone, not on batch size or number of workers. Otherwise the rows
    come in the order given and the pictures are centred.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures; a row may occur more than once.
        reader: Reads one picture.
        batch_size: Pictures in a batch; the last may hold fewer.
        training: Shuffle, and take random windows.
        seed: Of the run.
        num_workers: Threads that read ahead; 0 reads in the consumer's thread, None is ``default_num_workers()``.
        device: Where images and targets go.
        drop_last: Leave out a last batch that is not full, unless it is the only one.

    Raises:
        ConfigError: ``batch_size`` is below 1 or ``num_workers`` below 0.
        DataError: A row is outside of the table.
    """

    def __init__(
        self,
        table: PictureTable,
        rows: Tensor,
        *,
        reader: PictureReader,
        batch_size: int,
        training: bool,
        seed: int = 0,
        num_workers: int | None = None,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
    ) -> None:
        num_workers = default_num_workers() if num_workers is None else num_workers
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                "batch_size is at least 1 and num_workers at least 0. "
                f"Received: batch_size={batch_size}, num_workers={num_workers}"
            )
        self.table = table
        self.rows = _checked_rows(table, rows)
        self.reader = reader
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.num_workers = num_workers
        self.device = torch.device(device)
        self.drop_last = drop_last

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full if self.drop_last and full else full + (rest > 0)

    def plan(self, *, epoch: int = 0) -> tuple[Tensor, ...]:
        """Return the rows of every batch of an epoch, int64 on the CPU, without reading a picture.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.
        """
        rows = self.rows
        if self.training:
            shuffled = torch.randperm(len(rows), generator=generator(self.seed, f"order {epoch}"))
            rows = rows[shuffled]
        return torch.split(rows, self.batch_size)[: len(self)] if len(rows) else ()

    def batches(self, *, epoch: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch; threads read ahead of the consumer and end when the generator is closed.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.

        Yields:
            Images uint8 ``(B, 3, H, W)``, channels-last, on the device.

        Raises:
            PictureError: A picture cannot be read; the first one in the order of the batches is named.
            DataError: The pictures of a batch differ in size, because there is no ``Resize``.
        """
        return self.read_plan(self.plan(epoch=epoch), epoch=epoch)

    def read_plan(self, plan: Iterable[Tensor], *, epoch: int = 0) -> Generator[Batch]:
        """Yield the batches of a plan, or of a part of one; see ``batches``.

        Args:
            plan: Rows of each batch, as ``plan`` returns them.
            epoch: Number of the epoch, from 0; matters in training only.

        Yields:
            Images uint8 ``(B, 3, H, W)``, channels-last, on the device.
        """
        plan = tuple(plan)
        rows = torch.cat(plan) if plan else self.rows[:0]
        positions = torch.zeros(len(rows))
        if self.training:
            positions = counter_uniform(self.seed, "crop", epoch=epoch, rows=rows, count=1)[:, 0]
        pictures = read_ahead(
            self._read,
            zip(rows.numpy().tolist(), positions.numpy().tolist(), strict=True),
            num_workers=self.num_workers,
            max_waiting=2 * self.batch_size,
            num_bytes=_num_bytes,
        )
        with closing(pictures):
            for batch_rows in plan:
                yield self._collate(list(islice(pictures, len(batch_rows))), rows=batch_rows)

    def _read(self, job: tuple[int, float]) -> NDArray[np.uint8]:
        row, position = job
        pixels = self.reader.read(self.table.paths[row], training=self.training)
        resize = self.reader.resize
        if not self.training or resize is None or pixels.shape[:2] == resize.size:
            return pixels
        # A copy, so that a strip that is not in the cache can go.
        return window(pixels, size=resize.size, position=position).copy()

    def _collate(self, pictures: list[NDArray[np.uint8]], *, rows: Tensor) -> Batch:
        shape = pictures[0].shape
        if any(picture.shape != shape for picture in pictures):
            raise DataError(self._mixed_sizes(pictures, rows=rows))
        on_gpu = self.device.type == "cuda"
        images_BHWC = torch.empty((len(pictures), *shape), dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(pictures, out=images_BHWC.numpy())
        return Batch(
            images=images_BHWC.permute(0, 3, 1, 2).to(self.device, non_blocking=True),
            targets=self.table.targets[rows].to(self.device, non_blocking=True),
            rows=rows,
        )

    def _mixed_sizes(self, pictures: list[NDArray[np.uint8]], *, rows: Tensor) -> str:
        first_of: dict[tuple[int, ...], int] = {}
        for picture, row in zip(pictures, rows.numpy().tolist(), strict=True):
            first_of.setdefault(picture.shape, row)
        shown = "; ".join(
            f"{shape[0]} x {shape[1]} ({self.table.shown_path(row)})"
            for shape, row in islice(first_of.items(), 4)
        )
        return (
            f"The pictures of a batch must have one size, and these {len(pictures)} have {len(first_of)} different "
            f"ones (height x width): {shown}{'; ...' if len(first_of) > 4 else ''}. add item_tfms=Resize(...)"
        )


def find_unreadable(
    table: PictureTable,
    rows: Tensor,
    *,
    reader: PictureReader,
    num_workers: int | None = None,
    training: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[tuple[int, str], ...]:
    """Read every picture of some rows once, into the reader's cache, and return those that cannot be read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures.
        reader: Reads one picture.
        num_workers: Threads; 0 reads in this thread, None is ``default_num_workers()``.
        training: Which form of the picture the cache gets, see ``PictureReader.read``.
        on_progress: Called in this thread after each picture with the number of pictures read so far.

    Returns:
        ``(row, cause)`` in the order of ``rows``; the cause is in words, without the path.

    Raises:
        DataError: A row is outside of the table.
    """

    def problem_of(row: int) -> str | None:
        try:
            reader.read(table.paths[row], training=training)
        except PictureError as error:
            return cause_of(error)
        return None

    num_workers = default_num_workers() if num_workers is None else num_workers
    all_rows: list[int] = _checked_rows(table, rows).numpy().tolist()
    unreadable: list[tuple[int, str]] = []
    causes = read_ahead(problem_of, all_rows, num_workers=num_workers, max_waiting=8 * num_workers)
    with closing(causes):
        for done, (row, cause) in enumerate(zip(all_rows, causes, strict=True), start=1):
            if cause is not None:
                unreadable.append((row, cause))
            if on_progress is not None:
                on_progress(done)
    return tuple(unreadable)


def _nothing(_result: object) -> int:
    return 0


def _num_bytes(picture: NDArray[np.uint8]) -> int:
    return picture.nbytes


def read_ahead(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_workers: int,
    max_waiting: int,
    max_bytes: int = PREFETCH_BYTES,
    num_bytes: Callable[[Result], int] = _nothing,
) -> Generator[Result]:
    """Yield ``function(job)`` of every job, in order, worked out in threads ahead of the consumer.

    The threads live as long as the generator runs: they end when it is used up, closed, dropped, or left by an error or
    Ctrl-C. An error of the function arrives unchanged at its place in the order; jobs after it are cancelled.

    Args:
        function: Must be thread-safe.
        jobs: Taken one by one, not all at once.
        num_workers: Threads; 0 works in the consumer's thread.
        max_waiting: At most so many results are worked on or wait (but always one per worker).
        max_bytes: The same in bytes, reckoned with the largest result so far.
        num_bytes: Size of a result.

    Yields:
        Results, in the order of the jobs.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="vizsla-reader")
    waiting: deque[Future[Result]] = deque()
    num_allowed = num_workers  # Until the size of a result is known.
    largest = 1
    try:
        for job in jobs:
            while len(waiting) >= num_allowed:
                result = waiting.popleft().result()
                largest = max(largest, num_bytes(result))
                num_allowed = max(num_workers, min(max_waiting, max_bytes // largest))
                yield result
            waiting.append(pool.submit(function, job))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _checked_rows(table: PictureTable, rows: Tensor) -> Tensor:
    rows = rows.to(device="cpu", dtype=torch.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table.paths):
        raise DataError(
            f"Rows go from 0 to {len(table.paths) - 1} in this table. "
            f"Received: rows from {int(rows.min())} to {int(rows.max())}"
        )
    return rows
