"""Picture files in, their prepared pixels in the memory of a device out: plain JPEGs decoded and presized there, many at a time.

Used for the first pass over training pictures that a ``DeviceStore`` will keep. The decoder of the device rounds a little
differently from that of the CPU, and does not scale while it decodes, so validation pictures are left to the CPU: they are what
predictions will see. Whatever is unusual about a file leaves it to the CPU too, which says what is wrong with it.

H, W: sides. Pixels are CHW here until they are stored.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vizsla.data.cache.device import Place
from vizsla.data.images.decode import JpegHeader, plain_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vizsla.data.cache.device import DeviceStore
    from vizsla.data.cache.key import PictureKey
    from vizsla.data.images.reader import PictureReader
    from vizsla.data.images.sizing import Box, Resize
    from vizsla.types import Size

LARGEST_PIXELS = 4_000_000
"""Of larger pictures the CPU decodes only what the presize needs, an eighth of the sides of a camera's picture."""

_PIXELS_AT_ONCE = 32_000_000
"""Decoded pictures take three bytes a pixel until they are presized: 96 MB."""

_TRIES = 3
"""After so many failures in a row the device is taken to have no decoder."""


class _Encoded(NamedTuple):
    path: Path
    key: PictureKey
    data: bytes
    header: JpegHeader


class DeviceDecoder:
    """Fills a store with training pictures; for any number of threads.

    Args:
        reader: Whose pictures; its item transforms are a ``Resize`` that does not pad.
        resize: That one.
        store: Where they go. On the CPU it works too, as a test of everything but the device's decoder.
    """

    def __init__(self, reader: PictureReader, *, resize: Resize, store: DeviceStore) -> None:
        self.reader = reader
        self.resize = resize
        self.store = store
        self._num_failed = 0
        self._lock = threading.Lock()
        on_cuda = store.device.type == "cuda"
        self._stream = torch.cuda.Stream(store.device) if on_cuda else None

    def fill(self, paths: Sequence[Path]) -> None:
        """Store those of the pictures that the device can decode; nothing is said of the others.

        Args:
            paths: Files. What is stored already, cannot be read or is unusual is left out.
        """
        for some in _bounded(self._encoded(paths)):
            try:
                self._decode(some)
                self._num_failed = 0
            except (RuntimeError, AttributeError):
                # A file that only looked plain, no memory, or no decoder: the CPU tries each file by itself.
                self._num_failed += 1

    def _encoded(self, paths: Sequence[Path]) -> Iterator[_Encoded]:
        for path in paths:
            if self._num_failed >= _TRIES or self.store.is_full:
                return
            try:
                key = self.reader.key(path, training=True)
                if self.store.locate(key) is not None:
                    continue
                data = path.read_bytes()
            except OSError:
                continue
            header = plain_jpeg(data)
            if header is not None and header.size[0] * header.size[1] <= LARGEST_PIXELS:
                yield _Encoded(path, key, data, header)

    def _decode(self, some: Sequence[_Encoded]) -> None:
        sources = [torch.frombuffer(bytearray(one.data), dtype=torch.uint8) for one in some]
        # torchvision lets one thread at a time decode on a device, and writes on a stream of its own into memory of ours:
        # when the lock is free nothing of ours is under way that could still need that memory.
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
        self.store.publish([(one.key, place) for one, place in filled if _is_unchanged(one)])

    def _write(self, images: list[Tensor], *, size: Size) -> list[Place]:
        """Write pictures of one size to the store, together; return where they are, nowhere where there is no room."""
        box, (height, width) = self.resize.strip_box(size)
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


def _is_unchanged(one: _Encoded) -> bool:
    try:
        facts = os.stat(one.path)  # noqa: PTH116 (a third of the time of Path.stat, and paid for every picture)
    except OSError:
        return False
    return (facts.st_size, facts.st_mtime_ns) == (one.key.num_bytes, one.key.modified_ns)


def _decoded(sources: list[Tensor], *, device: torch.device) -> list[Tensor]:
    """Return RGB pictures, uint8 ``(3, H, W)``, on the device.

    This calls what stands behind ``torchvision.io.decode_jpeg``, because that warns, in every thread, that it will move to
    another package; where it has moved there is an AttributeError, and the CPU decodes.
    """
    from torchvision.io import ImageReadMode  # It brings the operations along.

    mode = ImageReadMode.RGB.value
    if device.type == "cuda":
        return torch.ops.image.decode_jpegs_cuda(sources, mode, device)
    return [torch.ops.image.decode_jpeg(source, mode) for source in sources]


@cache
def load_decoder(device: torch.device) -> None:
    """Let a thread load the device's decoder, which takes 0.7 s once in a process, while loaders and networks are made."""
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
        return  # Whoever decodes will find out.


def upright(image: Tensor, orientation: int) -> Tensor:
    """Return a picture turned as its EXIF orientation says, as a view or a copy.

    Args:
        image: ``(C, H, W)``.
        orientation: 1 to 8.
    """
    if orientation == 1:
        return image
    if orientation >= 5:  # The sides are swapped.
        image = image.transpose(1, 2)
    sides = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image if sides is None else image.flip(sides)


def write_presized(images: Tensor, *, box: Box, out: Tensor) -> None:
    """Write what training keeps of pictures of one size, as ``Resize.strip`` makes it on the CPU, within one or two grey levels.

    All together, because each operation costs ten microseconds under the interpreter lock, for which the training loop waits.

    Args:
        images: uint8 ``(B, 3, H, W)``.
        box: The part that is shown, see ``Resize.strip_box``.
        out: uint8 ``(B, h, w, 3)``, overwritten.
    """
    left, top, right, bottom = box
    part = images[:, :, top:bottom, left:right]
    size = [out.shape[1], out.shape[2]]
    if list(part.shape[2:]) != size:
        part = F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        part = part.add_(
            0.5
        )  # What is behind the point is cut off; a mean of pixels is at most 255.
    out.copy_(part.permute(0, 2, 3, 1))


def _bounded(pictures: Iterator[_Encoded]) -> Iterator[list[_Encoded]]:
    """Yield pictures in lists that are decoded at once."""
    some: list[_Encoded] = []
    num_pixels = 0
    for one in pictures:
        pixels = one.header.size[0] * one.header.size[1]
        if some and num_pixels + pixels > _PIXELS_AT_ONCE:
            yield some
            some, num_pixels = [], 0
        some.append(one)
        num_pixels += pixels
    if some:
        yield some
