"""Rows of a table in, what their files say without any network out: size, brightness, digest, and a tiny grey likeness.

Shape legend: N pictures, S the side of a likeness.

Rows of a table and a size in, how many of their pictures are smaller than it, so that they will be enlarged, out.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.data.images.decode import open_picture, picture_size
from vizsla.data.loading.loader import read_ahead
from vizsla.errors import PictureError
from vizsla.machine import default_num_workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vizsla.types import PictureTable, Size

LIKENESS_SIDE = 24
"""Enough to tell different photos of one thing apart, too little for compression and rescaling to show."""
FLAT = 2.0
"""A likeness whose grey values (0-255) spread less than this is mostly noise, and is not compared."""
_DECODED_SIDE = 96


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureFacts:
    """What the files of some pictures say; a picture that cannot be read has zeros, NaN and no digest.

    Attributes:
        rows: int64 ``(N,)``, rows of the table.
        heights: int64 ``(N,)``, pixels, upright.
        widths: int64 ``(N,)``, pixels, upright.
        brightness: float32 ``(N,)``, mean grey value 0-1.
        digests: SHA-256 of the bytes of each file, as hex; an empty text where it cannot be read.
        likenesses: float32 ``(N, S * S)``, grey values of the picture squeezed to ``S x S``, with mean 0 and length 1, so that
            the dot product of two is their correlation; zeros for a picture without contrast.
    """

    rows: Tensor
    heights: Tensor
    widths: Tensor
    brightness: Tensor
    digests: tuple[str, ...]
    likenesses: Tensor


def picture_facts(
    table: PictureTable,
    rows: Tensor,
    *,
    num_workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PictureFacts:
    """Read the files of some rows once and note what they are like.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``.
        num_workers: Threads; None is one per core.
        on_progress: Called after each picture with the number of pictures read so far.
    """
    numbers: list[int] = rows.tolist()
    workers = default_num_workers() if num_workers is None else num_workers
    jobs = (table.paths[row] for row in numbers)
    found: list[_Fact] = []
    facts = read_ahead(_fact_of, jobs, num_workers=workers, max_waiting=8 * max(workers, 1))
    with closing(facts):
        for fact in facts:
            found.append(fact)
            if on_progress is not None:
                on_progress(len(found))
    likenesses = np.zeros((len(found), LIKENESS_SIDE**2), dtype=np.float32)
    for position, fact in enumerate(found):
        likenesses[position] = fact.likeness
    return PictureFacts(
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
        picture = open_picture(data, cover=(_DECODED_SIDE, _DECODED_SIDE), truncated="ok")
    except (OSError, PictureError):
        return _Fact(likeness=nothing)
    grey = picture.convert("L").resize((LIKENESS_SIDE, LIKENESS_SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32).reshape(-1)
    brightness, spread = float(values.mean()), float(values.std())
    if spread >= FLAT:
        nothing = (values - brightness) / (spread * LIKENESS_SIDE)
    return _Fact(
        size=picture_size(data) or (0, 0),
        brightness=brightness / 255,
        digest=hashlib.sha256(data).hexdigest(),
        likeness=nothing,
    )


class SmallPictures:
    """Which pictures have a side shorter than that of a size, noted while they are read anyway; for any number of threads.

    Args:
        size: ``(height, width)`` that pictures are brought to.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self._small: set[str] = set()
        self._others: set[str] = set()

    def note(self, path: Path | str, size: Size) -> None:
        """Note the (height, width) of a picture; as ``on_decoded`` of a ``PictureReader`` that brings them to this size."""
        is_small = size[0] < self.size[0] or size[1] < self.size[1]
        (self._small if is_small else self._others).add(str(path))

    def is_small(self, path: Path | str) -> bool:
        """Return whether a picture is small; where it was not noted its header is read. One that cannot be read is not."""
        name = str(path)
        if name not in self._small and name not in self._others:
            found = picture_size(path)
            if found is None:
                return False
            self.note(path, found)
        return name in self._small


def count_smaller(
    table: PictureTable,
    rows: Tensor,
    *,
    size: Size,
    num_workers: int | None = None,
    noted: SmallPictures | None = None,
) -> int:
    """Return how many pictures have a side shorter than that of ``size``; at most their headers are read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures. Those that cannot be read are not counted.
        size: ``(height, width)`` that pictures are brought to.
        num_workers: Threads; 0 reads in this thread, None is ``default_num_workers()``.
        noted: What is known of them already, for this size.
    """
    small = noted if noted is not None and noted.size == size else SmallPictures(size)

    def is_smaller(row: int) -> bool:
        return small.is_small(table.paths[row])

    num_workers = default_num_workers() if num_workers is None else num_workers
    answers = read_ahead(
        is_smaller, rows.tolist(), num_workers=num_workers, max_waiting=32 * max(1, num_workers)
    )
    with closing(answers):
        return sum(answers)


def enlarged_text(number: int, *, size: Size) -> str:
    """Return a sentence about pictures that are smaller than ``size``, empty if there are none.

    Args:
        number: As ``count_smaller`` returns it.
        size: ``(height, width)`` that pictures are brought to.
    """
    if not number:
        return ""
    what = "picture is" if number == 1 else "pictures are"
    return f"{number:,} {what} smaller than {size[0]} x {size[1]} pixels and will be enlarged."
