"""Rows of a table and a size in, how many of their pictures are smaller than it, so that they will be enlarged, out."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vizsla.data.decode import picture_size
from vizsla.data.loader import default_num_workers
from vizsla.data.read_ahead import read_ahead

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.types import PictureTable, Size


def count_smaller(
    table: PictureTable, rows: Tensor, *, size: Size, num_workers: int | None = None
) -> int:
    """Return how many pictures have a side shorter than that of ``size``; only their headers are read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures. Those that cannot be read are not counted.
        size: ``(height, width)`` that pictures are brought to.
        num_workers: Threads; 0 reads in this thread, None is ``default_num_workers()``.
    """

    def is_smaller(row: int) -> bool:
        found = picture_size(table.paths[row])
        return found is not None and (found[0] < size[0] or found[1] < size[1])

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
