"""Keep prepared images in the memory of the device that trains, and cut whole batches of windows out of them there.

Images lie one after the other in a few large buffers, uint8 HWC, each at its own size. The lines of a window are runs
of bytes, so a whole batch of windows is one ``index_select`` per buffer over a view whose row i is the run that begins
at byte i: the host touches no pixel. B: images of a batch; H, W: sides of the windows.

``DeviceDecoder`` fills the store in the first pass over training images: plain JPEGs are decoded and presized on the device,
many at a time. Its decoder rounds a little differently from that of the CPU, and does not scale while it decodes, so
validation images are left to the CPU, whose decoder predictions use. Unusual files are left to the CPU too, which says what
is wrong with them. Pixels are CHW there until they are stored.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext, suppress
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vizsla.data.images.decode import JpegHeader, plain_jpeg
from vizsla.data.storage.storage import facts_of, read_bytes
from vizsla.types import SYMMETRIES, SYMMETRY_OF_ORIENTATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vizsla.data.cache.cache import ImageKey
    from vizsla.data.images.reader import ImageReader
    from vizsla.data.images.sizing import Box, Pixels
    from vizsla.types import Size

_FIRST_BUFFER_BYTES = 64 * 2**20
_LARGEST_STEP_BYTES = 2**30

LARGEST_PIXELS = 4_000_000
"""Larger images are left to the CPU, which decodes only what the presize needs: a camera's image at an eighth of its sides."""

_PIXELS_AT_ONCE = 32_000_000
"""Decoded images take three bytes a pixel until they are presized: 96 MB."""

_TRIES = 3
"""After this many failures in a row the device is assumed to have no decoder."""


class Place(NamedTuple):
    """Where an image lies: which buffer, from which byte on, and its sides."""

    buffer: int
    start: int
    height: int
    width: int


