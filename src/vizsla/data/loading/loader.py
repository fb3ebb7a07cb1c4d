"""A table and some of its rows in, batches of uint8 pictures in a known order out, read in threads ahead of the consumer.

B: pictures of a batch; H, W: sides. Arrays are HWC as Pillow and the cache have them; batches are CHW views of that memory.

A function and its jobs in, the results in order out, worked out in threads ahead of the consumer.

Pictures one by one and from many threads in, one batch on the device out, already on its way before anybody waits for it.

Threads write pixels straight into the memory of the batch. On CUDA that memory is pinned, and whoever puts in the last
picture starts the copy on a stream of its own, so that it runs while the network works on the batch before. Pictures that
a ``DeviceStore`` keeps are gathered there instead. B: pictures of a batch; H, W: sides.

A loader in; its pictures read into the cache by threads of their own while something else goes on.

While a device trains its first epoch, the processor's cores have nothing to do that the next batch waits for. The validation
pictures of 7,390 took 1.4 to 2 s after the first epoch; read meanwhile they are there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vizsla.data.cache.device_decode import DeviceDecoder
from vizsla.data.images.decode import source_name
from vizsla.data.images.sizing import Resize
from vizsla.data.loading.order import (
    ALL,
    Share,
    check_share,
    checked_rows,
    checked_weights,
    drawn,
    part,
    rows_of,
    shuffled,
    turns_of,
)
from vizsla.errors import ConfigError, DataError, PictureError, VizslaError
from vizsla.machine import Blocks, share_heaps, worker_count
from vizsla.seeding import BATCHES_AT_ONCE, counter_uniform
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vizsla.data.cache.device import DeviceStore, Place
    from vizsla.data.images.reader import PictureReader
    from vizsla.machine import NumWorkers
    from vizsla.types import PictureTable, Size

Job = TypeVar("Job")
Result = TypeVar("Result")

PREFETCH_BYTES = 512 * 2**20
"""Results that wait for the consumer take at most this much memory."""

CLOSE_SECONDS = 5.0
"""How long the end waits for threads that are at work. A thread that hangs in the system longer ends when that lets go."""


def _nothing(_result: object) -> int:
    return 0


def read_ahead(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_workers: int,
    max_waiting: int,
    max_bytes: int = PREFETCH_BYTES,
    num_bytes: Callable[[Result], int] = _nothing,
    max_seconds: float | None = None,
    too_slow: Callable[[Job], Exception] | None = None,
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
        max_seconds: Wait at most so long for one result; None waits for ever. Without workers nothing is measured.
        too_slow: Gives the error that is raised then; None raises TimeoutError.

    Yields:
        Results, in the order of the jobs.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    threads = _Threads(function, num_workers)
    waiting: deque[tuple[Job, Future[Result]]] = deque()

    def oldest() -> Result:
        job, future = waiting.popleft()
        try:
            # The oldest job was begun before all others, so it is not waiting for a thread.
            return future.result(timeout=max_seconds)
        except TimeoutError as error:
            if future.done() or too_slow is None:
                raise
            raise too_slow(job) from error

    num_allowed = num_workers  # Until the size of a result is known.
    largest = 1
    try:
        for job in jobs:
            while len(waiting) >= num_allowed:
                result = oldest()
                largest = max(largest, num_bytes(result))
                num_allowed = max(num_workers, min(max_waiting, max_bytes // largest))
                yield result
            waiting.append((job, threads.submit(job)))
        while waiting:
            yield oldest()
    finally:
        waiting.clear()
        threads.close()


class _Threads(Generic[Job, Result]):
    """Threads that work on jobs until closed; unlike those of the standard pools, one that hangs does not keep the program.

    Args:
        function: What to do with a job.
        num_threads: How many.
    """

    def __init__(self, function: Callable[[Job], Result], num_threads: int) -> None:
        self._function = function
        self._num_threads = num_threads
        self._jobs: SimpleQueue[tuple[Job, Future[Result]] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> Future[Result]:
        """Hand a job to the threads; the first jobs each start one, so that an epoch that reads nothing has none."""
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        if len(self._threads) < self._num_threads:
            thread = threading.Thread(
                target=_work,
                args=(self._function, self._jobs, self._closed),
                name=f"vizsla-reader-{len(self._threads)}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop the jobs that were not begun and wait for the threads, but not for ever."""
        self._closed.set()
        with contextlib.suppress(Exception):
            while not self._jobs.empty():
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _work(
    function: Callable[[Job], Result],
    jobs: SimpleQueue[tuple[Job, Future[Result]] | None],
    closed: threading.Event,
) -> None:
    while (item := jobs.get()) is not None and not closed.is_set():
        job, future = item
        try:
            future.set_result(function(job))
        except BaseException as error:  # noqa: BLE001 (it is handed to the consumer, unchanged)
            future.set_exception(error)
        del item, job, future  # An idle thread holds no picture.


