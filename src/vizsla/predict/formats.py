"""Rows of predictions: how they look as a table, CSV, JSON or Parquet, and how they survive a run that was stopped.

A row is what ``Prediction.to_dict`` gives, with the image's path; or its path and why it could not be read. Until all rows are
there they stand in ``FILE.part``, one JSON object for each line with a checksum, beside ``FILE.part.json``, which says what
they were made with. At the end they are turned into CSV, JSON lines or Parquet, a few thousand at a time.

To go on, the whole rows of the part are compared with the images that are given again, the last batch that is not whole is cut
off, and the rest is predicted in the same batches as without the interruption: the file comes out the same, byte for byte.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from vizsla.data.images.decode import cause_of
from vizsla.errors import ConfigError, MissingExtraError, OutputError, PictureError
from vizsla.files import atomic_write
from vizsla.text import printable, quoted, valid_unicode
from vizsla.types import LABEL_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from vizsla.predict.prediction import Prediction
    from vizsla.predict.predictor import Predictor

    Row = dict[str, Any]

ROWS_OF_GROUP = 16_384
"""Rows of a row group of a Parquet file, at most; fewer where there are many classes."""

_VALUES_OF_GROUP = 4_000_000  # Probabilities of a row group, at most: 16 MB.
_LONGEST_ROW = 1 << 28  # Bytes; a foreign file without line breaks must not fill the memory.

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


def row_of(path: Path | str, result: Prediction | PictureError) -> Row:
    """Return what is written about an image: what the model says about it, or why it cannot be read."""
    if isinstance(result, PictureError):
        return {"path": str(path), "error": cause_of(result)}
    return {"path": str(path), **result.to_dict()}


def header_line(form: Format, columns: tuple[Column, ...]) -> str:
    """Return what stands above the rows: names of columns in CSV, else nothing."""
    return _csv_line(column.name for column in columns) if form is Format.csv else ""


def row_line(
    row: Row, form: Format, columns: tuple[Column, ...], *, only_ascii: bool = False
) -> str:
    """Return a row as a line of text; ``only_ascii`` has JSON escape other letters, for a file that cannot hold them."""
    if form is Format.csv:
        return _csv_line(column.text(row) for column in columns)
    if form is Format.json:
        return json.dumps(row, ensure_ascii=only_ascii) + "\n"
    if "error" in row:
        said = f"cannot be read: {row['error']}"
    elif "probability" not in row:
        said = ", ".join(f"{name} {value:.6g}" for name, value in row["prediction"].items())
    else:
        top = ", ".join(f"{one['label']} {one['probability']:.1%}" for one in row["top"])
        said = f"{_joined(row['prediction']) or '(none)'}  {row['probability']:.1%}  ({top})"
        if "label_set" in row:
            said += f"  {{{', '.join(row['label_set'])}}}"
        if row.get("none_of_these"):
            said += "  unlike the validation images: maybe none of these"
    return printable(f"{row['path']}  {said}").translate(_BREAKS) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a CSV or Parquet file.

    Attributes:
        name: Its heading.
        kind: What its cells are; in CSV, a probability has six digits after the point, a share four, a number eight in all.
        cell: The value that a row has in it; None where it has none.
    """

    name: str
    kind: Literal["text", "labels", "probability", "share", "number", "flag"]
    cell: Callable[[Row], Any]

    def text(self, row: Row) -> str:
        """Return the cell of a CSV file."""
        value = self.cell(row)
        if value is None:
            return ""
        match self.kind:
            case "text":
                return value
            case "labels":
                return LABEL_SEPARATOR.join(value)
            case "probability":
                return f"{value:.6f}"
            case "share":
                return f"{value:.4f}"
            case "number":
                return f"{value:.8g}"
            case "flag":
                return str(int(value))


def columns_of(predictor: Predictor, *, coverage: float | None) -> tuple[Column, ...]:
    """Return the columns of a CSV or Parquet file, from ``path`` to ``error``."""
    vocab = predictor.vocab
    if predictor.task == "regression":
        middle = [
            Column(name=f"prediction_{name}", kind="number", cell=_entry("prediction", name))
            for name in vocab
        ]
    else:
        middle = [
            Column(
                name="prediction",
                kind="text",
                cell=lambda row: None if "error" in row else _joined(row["prediction"]),
            ),
            Column(name="probability", kind="probability", cell=_field("probability")),
        ]
        middle += [
            Column(name=f"prob_{name}", kind="probability", cell=_entry("probabilities", name))
            for name in vocab
        ]
        if coverage is not None:
            middle.append(Column(name="label_set", kind="labels", cell=_field("label_set")))
        if predictor.calibration is not None:
            middle.append(Column(name="familiarity", kind="share", cell=_field("familiarity")))
            middle.append(Column(name="none_of_these", kind="flag", cell=_field("none_of_these")))
    path = Column(name="path", kind="text", cell=_field("path"))
    return path, *middle, Column(name="error", kind="text", cell=_field("error"))


