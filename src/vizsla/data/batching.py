"""Pictures one by one and from many threads in, one batch on the device out, already on its way before anybody waits for it.

Threads write pixels straight into the memory of the batch. On CUDA that memory is pinned, and whoever puts in the last
picture starts the copy on a stream of its own, so that it runs while the network works on the batch before. Pictures that
a ``DeviceStore`` keeps are gathered there instead. B: pictures of a batch; H, W: sides.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vizsla.allocator import Blocks
    from vizsla.data.device_cache import DeviceStore, Place
    from vizsla.types import Size


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
