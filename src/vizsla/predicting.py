"""A model file and paths in; one line per picture out, as a table, CSV or JSON, in the order of the paths, as they come."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, TextIO

from vizsla.data.decode import cause_of
from vizsla.data.problems import listed, quoted
from vizsla.data.sources import get_image_files
from vizsla.errors import DataError, PictureError
from vizsla.export.predictor import Prediction, Predictor
from vizsla.report.texts import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    WriteRow = Callable[[Path, Prediction | PictureError], None]

# What printable() leaves and a terminal breaks lines or columns at.
_BREAKS = str.maketrans({"\n": r"\n", "\t": r"\t", "\u2028": r"\u2028", "\u2029": r"\u2029"})


class Format(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def print_predictions(
    model: Path,
    paths: Sequence[Path],
    *,
    form: Format = Format.table,
    device: str = "auto",
    num_workers: int | None = None,
    file: TextIO | None = None,
) -> int:
    """Print what a model says of pictures.

    Args:
        model: A model file.
        paths: Pictures, and folders whose pictures are all taken, sorted by path.
        form: ``table``: class, probability and the three likeliest. ``csv``: ``path,prediction,probability``, one
            ``prob_<class>`` column per class, and ``error``. ``json``: an object per line.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        num_workers: Threads that read pictures; None is one per core.
        file: Where to; None is standard output.

    Returns:
        The number of pictures that could not be read; each has its line with the cause.

    Raises:
        DataError: A path does not exist, or a folder has no pictures.
        ModelFileError: The model cannot be opened.
    """
    where = sys.stdout if file is None else file
    pictures = _pictures(paths)
    predictor = Predictor.load(model, device=device)
    write = {Format.table: _table_writer, Format.csv: _csv_writer, Format.json: _json_writer}[form]
    write_row = write(where, predictor.vocab)
    failed = 0
    with closing(predictor.predict_many(pictures, num_workers=num_workers)) as results:
        for path, result in results:
            write_row(path, result)
            where.flush()  # Whoever reads the lines on gets each at once, not when a buffer is full.
            failed += isinstance(result, PictureError)
    return failed


def _pictures(paths: Sequence[Path]) -> Iterable[Path]:
    missing = [quoted(path) for path in paths if not _exists(path)]
    if missing:
        raise DataError(
            f"There is no such file or folder:\n{listed(missing)}\n"
            "Check the spelling; give pictures, or folders of them."
        )
    # Folders are listed before the first line is printed: an empty one is an error, not a short list.
    return chain.from_iterable(
        [get_image_files(path) if path.is_dir() else [path] for path in paths]
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name that is too long for the file system
        return False


def _on_one_line(text: str) -> str:
    return printable(text).translate(_BREAKS)


def _table_writer(file: TextIO, _vocab: tuple[str, ...]) -> WriteRow:
    def write_row(path: Path, result: Prediction | PictureError) -> None:
        if isinstance(result, PictureError):
            line = f"{path}  cannot be read: {cause_of(result)}"
        else:
            top = ", ".join(f"{label} {probability:.1%}" for label, probability in result.top)
            line = f"{path}  {result.label}  {result.probability:.1%}  ({top})"
        file.write(f"{_on_one_line(line)}\n")

    return write_row


def _csv_writer(file: TextIO, vocab: tuple[str, ...]) -> WriteRow:
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"prob_{label}" for label in vocab]
    writer.writerow(["path", "prediction", "probability", *columns, "error"])

    def write_row(path: Path, result: Prediction | PictureError) -> None:
        if isinstance(result, PictureError):
            writer.writerow([path, "", "", *("" for _ in vocab), cause_of(result)])
        else:
            probabilities = [f"{value:.6f}" for value in result.probabilities.tolist()]
            writer.writerow([path, result.label, f"{result.probability:.6f}", *probabilities, ""])

    return write_row


def _json_writer(file: TextIO, vocab: tuple[str, ...]) -> WriteRow:
    # Readable where the file can hold every character; escapes that JSON knows elsewhere.
    only_ascii = (file.encoding or "utf-8").lower().replace("-", "") != "utf8"

    def write_row(path: Path, result: Prediction | PictureError) -> None:
        line: dict[str, object] = {"path": str(path)}
        if isinstance(result, PictureError):
            line["error"] = cause_of(result)
        else:
            line["prediction"] = result.label
            line["probability"] = result.probability
            line["top"] = [{"label": label, "probability": value} for label, value in result.top]
            line["probabilities"] = dict(zip(vocab, result.probabilities.tolist(), strict=True))
        file.write(json.dumps(line, ensure_ascii=only_ascii) + "\n")

    return write_row
