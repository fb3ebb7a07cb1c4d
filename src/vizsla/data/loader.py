"""A table and some of its rows in, batches of uint8 pictures in a known order out, read in threads ahead of the consumer.

B: pictures of a batch; H, W: sides. Arrays are HWC as Pillow and the cache have them; batches are CHW views of that memory.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import torch

from vizsla.data.batching import PendingBatch, Shipping
from vizsla.data.decode import cause_of, source_name
from vizsla.data.read_ahead import read_ahead
from vizsla.errors import ConfigError, DataError, PictureError
from vizsla.seeding import counter_uniform, generator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from torch import Tensor

    from vizsla.data.reader import PictureReader
    from vizsla.types import Batch, PictureTable

MAX_WORKERS = 16
"""More threads than this were not seen to decode faster: the interpreter lock is held between the pictures."""

MAX_SECONDS = 300.0
"""For one picture; a disk or network share that takes longer is given up, with an error that names the file."""


def default_num_workers() -> int:
    """Return the number of CPU cores that this process may use, at most ``MAX_WORKERS``."""
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(MAX_WORKERS, os.cpu_count() or 1)


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
        planned: deque[PendingBatch] = deque()
        done = read_ahead(
            self._read,
            self._jobs(plan, epoch=epoch, planned=planned),
            num_workers=self.num_workers,
            max_waiting=2 * self.batch_size,
            num_bytes=int,
            max_seconds=MAX_SECONDS,
            too_slow=self._too_slow,
        )
        num_ready = 0
        with closing(done):
            for _ in plan:
                while not planned:  # Asking for a result plans batches.
                    num_ready += next(done, None) is not None
                batch = planned.popleft()
                num_ready -= len(batch.missing)
                while num_ready < 0:
                    next(done)
                    num_ready += 1
                if batch.has_mixed_sizes:
                    raise DataError(self._mixed_sizes(batch))
                yield batch.finish()

    def _jobs(
        self, plan: tuple[Tensor, ...], *, epoch: int, planned: deque[PendingBatch]
    ) -> Iterator[tuple[PendingBatch, int]]:
        """Yield (batch, index) of the pictures that must be read; every batch is added to ``planned`` before its pictures."""
        resize, store = self.reader.resize, self.reader.cache.device_store
        shipping = Shipping(self.device)
        if (
            store is not None
            and store.serves(self.device)
            and resize is not None
            and self.reader.windows_are_slices
        ):
            shipping = Shipping(self.device, store=store, size=resize.size)
        for rows in plan:
            batch = self._pending(rows, epoch=epoch, shipping=shipping)
            planned.append(batch)
            for index in batch.missing:
                yield batch, index

    def _pending(self, rows: Tensor, *, epoch: int, shipping: Shipping) -> PendingBatch:
        count = self.reader.num_draws if self.training else 0
        draws = counter_uniform(self.seed, "crop", epoch=epoch, rows=rows, count=count)
        batch = PendingBatch(
            rows=rows,
            targets=self.table.targets[rows],
            draws=draws.tolist(),
            shipping=shipping,
        )
        if shipping.store is not None:
            paths = [self.table.paths[row] for row in rows.tolist()]
            batch.place_known([self.reader.place(path, training=self.training) for path in paths])
        return batch

    def _read(self, job: tuple[PendingBatch, int]) -> int:
        """Put one picture of a batch into its place; return its bytes."""
        batch, index = job
        path = self.table.paths[int(batch.rows[index])]
        if self.training:
            pixels = self.reader.read_window(path, draws=batch.draws[index])
        else:
            pixels = self.reader.read(path)
        # Where the device has it now, the batch takes it from there.
        on_device = batch.shipping.store is not None
        place = self.reader.place(path, training=self.training) if on_device else None
        if place is None:
            batch.put(index, pixels)
        else:
            batch.put_place(index, place)
        return pixels.nbytes

    def _mixed_sizes(self, batch: PendingBatch) -> str:
        first_of: dict[tuple[int, ...], int] = {}
        for shape, row in zip(batch.shapes, batch.rows.tolist(), strict=True):
            first_of.setdefault(shape, row)
        shown = "; ".join(
            f"{shape[0]} x {shape[1]} ({self.table.shown_path(row)})"
            for shape, row in islice(first_of.items(), 4)
        )
        return (
            f"The pictures of a batch must have one size, and these {len(batch.rows)} have {len(first_of)} different "
            f"ones (height x width): {shown}{'; ...' if len(first_of) > 4 else ''}. add item_tfms=Resize(...)"
        )

    def _too_slow(self, job: tuple[PendingBatch, int]) -> PictureError:
        batch, index = job
        return PictureError(
            f"Cannot read the picture {source_name(self.table.paths[int(batch.rows[index])])}: it took more than "
            f"{MAX_SECONDS:g} seconds. The disk or network share that it lies on may hang; copy the pictures to a local disk."
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


def _checked_rows(table: PictureTable, rows: Tensor) -> Tensor:
    rows = rows.to(device="cpu", dtype=torch.int64)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table.paths):
        raise DataError(
            f"Rows go from 0 to {len(table.paths) - 1} in this table. "
            f"Received: rows from {int(rows.min())} to {int(rows.max())}"
        )
    return rows
