"""Rows of a table and a size in, how many of their pictures are smaller than it, so that they will be enlarged, out."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vizsla.data.decode import picture_size
from vizsla.data.loader import default_num_workers
from vizsla.data.read_ahead import read_ahead

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from vizsla.types import PictureTable, Size


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
