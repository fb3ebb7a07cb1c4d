"""Losses, rates and epoch results in, the whole history of a learner out; later fits add to it, nothing is forgotten."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from vizsla.evaluate.predictions import HistoryPoint
from vizsla.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(kw_only=True, slots=True)
class Recorder:
    """What happened to a learner so far.

    Attributes:
        history: One point per epoch, over all fits.
        losses: Training loss of every step.
        lrs: Learning rate of the last parameter group at every step.
        values: Per epoch the printed numbers: training loss, validation loss, then the metrics.
        metric_names: Names of the metrics in ``values``.
    """

    history: list[HistoryPoint] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    metric_names: tuple[str, ...] = ()


def save_history(path: Path, history: Sequence[HistoryPoint]) -> Path:
    """Write one row per epoch as CSV, numbers in full precision; a figure that a stage does not have is empty.

    Raises:
        OutputError: The file cannot be written; an old one is untouched.
    """
    names = [column.name for column in fields(HistoryPoint)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([getattr(point, name) for name in names] for point in history)
    return path
