"""What image files say without any network: size, brightness, digest, a tiny grey likeness; and which are small.

N: images; S: side of a likeness.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.data.images.decode import decode_image, size_from_header
from vizsla.data.loading.loader import map_rows
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable, Size

LIKENESS_SIDE = 24
"""Enough to tell different photos of one thing apart, too little for compression and rescaling to show."""
FLAT = 2.0
"""A likeness whose grey values (0-255) spread less than this is mostly noise, and is not compared."""
_DECODED_SIDE = 96


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFacts:
    """What the files of some images say; an image that cannot be read has zeros, NaN and no digest.

    Attributes:
        rows: int64 ``(N,)``, rows of the table.
        heights: int64 ``(N,)``, pixels, upright.
        widths: int64 ``(N,)``, pixels, upright.
        brightness: float32 ``(N,)``, mean grey value 0-1.
        digests: SHA-256 of the bytes of each file, as hex; an empty text where it cannot be read.
        likenesses: float32 ``(N, S * S)``, grey values of the image squeezed to ``S x S``, with mean 0 and length 1, so that
            the dot product of two is their correlation; zeros for an image without contrast.
    """

    rows: Tensor
    heights: Tensor
    widths: Tensor
    brightness: Tensor
    digests: tuple[str, ...]
    likenesses: Tensor


def image_facts(
    table: ImageTable,
    rows: Tensor,
    *,
    num_workers: NumWorkers = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> ImageFacts:
    """Read the files of some rows once and note what they are like.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``.
        num_workers: Threads; ``"auto"`` is one for each core.
        on_progress: Called after each image with the number of images read so far.
    """
    found = map_rows(
        lambda row: _fact_of(table.paths[row]),
        rows,
        num_workers=num_workers,
        on_progress=on_progress,
    )
    likenesses = np.zeros((len(found), LIKENESS_SIDE**2), dtype=np.float32)
    for position, fact in enumerate(found):
        likenesses[position] = fact.likeness
    return ImageFacts(
        rows=rows.clone(),
        heights=torch.tensor([fact.size[0] for fact in found], dtype=torch.int64),
        widths=torch.tensor([fact.size[1] for fact in found], dtype=torch.int64),
        brightness=torch.tensor([fact.brightness for fact in found], dtype=torch.float32),
        digests=tuple(fact.digest for fact in found),
        likenesses=torch.from_numpy(likenesses),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fact:
    """What one file says."""

    size: Size = (0, 0)
    brightness: float = float("nan")
    digest: str = ""
    likeness: np.ndarray[tuple[int], np.dtype[np.float32]]


def _fact_of(path: Path) -> _Fact:
    nothing = np.zeros(LIKENESS_SIDE**2, dtype=np.float32)
    try:
        data = path.read_bytes()
        image = decode_image(data, cover=(_DECODED_SIDE, _DECODED_SIDE), truncated="ok")
    except (OSError, PictureError):
        return _Fact(likeness=nothing)
    grey = image.convert("L").resize((LIKENESS_SIDE, LIKENESS_SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32).reshape(-1)
    brightness, spread = float(values.mean()), float(values.std())
    if spread >= FLAT:
        nothing = (values - brightness) / (spread * LIKENESS_SIDE)
    return _Fact(
        size=size_from_header(data) or (0, 0),
        brightness=brightness / 255,
        digest=hashlib.sha256(data).hexdigest(),
        likeness=nothing,
    )


class SmallImages:
    """Which images have a side shorter than that of a size, noted while they are read anyway; for any number of threads.

    Args:
        size: ``(height, width)`` that images are brought to.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self._small: set[str] = set()
        self._others: set[str] = set()

    def note(self, path: Path | str, size: Size) -> None:
        """Note the (height, width) of an image; as ``on_decoded`` of a ``ImageReader`` that brings them to this size."""
        is_small = size[0] < self.size[0] or size[1] < self.size[1]
        (self._small if is_small else self._others).add(str(path))

    def is_small(self, path: Path | str) -> bool:
        """Return whether an image is small; where it was not noted its header is read. One that cannot be read is not."""
        name = str(path)
        if name not in self._small and name not in self._others:
            found = size_from_header(path)
            if found is None:
                return False
            self.note(path, found)
        return name in self._small


def count_smaller(
    table: ImageTable,
    rows: Tensor,
    *,
    size: Size,
    num_workers: NumWorkers = "auto",
    noted: SmallImages | None = None,
) -> int:
    """Return how many images have a side shorter than that of ``size``; at most their headers are read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which images. Those that cannot be read are not counted.
        size: ``(height, width)`` that images are brought to.
        num_workers: Threads; ``"auto"`` is one for each core, 0 reads in this thread.
        noted: What is known of them already, for this size.
    """
    small = noted if noted is not None and noted.size == size else SmallImages(size)
    return sum(
        map_rows(lambda row: small.is_small(table.paths[row]), rows, num_workers=num_workers)
    )


def enlarged_text(number: int, *, size: Size) -> str:
    """Return a sentence about images that are smaller than ``size``, empty if there are none.

    Args:
        number: As ``count_smaller`` returns it.
        size: ``(height, width)`` that images are brought to.
    """
    if not number:
        return ""
    what = "image is" if number == 1 else "images are"
    return f"{number:,} {what} smaller than {size[0]} x {size[1]} pixels and will be enlarged."