class Shipping:
    """How the batches of one pass get to their device.

    Args:
        device: Where batches go.
        store: Keeps pictures there; None if none does.
        size: ``(H, W)`` of all pictures, where that is known before the first is read; a store needs it.
        memory: Where batches on the CPU take theirs from.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        store: DeviceStore | None = None,
        size: Size | None = None,
        memory: Blocks,
    ) -> None:
        self.device = device
        self.store = store
        self.size = size
        self.memory = memory
        self.on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.on_cuda else None

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uint8 tensor on the CPU, from where it gets to the device fastest."""
        if self.on_cuda:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return self.memory.empty(shape, dtype=torch.uint8)

    def send(self, *tensors: Tensor) -> Sent:
        """Start the copy of some tensors; they must not be written to any more."""
        if self._stream is None:
            return Sent(tensors=tuple(tensor.to(self.device) for tensor in tensors), event=None)
        with torch.cuda.stream(self._stream):
            there = tuple(
                (tensor if tensor.is_pinned() else tensor.pin_memory()).to(
                    self.device, non_blocking=True
                )
                for tensor in tensors
            )
        event = torch.cuda.Event()
        event.record(self._stream)
        return Sent(tensors=there, event=event)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """Tensors on their way to the device.

    Attributes:
        tensors: On the device.
        event: Reached when they are there; None if they are.
    """

    tensors: tuple[Tensor, ...]
    event: torch.cuda.Event | None

    def received(self) -> tuple[Tensor, ...]:
        """Let the current stream wait for the tensors, and return them."""
        if self.event is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.event)
            for tensor in self.tensors:
                tensor.record_stream(stream)
        return self.tensors


class PendingBatch:
    """One batch that is being put together; ``put`` and ``put_place`` may be called from any thread.

    Args:
        rows: int64 ``(B,)``, rows of the table.
        targets: int64 ``(B,)``, their targets.
        draws: Random numbers of each picture; the first says where a window lies on its strip.
        shipping: How it gets to its device.
    """

    def __init__(
        self, *, rows: Tensor, targets: Tensor, draws: list[list[float]], shipping: Shipping
    ) -> None:
        self.rows = rows
        self.draws = draws
        self.shipping = shipping
        self.shapes: list[tuple[int, ...]] = [()] * len(rows)
        self.missing: Sequence[int] = range(len(rows))
        self._targets = targets
        self._places: dict[int, Place] = {}
        self._images_BHWC: Tensor | None = None
        if shipping.size is not None and shipping.store is None and len(rows):
            # Here, in the consumer's thread: the C library keeps freed blocks for the thread that took them, and
            # with every reading thread taking some, memory grew by 10 % from the second epoch to the sixth.
            self._images_BHWC = shipping.empty((len(rows), *shipping.size, 3))
        self._num_missing = len(rows)
        self._sent: Sent | None = None
        self._lock = threading.Lock()

    def place_known(self, places: Sequence[Place | None]) -> None:
        """Note the pictures that are on the device already; the others stay missing. Before anything is put in."""
        self._places = {index: place for index, place in enumerate(places) if place is not None}
        self.missing = [index for index, place in enumerate(places) if place is None]
        self._num_missing = len(self.missing)

    def put(self, index: int, pixels: NDArray[np.uint8]) -> None:
        """Copy a picture, ``(H, W, 3)``, into its place in the batch."""
        with self._lock:
            if self._images_BHWC is None:
                self._images_BHWC = self.shipping.empty((len(self.rows), *pixels.shape))
            images = self._images_BHWC
            self.shapes[index] = pixels.shape
        if images.shape[1:] == pixels.shape:
            np.copyto(images[index].numpy(), pixels)
        self._one_less()

    def put_place(self, index: int, place: Place) -> None:
        """Note that a picture is on the device now."""
        with self._lock:
            self._places[index] = place
        self._one_less()

    @property
    def has_mixed_sizes(self) -> bool:
        """Whether the pictures that were put in differ in size, so that they are no batch; ``shapes`` has the sizes."""
        return len({shape for shape in self.shapes if shape}) > 1

    def finish(self) -> Batch:
        """Return the batch once nothing is missing; its images are in channels-last memory."""
        if self._sent is None:  # Nothing had to be sent but this.
            self._sent = self.shipping.send(self._targets)
        targets, *read = self._sent.received()
        self._sent = None
        if not len(self.rows):
            shape = 0, *(self.shipping.size or (1, 1)), 3
            images_BHWC = torch.empty(shape, dtype=torch.uint8, device=self.shipping.device)
        else:
            images_BHWC = read[0] if not self._places else self._with_gathered(read)
        return Batch(images=images_BHWC.permute(0, 3, 1, 2), targets=targets, rows=self.rows)

    def _with_gathered(self, read: list[Tensor]) -> Tensor:
        """Return the pictures of the store, and in between those that were read because the store has no room."""
        store, size = self.shipping.store, self.shipping.size
        if store is None or size is None:
            raise ValueError("Pictures have places on a device only where a store gave them.")
        indices = sorted(self._places)
        images_BHWC = store.gather(
            [self._places[index] for index in indices],
            positions=[(self.draws[index] or [0.0])[0] for index in indices],
            size=size,
        )
        if not read:
            return images_BHWC
        read[0][torch.tensor(indices, device=read[0].device)] = images_BHWC
        return read[0]

    def _one_less(self) -> None:
        with self._lock:
            self._num_missing -= 1
            is_last = self._num_missing == 0
        if is_last and self._images_BHWC is not None and not self.has_mixed_sizes:
            self._sent = self.shipping.send(self._targets, self._images_BHWC)
            self._images_BHWC = None


