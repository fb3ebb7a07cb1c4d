"""Which images an export is calibrated and checked on, and what it gives on them: agreement, accuracy, size, speed.

Image files go the whole way here, from their bytes to the answer: the model file's through ``Predictor``, an export's through
``runtime.py``, which decodes for it wherever it will run. They take turns, so that what else this machine does slows both.

Shape legend: N images, C classes (or numbers).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.data.images.decode import source_name
from vizsla.data.table.from_words import labelled_data
from vizsla.data.table.sources import get_image_files, holds_images
from vizsla.errors import DataError, LabelError, PictureError
from vizsla.evaluate.metrics import Metric, summarise
from vizsla.evaluate.predictions import Predictions
from vizsla.export.runtime import prepared
from vizsla.export.verify import Golden, Parity
from vizsla.infer.neighbours import evenly_spread
from vizsla.text import counted, first_line, joined, percent_text
from vizsla.types import ImageTable, is_labelled, logits_of, unknown_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vizsla.model_file.manifest import Manifest
    from vizsla.predict.predictor import Predictor

NUM_CALIBRATION = 100
"""Images that the ranges of int8 come from: see benchmarks/README.md."""

MOST_CHECKED = 200
"""Images that an export is checked on; an accuracy of 95 % is known to 3 % then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckImages:
    """Images of a data set for an export; none is in both parts.

    Attributes:
        calibration: Files that the ranges of int8 are taken from.
        files: Files to check with.
        targets: Of ``files``, as in a table; None without labels.
        note: Why there are no labels; empty where there are.
    """

    calibration: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    targets: torch.Tensor | None = None
    note: str = ""

    @classmethod
    def of(
        cls, predictor: Predictor, *, data: ImageTable | Path | str | None, files: tuple[Path, ...]
    ) -> CheckImages:
        """Take the images of a run's table, of labelled data as ``vizsla evaluate`` takes it, or of a folder without labels.

        The validation or test part checks and the rest calibrates; of data in one part every second image does either. ``files``,
        where there are any, check instead, without labels.

        Raises:
            DataError: There are fewer than two images, or a run's data has other classes now than the model.
        """
        if data is None:
            return cls(files=files)
        note = ""
        if not isinstance(data, ImageTable):
            data, note = _table_of(Path(data), predictor)
        elif data.vocab != predictor.vocab:
            raise DataError(
                "The images of the run now have different classes from the model: "
                f"{joined(data.vocab, limit=20)}. Give other images with --calibrate DATA."
            )
        checking, rest = data.valid_rows.tolist(), data.train_rows.tolist()
        if not rest:
            checking, rest = checking[1::2], checking[::2]
        checking = evenly_spread(checking, most=MOST_CHECKED)
        rest = evenly_spread(rest, most=NUM_CALIBRATION)
        if not checking or not rest:
            raise DataError(
                f"There are too few images in {data.root}: at least two are needed, one to calibrate on and one "
                "to check."
            )
        targets = data.targets[checking]
        calibration = tuple(data.paths[row] for row in rest)
        if files:
            return cls(calibration=calibration, files=files)
        return cls(
            calibration=calibration,
            files=tuple(data.paths[row] for row in checking),
            targets=targets if bool(is_labelled(targets).all()) else None,
            note=note,
        )

    def readable(self, manifest: dict[str, Any]) -> CheckImages:
        """Return what is left without the files that ``runtime.py`` does not read; the note says how many those are."""
        causes: dict[Path, PictureError] = {}
        for file in (*self.calibration, *self.files):
            try:
                prepared(file, manifest)
            except PictureError as error:
                causes[file] = error
        if not causes:
            return self
        note = (
            f"Skipped {counted(len(causes), 'image')} that cannot be read without vizsla: "
            f"{next(iter(causes.values()))}"
        )
        kept = [row for row, file in enumerate(self.files) if file not in causes]
        return CheckImages(
            calibration=tuple(file for file in self.calibration if file not in causes),
            files=tuple(self.files[row] for row in kept),
            targets=None if self.targets is None else self.targets[kept],
            note=" ".join(filter(None, (self.note, note))),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a program gave on image files.

    Attributes:
        name: Of its file.
        parity: How far its answers are from those of the model file.
        metric: Accuracy (exact match of several labels, mean error of numbers) with its interval; None without labels.
        num_bytes: Of its file, or files.
        images_per_second: From the bytes of a file to the answer, one image at a time, on the CPU of this machine.
    """

    name: str
    parity: Parity
    metric: Metric | None
    num_bytes: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Something that answers for an image file: float32 ``(C,)``."""

    name: str
    answer: Callable[[Path], NDArray[np.float32]]
    num_bytes: int


def measure(
    programs: Sequence[Program], images: CheckImages, *, manifest: Manifest
) -> list[Measured]:
    """Return what programs give on the files of ``images``; the first one is what the others are compared with.

    Raises:
        PictureError: An image cannot be read.
    """
    seconds = [0.0] * len(programs)
    answers: list[list[NDArray[np.float32]]] = [[] for _ in programs]
    for program in programs:
        program.answer(images.files[0])  # The first answer waits for what is made once.
    for file in images.files:
        for number, program in enumerate(programs):
            began = time.perf_counter()
            answers[number].append(program.answer(file))
            seconds[number] += time.perf_counter() - began
    measured: list[Measured] = []
    for program, taken, found in zip(programs, seconds, answers, strict=True):
        parity = Parity(task=manifest.task, thresholds=manifest.thresholds)
        for file, expected, given in zip(images.files, answers[0], found, strict=True):
            golden = Golden(name=source_name(file), answers=expected[None])
            parity = parity.with_batch(golden, found=given[None])
        metric = None
        if images.targets is not None and np.isfinite(found).all():
            predictions = Predictions(
                rows=torch.arange(len(found)),
                paths=tuple(map(source_name, images.files)),
                logits=logits_of(torch.from_numpy(np.stack(found)), task=manifest.task),
                targets=images.targets,
                vocab=manifest.vocab,
                task=manifest.task,
                thresholds=manifest.thresholds,
            )
            metric = summarise(predictions)[0]
        measured.append(
            Measured(
                name=program.name,
                parity=parity,
                metric=metric,
                num_bytes=program.num_bytes,
                images_per_second=len(found) / taken,
            )
        )
    return measured


def measured_lines(measured: Sequence[Measured]) -> list[str]:
    """Return what was measured as the lines of a table."""
    metric = measured[0].metric
    name = "" if metric is None else metric.name.replace("_", " ")
    rows = [("", "same answer", "mean difference", name, "MB", "images/s")]
    for one in measured:
        value = (
            ""
            if one.metric is None
            else f"{one.metric.value:.4f} ({one.metric.low:.4f}-{one.metric.high:.4f})"
        )
        rows.append(
            (
                one.name,
                percent_text(one.parity.agreement),
                f"{one.parity.mean_difference:.1e}",
                value,
                f"{one.num_bytes / 1e6:.1f}",
                f"{one.images_per_second:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(
                    cell.rjust(width)
                    for cell, width in zip(row[1:], widths[1:], strict=True)
                    if width
                ),
            ]
        )
        for row in rows
    ]


def _table_of(data: Path, predictor: Predictor) -> tuple[ImageTable, str]:
    """Return the images of some data, those to check with as its validation images, and why labels are not known."""
    try:
        table = labelled_data(data, vocab=predictor.vocab, task=predictor.task)
    except LabelError as error:
        if not holds_images(data):
            raise
        paths = tuple(get_image_files(data))
        targets = unknown_targets(len(paths), task=predictor.task, num_outputs=len(predictor.vocab))
        table = ImageTable(
            root=data,
            paths=paths,
            targets=targets,
            vocab=predictor.vocab,
            task=predictor.task,
            train_rows=torch.arange(0),
            valid_rows=torch.arange(len(paths)),
        )
        return table, f"Accuracy is not measured: {first_line(error).rstrip(':')}."
    checking = set(table.valid_rows.tolist())
    rest = [row for row in range(len(table.paths)) if row not in checking]
    return replace(table, train_rows=torch.tensor(rest, dtype=torch.int64)), ""
