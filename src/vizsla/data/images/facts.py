"""What image files tell without any network: size, brightness, digest, a tiny grey likeness; and which are small.

N: images; S: side of a likeness.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.data.images.bit_depth import decide_bit_depth
from vizsla.data.images.decode import decode_image, size_from_header, wide_maximum
from vizsla.data.loading.loader import map_rows
from vizsla.data.storage.storage import read_bytes
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vizsla.machine import NumWorkers
    from vizsla.types import ImageTable, Size

LIKENESS_SIDE = 24
"""Enough to tell different photos of one thing apart, too little for compression and rescaling to show."""
FLAT = 2.0
"""A likeness whose grey values (0-255) spread less than this is mostly noise and is not compared."""
_DECODED_SIDE = 96
_SAMPLED = 64  # A kind that a tenth of the images have is missed once in 800 times.
_EIGHT_BITS = frozenset((".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".heic"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFacts:
    """What the files of some images tell; an image that cannot be read has zeros, NaN and no digest.

    Attributes:
        rows: int64 ``(N,)``, rows of the table.
        heights: int64 ``(N,)``, pixels, upright.
        widths: int64 ``(N,)``, pixels, upright.
        brightness: float32 ``(N,)``, mean grey value 0-1.
        digests: SHA-256 of the bytes of each file, as hex; empty if it cannot be read.
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
    """Read the files of some rows, int64 ``(N,)``, once, and return what they tell; see ``map_rows``."""
    found = map_rows(
        lambda row: _fact_of(table.paths[row], bit_depth=table.bit_depth),
        rows,
        num_workers=num_workers,
        on_progress=on_progress,
    )
    likenesses = np.array([fact.likeness for fact in found], dtype=np.float32)
    return ImageFacts(
        rows=rows.clone(),
        heights=torch.tensor([fact.size[0] for fact in found], dtype=torch.int64),
        widths=torch.tensor([fact.size[1] for fact in found], dtype=torch.int64),
        brightness=torch.tensor([fact.brightness for fact in found], dtype=torch.float32),
        digests=tuple(fact.digest for fact in found),
        likenesses=torch.from_numpy(likenesses.reshape(-1, LIKENESS_SIDE**2)),
    )


class _Fact(NamedTuple):
    """What one file tells."""

    likeness: NDArray[np.float32]
    size: Size = (0, 0)
    brightness: float = float("nan")
    digest: str = ""


def _fact_of(path: Path, *, bit_depth: int | None) -> _Fact:
    likeness = np.zeros(LIKENESS_SIDE**2, dtype=np.float32)
    try:
        data = read_bytes(path)
        cover = (_DECODED_SIDE, _DECODED_SIDE)
        image = decode_image(data, cover=cover, truncated="ok", bit_depth=bit_depth)
    except (OSError, PictureError):
        return _Fact(likeness)
    grey = image.convert("L").resize((LIKENESS_SIDE, LIKENESS_SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32).reshape(-1)
    brightness, spread = float(values.mean()), float(values.std())
    if spread >= FLAT:
        likeness = (values - brightness) / (spread * LIKENESS_SIDE)
    size, digest = size_from_header(data) or (0, 0), hashlib.sha256(data).hexdigest()
    return _Fact(likeness, size, brightness / 255, digest)


def guess_bit_depth(table: ImageTable) -> int | None:
    """Return how many bits the 16-bit images of a table use, from a sample of its files; None if none of these has 16 bits.

    Files are skipped whose names say that they have 8 bits, so a table of JPEGs costs nothing.

    Raises:
        DataError: They may be of different depths, see ``decide_bit_depth``.
    """
    rows = torch.cat([table.train_rows, table.valid_rows]).unique()
    chosen = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED)).long()].tolist()
    paths = [Path(table.file(row)) for row in chosen]
    maxima = {
        str(path): wide_maximum(path) for path in paths if path.suffix.lower() not in _EIGHT_BITS
    }
    known = {path: largest for path, largest in maxima.items() if largest is not None}
    return decide_bit_depth(known) if known else None


class ImageNotes:
    """Which images are smaller than a size, and which seem incomplete: noted while they are read anyway, by any threads.

    Attributes:
        size: (height, width).
        doubts: What seems to be missing of images, by their paths.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self.doubts: dict[str, str] = {}
        self._noted: dict[str, bool] = {}

    def note(self, path: Path | str, size: Size, doubt: str = "") -> None:
        """Note the (height, width) of an image and what seems to be missing of it.

        This is an ``on_decoded`` for an ``ImageReader`` that brings images to this size.
        """
        self._noted[str(path)] = size[0] < self.size[0] or size[1] < self.size[1]
        if doubt:
            self.doubts[str(path)] = doubt

    def is_small(self, path: Path | str) -> bool:
        """Whether an image is small; if it was not noted, its header is read. An unreadable image is not small."""
        if str(path) not in self._noted and (size := size_from_header(path)) is not None:
            self.note(path, size)
        return self._noted.get(str(path), False)


def count_smaller(
    table: ImageTable,
    rows: Tensor,
    *,
    size: Size,
    num_workers: NumWorkers = "auto",
    noted: ImageNotes | None = None,
) -> int:
    """Return how many of the rows' images, int64 ``(N,)``, have a side shorter than that of ``size``.

    Only the headers are read of images that were not ``noted`` for this size.
    """
    small = noted if noted is not None and noted.size == size else ImageNotes(size)
    return sum(
        map_rows(lambda row: small.is_small(table.paths[row]), rows, num_workers=num_workers)
    )


def enlarged_text(number: int, *, size: Size) -> str:
    """Return a sentence about a number of images that are smaller than ``size``, empty if there are none."""
    if not number:
        return ""
    what = "image is" if number == 1 else "images are"
    return f"{number:,} {what} smaller than {size[0]} x {size[1]} pixels and will be enlarged."