MAX_BLOCKS = 6
"""The reading threads fill up to three batches, the consumer has one."""

_DECODING_WORKERS = 4
"""Where a device decodes: more threads wait for one another."""

_BATCHES_AHEAD = 1024
"""Then; pictures that are decoded stay there, so these take next to no memory."""

MAX_SECONDS = 300.0
"""For one picture; a disk or network share that takes longer is given up, with an error that names the file."""


class PictureLoader:
    """Batches of uint8 pictures from some rows of a table.

    In training the rows are shuffled anew each epoch and of every picture a random window is taken along its long side.
    Both depend on the seed, the epoch and the row alone, not on batch size or number of workers; a row that comes up more
    than once in an epoch gets another window each time. Otherwise the rows come in the order given and the pictures are
    centred.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures; a row may occur more than once.
        reader: Reads one picture.
        batch_size: Pictures in a batch; the last may hold fewer.
        training: Shuffle, and take random windows.
        seed: Of the run.
        num_workers: Threads that read ahead; ``"auto"`` is one for each core, 0 reads in the consumer's thread.
        device: Where images and targets go.
        drop_last: Leave out a last batch that is not full, unless it is the only one.
        weights: How often each of the rows comes up in training, in proportion, ``(N,)``; an epoch is as long as without,
            its rows are drawn with replacement (see ``order.drawn``). None: each comes up once.
        memory: Where batches on the CPU lie; loaders that are used by turns may share it. None is memory of its own.

    Raises:
        ConfigError: ``batch_size`` is below 1 or ``num_workers`` below 0, or the weights cannot work.
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
        num_workers: NumWorkers = "auto",
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        weights: Tensor | Sequence[float] | None = None,
        memory: Blocks | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is at least 1. Received: batch_size={batch_size}")
        share_heaps()
        self.table = table
        self.rows = checked_rows(rows, count=len(table.paths))
        self.reader = reader
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.num_workers = worker_count(num_workers)
        self.device = torch.device(device)
        self.drop_last = drop_last
        self.weights = None if weights is None else checked_weights(weights, count=len(self.rows))
        self._memory = Blocks(max_blocks=MAX_BLOCKS) if memory is None else memory
        self._has_repeats = weights is not None or len(self.rows.unique()) < len(self.rows)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full if self.drop_last and full else full + (rest > 0)

    def plan(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> tuple[Tensor, ...]:
        """Return what comes up in every batch of an epoch, without reading a picture.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.
            start: So many batches are left out at the beginning.
            share: (rank, world): only that process's part of each batch, see ``batches``.

        Returns:
            Turns of each batch, int64 on the CPU: rows of the table where none is repeated, see ``order``.

        Raises:
            ConfigError: There are fewer batches than ``start``, or no such share.
        """
        check_share(share)
        if not 0 <= start <= len(self):
            raise ConfigError(
                f"start is a number of batches, from 0 to the {len(self)} of an epoch. Received: start={start}"
            )
        turns = self._order(epoch)
        batches = torch.split(turns, self.batch_size)[: len(self)] if len(turns) else ()
        return tuple(part(batch, share=share) for batch in batches[start:])

    def batches(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> Generator[Batch]:
        """Yield the batches of an epoch; threads read ahead of the consumer and end when the generator is closed.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.
            start: So many batches are left out at the beginning, their pictures not read; the others are the same as
                without it, bit for bit.
            share: (rank, world). Each of several processes gets neighbouring pictures of every batch, all together get
                every picture once, and all get the same number of batches. A last batch with fewer pictures than there
                are processes leaves some with a batch of no pictures, ``(0, 3, H, W)``.

        Yields:
            Images uint8 ``(B, 3, H, W)``, channels-last, on the device. H and W of an empty batch are those of the
            others where a transform says so, else 1.

        Raises:
            PictureError: A picture cannot be read; the first one in the order of the batches is named.
            DataError: The pictures of a batch differ in size, because there is no ``Resize``.
            ConfigError: As ``plan`` raises.
        """
        return self.read_plan(self.plan(epoch=epoch, start=start, share=share), epoch=epoch)

    def read_plan(self, plan: Iterable[Tensor], *, epoch: int = 0) -> Generator[Batch]:
        """Yield the batches of a plan, or of a part of one; see ``batches``.

        Args:
            plan: Rows or turns of each batch, as ``plan`` returns them.
            epoch: Number of the epoch, from 0; matters in training only.

        Yields:
            Images uint8 ``(B, 3, H, W)``, channels-last, on the device.
        """
        plan = tuple(plan)
        planned: deque[tuple[PendingBatch, int]] = deque()  # Each with the number of its jobs.
        shipping = self._shipping()
        decoder = self._device_decoder(shipping)
        done = read_ahead(
            partial(self._read, decoder=decoder),
            self._jobs(
                plan, epoch=epoch, shipping=shipping, planned=planned, whole=decoder is not None
            ),
            num_workers=self.num_workers
            if decoder is None
            else min(_DECODING_WORKERS, self.num_workers),
            max_waiting=2 * self.batch_size if decoder is None else _BATCHES_AHEAD,
            num_bytes=int,
            max_seconds=MAX_SECONDS,
            too_slow=self._too_slow,
        )
        num_ready = 0
        with closing(done):
            for _ in plan:
                while not planned:  # Asking for a result plans batches.
                    num_ready += next(done, None) is not None
                batch, num_jobs = planned.popleft()
                num_ready -= num_jobs
                while num_ready < 0:
                    next(done)
                    num_ready += 1
                if batch.has_mixed_sizes:
                    raise DataError(self._mixed_sizes(batch))
                yield batch.finish()

    def _order(self, epoch: int) -> Tensor:
        """Return the turns of an epoch, ``(N,)``."""
        if not self.training or not len(self.rows):
            return self.rows
        if self.weights is None:
            rows = shuffled(self.rows, seed=self.seed, epoch=epoch)
        else:
            targets = self.table.targets[self.rows]
            groups = targets if targets.ndim == 1 and not targets.is_floating_point() else None
            rows = drawn(
                self.rows, weights=self.weights, groups=groups, seed=self.seed, epoch=epoch
            )
        return turns_of(rows) if self._has_repeats else rows

    def _shipping(self) -> Shipping:
        """Return how the batches of a pass get to the device."""
        resize, store = self.reader.resize, self.reader.cache.device_store
        if store is not None and not (store.serves(self.device) and self.reader.windows_are_slices):
            store = None
        # A function of the user's own may give any size.
        size = None if resize is None or self.reader.items.after else resize.size
        return Shipping(self.device, store=store, size=size, memory=self._memory)

    def _device_decoder(self, shipping: Shipping) -> DeviceDecoder | None:
        """Return what decodes training pictures on a CUDA device that will keep them, if this is one."""
        resize, store = self.reader.resize, shipping.store
        usable = self.training and self.device.type == "cuda"
        if not usable or store is None or not isinstance(resize, Resize) or resize.method == "pad":
            return None
        return DeviceDecoder(self.reader, resize=resize, store=store)

    def _jobs(
        self,
        plan: tuple[Tensor, ...],
        *,
        epoch: int,
        shipping: Shipping,
        planned: deque[tuple[PendingBatch, int]],
        whole: bool,
    ) -> Iterator[_Job]:
        """Yield what must be read, picture by picture or batch by batch; batches are added to ``planned`` before their jobs."""
        for turns, draws in self._with_draws(plan, epoch=epoch):
            batch = self._pending(turns, draws=draws, shipping=shipping)
            if whole and batch.missing:
                jobs = [_Job(batch, batch.missing)]
            else:
                jobs = [_Job(batch, [index]) for index in batch.missing]
            planned.append((batch, len(jobs)))
            yield from jobs

    def _with_draws(
        self, plan: tuple[Tensor, ...], *, epoch: int
    ) -> Iterator[tuple[Tensor, list[list[float]]]]:
        """Yield the turns of each batch with the random numbers of each picture, which are drawn for several batches at once."""
        count = self.reader.num_draws if self.training else 0
        for first in range(0, len(plan), BATCHES_AT_ONCE):
            some = plan[first : first + BATCHES_AT_ONCE]
            rows = torch.cat(some)
            drawn = counter_uniform(self.seed, "crop", epoch=epoch, rows=rows, count=count)
            for turns, draws in zip(some, drawn.split([len(turns) for turns in some]), strict=True):
                yield turns, draws.tolist()

    def _pending(
        self, turns: Tensor, *, draws: list[list[float]], shipping: Shipping
    ) -> PendingBatch:
        rows = rows_of(turns)
        batch = PendingBatch(
            rows=rows,
            targets=self.table.targets[rows],
            draws=draws,
            shipping=shipping,
        )
        if shipping.store is not None:
            paths = [self.table.file(row) for row in rows.tolist()]
            batch.place_known([self.reader.place(path, training=self.training) for path in paths])
        return batch

    def _read(self, job: _Job, *, decoder: DeviceDecoder | None) -> int:
        """Put some pictures of a batch into their places; return their bytes."""
        if decoder is not None:
            decoder.fill([self._path(job.batch, index) for index in job.indices])
        return sum(self._put(job.batch, index) for index in job.indices)

    def _put(self, batch: PendingBatch, index: int) -> int:
        """Put one picture of a batch into its place; return its bytes."""
        path = self._path(batch, index)
        # Where the device has it, the batch takes it from there.
        on_device = batch.shipping.store is not None
        place = self.reader.place(path, training=self.training) if on_device else None
        num_bytes = 0
        if place is None:
            if self.training:
                pixels = self.reader.read_window(path, draws=batch.draws[index])
            else:
                pixels = self.reader.read(path)
            num_bytes = pixels.nbytes
            place = self.reader.place(path, training=self.training) if on_device else None
            if place is None:
                batch.put(index, pixels)
                return num_bytes
        batch.put_place(index, place)
        return num_bytes

    def _path(self, batch: PendingBatch, index: int) -> Path:
        return self.table.paths[int(batch.rows[index])]

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

    def _too_slow(self, job: _Job) -> PictureError:
        return PictureError(
            f"Cannot read the picture {source_name(self._path(job.batch, job.indices[0]))}: it took more than "
            f"{MAX_SECONDS:g} seconds. The disk or network share that it lies on may hang; copy the pictures to a local disk."
        )


class _Job(NamedTuple):
    """Some pictures of a batch that are read one after the other."""

    batch: PendingBatch
    indices: Sequence[int]


_FEWEST_WORKERS = 4
"""With fewer cores the training needs all of them."""


@contextmanager
def reading_meanwhile(loader: PictureLoader) -> Generator[None]:
    """Read pictures that will be wanted, as long as this lasts; where it would not help, do nothing.

    A picture that cannot be read is left for whoever wants it.

    Args:
        loader: Of the pictures, prepared as in validation.
    """
    reader, table = loader.reader, loader.table
    store = reader.cache.device_store

    def is_there(row: int) -> bool:
        return reader.place(table.file(row), training=False) is not None

    has_cores = loader.num_workers >= _FEWEST_WORKERS and not loader.training
    if store is None or not has_cores or not len(loader.rows) or is_there(int(loader.rows[-1])):
        yield
        return
    rows = loader.rows.tolist()

    def read(row: int) -> None:
        with suppress(VizslaError):
            if not is_there(row):
                reader.read(table.file(row))

    ended = threading.Event()

    def read_all() -> None:
        num_workers = loader.num_workers // 2
        read_rows = read_ahead(read, rows, num_workers=num_workers, max_waiting=4 * num_workers)
        with closing(read_rows):
            for _ in read_rows:
                if ended.is_set() or store.is_full:
                    return

    thread = threading.Thread(target=read_all, name="vizsla-meanwhile", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
