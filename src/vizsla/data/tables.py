"""A CSV file or a DataFrame in, its cells as a ``Table`` out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vizsla.data.problems import counted, listed, quoted
from vizsla.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The cells of a CSV file or DataFrame.

    Attributes:
        source: How messages name the table.
        columns: Names of the columns.
        rows: Cells; each row has one for each column.
        numbers: For each row the number by which its owner finds it: in a CSV file the header is row 1, in a DataFrame
            the first row is row 0.
        counting: How messages say that, in brackets, or empty.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    numbers: tuple[int, ...]
    counting: str = ""

    def position(self, column: str | int) -> int:
        """Return the position of a column, given by name or position.

        Raises:
            TableError: There is no such column; the message lists those that are there.
        """
        if isinstance(column, int):
            if -len(self.columns) <= column < len(self.columns):
                return column % len(self.columns)
        elif column in self.columns:
            return self.columns.index(column)
        names = [f"{position}: {name!r}" for position, name in enumerate(self.columns)]
        raise TableError(
            f"There is no column {column!r} in {self.source}. It has these columns:\n{listed(names)}\n"
            "Name one of them."
        )

    def column(self, column: str | int) -> tuple[Any, ...]:
        """Return the cells of a column, given by name or position.

        Raises:
            TableError: There is no such column.
        """
        position = self.position(column)
        return tuple(row[position] for row in self.rows)


def read_table(
    path: Path | str,
    *,
    header: Literal["infer"] | int | None = "infer",
    delimiter: str | None = None,
    quoting: int = csv.QUOTE_MINIMAL,
) -> Table:
    """Read a CSV file as text; no cell is turned into a number or taken for a missing value.

    Args:
        path: The file, in UTF-8.
        header: Position of the line that names the columns, counted from 0; ``"infer"`` is the first, ``None`` says
            that there is none (the columns are then named by position: ``"0"``, ``"1"``).
        delimiter: What separates cells; ``None`` takes whichever of comma, semicolon, tab and bar the first line has
            most of.
        quoting: One of the ``QUOTE_`` constants of the module ``csv``.

    Raises:
        TableError: The file does not exist, is empty, is no text in UTF-8, or has rows with more cells than columns.
    """
    source = quoted(path)
    records = [record for record in _read_records(Path(path), delimiter, quoting) if any(record[1])]
    first = 0 if header is None or header == "infer" else header
    if len(records) <= first + (header is not None):
        what = "is empty" if not records else "has a header and no rows"
        raise TableError(f"The table {source} {what}. It needs one row for each picture.")
    if header is None:
        columns = tuple(str(position) for position in range(len(records[0][1])))
    else:
        columns = tuple(name.strip() for name in records[first][1])
        records = records[first + 1 :]
    return Table(
        source=source,
        columns=columns,
        rows=_even_rows(records, len(columns), source),
        numbers=tuple(number for number, _ in records),
        counting=" (its header is row 1)" if header is not None and first == 0 else "",
    )


def _read_records(
    path: Path, delimiter: str | None, quoting: int
) -> Iterable[tuple[int, list[str]]]:
    """Return the records of a CSV file with their numbers, from 1; blank lines count."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = delimiter or _likely_delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, quoting=quoting)  # pyright: ignore[reportArgumentType]: the stub wants literals
            return list(enumerate(reader, start=1))
    except FileNotFoundError:
        raise TableError(f"There is no file {quoted(path)}. Check the spelling.") from None
    except UnicodeDecodeError as error:
        raise TableError(
            f"{quoted(path)} is no text in UTF-8 (byte {error.start}). "
            'Save it as "CSV UTF-8" from the program that made it.'
        ) from error
    except csv.Error as error:
        raise TableError(f"{quoted(path)} is no CSV file: {error}. Check its quotes.") from error
    except OSError as error:
        raise TableError(f"{quoted(path)} cannot be read: {error.strerror}.") from error


def _likely_delimiter(line: str) -> str:
    return max((",", ";", "\t", "|"), key=line.count)


def _even_rows(
    records: Sequence[tuple[int, list[str]]], num_columns: int, source: str
) -> tuple[tuple[str, ...], ...]:
    """Fill short rows with empty cells, as spreadsheets leave them out; refuse rows with cells beyond the columns."""
    long = [
        f"row {number}: {counted(len(cells), 'cell')}"
        for number, cells in records
        if any(cells[num_columns:])
    ]
    if long:
        raise TableError(
            f"{counted(len(long), 'row')} of {source} {'has' if len(long) == 1 else 'have'} more cells than the "
            f"{counted(num_columns, 'column')}:\n{listed(long)}\n"
            "Put cells that contain the delimiter in double quotes."
        )
    return tuple((*cells[:num_columns], *[""] * (num_columns - len(cells))) for _, cells in records)


def table_of_frame(frame: pd.DataFrame) -> Table:
    """Return the cells of a DataFrame; missing values become ``None``, rows are numbered from 0."""
    columns = [
        [None if missing else value for value, missing in zip(values, values.isna(), strict=True)]
        for values in (frame.iloc[:, position] for position in range(frame.shape[1]))
    ]
    return Table(
        source="the DataFrame",
        columns=tuple(str(name) for name in frame.columns),
        rows=tuple(zip(*columns, strict=True)),
        numbers=tuple(range(len(frame))),
        counting=" (its first row is row 0)",
    )
