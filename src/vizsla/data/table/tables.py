"""Read the cells of a CSV file, JSON records or a DataFrame, and find images, labels and split in them or in a list."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from vizsla.data.storage.storage import is_there
from vizsla.data.table.check import listing
from vizsla.data.table.items import existing
from vizsla.data.table.labels import (
    LabelledImages,
    advice_about,
    is_missing,
    is_several,
    split_labels,
    take_labels,
)
from vizsla.data.table.layout import read_split_name
from vizsla.data.table.sources import get_image_files, is_image_name
from vizsla.data.table.splits import split_of_value
from vizsla.errors import ConfigError, DataError, Problem, TableError
from vizsla.paths import ImagePaths
from vizsla.text import counted, joined, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pandas as pd


JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
"""File name endings of tables of JSON records; all others are read as CSV."""


METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The cells of a CSV file, JSON records or a DataFrame, one row for each image.

    Attributes:
        source: What messages call the table.
        columns: Names of the columns.
        rows: Cells, one for each column.
        numbers: The number of each row as its owner counts: a CSV file's header is row 1, a DataFrame's first row is row 0.
        counting: How messages say that, in brackets, or empty.
        notes: What was guessed while reading, a line each.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    numbers: tuple[int, ...]
    counting: str = ""
    notes: tuple[str, ...] = ()

    def position(self, column: str | int) -> int:
        """Return the position of a column, given by name or position; it must exist."""
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
        """Return the cells of a column, given by name or position."""
        position = self.position(column)
        return tuple(row[position] for row in self.rows)


def read_table(
    path: Path | str,
    *,
    header: Literal["infer"] | int | None = "infer",
    delimiter: str | None = None,
    quoting: int = csv.QUOTE_MINIMAL,
    may_be_empty: bool = False,
) -> Table:
    """Read a CSV file in UTF-8 as text; no cell is turned into a number or taken for a missing value.

    A file whose name ends in one of ``JSON_SUFFIXES`` has one JSON object for each image, one a line or all in one list; cells
    keep their type, and a missing field or ``null`` is ``None``.

    Args:
        path: The file.
        header: Position of the line that names the columns, counted from 0; ``"infer"`` is the first, unless it names an
            image already, and with ``None`` there is no such line: the columns are named ``"0"``, ``"1"``.
        delimiter: Separates cells; ``None`` takes the one of comma, semicolon, tab and bar that the first line has most of,
            or that it states: ``sep=;``, as spreadsheets write it.
        quoting: One of the ``QUOTE_`` constants of the module ``csv``.
        may_be_empty: Whether the file may have a header and no rows.

    Raises:
        TableError: The file does not exist, is empty, is not text in UTF-8, has rows with more cells than columns, two columns
            of one name, or JSON that is not records.
        ConfigError: The other arguments are given for JSON records.
    """
    source = quoted(path)
    if Path(path).suffix.lower() in JSON_SUFFIXES:
        if (header, delimiter, quoting) != ("infer", None, csv.QUOTE_MINIMAL):
            raise ConfigError(
                f"header, delimiter and quoting are for CSV files, and {source} has JSON records. Leave these "
                "options out."
            )
        return _table_of_records(_read_text(Path(path)), source)
    records = [record for record in _read_records(Path(path), delimiter, quoting) if any(record[1])]
    notes: tuple[str, ...] = ()
    if header == "infer" and records and any(is_image_name(cell.strip()) for cell in records[0][1]):
        notes = (f"{source} has no header, so its columns are named 0 to {len(records[0][1]) - 1}",)
        header = None
    first = 0 if header is None or header == "infer" else header
    if len(records) <= first + (header is not None and not may_be_empty):
        what = "is empty" if not records else "has a header and no rows"
        raise TableError(f"The table {source} {what}. It needs one row per image.")
    counting = ""
    if header is None:
        columns = tuple(str(position) for position in range(len(records[0][1])))
    else:
        columns = tuple(name.strip() for name in records[first][1])
        if twice := [name for name, number in Counter(columns).items() if name and number > 1]:
            raise TableError(
                f"The header of {source} has duplicate names: {', '.join(map(repr, twice))}. Rename the columns."
            )
        counting = f" (its header is row {records[first][0]})" if first == 0 else ""
        records = records[first + 1 :]
    return Table(
        source=source,
        columns=columns,
        rows=_even_rows(records, len(columns), source),
        numbers=tuple(number for number, _ in records),
        counting=counting,
        notes=notes,
    )


def _read_records(
    path: Path, delimiter: str | None, quoting: int
) -> Iterable[tuple[int, list[str]]]:
    """Return the records of a CSV file, numbered from 1; blank lines count."""
    text = _read_text(path)
    line, _, rest = text.partition("\n")
    stated = re.fullmatch(r"sep=(.)", line.rstrip("\r"))
    separator = delimiter or (stated and stated[1]) or max(",", ";", "\t", "|", key=line.count)
    file = io.StringIO(rest if stated else text, newline="")
    reader = csv.reader(file, delimiter=separator, quoting=quoting, strict=True)  # pyright: ignore[reportArgumentType]: the stub wants literals
    try:
        return list(enumerate(reader, start=2 if stated else 1))
    except csv.Error as error:
        raise TableError(f"{quoted(path)} is not a CSV file: {error}. Check its quotes.") from error


SAVE_AS_CSV = 'Save it as "CSV UTF-8" from the program that made it.'
_STARTS = {
    b"PK\x03\x04": "an Excel file or another zip archive",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a Parquet file",
}


def _read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 where it begins with the mark that says so."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise TableError(f"{quoted(path)} is {what}, not a file. Give the path of the table.")
    try:
        data = path.read_bytes()
        if what := next((what for start, what in _STARTS.items() if data.startswith(start)), None):
            raise TableError(f"{quoted(path)} is {what}. {SAVE_AS_CSV}")
        encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        text = data.decode(encoding)
    except FileNotFoundError:
        raise TableError(f"There is no file {quoted(path)}. Check the spelling.") from None
    except UnicodeDecodeError as error:
        raise TableError(
            f"{quoted(path)} is not UTF-8 text (byte {error.start}). {SAVE_AS_CSV}"
        ) from error
    except OSError as error:
        raise TableError(f"{quoted(path)} cannot be read: {error.strerror}.") from error
    if "\0" in text:
        raise TableError(f"{quoted(path)} is not text: it contains zero bytes. {SAVE_AS_CSV}")
    return text


def _table_of_records(text: str, source: str) -> Table:
    """Return the table of JSON objects: one a line, or a list of them."""
    if text.lstrip().startswith("["):
        parts, word = [text], "record"
    else:
        parts, word = text.split("\n"), "row"
    found: list[tuple[int, Any]] = []
    for number, part in enumerate(parts, start=1):
        try:
            if part.strip():
                found.append((number, json.loads(part)))
        except (ValueError, RecursionError) as error:
            where = f"row {number} of {source}" if word == "row" else source
            raise TableError(
                f"{where} is not JSON: {error}. Write one object per line, or a list of objects."
            ) from error
    if word == "record":
        found = list(enumerate(found[0][1], start=1))
    if odd := [f"{word} {number}: {record!r:.80}" for number, record in found if not isinstance(record, dict)]:  # fmt: skip
        raise TableError(
            f"{counted(len(odd), f'{word} of {source} is', f'{word}s of {source} are')} not a JSON object:\n{listed(odd)}\n"
            'Write each image as an object, such as {"file_name": "1.jpg", "label": "cat"}.'
        )
    if len(found) == 1 and word == "row":
        keys = joined([repr(key) for key in found[0][1]], limit=5)
        raise TableError(
            f"{source} is a single JSON object, with the keys {keys}. A table needs one object per image, each on "
            'its own line or in a list, such as {"file_name": "1.jpg", "label": "cat"}.'
        )
    if not found:
        raise TableError(f"The table {source} is empty. It needs one row per image.")
    columns = tuple(dict.fromkeys(name for _, record in found for name in record))
    return Table(
        source=source,
        columns=columns,
        rows=tuple(tuple(map(record.get, columns)) for _, record in found),
        numbers=tuple(number for number, _ in found),
    )


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
            f"{counted(len(long), f'row of {source} has', f'rows of {source} have')} more cells than the "
            f"{counted(num_columns, 'column')}:\n{listed(long)}\nPut cells that contain the delimiter in double quotes."
        )
    return tuple((*cells[:num_columns], *[""] * (num_columns - len(cells))) for _, cells in records)


def metadata_table(folder: Path) -> Table | None:
    """Return the table of files ``metadata.csv`` or ``metadata.jsonl`` that lie in a folder, or else in the split folders in it.

    That is how Hugging Face's ``imagefolder`` has labels: a column ``file_name`` has the image's path from the file. Files
    without this column are something else.

    Raises:
        DataError: Two of them lie in one folder.
    """
    places = [folder]
    if not any((folder / name).is_file() for name in METADATA_NAMES):
        with suppress(OSError):  # what cannot be listed is reported with the images
            places = [place for place in sorted(folder.iterdir()) if read_split_name(place.name)]
    found: dict[Path, Table] = {}
    for file in (place / name for place in places for name in METADATA_NAMES):
        if file.is_file():
            with suppress(TableError):
                table = read_table(file)
                if "file_name" in table.columns:
                    found[file] = table
    if not found:
        return None
    if len({file.parent for file in found}) < len(found):
        raise DataError(
            f"Labels may come from {' or '.join(map(quoted, found))}. Choose with --labels csv:FILE or --labels "
            "folder."
        )
    columns = tuple(dict.fromkeys(name for table in found.values() for name in table.columns))
    rows: list[tuple[Any, ...]] = []
    for file, table in found.items():
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            if file.parent != folder and not is_missing(cells["file_name"]):
                cells["file_name"] = f"{file.parent.name}/{cells['file_name']}"
            rows.append(tuple(map(cells.get, columns)))
    source = " and ".join(map(quoted, found))
    return Table(
        source=source,
        columns=columns,
        rows=tuple(rows),
        numbers=tuple(number for table in found.values() for number in table.numbers),
        notes=(f"labels from {source}, found beside the images",),
    )


def table_of_frame(frame: pd.DataFrame) -> Table:
    """Return the cells of a DataFrame; missing values become ``None``, and rows are numbered from 0."""
    cells = frame.astype(object).where(frame.notna(), None)
    return Table(
        source="the DataFrame",
        columns=tuple(str(name) for name in frame.columns),
        rows=tuple(cells.itertuples(index=False, name=None)),
        numbers=tuple(range(len(frame))),
        counting=" (its first row is row 0)",
    )


def listed_images(
    path: Path | str,
    names: Sequence[Path | str],
    labels: Callable[[Any], Any] | Sequence[Any],
) -> LabelledImages:
    """Return the images of a list, and labels: those given, or what a function of the path as given returns.

    Names that do not exist as given are looked for in the folder ``path``.

    Raises:
        ConfigError: There are no names, or not one label for each.
    """
    folder, given = Path(path), [Path(name) for name in names]
    if not given:
        raise ConfigError("fnames is empty. Check the folder where you listed the images.")
    if not callable(labels) and len(labels) != len(given):
        raise ConfigError(
            f"labels must have one label for each of the fnames. Received: {len(given)} fnames, {len(labels)} "
            "labels"
        )
    return LabelledImages(
        root=folder,
        paths=tuple(existing(name, folder) for name in given),
        labels=take_labels(given, labels) if callable(labels) else tuple(labels),
        row_word="item",
        row_numbers=tuple(range(len(given))),
        advice=advice_about(labels) if callable(labels) else "Labels are given as a list.",
    )


def images_of_table(
    table: Table,
    *,
    folder: Path,
    image: str | int,
    label: str | int | Sequence[str | int],
    split: str | int | None,
    locate: Callable[[Sequence[Any]], Sequence[Path]],
    delimiter: str | None = None,
) -> tuple[LabelledImages, tuple[str, ...] | None]:
    """Return the images of a table, and the set that the column ``split`` puts each in: ``train``, ``valid`` or ``test``.

    Args:
        table: One row for each image; rows without an image's name are left out, and become problems.
        folder: Folder that paths are shown relative to.
        image: Column of the image's name, by name or position.
        label: Column of its label, or several; an image's label is then the list of their cells.
        split: Column of its set, or None; then no set is returned either.
        locate: Returns the paths of names.
        delimiter: Separates the labels of one cell; an image's label is then the list of them.

    Raises:
        TableError: The table lacks a column.
    """
    label_columns = [label] if isinstance(label, str | int) else list(label)
    labels = _labels_of(
        table, label_columns, several=label is not label_columns[0], delimiter=delimiter
    )
    names = table.column(image)
    splits = None if split is None else [split_of_value(cell) for cell in table.column(split)]
    rows = [row for row, name in enumerate(names) if not is_missing(name) and not is_several(name)]
    problems: list[Problem] = []
    if nested := [row for row, name in enumerate(names) if is_several(name)]:
        what = f"a list or an object instead of a path in column {table.columns[table.position(image)]!r}"
        problems.append(faulty_rows(table, nested, what, "Write the path of the image itself."))
    if absent := [row for row, name in enumerate(names) if is_missing(name)]:
        what = f"no image in column {table.columns[table.position(image)]!r}"
        problems.append(faulty_rows(table, absent, what, "Fill in the cell, or delete the row."))
    if split is not None and splits is not None and None in splits:
        unclear = [row for row, name in enumerate(splits) if name is None]
        what = f"no known set in column {table.columns[table.position(split)]!r}"
        cure = (
            "Write train, valid or test, or True for validation and False for training. If the column contains "
            "fold numbers, hold out one fold: splitter=ColSplitter(COLUMN, on=0) in a DataBlock."
        )
        problems.append(faulty_rows(table, unclear, what, cure))
    label_names = [table.columns[table.position(column)] for column in label_columns]
    where = f"column{'s' if len(label_names) > 1 else ''} {', '.join(map(repr, label_names))}"
    paths = ImagePaths(locate([names[row] for row in rows]))
    images = LabelledImages(
        root=folder,
        paths=paths,
        labels=tuple(labels[row] for row in rows),
        names=label_names,
        row_word="row",
        row_numbers=tuple(table.numbers[row] for row in rows),
        advice=f"Labels are read from {where} of {table.source}{table.counting}.",
        problems=tuple(problems),
        notes=(*table.notes, *_unnamed_note(paths, folder)),
    )
    return images, None if splits is None else tuple(splits[row] or "" for row in rows)


def _unnamed_note(paths: ImagePaths, root: Path) -> Iterator[str]:
    """Yield a line about the images that lie beside those of a table and that no row names, if there are any."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    for text in paths.texts():
        folder, name = os.path.split(text)
        named[folder].add(name)
    unnamed: list[str] = []
    for folder, names in named.items():
        try:
            there = sorted({*os.listdir(folder or ".")} - names)  # noqa: PTH208 (names)
        except OSError:
            continue
        beside = (os.path.join(folder, name) for name in there if is_image_name(name) and name[0] != ".")  # fmt: skip  # noqa: PTH118
        unnamed += filter(os.path.isfile, beside)
    if unnamed:
        shown = [quoted(os.path.relpath(path, root)) for path in unnamed[:3]]
        more = f" and {len(unnamed) - 3} more" if len(unnamed) > 3 else ""
        yield f"skipped {counted(len(unnamed), 'image')} that no row names: {joined(shown, limit=3)}{more}"