class DeviceStore:
    """Images in the memory of a device, until the budget is used up; the CPU's works too. Safe for any number of threads.

    All buffers together take ``budget_bytes`` at most. ``expected_bytes``, if known, is the size of the first buffer, so that
    one holds everything; else it takes 64 MiB.
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
        self._places: dict[tuple[str, str], tuple[ImageKey, Place]] = {}
        self._lock = threading.Lock()

    def serves(self, device: torch.device) -> bool:
        """Whether this is the store's device; ``cuda`` is the current CUDA device."""
        same_type = device.type == self.device.type
        return same_type and (device.type != "cuda" or _numbered(device) == self.device)

    @property
    def is_full(self) -> bool:
        """Whether there was no room for an image; then no more are taken."""
        return self._full

    def locate(self, key: ImageKey) -> Place | None:
        """Return where the image of a key lies, or None."""
        known = self.entry(key.slot)
        return known[1] if known is not None and known[0] == key else None

    def entry(self, slot: tuple[str, str]) -> tuple[ImageKey, Place] | None:
        """Return the key and the place of the image of an ``ImageKey.slot``, even if its file has changed; or None."""
        return self._places.get(slot)

    def find(self, key: ImageKey) -> Pixels | None:
        """Return the pixels of a key, copied to the host, or None."""
        place = self.locate(key)
        if place is None:
            return None
        if self._stream is not None:
            self._stream.synchronize()
        pixels = self.view(place).cpu().clone().numpy()
        pixels.setflags(write=False)
        return pixels

    def keep(self, key: ImageKey, pixels: Pixels) -> Place | None:
        """Copy an image to the device; return where it lies, or None if there is no room."""
        place = self.locate(key)  # Another thread may have been quicker.
        if place is not None:
            return place
        place = self.reserve(height=pixels.shape[0], width=pixels.shape[1])
        if place is None:
            return None
        # From a copy: torch wants memory that it could write to, and nobody waits for a transfer from pinned memory.
        is_cuda = self._stream is not None
        source = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=is_cuda)
        np.copyto(source.numpy(), pixels)
        # On a separate stream: a copy waits for earlier work on its stream, and that would be the network's.
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            self.view(place).copy_(source, non_blocking=is_cuda)
        self.publish([(key, place)])
        return place

    def publish(self, filled: Sequence[tuple[ImageKey, Place]]) -> None:
        """Let images be found that were written to reserved places, or are being written on this store's own stream."""
        with self._lock:
            for key, place in filled:
                self._places[key.slot] = (key, place)
                self._used_bytes += place.height * place.width * 3

    def view(self, place: Place) -> Tensor:
        """Return the memory of an image, uint8 ``(H, W, 3)``."""
        num_bytes = place.height * place.width * 3
        pixels = self._buffers[place.buffer][place.start : place.start + num_bytes]
        return pixels.view(place.height, place.width, 3)

    def gather(
        self, places: Sequence[Place], *, corners: Sequence[tuple[int, int]], size: Size
    ) -> Tensor:
        """Return a window of each of B images, ``size`` with its (left, top) corner, as uint8 ``(B, H, W, 3)`` on the device."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        height, width = size
        numbers = torch.tensor(
            [
                # The first byte of a window, and the bytes from one of its lines to the next.
                (place.start + (top * place.width + left) * 3, place.width * 3)
                for place, (left, top) in zip(places, corners, strict=True)
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
        """Return how many images and bytes are kept, and where."""
        return f"{len(self._places)} images, {self._used_bytes / 1e6:.1f} MB on the device {self.device}"

    def _lines(self, buffer: int, starts_BH: Tensor, *, width: int) -> Tensor:
        pixels = self._buffers[buffer]
        runs = pixels.as_strided((len(pixels) - 3 * width + 1, 3 * width), (1, 1))
        return runs.index_select(0, starts_BH.flatten()).view(*starts_BH.shape, width, 3)

    def reserve(self, *, height: int, width: int) -> Place | None:
        """Return room for an image that will be written, or None if there is none."""
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


class _Encoded(NamedTuple):
    """An image that the device will decode."""

    path: Path
    key: ImageKey
    data: bytes
    header: JpegHeader


class DeviceDecoder:
    """Fills a store with training images of a reader that ``scales_one_box`` of each. Safe for any number of threads.

    It works for a store on the CPU too, which tests everything but the device's decoder.
    """

    def __init__(self, reader: ImageReader, *, store: DeviceStore) -> None:
        self.reader = reader
        self.store = store
        self._num_failed = 0
        self._lock = threading.Lock()
        on_cuda = store.device.type == "cuda"
        self._stream = torch.cuda.Stream(store.device) if on_cuda else None

    def fill(self, paths: Sequence[Path]) -> None:
        """Store the images of files that the device can decode; those that are stored, unreadable or unusual are left out."""
        for some in _in_lists(self._encoded(paths)):
            try:
                self._decode(some)
                self._num_failed = 0
            except (RuntimeError, AttributeError):
                # A file that only looked plain, no memory, or no decoder: the CPU will try each file by itself.
                self._num_failed += 1

    def _encoded(self, paths: Sequence[Path]) -> Iterator[_Encoded]:
        for path in paths:
            if self._num_failed >= _TRIES or self.store.is_full:
                return
            try:
                key = self.reader.key(path, training=True)
                if self.store.locate(key) is not None:
                    continue
                data = read_bytes(path)
            except OSError:
                continue
            header = plain_jpeg(data)
            if header is not None and math.prod(header.size) <= LARGEST_PIXELS:
                yield _Encoded(path, key, data, header)

    def _decode(self, some: Sequence[_Encoded]) -> None:
        sources = [torch.frombuffer(bytearray(one.data), dtype=torch.uint8) for one in some]
        # torchvision lets one thread at a time decode on a device, and writes on its own stream into memory of ours:
        # while we hold the lock, no other work of ours can still need that memory.
        filled: list[tuple[_Encoded, Place]] = []
        with self._lock, nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            decoded = _decoded(sources, device=self.store.device)
            by_size: dict[Size, list[tuple[_Encoded, Tensor]]] = {}
            for image, one in zip(decoded, some, strict=True):
                image = upright(image, one.header.orientation)
                by_size.setdefault((image.shape[1], image.shape[2]), []).append((one, image))
            del decoded
            for size, alike in by_size.items():
                places = self._write([image for _, image in alike], size=size)
                filled += zip((one for one, _ in alike), places, strict=False)
            del by_size
            if self._stream is not None:
                self._stream.synchronize()
        unchanged: list[tuple[ImageKey, Place]] = []
        for one, place in filled:
            with suppress(OSError):
                if one.key.fits(facts_of(one.path)):
                    unchanged.append((one.key, place))
        self.store.publish(unchanged)

    def _write(self, images: list[Tensor], *, size: Size) -> list[Place]:
        """Write images of one size to the store, together; return their places, none if there is no room."""
        sizing = self.reader.resize
        found = None if sizing is None else sizing.presize_box(size, training=True)
        if found is None:
            return []
        box, (height, width) = found
        region = self.store.reserve(height=len(images) * height, width=width)
        if region is None:
            return []
        out = self.store.view(region).view(len(images), height, width, 3)
        write_presized(torch.stack(images), box=box, out=out)
        num_bytes = height * width * 3
        return [
            Place(region.buffer, region.start + number * num_bytes, height, width)
            for number in range(len(images))
        ]


def _decoded(sources: list[Tensor], *, device: torch.device) -> list[Tensor]:
    """Return RGB images, uint8 ``(3, H, W)``, on the device.

    This calls the operations behind ``torchvision.io.decode_jpeg``, because that warns, in every thread, that it will move to
    another package. Where it has moved there is an AttributeError, and the CPU decodes.
    """
    from torchvision.io import ImageReadMode  # Importing it registers the operations.

    mode = ImageReadMode.RGB.value
    if device.type == "cuda":
        return torch.ops.image.decode_jpegs_cuda(sources, mode, device)
    return [torch.ops.image.decode_jpeg(source, mode) for source in sources]


@cache
def load_decoder(device: torch.device) -> None:
    """Load the device's decoder in a thread while loaders and networks are made: it takes 0.7 s, once in a process."""
    threading.Thread(target=_load_decoder, args=(device,), daemon=True).start()


