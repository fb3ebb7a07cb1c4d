"""Rows of predictions: how they look as a table, CSV, JSON or Parquet, and how they survive a run that was stopped.

A row is what ``Prediction.to_dict`` gives, with the path of the image; or its path and why it could not be read. Until a file is
complete its rows are in ``FILE.part``, one JSON object per line with a checksum, beside ``FILE.part.json``, which says what they
were made with. At the end they are turned into CSV, JSON lines or Parquet, a few thousand at a time.

To resume, the rows of the part that have their checksum are compared with the images that are given again, and whatever is not in
a whole batch of such rows is predicted in the same batches as without the interruption: the file comes out the same, byte for byte.
Whole batches behind a damaged row wait in ``FILE.part.rest`` until those before them are there.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import warnings
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from itertools import chain, count, groupby, islice
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from vizsla.errors import ConfigError, MissingExtraError, OutputError
from vizsla.files import atomic_write, only_writer
from vizsla.text import joined, printable, quoted, valid_unicode
from vizsla.types import LABEL_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.predict.predictor import Predictor

    Row = dict[str, Any]
    Columns = Mapping[str, str]
    """Name of each column of a CSV or Parquet file -> kind of its values, a key of ``_CELL_TEXTS``."""

ROWS_OF_GROUP = 16_384
"""Rows of a row group of a Parquet file, at most; fewer where there are many classes."""

_VALUES_OF_GROUP = 4_000_000  # Probabilities of a row group, at most: 16 MB.
_VECTORS_OF_GROUP = 1_024  # Of features, about as many values.
_MOST_NAMED = 10  # Damaged rows.
_LONGEST_ROW = 1 << 28  # Bytes; a foreign file without line breaks must not fill the memory.

_BREAKS = str.maketrans({"\n": r"\n", "\t": r"\t"})  # printable() leaves them.
# Python's csv module leaves a lone carriage return unquoted before version 3.13, and cannot read it back.
_NEEDS_QUOTES = frozenset(',"\r\n')
# What spreadsheets take for the beginning of a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_OF_NAMES = ("text", "labels")
_CELL_TEXTS = {
    "text": str,
    "labels": LABEL_SEPARATOR.join,
    "probability": "{:.6f}".format,
    "share": "{:.4f}".format,
    "number": "{:.8g}".format,
    "flag": "{:d}".format,
}


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    npz = "npz"


def columns_of(
    predictor: Predictor, *, coverage: float | None, has_features: bool = False
) -> Columns:
    """Return the columns of a CSV or Parquet file, from ``path`` to ``error``."""
    if has_features:
        return {"path": "text", "features": "vector", "error": "text"}
    if predictor.task == "regression":
        columns = {f"prediction_{name}": "number" for name in predictor.vocab}
    else:
        columns = {"prediction": "text", "probability": "probability"}
        columns |= {f"prob_{name}": "probability" for name in predictor.vocab}
        if coverage is not None:
            columns["label_set"] = "labels"
        if predictor.calibration is not None and predictor.task == "category":
            columns |= {"familiarity": "share", "none_of_these": "flag"}
    return {"path": "text", **columns, "error": "text"}


def _cells_of(row: Row) -> dict[str, Any]:
    """Return the values of a row by column; those that it lacks are not there."""
    cells = dict(row)
    prediction = cells.pop("prediction", None)
    if isinstance(prediction, dict):
        cells |= {f"prediction_{name}": value for name, value in prediction.items()}
    elif prediction is not None:
        cells["prediction"] = _joined(prediction)
    if "features" in row:
        cells["features"] = vector_of(row)
    return cells | {f"prob_{name}": value for name, value in row.get("probabilities", {}).items()}


def vector_text(features: Tensor) -> str:
    """Return features, float32 ``(D,)``, as they stand in a row: base64 of their bytes, a quarter of the length of their digits."""
    return base64.b64encode(features.numpy().astype("<f4").tobytes()).decode()


def vector_of(row: Row) -> NDArray[np.float32]:
    """Return the features of a row, float32 ``(D,)``."""
    return np.frombuffer(base64.b64decode(row["features"]), "<f4")


def _joined(prediction: str | list[str]) -> str:
    return prediction if isinstance(prediction, str) else LABEL_SEPARATOR.join(prediction)


def header_line(form: Format, columns: Columns) -> str:
    """Return what stands above the rows: names of columns in CSV, else nothing."""
    return _csv_line(columns) if form is Format.csv else ""


def row_line(
    row: Row, form: Format, columns: Columns, *, only_ascii: bool = False, csv_safe: bool = False
) -> str:
    """Return a row as a line of text.

    ``only_ascii`` has JSON escape other letters, for a file that cannot hold them; ``csv_safe`` marks text in CSV that a
    spreadsheet would take for a formula.
    """
    if form is Format.csv:
        cells = _cells_of(row)
        texts = {
            name: _CELL_TEXTS[kind](cells[name]) if name in cells else ""
            for name, kind in columns.items()
        }
        return _csv_line(
            f"'{text}"
            if csv_safe and columns[name] in _OF_NAMES and text.startswith(_FORMULA)
            else text
            for name, text in texts.items()
        )
    if form is Format.json:
        return json.dumps(row, ensure_ascii=only_ascii) + "\n"
    if "error" in row:
        said = f"cannot be read: {row['error']}"
    elif "probability" not in row:
        said = ", ".join(f"{name} {value:.6g}" for name, value in row["prediction"].items())
    else:
        top = ", ".join(f"{one['label']} {one['probability']:.1%}" for one in row["top"])
        said = f"{_joined(row['prediction']) or '(none)'}  {row['probability']:.1%}  ({top})"
        if row.get("none_of_these"):  # "one of these" would contradict it
            said += "  unlike the validation images: possibly none of these classes"
        elif "label_set" in row:
            said += f"  {{{', '.join(row['label_set'])}}}"
    return printable(f"{row['path']}  {said}").translate(_BREAKS) + "\n"


def _csv_line(cells: Iterable[str]) -> str:
    """Return a line of CSV (RFC 4180, except that it ends with a line feed)."""
    quoted_cells = (
        cell if _NEEDS_QUOTES.isdisjoint(cell) else '"' + cell.replace('"', '""') + '"'
        for cell in cells
    )
    return ",".join(quoted_cells) + "\n"


def check_parquet_installed() -> None:
    """Raise MissingExtraError if pyarrow is not installed."""
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="parquet", purpose="write Parquet files"
        ) from error


def table_of(rows: Iterable[Row], columns: Columns) -> Any:
    """Return rows as an Arrow table: numbers are float32, and what is not known is null."""
    import pyarrow as pa

    types = {"vector": pa.list_(pa.float32())}
    types |= {"text": pa.string(), "labels": pa.list_(pa.string()), "flag": pa.bool_()}
    schema = pa.schema([(name, types.get(kind, pa.float32())) for name, kind in columns.items()])
    group = list(map(_cells_of, rows))
    arrays = [
        pa.array([_in_unicode(cells.get(field.name)) for cells in group], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _write_parquet(file: Path, rows: Iterator[Row], *, columns: Columns) -> None:
    """Write rows, a few thousand at a time."""
    import pyarrow.parquet as parquet

    num_rows = max(1, min(ROWS_OF_GROUP, _VALUES_OF_GROUP // len(columns)))
    num_rows = _VECTORS_OF_GROUP if "vector" in columns.values() else num_rows
    with parquet.ParquetWriter(file, table_of((), columns).schema) as writer:
        while group := list(islice(rows, num_rows)):
            writer.write_table(table_of(group, columns))


def _write_npz(file: Path, rows: Callable[[], Iterator[Row]], *, num_rows: int) -> None:
    """Write ``features``, float32 ``(N, D)`` with NaN where an image cannot be read, and the texts ``path`` and ``error`` ``(N,)``.

    The rows are read once for each, so that memory does not grow with them.
    """
    width = next((len(vector_of(row)) for row in rows() if "features" in row), 0)
    unknown = np.full(width, np.nan, "<f4")
    lengths = {"path": 1, "error": 1}

    def vectors() -> Iterator[NDArray[Any]]:
        for row in rows():
            for name in lengths:
                lengths[name] = max(lengths[name], len(row.get(name, "")))
            yield vector_of(row) if "features" in row else unknown

    def write(
        name: str, dtype: str, shape: tuple[int, ...], arrays: Iterator[NDArray[Any]]
    ) -> None:
        entry = ZipInfo(f"{name}.npy")
        entry.compress_type = ZIP_DEFLATED if dtype.startswith("<U") else ZIP_STORED
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        with archive.open(entry, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for array in arrays:
                member.write(array.tobytes())

    with ZipFile(file, "w") as archive:
        write("features", "<f4", (num_rows, width), vectors())
        for name, length in lengths.items():
            dtype = f"<U{length}"
            texts = (np.array(row.get(name, ""), dtype) for row in rows())
            write(name, dtype, (num_rows,), texts)


def _in_unicode(value: Any) -> Any:
    """Return a value whose text, or list of texts, is valid Unicode, as Arrow wants it."""
    if isinstance(value, list):
        return list(map(valid_unicode, value))
    return valid_unicode(value) if isinstance(value, str) else value


class PartFile:
    """The rows of a run until all are there, and what they were made with; no other process writes to them meanwhile.

    Args:
        file: The file that appears at the end.
        images: All images of the run.
        settings: What rows depend on, by the names of the options.
        batch_size: Rows that are computed together, and handed to the system together.
        resume: Go on with the rows that are there; otherwise they are thrown away.

    Attributes:
        images: Those that have no row yet.
        num_done: Rows that were there before.

    Raises:
        ConfigError: The rows to go on with come from other images or settings.
        OutputError: They cannot be read or written, or another process writes them.
    """

    def __init__(
        self,
        file: Path,
        images: Iterator[str],
        *,
        settings: Mapping[str, object],
        batch_size: int,
        resume: bool,
    ) -> None:
        self.images = images
        self.num_done = 0
        self._file = file
        self._batch_size = batch_size
        self._num_waiting = 0
        self._numbers: Iterator[int] = count()
        self._damaged: list[int] = []
        self._kept: Iterator[_Row] = iter(())
        self._next: _Row | None = None
        with ExitStack() as held:
            held.enter_context(only_writer(_beside(file, "lock"), of=file))
            with self._explained():
                if resume and (part_of(file).stat().st_size or rest_of(file).exists()):
                    self._check_settings(settings)
                    self._part = held.enter_context(self._resumed())
                else:
                    for old in (settings_of(file), rest_of(file)):
                        old.unlink(missing_ok=True)
                    part_of(file).write_bytes(b"")
                    try:
                        with atomic_write(settings_of(file)) as temporary:
                            temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
                    except OutputError:
                        part_of(file).unlink()
                        raise
                    self._part = held.enter_context(part_of(file).open("wb"))
            self._held = held.pop_all()

    def write(self, row: Row) -> None:
        """Add a row; after an OutputError (the disk is full, for example) the earlier rows stay."""
        number = next(self._numbers)
        text = f'"number": {number}, "row": {json.dumps(row)}'
        line = f'{{"crc32": {zlib.crc32(text.encode())}, {text}}}\n'
        with self._explained():
            self._copy_kept(before=number)
            self._part.write(line.encode())
            self._num_waiting += 1
            if self._num_waiting == self._batch_size:
                self._num_waiting = 0
                self._part.flush()

    def finish(self, *, form: Format, columns: Columns, csv_safe: bool = False) -> None:
        """Make the file appear and remove the part; after an OutputError the rows stay."""
        with self._explained():
            self._copy_kept(before=math.inf)
            self._part.close()
            with atomic_write(self._file) as temporary:
                if form is Format.npz:
                    _write_npz(temporary, self._checked_rows, num_rows=next(self._numbers))
                elif form is Format.parquet:
                    _write_parquet(temporary, self._checked_rows(), columns=columns)
                else:
                    with temporary.open("w", encoding="utf-8", newline="") as opened:
                        opened.write(valid_unicode(header_line(form, columns)))
                        for row in self._checked_rows():
                            line = row_line(row, form, columns, csv_safe=csv_safe)
                            opened.write(valid_unicode(line))
                        opened.flush()
                        os.fsync(opened.fileno())
            part_of(self._file).unlink()
            for old in (settings_of(self._file), rest_of(self._file)):
                old.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the part, which stays; raise OutputError if its last rows cannot be written."""
        with self._explained():
            self._held.close()

    def _check_settings(self, settings: Mapping[str, object]) -> None:
        path = settings_of(self._file)
        try:
            known: Mapping[str, object] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The settings of the unfinished {quoted(self._file)} are unknown: {quoted(path)} cannot be read. "
                "Start over with --force."
            ) from error
        different = [
            f"{name} was {known.get(name)!r:.80} and is {value!r:.80}"
            for name, value in settings.items()
            if known.get(name) != value
        ]
        if different:
            raise ConfigError(
                f"The unfinished {quoted(self._file)} was made with different settings: {'; '.join(different)}. "
                "Use the same settings, or start over with --force."
            )

    def _resumed(self) -> BinaryIO:
        """Return the part, open behind the whole batches at its beginning; later ones are put aside, to be copied in their turn."""
        part, rest = part_of(self._file), rest_of(self._file)
        batches = self._whole_batches()
        end, later = 0, list[tuple[int, list[_Row]]]()
        for number, rows in batches:
            if number != self.num_done or rows[-1].end is None:
                later.append((number, rows))
                break
            self.num_done += self._batch_size
            end = rows[-1].end
        if later:
            with atomic_write(rest) as temporary, temporary.open("wb") as file:
                for _, rows in chain(later, batches):
                    file.writelines(row.line for row in rows)
                    self.num_done += self._batch_size
            self._kept = _good_rows(rest, damaged=[])
            self._next = next(self._kept, None)
        else:
            rest.unlink(missing_ok=True)
        if self._damaged:
            warnings.warn(
                f"Rows in {quoted(part)} are damaged and are predicted again, with those that were computed together with them: "
                f"{joined([f'{number + 1:,}' for number in self._damaged], limit=_MOST_NAMED)}.",
                stacklevel=4,
            )
        opened = part.open("r+b")
        opened.truncate(end)
        opened.seek(end)
        return opened

    def _whole_batches(self) -> Generator[tuple[int, list[_Row]]]:
        """Yield the number of its first row and the rows of each whole batch; images of all others will be predicted."""
        images, size = self.images, self._batch_size
        seen = 0
        waiting: list[str] = []
        numbers: list[int] = []

        def wait(for_images: Iterable[str]) -> None:
            nonlocal seen
            for image in for_images:
                waiting.append(image)
                numbers.append(seen)
                seen += 1

        for first, group in groupby(self._rows(), key=lambda row: row.number // size * size):
            wait(islice(images, first - seen))
            rows, given = list(group), list(islice(images, size))
            for row in rows:
                self._check_image(row, [*given, *[None] * size][row.number - first])
            if len(rows) == size:
                seen += size
                yield first, rows
            else:
                wait(given)
        self.images = chain(waiting, images)
        self._numbers = chain(numbers, count(seen))

    def _rows(self) -> Iterator[_Row]:
        """Yield the good rows, in their order, that are there; those put aside do not end in the part."""
        last = -1
        for row in _good_rows(part_of(self._file), damaged=self._damaged):
            last = row.number
            yield row
        if rest_of(self._file).exists():
            for row in _good_rows(rest_of(self._file), damaged=self._damaged):
                if row.number > last:
                    yield replace(row, end=None)

    def _check_image(self, row: _Row, given: str | None) -> None:
        if given != row.row["path"]:
            now = "there is no such image" if given is None else f"it is {quoted(given)}"
            raise ConfigError(
                f"Row {row.number + 1:,} of the unfinished {quoted(self._file)} is for {quoted(row.row['path'])}, "
                f"but now {now}. Give the same images in the same order, or start over with --force."
            )

    def _copy_kept(self, *, before: float) -> None:
        """Copy the rows that were put aside and come before this number."""
        while self._next is not None and self._next.number < before:
            self._part.write(self._next.line)
            self._next = next(self._kept, None)

    def _checked_rows(self) -> Generator[Row]:
        part = part_of(self._file)
        number, end = 0, 0
        for row in _good_rows(part, damaged=[]):
            if row.number != number:
                break
            yield row.row
            number, end = number + 1, row.end
        if end != part.stat().st_size:
            raise OutputError(
                f"Row {number + 1:,} of {quoted(part)} was damaged while {quoted(self._file)} was written. "
                "Continue with --resume: the damaged rows are predicted again."
            )

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"Cannot write {quoted(self._file)}: {error.strerror or error}. The rows so far are kept beside "
                "it: free some space or change the permissions, then continue with --resume."
            ) from error


