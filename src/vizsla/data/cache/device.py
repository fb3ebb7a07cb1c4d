"""Keys and pixels in, batches cut from pictures that stay on a device out, without the host touching a pixel.

Pictures lie one after the other in a few large buffers, uint8 HWC, each at its own size. The lines of a window are runs
of bytes, so a whole batch of windows is one ``index_select`` per buffer over a view whose row i is the run that begins
at byte i. B: pictures of a batch; H, W: sides of the windows.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vizsla.data.cache.key import PictureKey
    from vizsla.types import Size

_FIRST_BUFFER_BYTES = 64 * 2**20
_LARGEST_STEP_BYTES = 2**30


class Place(NamedTuple):
    """Where a picture lies: which buffer, from which byte on, and its sides."""

    buffer: int
    start: int
    height: int
    width: int


class DeviceStore:
    """Pictures in the memory of a device, until the budget is used up. For any number of threads.

    Args:
        device: Whose memory; the CPU's works too.
        budget_bytes: All buffers together take at most so much.
        expected_bytes: What will probably be stored, so that one buffer holds it; None begins with 64 MiB.
    """

    def __init__(
        self, device: torch.device, *, budget_bytes: int, expected_bytes: int | None = None
    ) -> None:
        self.device = _numbered(device)
        self._stream = torch.cuda.Stream(self.device) if device.type == "cuda" else None
        self.budget_bytes = budget_bytes
        self._first_bytes = _FIRST_BUFFER_BYTES if expected_bytes is None else expected_bytes
        self._buffers: list[Tensor] = []
        self._filled = 0  # Bytes of the last buffer.
        self._used_bytes = 0
        self._full = False
        self._places: dict[tuple[str, str], tuple[PictureKey, Place]] = {}
        self._lock = threading.Lock()

    def serves(self, device: torch.device) -> bool:
        """Whether this is the store's device; ``cuda`` is the current CUDA device."""
        same_type = device.type == self.device.type
        return same_type and (device.type != "cuda" or _numbered(device) == self.device)

    @property
    def is_full(self) -> bool:
        """Whether there was no room for a picture, so that none is taken any more."""
        return self._full

    def locate(self, key: PictureKey) -> Place | None:
        """Return where the picture of a key lies, or None."""
        known = self._places.get(key.slot)
        return known[1] if known is not None and known[0] == key else None

    def has(self, slot: tuple[str, str]) -> bool:
        """Whether there is a picture of a ``PictureKey.slot``, of whatever time."""
        return slot in self._places

    def unchanged(self, slot: tuple[str, str], num_bytes: int, modified_ns: int) -> Place | None:
        """Return where the picture of a slot lies if its file still has this size and time, or None."""
        key, place = self._places[slot]
        return place if (key.num_bytes, key.modified_ns) == (num_bytes, modified_ns) else None

    def find(self, key: PictureKey) -> NDArray[np.uint8] | None:
        """Return the pixels of a key, copied to the host, or None."""
        place = self.locate(key)
        if place is None:
            return None
        if self._stream is not None:
            self._stream.synchronize()
        pixels = self.view(place).cpu().clone().numpy()
        pixels.setflags(write=False)
        return pixels

    def keep(self, key: PictureKey, picture: NDArray[np.uint8]) -> Place | None:
        """Copy a picture to the device; return where it lies, or None if there is no room."""
        place = self.locate(key)  # Another thread may have been quicker.
        if place is not None:
            return place
        place = self.reserve(height=picture.shape[0], width=picture.shape[1])
        if place is None:
            return None
        # Of a copy: torch wants memory that it could write to, and from pinned memory nobody waits for the copy to the device.
        is_cuda = self._stream is not None
        source = torch.empty(picture.shape, dtype=torch.uint8, pin_memory=is_cuda)
        np.copyto(source.numpy(), picture)
        # On a stream of its own: a copy waits for what its stream does before, and that would be the network's work.
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            self.view(place).copy_(source, non_blocking=is_cuda)
        self.publish([(key, place)])
        return place

    def publish(self, filled: Sequence[tuple[PictureKey, Place]]) -> None:
        """Let pictures be found that were written to where ``reserve`` said.

        The copies have ended, or are on this store's own stream, for which whoever reads waits.
        """
        with self._lock:
            for key, place in filled:
                self._places[key.slot] = (key, place)
                self._used_bytes += place.height * place.width * 3

    def view(self, place: Place) -> Tensor:
        """Return the memory of a picture, uint8 ``(H, W, 3)``."""
        num_bytes = place.height * place.width * 3
        pixels = self._buffers[place.buffer][place.start : place.start + num_bytes]
        return pixels.view(place.height, place.width, 3)

    def gather(self, places: Sequence[Place], *, positions: Sequence[float], size: Size) -> Tensor:
        """Return windows of some pictures as one tensor.

        Args:
            places: Of the pictures, ``B`` of them.
            positions: In [0, 1), where each window lies along the long side; see ``presize.window``.
            size: ``(H, W)``, at most that of each picture.

        Returns:
            uint8 ``(B, H, W, 3)`` on the device.
        """
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        height, width = size
        numbers = torch.tensor(
            [
                _window_start(place, position, size=size)
                for place, position in zip(places, positions, strict=True)
            ],
            dtype=torch.int64,
        ).to(self.device, non_blocking=True)
        lines = torch.arange(height, device=self.device)
        starts_BH = numbers[:, :1] + numbers[:, 1:] * lines
        of_buffer: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            of_buffer.setdefault(place.buffer, []).append(index)
        if len(of_buffer) == 1:
            return self._lines(places[0].buffer, starts_BH, width=width)
        images = torch.empty((len(places), height, width, 3), dtype=torch.uint8, device=self.device)
        for buffer, indices in of_buffer.items():
            chosen = torch.tensor(indices).to(self.device, non_blocking=True)
            images[chosen] = self._lines(buffer, starts_BH[chosen], width=width)
        return images

    def describe(self) -> str:
        """Return what is kept where, for people."""
        return f"{len(self._places)} pictures, {self._used_bytes / 1e6:.1f} MB on the device {self.device}"

    def _lines(self, buffer: int, starts_BH: Tensor, *, width: int) -> Tensor:
        pixels = self._buffers[buffer]
        runs = pixels.as_strided((len(pixels) - 3 * width + 1, 3 * width), (1, 1))
        return runs.index_select(0, starts_BH.flatten()).view(*starts_BH.shape, width, 3)

    def reserve(self, *, height: int, width: int) -> Place | None:
        """Return room for a picture that will be written, or None if there is none."""
        num_bytes = height * width * 3
        with self._lock:
            if self._full:
                return None
            if not self._buffers or self._filled + num_bytes > len(self._buffers[-1]):
                self._full = not self._add_buffer(at_least=num_bytes)
                if self._full:
                    return None
            start = self._filled
            self._filled += num_bytes
            return Place(len(self._buffers) - 1, start, height, width)

    def _add_buffer(self, *, at_least: int) -> bool:
        taken = sum(map(len, self._buffers))
        wanted = min(taken, _LARGEST_STEP_BYTES) if taken else self._first_bytes
        num_bytes = min(max(wanted, at_least), self.budget_bytes - taken)
        if num_bytes < at_least:
            return False
        try:
            self._buffers.append(torch.empty(num_bytes, dtype=torch.uint8, device=self.device))
        except torch.OutOfMemoryError:  # Others took it since the budget was set.
            return False
        self._filled = 0
        return True


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def _window_start(place: Place, position: float, *, size: Size) -> tuple[int, int]:
    """Return the first byte of a window, and the bytes from one of its lines to the next."""
    top = int(position * (place.height - size[0] + 1))
    left = int(position * (place.width - size[1] + 1))
    return place.start + (top * place.width + left) * 3, place.width * 3