def _field(name: str) -> Callable[[Row], Any]:
    return lambda row: row.get(name)


def _entry(field: str, name: str) -> Callable[[Row], Any]:
    return lambda row: None if "error" in row else row[field][name]


def _csv_line(cells: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180, but for its end, which is a line feed)."""
    quoted_cells = (
        cell if _NEEDS_QUOTES.isdisjoint(cell) else '"' + cell.replace('"', '""') + '"'
        for cell in cells
    )
    return ",".join(quoted_cells) + "\n"


def _joined(prediction: str | list[str]) -> str:
    return prediction if isinstance(prediction, str) else LABEL_SEPARATOR.join(prediction)


def check_parquet_installed() -> None:
    """Raise MissingExtraError if pyarrow is not installed."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="parquet", purpose="write Parquet files"
        ) from error


def _write_rows(
    file: Path, rows: Iterator[Row], *, form: Format, columns: tuple[Column, ...]
) -> None:
    """Write rows as a file, whole or not at all."""
    with atomic_write(file) as temporary:
        if form is Format.parquet:
            _write_parquet(temporary, rows, columns=columns)
            return
        with temporary.open("w", encoding="utf-8", newline="") as opened:
            opened.write(valid_unicode(header_line(form, columns)))
            for row in rows:
                opened.write(valid_unicode(row_line(row, form, columns)))
            opened.flush()
            os.fsync(opened.fileno())


