"""Read images in threads ahead of the consumer, and put them into batches of uint8 in an order that is known beforehand.

A pass keeps a window of batches. For each image that is not on the device yet, a thread reads the image and writes its pixels
into the memory of its batch; the consumer waits for the batch whose turn it is. On CUDA that memory is pinned, and whoever
writes the last image starts the copy on a separate stream, so that it runs while the network works on the batch before.
Images that a ``DeviceStore`` keeps are gathered on the device instead.

B: images of a batch; H, W: sides. Arrays are HWC as Pillow and the cache have them; batches are CHW views of that memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vizsla.data.cache.device import DeviceDecoder
from vizsla.data.images.decode import source_name
from vizsla.data.loading.order import (
    ALL,
    Share,
    check_rows,
    check_share,
    check_weights,
    draw_rows,
    rows_of,
    shuffle_rows,
    take_share,
    turns_of,
)
from vizsla.errors import ConfigError, DataError, PictureError, VizslaError
from vizsla.machine import Blocks, share_heaps, worker_count
from vizsla.seeding import BATCHES_AT_ONCE, counter_uniform
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from vizsla.data.cache.device import Place
    from vizsla.data.images.reader import ImageReader
    from vizsla.data.images.sizing import Pixels
    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable

Job = TypeVar("Job")
Result = TypeVar("Result")

PREFETCH_BYTES = 512 * 2**20
"""Memory that images waiting for the consumer may take."""

CLOSE_SECONDS = 5.0
"""How long closing waits for busy threads. A thread that hangs in the system for longer ends when the system lets it go."""

MAX_SECONDS = 300.0
"""For one image. A disk or network share that takes longer raises an error that names the file."""

MAX_BLOCKS = 6
"""The reading threads fill up to three batches, the consumer has one."""

_BATCHES_AHEAD = 2
"""Besides the one that the consumer waits for or works on."""

_DECODING_WORKERS = 4
"""Where a device decodes: more threads wait for one another."""

_DECODED_BATCHES_AHEAD = 1024
"""Where a device decodes: images stay there once decoded, so these batches take next to no memory."""

_FEWEST_CORES_TO_READ_MEANWHILE = 4
"""With fewer the training needs all of them."""


# ── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class ReadingThreads:
    """Threads that work until closed. Unlike those of the standard pools, one that hangs does not keep the program alive.

    Each submitted job starts one more thread until there are ``num_threads``, so an epoch that reads nothing starts none.
    With 0 threads everything is done in the caller's thread.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Hand work to the threads. Without threads the work is done here, and an error of the work is raised here."""
        future: Future[Result] = Future()
        if self._num_threads == 0:
            future.set_result(work(*arguments))
            return future
        self._jobs.put((future, work, arguments))
        if len(self._threads) < self._num_threads:
            thread = threading.Thread(
                target=_work,
                args=(self._jobs, self._closed),
                name=f"vizsla-reader-{len(self._threads)}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop the work that has not begun and wait for the threads, for ``CLOSE_SECONDS`` at most."""
        self._closed.set()
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            with suppress(RuntimeError):  # Ctrl-C came while it was started; it ends by itself.
                thread.join(timeout=max(0.0, deadline - time.monotonic()))


_Job = tuple[Future[Any], "Callable[..., object]", tuple[object, ...]]


def _work(jobs: SimpleQueue[_Job | None], closed: threading.Event) -> None:
    while (job := jobs.get()) is not None and not closed.is_set():
        future, work, arguments = job
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001 (it is handed to the consumer, unchanged)
            future.set_exception(error)
        del job, future, work, arguments  # An idle thread holds no image.


def read_ahead(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_workers: int,
    max_waiting: int,
    max_bytes: int = PREFETCH_BYTES,
    num_bytes: Callable[[Result], int] = lambda _result: 0,
) -> Generator[Result]:
    """Yield ``function(job)`` for every job, in order, computed in threads ahead of the consumer.

    The threads end with the generator: when it is used up, closed, dropped, or left by an error or Ctrl-C. An error of the
    function arrives unchanged at its place in the order, and later jobs are cancelled. ``function`` must be thread-safe.

    Jobs are taken one by one. At most ``max_waiting`` results are in progress or wait (at least one per worker), or as many
    as ``max_bytes`` hold if all were as large as the largest so far, by ``num_bytes``. 0 workers use the caller's thread.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    waiting: deque[Future[Result]] = deque()
    num_allowed = num_workers  # Until the size of a result is known.
    largest = 1
    with closing(ReadingThreads(num_workers)) as threads:
        for job in jobs:
            while len(waiting) >= num_allowed:
                result = waiting.popleft().result()
                largest = max(largest, num_bytes(result))
                num_allowed = max(num_workers, min(max_waiting, max_bytes // largest))
                yield result
            waiting.append(threads.submit(function, job))
        while waiting:
            yield waiting.popleft().result()


def map_rows(
    function: Callable[[int], Result],
    rows: Tensor,
    *,
    num_workers: NumWorkers = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> list[Result]:
    """Return ``function(row)`` for each of the rows, int64 ``(N,)``, in order, computed in threads as by ``read_ahead``.

    ``on_progress`` is called in this thread after each row, with the number of rows done so far.
    """
    num_workers = worker_count(num_workers)
    done: list[Result] = []
    results = read_ahead(
        function, rows.tolist(), num_workers=num_workers, max_waiting=32 * num_workers
    )
    with closing(results):
        for result in results:
            done.append(result)
            if on_progress is not None:
                on_progress(len(done))
    return done


# ── one batch ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Sent(NamedTuple):
    """Tensors on their way to the device, and the event that marks their arrival; None if they have arrived."""

    tensors: tuple[Tensor, ...]
    event: torch.cuda.Event | None


class Shipping:
    """How the batches of one pass get to their device: through pinned memory, or out of the device's store of images."""

    def __init__(self, reader: ImageReader, *, device: torch.device, memory: Blocks) -> None:
        sizing, store = reader.resize, reader.cache.device_store
        usable = store is not None and store.serves(device) and reader.windows_are_slices
        self.device = device
        self.store = store if usable else None
        self.sizing = sizing
        # (H, W) of all images, if known before the first is read: a function that the user wrote may return any size.
        self.size = None if sizing is None or reader.items.after else sizing.size
        self._memory = memory
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Return an uint8 tensor on the CPU, in the memory that gets to the device fastest."""
        if self._stream is not None:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return self._memory.empty(shape, dtype=torch.uint8)

    def send(self, *tensors: Tensor) -> Sent:
        """Start copying some tensors to the device; they must not be written to any more."""
        if self._stream is None:
            return Sent(tuple(tensor.to(self.device) for tensor in tensors), None)
        with torch.cuda.stream(self._stream):
            there = tuple(
                (tensor if tensor.is_pinned() else tensor.pin_memory()).to(
                    self.device, non_blocking=True
                )
                for tensor in tensors
            )
        event = torch.cuda.Event()
        event.record(self._stream)
        return Sent(there, event)

    def receive(self, sent: Sent) -> tuple[Tensor, ...]:
        """Let the current stream wait for tensors that were sent, and return them."""
        if sent.event is not None:
            stream = torch.cuda.current_stream(sent.tensors[0].device)
            stream.wait_event(sent.event)
            for tensor in sent.tensors:
                tensor.record_stream(stream)
        return sent.tensors


class PendingBatch:
    """One batch in the making. ``put`` may be called from any thread.

    Attributes:
        missing: Positions of the images that must be put in; ``places`` holds None for them at first.
        jobs: Who reads them: positions, and the future that is done when they are in.
        shapes: Shapes of the images that were put in, by position; empty for the others.
    """

    def __init__(
        self,
        *,
        rows: Tensor,
        targets: Tensor,
        draws: list[list[float]],
        shipping: Shipping,
        places: list[Place | None],
    ) -> None:
        self.rows = rows
        self.draws = draws
        self.shipping = shipping
        self.missing = [index for index, place in enumerate(places) if place is None]
        self.jobs: list[tuple[Sequence[int], Future[None]]] = []
        self.shapes: list[tuple[int, ...]] = [()] * len(rows)
        self._targets = targets
        self._places = places
        self._images_BHWC: Tensor | None = None
        if shipping.size is not None and shipping.store is None and len(rows):
            # Here, in the consumer's thread: the C library keeps freed blocks for the thread that took them, and
            # with every reading thread taking some, memory grew by 10 % from the second epoch to the sixth.
            self._images_BHWC = shipping.empty((len(rows), *shipping.size, 3))
        self._num_missing = len(self.missing)
        self._sent: Sent | None = None
        self._lock = threading.Lock()

    def put(self, index: int, image: Pixels | Place) -> None:
        """Put in one image: copy its pixels, ``(H, W, 3)``, or note its place on the device."""
        if isinstance(image, np.ndarray):
            with self._lock:
                if self._images_BHWC is None:
                    self._images_BHWC = self.shipping.empty((len(self.rows), *image.shape))
                images = self._images_BHWC
                self.shapes[index] = image.shape
            if images.shape[1:] == image.shape:
                np.copyto(images[index].numpy(), image)
        else:
            self._places[index] = image
        with self._lock:
            self._num_missing -= 1
            is_last = self._num_missing == 0
        if is_last and self._images_BHWC is not None and not self.has_mixed_sizes:
            self._sent = self.shipping.send(self._targets, self._images_BHWC)
            self._images_BHWC = None

    @property
    def has_mixed_sizes(self) -> bool:
        """Whether the images that were put in differ in size, so that they cannot be a batch."""
        return len({shape for shape in self.shapes if shape}) > 1

    @property
    def num_bytes(self) -> int | None:
        """Of its images; None while their size is not known."""
        size = next((shape for shape in self.shapes if shape), self.shipping.size)
        return None if size is None else 3 * size[0] * size[1] * len(self.rows)

    def finish(self) -> Batch:
        """Return the batch once nothing is missing; its images are in channels-last memory."""
        shipping = self.shipping
        if self._sent is None:  # No pixels were put in.
            self._sent = shipping.send(self._targets)
        targets, *read = shipping.receive(self._sent)
        self._sent = None
        if not len(self.rows):
            shape = 0, *(shipping.size or (1, 1)), 3
            images_BHWC = torch.empty(shape, dtype=torch.uint8, device=shipping.device)
        else:
            images_BHWC = self._gather(read)
        return Batch(images=images_BHWC.permute(0, 3, 1, 2), targets=targets, rows=self.rows)

    def _gather(self, read: list[Tensor]) -> Tensor:
        """Return the images of the store, with those in between that were read because the store has no room."""
        store, sizing, size = self.shipping.store, self.shipping.sizing, self.shipping.size
        placed = {index: place for index, place in enumerate(self._places) if place is not None}
        if store is None or sizing is None or size is None or not placed:
            return read[0]
        corners = [(0, 0)] * len(placed)
        if self.draws[0]:
            boxes = [sizing.part((p.height, p.width), self.draws[i]) for i, p in placed.items()]
            corners = [(left, top) for left, top, _, _ in boxes]
        images_BHWC = store.gather(list(placed.values()), corners=corners, size=size)
        if not read:
            return images_BHWC
        read[0][torch.tensor(list(placed), device=read[0].device)] = images_BHWC
        return read[0]


# ── all batches ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ImageLoader:
    """Batches of uint8 images from some rows of a table.

    In training the rows are shuffled for each epoch and a random window is taken of every image. Both depend on the seed,
    the epoch and the row alone, not on the batch size or the number of workers; a row that comes up more than once in an
    epoch gets another window each time. Otherwise the rows come in the order given and the images are centred.

    ``rows`` are int64 ``(N,)`` and may repeat. ``drop_last`` leaves out a last batch that is not full, unless it is the only
    one. ``weights``, ``(N,)``, say how often each row comes up in training, see ``order.draw_rows``; None: once. Loaders that
    are used in turn may share the ``memory`` of their batches.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: Tensor,
        *,
        reader: ImageReader,
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
            raise ConfigError(f"batch_size must be at least 1. Received: batch_size={batch_size}")
        share_heaps()
        self.table = table
        self.rows = check_rows(rows, count=len(table.paths))
        self.reader = reader
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.num_workers = worker_count(num_workers)
        self.device = torch.device(device)
        self.drop_last = drop_last
        self.weights = None if weights is None else check_weights(weights, count=len(self.rows))
        self._memory = Blocks(max_blocks=MAX_BLOCKS) if memory is None else memory
        self._has_repeats = weights is not None or len(self.rows.unique()) < len(self.rows)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full if self.drop_last and full else full + (rest > 0)

    def plan(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> tuple[Tensor, ...]:
        """Return the turns (see ``order``) of each batch of an epoch, int64 on the CPU, without reading an image.

        ``start`` is the number of batches to leave out at the beginning, ``share`` (rank, world): only that process's share of
        each batch, see ``batches``.
        """
        check_share(share)
        if not 0 <= start <= len(self):
            raise ConfigError(
                f"start must be a batch number from 0 to {len(self)}, the batches in an epoch. Received: "
                f"start={start}"
            )
        turns = self._order(epoch)
        batches = torch.split(turns, self.batch_size)[: len(self)] if len(turns) else ()
        return tuple(take_share(batch, share=share) for batch in batches[start:])

    def batches(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> Generator[Batch]:
        """Yield the batches of an epoch; threads read ahead of the consumer and end when the generator is closed.

        Images are uint8 ``(B, 3, H, W)``, channels-last, on the device. Those of batches before ``start`` are not read, and the
        other batches are the same as without it, bit for bit. Each of several processes gets neighbouring images of every
        batch as its ``share``, all together get every image once, and all get the same number of batches. A last batch with
        fewer images than there are processes leaves some with a batch of no images, ``(0, 3, H, W)``; its H and W are those
        of the others if a transform fixes them, else 1.

        Raises:
            PictureError: An image cannot be read; the first one in the order of the batches is named.
            DataError: The images of a batch differ in size, because there is no ``Resize``.
        """
        return self.read_plan(self.plan(epoch=epoch, start=start, share=share), epoch=epoch)

    def read_plan(self, plan: Sequence[Tensor], *, epoch: int = 0) -> Generator[Batch]:
        """Yield the batches of a plan, or of a part of one, as ``batches`` does."""
        shipping = Shipping(self.reader, device=self.device, memory=self._memory)
        decoder = self._device_decoder(shipping)
        num_workers, num_allowed = self.num_workers, 1
        if decoder is not None:
            num_workers, num_allowed = min(_DECODING_WORKERS, num_workers), _DECODED_BATCHES_AHEAD
        pending = self._pending_batches(plan, epoch=epoch, shipping=shipping)
        window: deque[PendingBatch] = deque()
        with closing(ReadingThreads(num_workers)) as threads:
            while True:
                while len(window) < num_allowed and (batch := next(pending, None)) is not None:
                    for indices in [batch.missing] if decoder else [[one] for one in batch.missing]:
                        job = threads.submit(self._read, batch, indices, decoder)
                        batch.jobs.append((indices, job))
                    window.append(batch)
                if not window:
                    return
                batch = window.popleft()
                for indices, job in batch.jobs:
                    try:
                        # In the order of the images, so each was begun before all that follow.
                        job.result(timeout=MAX_SECONDS)
                    except TimeoutError as error:
                        if job.done():
                            raise
                        raise self._too_slow(batch, indices[0]) from error
                if batch.has_mixed_sizes:
                    raise self._mixed_sizes(batch)
                if num_workers and decoder is None:  # Without threads nothing is read ahead.
                    num_allowed = _window_length(batch.num_bytes)
                yield batch.finish()

    def _pending_batches(
        self, plan: Sequence[Tensor], *, epoch: int, shipping: Shipping
    ) -> Iterator[PendingBatch]:
        """Yield the batches of a plan before anything is read."""
        count = self.reader.num_draws if self.training else 0
        for first in range(0, len(plan), BATCHES_AT_ONCE):
            some = plan[first : first + BATCHES_AT_ONCE]
            numbers = counter_uniform(
                self.seed, "crop", epoch=epoch, rows=torch.cat(tuple(some)), count=count
            )
            draws_of_batches = numbers.split([len(turns) for turns in some])
            for turns, draws in zip(some, draws_of_batches, strict=True):
                rows = rows_of(turns)
                places: list[Place | None] = [None] * len(rows)
                if shipping.store is not None:
                    paths = [self.table.file(row) for row in rows.tolist()]
                    places = [self.reader.place(path, training=self.training) for path in paths]
                yield PendingBatch(
                    rows=rows,
                    targets=self.table.targets[rows],
                    draws=draws.tolist(),
                    shipping=shipping,
                    places=places,
                )

    def _read(
        self, batch: PendingBatch, indices: Sequence[int], decoder: DeviceDecoder | None
    ) -> None:
        """Put some images into their batch; called in a thread."""
        reader, training, rows = self.reader, self.training, batch.rows.tolist()
        if decoder is not None:
            decoder.fill([self.table.paths[rows[index]] for index in indices])
        on_device = batch.shipping.store is not None
        for index in indices:
            path = self.table.file(rows[index])
            # If the device has the image, or gets it now, the batch takes it from there.
            image = reader.place(path, training=training) if on_device else None
            if image is None:
                image = reader.read(path, draws=batch.draws[index] if training else None)
                place = reader.place(path, training=training) if on_device else None
                image = image if place is None else place
            batch.put(index, image)

    def _order(self, epoch: int) -> Tensor:
        """Return the turns of an epoch, ``(N,)``."""
        if not self.training or not len(self.rows):
            return self.rows
        if self.weights is None:
            rows = shuffle_rows(self.rows, seed=self.seed, epoch=epoch)
        else:
            targets = self.table.targets[self.rows]
            groups = targets if targets.ndim == 1 and not targets.is_floating_point() else None
            rows = draw_rows(
                self.rows, weights=self.weights, groups=groups, seed=self.seed, epoch=epoch
            )
        return turns_of(rows) if self._has_repeats else rows

    def _device_decoder(self, shipping: Shipping) -> DeviceDecoder | None:
        """Return the decoder for training images on a CUDA device that will keep them, if this is such a device."""
        usable = self.training and self.device.type == "cuda" and self.reader.scales_one_box
        if not usable or shipping.store is None:
            return None
        return DeviceDecoder(self.reader, store=shipping.store)

    def _mixed_sizes(self, batch: PendingBatch) -> DataError:
        first_of: dict[tuple[int, ...], int] = {}
        for shape, row in zip(batch.shapes, batch.rows.tolist(), strict=True):
            first_of.setdefault(shape, row)
        shown = "; ".join(
            f"{shape[0]} x {shape[1]} ({self.table.shown_path(row)})"
            for shape, row in islice(first_of.items(), 4)
        )
        return DataError(
            f"The images of a batch must have the same size, but these {len(batch.rows)} have {len(first_of)} "
            f"different sizes (height x width): {shown}{'; ...' if len(first_of) > 4 else ''}; add "
            "item_tfms=Resize(...)"
        )

    def _too_slow(self, batch: PendingBatch, index: int) -> PictureError:
        path = self.table.file(int(batch.rows[index]))
        return PictureError(
            f"Cannot read the image {source_name(path)}: it took more than {MAX_SECONDS:g} seconds. Its disk or "
            "network share may be hanging; copy the images to a local disk."
        )


def _window_length(num_bytes: int | None) -> int:
    """Return how many batches are read or wait at once, the one that the consumer waits for included."""
    if num_bytes is None:
        return 1
    return min(1 + _BATCHES_AHEAD, max(2, PREFETCH_BYTES // max(1, num_bytes)))


@contextmanager
def reading_meanwhile(loader: ImageLoader) -> Generator[None]:
    """Read the images of a validation loader into the device's cache while something else goes on.

    While a device trains its first epoch, the processor's cores have nothing to do that the next batch waits for. Reading
    7,390 validation images took 1.4 to 2 s after the first epoch; read meanwhile, they are there. Nothing is read where that
    would not help. An image that cannot be read is left for whoever needs it.
    """
    reader, table = loader.reader, loader.table
    store = reader.cache.device_store

    def is_there(row: int) -> bool:
        return reader.place(table.file(row), training=False) is not None

    has_cores = loader.num_workers >= _FEWEST_CORES_TO_READ_MEANWHILE and not loader.training
    if store is None or not has_cores or not len(loader.rows) or is_there(int(loader.rows[-1])):
        yield
        return
    rows, ended = loader.rows.tolist(), threading.Event()

    def read(row: int) -> None:
        with suppress(VizslaError):
            if not is_there(row):
                reader.read(table.file(row))

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