def _labels_of(
    table: Table, columns: Sequence[str | int], *, several: bool, delimiter: str | None
) -> Sequence[Any]:
    """Return the label of each row: its cell, or a list where there are several columns or a delimiter."""
    if not several and delimiter is None:
        return clean_labels(table.column(columns[0]))
    rows = [list(cells) for cells in zip(*map(table.column, columns), strict=True)]
    if delimiter is not None:
        rows = [[one for cell in cells for one in split_labels(cell, delimiter)] for cells in rows]
    # All at once, so that 10 does not come before 9 because of an empty cell in another column.
    filled = [cell for cells in rows for cell in cells if not is_missing(cell)]
    cleaned = iter(clean_labels(filled))
    return [[None if is_missing(cell) else next(cleaned) for cell in cells] for cells in rows]


def clean_labels(cells: Sequence[Any]) -> Sequence[Any]:
    """Strip text, and read it as numbers if all cells are whole ones as Python writes them: 10 is sorted after 9."""
    stripped = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    if all(isinstance(cell, str) and re.fullmatch(r"-?[1-9]\d{0,17}|0", cell) for cell in stripped):
        return [int(cell) for cell in stripped]
    return stripped


def faulty_rows(table: Table, rows: Sequence[int], what: str, cure: str) -> Problem:
    """Return the problem of some rows of a table, each shown with its number and cells."""
    entries = [f"row {table.numbers[row]}: {table.rows[row]!r:.200}" for row in rows]
    of = f"of {table.source}{table.counting}"
    words = (f"row {of} has {what}", f"rows {of} have {what}")
    return listing(TableError, words, entries, cure)


