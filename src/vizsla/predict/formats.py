"""A path and what the model says of it in, one row of text out: a table line, CSV or JSON.

Text has no way to hold a file name that is not valid Unicode; what is not becomes an escape when it is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vizsla.data.images.decode import cause_of
from vizsla.errors import PictureError
from vizsla.text import printable
from vizsla.types import LABEL_SEPARATOR, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vizsla.predict.prediction import Prediction
    from vizsla.predict.predictor import Predictor

    Result = Prediction | PictureError
    Row = Callable[[Path | str, Result], str]

# What printable() leaves and a terminal breaks lines or columns at.
_BREAKS = str.maketrans({"\n": r"\n", "\t": r"\t", "\u2028": r"\u2028", "\u2029": r"\u2029"})
# Python's csv module leaves a lone carriage return unquoted before version 3.13, and cannot read it back.
_NEEDS_QUOTES = frozenset(',"\r\n')


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What is known of each picture.

    Attributes:
        vocab: Names of the classes or numbers.
        task: What is predicted.
        novelty: Whether the model tells how familiar a picture is.
        label_sets: Whether label sets were asked for.
    """

    vocab: tuple[str, ...]
    task: Task
    novelty: bool = False
    label_sets: bool = False

    @classmethod
    def of(cls, predictor: Predictor, *, coverage: float | None) -> Columns:
        """Return the columns of the predictions of a model.

        Args:
            predictor: The model.
            coverage: Of the label sets; None for none.
        """
        return cls(
            vocab=predictor.vocab,
            task=predictor.task,
            novelty=predictor.calibration is not None,
            label_sets=coverage is not None,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names, from ``path`` to ``error``."""
        if self.task == "regression":
            return ("path", *(f"prediction_{name}" for name in self.vocab), "error")
        return (
            "path",
            "prediction",
            "probability",
            *(f"prob_{label}" for label in self.vocab),
            *(("label_set",) * self.label_sets),
            *(("familiarity", "none_of_these") if self.novelty else ()),
            "error",
        )


def csv_line(cells: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180, but for its end, which is a line feed).

    Args:
        cells: Quoted where they have to be.
    """
    return ",".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
    return cell if _NEEDS_QUOTES.isdisjoint(cell) else '"' + cell.replace('"', '""') + '"'


def csv_rows(columns: Columns) -> Row:
    """Return a function from path and result to a line of CSV, with as many cells as ``columns.names``."""
    num_empty = len(columns.names) - 2

    def row(path: Path | str, result: Result) -> str:
        if isinstance(result, PictureError):
            return csv_line([str(path), *("" for _ in range(num_empty)), cause_of(result)])
        if columns.task == "regression":
            return csv_line([str(path), *(f"{value:.8g}" for value in result.values), ""])
        cells = [str(path), result.label, f"{result.probability:.6f}"]
        cells += [f"{value:.6f}" for value in result.probabilities.tolist()]
        if columns.label_sets:
            cells.append(LABEL_SEPARATOR.join(result.label_set or ()))
        if columns.novelty:
            cells += [f"{result.familiarity or 0:.4f}", "1" if result.none_of_these else "0"]
        return csv_line([*cells, ""])

    return row


def json_rows(columns: Columns, *, only_ascii: bool = False) -> Row:
    """Return a function from path and result to one line with a JSON object.

    Args:
        columns: What is written.
        only_ascii: Write other letters as escapes, for a file that cannot hold them.
    """

    def row(path: Path | str, result: Result) -> str:
        line: dict[str, object] = {"path": str(path)}
        if isinstance(result, PictureError):
            line["error"] = cause_of(result)
        elif columns.task == "regression":
            line["prediction"] = dict(zip(columns.vocab, result.values, strict=True))
        else:
            several = columns.task == "multi_category"
            line["prediction"] = list(result.labels) if several else result.label
            line["probability"] = result.probability
            line["top"] = [{"label": label, "probability": value} for label, value in result.top]
            line["probabilities"] = dict(
                zip(columns.vocab, result.probabilities.tolist(), strict=True)
            )
            if columns.label_sets:
                line["label_set"] = list(result.label_set or ())
            if columns.novelty:
                line["familiarity"] = result.familiarity
                line["none_of_these"] = result.none_of_these
        return json.dumps(line, ensure_ascii=only_ascii) + "\n"

    return row


def table_rows(columns: Columns) -> Row:
    """Return a function from path and result to a line for people."""

    def row(path: Path | str, result: Result) -> str:
        if isinstance(result, PictureError):
            line = f"{path}  cannot be read: {cause_of(result)}"
        elif columns.task == "regression":
            pairs = zip(columns.vocab, result.values, strict=True)
            line = f"{path}  {', '.join(f'{name} {value:.6g}' for name, value in pairs)}"
        else:
            top = ", ".join(f"{label} {probability:.1%}" for label, probability in result.top)
            line = f"{path}  {result.label or '(none)'}  {result.probability:.1%}  ({top})"
            if result.label_set is not None:
                line += f"  {{{', '.join(result.label_set)}}}"
            if result.none_of_these:
                line += "  unlike the validation pictures: maybe none of these"
        return f"{printable(line).translate(_BREAKS)}\n"

    return row
