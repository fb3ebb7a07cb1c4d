"""Picture files in, what it costs to decode and to presize one out: in one thread, and with several at work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.decode import open_picture
from vizsla.data.images.reader import PictureReader
from vizsla.data.images.sizing import Resize
from vizsla.data.table.check import find_unreadable
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vizsla.data.images.decode import Truncated
    from vizsla.types import PictureTable


@dataclass(frozen=True, kw_only=True, slots=True)
class OneThread:
    """What one thread takes for a picture.

    Attributes:
        decode: Seconds to read the file and decode it, at the scale that the presize needs.
        presize: Seconds to bring it to the presize.
        bad_rows: Rows of pictures that cannot be read; they do not count.
    """

    decode: float
    presize: float
    bad_rows: tuple[int, ...]


def time_one_thread(
    table: PictureTable, rows: Sequence[int], *, presize: int, truncated: Truncated, within: float
) -> OneThread:
    """Decode and presize pictures one after the other, as many as there is time for.

    Args:
        table: Where the rows point into.
        rows: Which pictures.
        presize: Short side to bring them to, in pixels.
        truncated: What to do about JPEGs that end too early.
        within: Seconds.

    Raises:
        PictureError: None of the pictures can be read; the message is about the last one.
    """
    resize = Resize(presize)
    decoding = resizing = 0.0
    done, bad = 0, list[int]()
    problem: PictureError | None = None
    ended = time.perf_counter() + within
    for row in rows:
        started = time.perf_counter()
        if done and started > ended:
            break
        try:
            picture = open_picture(
                table.paths[row], cover=resize.cover(training=True), truncated=truncated
            )
        except PictureError as error:
            problem = error
            bad.append(row)
            continue
        middle = time.perf_counter()
        resize.presize(picture, training=True)
        decoding += middle - started
        resizing += time.perf_counter() - middle
        done += 1
    if not done and problem is not None:
        raise problem
    number = max(done, 1)
    return OneThread(decode=decoding / number, presize=resizing / number, bad_rows=tuple(bad))


def time_reading(
    table: PictureTable,
    rows: Tensor,
    *,
    size: int,
    training: bool,
    num_workers: int,
    truncated: Truncated,
    cache: PictureCache | None = None,
) -> tuple[float, set[int]]:
    """Read pictures in threads as training does; return the seconds a picture by the clock, and rows that cannot be read.

    Args:
        table: Where the rows point into.
        rows: int64 ``(N,)``, which pictures.
        size: Short side to bring them to, in pixels.
        training: Strips for random crops, not centred squares.
        num_workers: Threads.
        truncated: What to do about JPEGs that end too early.
        cache: Keeps what was read; None keeps nothing.
    """
    reader = PictureReader(
        resize=Resize(size),
        cache=PictureCache(mode="off") if cache is None else cache,
        truncated=truncated,
    )
    started = time.perf_counter()
    bad = find_unreadable(table, rows, reader=reader, num_workers=num_workers, training=training)
    return (time.perf_counter() - started) / max(len(rows), 1), {row for row, _ in bad}
