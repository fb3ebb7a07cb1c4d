"""A folder of the reader's own, or none, in; a folder of photographs to measure with out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.decode import drawn_photograph

if TYPE_CHECKING:
    from pathlib import Path

NUM_PICTURES = 600
_QUALITY = 90


def photographs(folder: Path | None, *, made_in: Path, count: int = NUM_PICTURES) -> Path:
    """Return a folder of photographs: the one given, or one that is filled with drawn ones of 500 x 375.

    Args:
        folder: Any folder of pictures, classes in sub-folders.
        made_in: Where pictures are made if there is none.
        count: How many are made.
    """
    if folder is not None:
        return folder
    for number in range(count):
        path = made_in / ("cats", "dogs")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn_photograph(number).save(path, quality=_QUALITY)
    return made_in