def locate_by_name(
    cells: Sequence[object], *, folder: Path, notes: list[str], problems: list[Problem]
) -> list[Path]:
    """Return the file of each name: the path below ``folder``, else the only file below it that the name can mean.

    A name that was written on another system or changed on its way is found again by, in this order, its path with slashes,
    the file's name, its stem, both in any case, its number without leading zeros. How many were is a note.
    """
    names = list(map(str, cells))
    paths = [folder / name for name in names]
    absent = [position for position, path in enumerate(paths) if not is_there(path)]
    if not absent:
        return paths
    try:
        below = get_image_files(folder)
    except DataError:  # no image there at all: the names are reported as missing
        return paths
    ways: list[tuple[str, Callable[[str], str]]] = [
        ("slashes and spaces", _plain),
        ("the file's name", _name),
        ("its name without the extension", lambda text: PurePosixPath(_name(text)).stem),
        ("its name in another case", lambda text: _name(text).casefold()),
        ("leading zeros", lambda text: _unpadded(PurePosixPath(_name(text)).stem)),
    ]
    written = [file.relative_to(folder).as_posix() for file in below]
    found = Counter[str]()
    twice: list[str] = []
    for what, key in ways:
        if not absent:
            break
        files: defaultdict[str, list[Path]] = defaultdict(list)
        for text, file in zip(written, below, strict=True):
            files[key(text)].append(file)
        left: list[int] = []
        for position in absent:
            candidates = files.get(key(names[position]), [])
            if len(candidates) == 1:
                paths[position] = candidates[0]
                found[what] += 1
            elif candidates:
                paths[position] = candidates[0]
                places = ", ".join(quoted(each.relative_to(folder)) for each in candidates[:3])
                twice.append(f"{names[position]!r} matches {len(candidates)} images: {places}")
            else:
                left.append(position)
        absent = left
    notes += [f"{counted(number, 'image')} found by {what}" for what, number in found.items()]
    if twice:
        words = ("name matches more than one image", "names match more than one image")
        cure = f"Write the path below {quoted(folder)}."
        problems.append(listing(TableError, words, twice, cure))
    return paths


def _plain(text: str) -> str:
    """Return a path with slashes, without blanks around it, drive and dot; accents are single letters, as no Mac writes them."""
    plain = unicodedata.normalize("NFC", text.strip().replace("\\", "/"))
    return re.sub(r"^(?:[A-Za-z]:)?/*(?:\./)*", "", plain)


def _name(text: str) -> str:
    return _plain(text).rpartition("/")[2]


def _unpadded(stem: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", stem)
