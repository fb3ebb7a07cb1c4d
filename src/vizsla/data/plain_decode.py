"""The bytes of a plain JPEG in, its pixels out, the same as Pillow's, decoded without the interpreter lock.

Pillow holds the lock for most of the time: on 16 cores 16 threads of it decoded and presized 673 pictures a second, 500 one
thread alone. torchvision lets go of it (3,400). Both call libjpeg-turbo with the same settings; whether their pixels are the same
is tried once, on a picture made for it.
"""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from vizsla.data.jpeg_header import plain_jpeg
from vizsla.seeding import counter_uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vizsla.types import Size

LARGEST_PIXELS = 2**22
"""Of what is larger Pillow decodes a part of the frequencies only, where it can."""

_FEWEST_CORES = 4
"""With fewer, waiting for the lock costs nothing that could be won, and torchvision need not be imported."""


@cache
def is_worthwhile() -> bool:
    """Whether this machine has cores that would wait for Pillow, and a second decoder with the same pixels."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (num_cores or 1) >= _FEWEST_CORES and decodes_as_pillow()


def plain_pixels(data: bytes, *, cover: Size) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, if it is one that is best decoded here; ask ``is_worthwhile`` before.

    Args:
        data: All bytes of a file.
        cover: ``(height, width)`` that is wanted. Where half of the sides would still cover it, Pillow decodes only that.

    Returns:
        uint8 ``(H, W, 3)`` with memory of its own; None for what is left to Pillow, such as everything unusual.
    """
    header = plain_jpeg(data)
    if header is None or header.orientation != 1:
        return None
    height, width = header.size
    can_be_halved = min(height // cover[0], width // cover[1]) >= 2
    if can_be_halved or height * width > LARGEST_PIXELS:
        return None
    try:
        return _decoded(data)
    except RuntimeError:
        return None


@cache
def decodes_as_pillow() -> bool:
    """Whether there is a second decoder on this machine, and its pixels are Pillow's."""
    try:
        import torchvision.io  # noqa: F401  # pyright: ignore[reportUnusedImport] (it brings the operations along)

        values = counter_uniform(0, "decoders", epoch=0, rows=torch.arange(9), count=33)
        pixels = (values * 256).to(torch.uint8).view(9, 11, 3).numpy()
        picture = Image.fromarray(pixels).resize((75, 53), Image.Resampling.BICUBIC)
        for subsampling in (0, 1, 2):
            stream = BytesIO()
            picture.save(stream, "JPEG", quality=85, subsampling=subsampling)
            with Image.open(stream) as opened:
                if not np.array_equal(np.asarray(opened), _decoded(stream.getvalue())):
                    return False
    except (ImportError, AttributeError, RuntimeError, OSError):
        return False
    return True


def _decoded(data: bytes) -> NDArray[np.uint8]:
    # What stands behind ``torchvision.io.decode_jpeg``, which warns in every thread that it will move to another package.
    mode = 3  # ImageReadMode.RGB
    source = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return torch.ops.image.decode_jpeg(source, mode).permute(1, 2, 0).contiguous().numpy()
