"""A folder or a CSV file in, its pictures' paths in a fixed order or its cells as a ``Table`` out; nothing is decoded."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vizsla.data.problems import counted, listed, quoted
from vizsla.errors import DataError, TableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

# Written out because Python's mimetypes module reads files of the operating system: the same folder would give other
# pictures on another machine. Kinds that Pillow may not open (heic, jxl, camera raw) are here too, so that they are
# reported as unreadable instead of left out in silence. Drawings (svg) are no pictures for a classifier.
# fmt: off
PICTURE_SUFFIXES = frozenset((
    ".apng", ".arw", ".avif", ".avifs", ".bmp", ".cr2", ".cur", ".dcx", ".dds", ".dib", ".dng",
    ".emf", ".eps", ".gif", ".heic", ".heif", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif",
    ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".msp", ".nef", ".orf",
    ".pbm", ".pcx", ".pfm", ".pgm", ".pjpeg", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".raf",
    ".ras", ".rgb", ".rgba", ".rw2", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".wmf", ".xbm",
    ".xpm",
))
# fmt: on
"""Lower-case file name endings that count as pictures."""

MAX_NESTED_LINKS = 16
"""Symbolic links to folders that are followed on the way down to one picture."""


def get_image_files(
    path: Path | str, recurse: bool = True, folders: Sequence[str] | str | None = None
) -> list[Path]:
    """Return the pictures in a folder, sorted by their posix path, so that a seed gives the same split everywhere.

    Symbolic links are followed, loops are not. Files and folders whose names start with a dot are left out.

    Args:
        path: The folder.
        recurse: Whether to look into its sub-folders.
        folders: Only these sub-folders of ``path`` (``"."`` for the files directly in it); ``None`` for all.

    Returns:
        Paths that start with ``path``.

    Raises:
        DataError: The folder does not exist or cannot be read, one of ``folders`` does not exist, or there is no picture.

    Example:
        >>> files = get_image_files("pets/images")
    """
    root = Path(path)
    check_folder(root)
    starts: list[tuple[Path, bool]]
    if folders is None or not recurse:
        starts = [(root, recurse)]
    else:
        chosen = [folders] if isinstance(folders, str) else list(folders)
        starts = [(root, False) if name == "." else (root / name, True) for name in chosen]
        for start, _ in starts:
            check_folder(start)
    pictures: list[str] = []
    others: Counter[str] = Counter()
    for start, below in starts:
        _list_folder(str(start), recurse=below, pictures=pictures, others=others)
    if not pictures:
        raise DataError(_no_pictures(root, others, recurse=recurse))
    if os.sep != "/":
        return sorted(map(Path, pictures), key=lambda picture: picture.as_posix())
    return [Path(picture) for picture in sorted(pictures)]


def is_picture_name(name: str) -> bool:
    """Return whether a file of this name counts as a picture."""
    return _suffix(name) in PICTURE_SUFFIXES


def check_folder(folder: Path) -> None:
    """Raise an error if a folder does not exist; it lists the folders that are there instead.

    Raises:
        DataError: There is no such folder, or it is a file.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{quoted(folder)} is a file. Give the folder that holds the pictures.")
    present = folder.parent
    while present != present.parent and not present.is_dir():
        present = present.parent
    try:
        names = sorted(child.name for child in present.iterdir() if child.is_dir())
    except OSError:
        names = []
    there = (
        f" In {quoted(present)} there are the folders:\n{listed([quoted(name) for name in names])}"
    )
    raise DataError(
        f"There is no folder {quoted(folder)}. Check the spelling.{there if names else ''}"
    )


def _list_folder(folder: str, *, recurse: bool, pictures: list[str], others: Counter[str]) -> None:
    """Add the pictures below a folder to ``pictures``, and the endings of its other files to ``others``."""
    # os.scandir tells folders from files without a stat call each: 50,000 files take a third of the time of Path.rglob.
    pending = [(folder, frozenset({_identity(folder)}), 0)]
    while pending:
        current, ancestors, num_links = pending.pop()
        try:
            with os.scandir(current) as listing:
                entries = list(listing)
        except OSError as error:
            raise DataError(
                f"The folder {quoted(current)} cannot be read: {error.strerror}. "
                "Change its permissions, or give a folder that does not contain it."
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                _sort_file(entry, pictures=pictures, others=others)
            elif recurse:
                identity, links = _identity(entry.path), num_links + entry.is_symlink()
                if identity in ancestors:
                    continue
                if links > MAX_NESTED_LINKS:
                    raise DataError(
                        f"More than {MAX_NESTED_LINKS} linked folders lie inside one another at {quoted(entry.path)}. "
                        "Remove the symbolic links that point back up."
                    )
                pending.append((entry.path, ancestors | {identity}, links))


def _sort_file(entry: os.DirEntry[str], *, pictures: list[str], others: Counter[str]) -> None:
    suffix = _suffix(entry.name)
    if suffix not in PICTURE_SUFFIXES:
        others[suffix or "(no extension)"] += 1
    elif entry.is_symlink() or entry.is_file():  # a broken link is kept: it is reported as missing
        pictures.append(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 (a Path for each folder would be made for nothing)
    return status.st_dev, status.st_ino


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def _no_pictures(root: Path, others: Counter[str], *, recurse: bool) -> str:
    where = f"in {quoted(root)}" + (" and the folders below it" if recurse else "")
    if not others:
        return f"There are no pictures {where}: no files at all. Give the folder that holds the pictures."
    kinds = [f"{suffix}: {counted(number, 'file')}" for suffix, number in others.most_common()]
    return (
        f"There are no pictures {where}. The files there have these extensions:\n{listed(kinds)}\n"
        "Give the folder that holds the pictures, or convert them to JPEG or PNG."
    )


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