def part_of(file: Path) -> Path:
    """Return where the rows of a file are until all are there."""
    return file.with_name(f"{file.name}.part")


def settings_of(file: Path) -> Path:
    """Return where it is noted what they were made with."""
    return _beside(file, "json")


def rest_of(file: Path) -> Path:
    """Return where good rows are that come after damaged ones."""
    return _beside(file, "rest")


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(f"{file.name}.part.{suffix}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row as it stands in a part, and where its line ends there."""

    number: int
    row: Row
    line: bytes
    end: int | None


def _good_rows(part: Path, *, damaged: list[int]) -> Generator[_Row]:
    """Yield the rows that have their checksum, and note about which ones do not; a last line that was cut off is no damage."""
    end, last = 0, -1
    with part.open("rb") as file:
        while line := file.readline(_LONGEST_ROW):
            end += len(line)
            found = _checked(line)
            if found is None:
                last += line.endswith(b"\n")
                if line.endswith(b"\n") and len(damaged) <= _MOST_NAMED:
                    damaged.append(last)
            elif found[0] > last:
                last = found[0]
                yield _Row(number=last, row=found[1], line=line, end=end)


def _checked(line: bytes) -> tuple[int, Row] | None:
    """Return number and row of a line; None if it is damaged, or has a checksum and is no row all the same."""
    start, _, text = line.removesuffix(b"}\n").partition(b", ")
    checksum = start.removeprefix(b'{"crc32": ')
    if not line.endswith(b"}\n") or checksum != str(zlib.crc32(text)).encode():
        return None
    try:
        values: Any = json.loads(b"{" + text + b"}")
        number, row = values["number"], values["row"]
        is_row = type(number) is int and 0 <= number < sys.maxsize and isinstance(row["path"], str)
        return (number, row) if is_row else None
    except (ValueError, LookupError, TypeError):
        return None