def _write_parquet(file: Path, rows: Iterator[Row], *, columns: tuple[Column, ...]) -> None:
    """Write rows, a few thousand at a time: numbers are float32, and what is not known is null."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = {"text": pa.string(), "labels": pa.list_(pa.string()), "flag": pa.bool_()}
    schema = pa.schema([(column.name, types.get(column.kind, pa.float32())) for column in columns])
    cells = [
        _in_unicode(column.cell) if column.kind in ("text", "labels") else column.cell
        for column in columns
    ]
    num_rows = max(1, min(ROWS_OF_GROUP, _VALUES_OF_GROUP // len(columns)))
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, num_rows)):
            arrays = [
                pa.array(list(map(cell, group)), type=field.type)
                for cell, field in zip(cells, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


class PartFile:
    """The rows of a run until all are there, and what they were made with.

    Args:
        file: The file that appears at the end.
        settings: What rows depend on, by the names of the options; a run goes on with the same only.
        batch_size: Rows that are computed together, and handed to the system together.

    Attributes:
        num_done: Rows that were there before.
    """

    def __init__(self, file: Path, *, settings: Mapping[str, object], batch_size: int) -> None:
        self.num_done = 0
        self._file = file
        self._settings = settings
        self._batch_size = batch_size
        self._part: BinaryIO | None = None
        self._num_waiting = 0

    def begin(self) -> None:
        """Start with no rows; raise OutputError if the part cannot be written."""
        settings = settings_of(self._file)
        try:
            settings.unlink(missing_ok=True)
            self._part = part_of(self._file).open("wb")
        except OSError as error:
            raise self._said(error) from error
        with atomic_write(settings) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=1), encoding="utf-8")

    def resume(self, images: Iterator[str]) -> Iterator[str]:
        """Go on with the rows that are there: return those of all the images that have no row yet.

        Raises:
            ConfigError: What is there comes from other images or settings.
            OutputError: It cannot be read or written.
        """
        part = part_of(self._file)
        try:
            if not part.stat().st_size:
                self.begin()
                return images
            self._check_settings()
            waiting: list[str] = []
            end = 0
            for row, row_end in _whole_rows(part):
                number = self.num_done + len(waiting) + 1
                waiting.append(self._expect_same(row["path"], next(images, None), number=number))
                if len(waiting) == self._batch_size:
                    self.num_done += self._batch_size
                    end = row_end
                    waiting.clear()
            self._part = part.open("r+b")
            self._part.truncate(end)
            self._part.seek(end)
        except OSError as error:
            raise self._said(error) from error
        return chain(waiting, images)

    def write(self, row: Row) -> None:
        """Add a row; after an OutputError (the disk is full, for example) what is there stays."""
        text = json.dumps(row)
        line = f'{{"crc32": {zlib.crc32(text.encode())}, "row": {text}}}\n'
        try:
            self._opened().write(line.encode())
            self._num_waiting += 1
            if self._num_waiting == self._batch_size:
                self._num_waiting = 0
                self._opened().flush()
        except OSError as error:
            raise self._said(error) from error

    def finish(self, *, form: Format, columns: tuple[Column, ...]) -> None:
        """Make the file appear and remove the part; after an OutputError what is there stays."""
        part = part_of(self._file)
        try:
            self.close()
            _write_rows(self._file, self._checked_rows(part), form=form, columns=columns)
            part.unlink()
            settings_of(self._file).unlink(missing_ok=True)
        except OSError as error:
            raise self._said(error) from error

    def close(self) -> None:
        """Close the part, which stays; raise OutputError if its last rows cannot be written."""
        if self._part is not None:
            try:
                self._part.close()
            except OSError as error:
                raise self._said(error) from error

    def _checked_rows(self, part: Path) -> Generator[Row]:
        end = 0
        for row, row_end in _whole_rows(part):
            yield row
            end = row_end
        if end != part.stat().st_size:
            raise OutputError(
                f"{quoted(part)} was damaged while {quoted(self._file)} was written. Go on with --resume: the damaged rows are "
                "predicted again."
            )

    def _check_settings(self) -> None:
        path = settings_of(self._file)
        try:
            known: Mapping[str, object] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"It is not known how the rows beside {quoted(self._file)} were made: {quoted(path)} cannot be read. "
                "Start over with --force."
            ) from error
        different = [
            f"{name} was {known.get(name)!r:.80} and is {value!r:.80}"
            for name, value in self._settings.items()
            if known.get(name) != value
        ]
        if different:
            raise ConfigError(
                f"The unfinished {quoted(self._file)} was made in another way: {'; '.join(different)}. "
                "Give the same as before, or start over with --force."
            )

    def _expect_same(self, known: str, given: str | None, *, number: int) -> str:
        """Return an image that was given, if the row at its place, counted from 1, is about it."""
        if given is None or given != known:
            now = "there is no such image" if given is None else f"it is {quoted(given)}"
            raise ConfigError(
                f"Row {number:,} of the unfinished {quoted(self._file)} is about {quoted(known)}, and now {now}. "
                "Give the same images in the same order, or start over with --force."
            )
        return given

    def _opened(self) -> BinaryIO:
        if self._part is None:
            raise OutputError(f"{self._file} was not opened: call begin() or resume() first.")
        return self._part

    def _said(self, error: OSError) -> OutputError:
        return OutputError(
            f"Cannot write {quoted(self._file)}: {error.strerror or error}. The rows until then are kept beside it: "
            "free some space or change the permissions, and go on with --resume."
        )


def part_of(file: Path) -> Path:
    """Return where the rows of a file are until all are there."""
    return file.with_name(f"{file.name}.part")


def settings_of(file: Path) -> Path:
    """Return where it is noted what they were made with."""
    return file.with_name(f"{file.name}.part.json")


def _whole_rows(part: Path) -> Generator[tuple[Row, int]]:
    """Yield each row and where it ends, up to the first one that is cut off or does not have its checksum."""
    end = 0
    with part.open("rb") as file:
        while line := file.readline(_LONGEST_ROW):
            end += len(line)
            start, _, text = line.partition(b', "row": ')
            checksum = start.removeprefix(b'{"crc32": ')
            text = text.removesuffix(b"}\n")
            if not line.endswith(b"}\n") or checksum != str(zlib.crc32(text)).encode():
                return
            yield json.loads(text), end


def _in_unicode(cell: Callable[[Row], Any]) -> Callable[[Row], Any]:
    """Return a cell whose text, or list of texts, is valid Unicode, as Arrow wants it."""

    def valid(row: Row) -> Any:
        value = cell(row)
        if isinstance(value, str):
            return valid_unicode(value)
        return None if value is None else list(map(valid_unicode, value))

    return valid