def _load_decoder(device: torch.device) -> None:
    stream = BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    source = torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
    try:
        image = _decoded([source], device=device)[0]
        out = torch.empty((1, 8, 8, 3), dtype=torch.uint8, device=device)
        write_presized(image[None], box=(0, 0, 16, 16), out=out)
        torch.cuda.current_stream(device).synchronize()
    except (ImportError, RuntimeError, AttributeError):
        return  # The first batch will find out.


def upright(image: Tensor, orientation: int) -> Tensor:
    """Return an image ``(C, H, W)`` turned upright from its EXIF orientation, 1 to 8, as a view or a copy."""
    transposed, *reversed_ = SYMMETRIES[SYMMETRY_OF_ORIENTATION[orientation]]
    image = image.transpose(1, 2) if transposed else image
    sides = [side for side, is_reversed in zip((1, 2), reversed_, strict=True) if is_reversed]
    return image.flip(sides) if sides else image


def write_presized(images: Tensor, *, box: Box, out: Tensor) -> None:
    """Scale a box of images, uint8 ``(B, 3, H, W)``, into ``out``, uint8 ``(B, h, w, 3)``, as ``Sizing.presize`` does on the CPU.

    The two differ by one or two grey levels. All images go together, because each operation costs ten microseconds under the
    interpreter lock, for which the training loop waits.
    """
    left, top, right, bottom = box
    part = images[:, :, top:bottom, left:right]
    size = [out.shape[1], out.shape[2]]
    if list(part.shape[2:]) != size:
        part = F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        part = part.add_(0.5)  # Conversion cuts the fraction off; a mean of pixels is at most 255.
    out.copy_(part.permute(0, 2, 3, 1))


def _in_lists(images: Iterator[_Encoded]) -> Iterator[list[_Encoded]]:
    """Yield images in lists that are decoded together."""
    some: list[_Encoded] = []
    num_pixels = 0
    for one in images:
        num_pixels += math.prod(one.header.size)
        if some and num_pixels > _PIXELS_AT_ONCE:
            yield some
            some, num_pixels = [], math.prod(one.header.size)
        some.append(one)
    if some:
        yield some
