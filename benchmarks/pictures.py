"""A folder of the reader's own, or none, in; a folder of pictures to measure with out."""

from __future__ import annotations

import importlib.util
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


def solar_cells(made_in: Path, *, num_train: int = 400, num_valid: int = 200) -> Path | None:
    """Return a folder with ``train`` and ``valid`` of links to real pictures, two classes of solar cells; None without them.

    Args:
        made_in: Where the folder is made.
        num_train: Training pictures, the first ones of a split with seed 0.
        num_valid: Validation pictures, likewise.
    """
    if importlib.util.find_spec("elpv_dataset") is None:
        return None
    from vizsla.data.table.demo_data import solar_cells as all_solar_cells

    table = all_solar_cells(seed=0)
    folder = made_in / "solar cells"
    parts = (("train", table.train_rows[:num_train]), ("valid", table.valid_rows[:num_valid]))
    for part, rows in parts:
        for row in rows.tolist():
            link = folder / part / table.label(row) / table.paths[row].name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(table.paths[row].resolve())
    return folder
