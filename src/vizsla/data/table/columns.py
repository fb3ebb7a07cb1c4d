"""Choose which columns of a table are images, labels and groups, by words, names and cells; refuse what they cannot be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vizsla.data.table.block import CategoryBlock, MultiCategoryBlock, OutputBlock, RegressionBlock
from vizsla.data.table.check import listing
from vizsla.data.table.labels import holds_lists, is_missing
from vizsla.data.table.sources import is_image_name
from vizsla.data.table.tables import Table, faulty_rows
from vizsla.data.table.words import ALL_COLUMNS, TableWords
from vizsla.errors import LabelError, Problem, TableError

if TYPE_CHECKING:
    from collections.abc import Sequence


IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "path", "fn")
"""Column names that mean the image's path, the first that is there; else it is the first column of names of images."""

LABEL_COLUMNS = ("label", "class", "category", "target", "breed")
"""Column names that mean the label; else it is the first column that is not the image's."""

SPLIT_COLUMNS = ("is_valid", "split")
"""Column names that mean the split."""


def block_of(words: TableWords, table: Table, label_columns: Sequence[int]) -> OutputBlock:
    """Return the block of the labels of a table; where all columns hold zeros and ones, each column is a label.

    Raises:
        TableError: The labels are all columns that are left, and some hold something else.
    """
    if words.kind == "class":
        return CategoryBlock()
    if words.kind == "number":
        return RegressionBlock()
    others = [c for c in label_columns if not {str(cell) for cell in table.column(c)} <= {"0", "1"}]
    if words.label == (ALL_COLUMNS,) and others:
        names = ", ".join(repr(table.columns[column]) for column in others)
        raise TableError(
            "label=* takes every remaining column as a label of zeros and ones, but these columns of "
            f"{table.source} hold something else: {names}. Name the label columns: label=COLUMN,label=COLUMN."
        )
    return MultiCategoryBlock(encoded=words.has_several_columns and not others)


def groups_in_column(table: Table, column: int, *, image: int) -> tuple[list[str], list[Problem]]:
    """Return the group of each row that names an image; a row without one is a problem."""
    rows = [row for row, name in enumerate(table.column(image)) if not is_missing(name)]
    cells = table.column(column)
    absent = [row for row in rows if is_missing(cells[row])]
    what = f"no group in column {table.columns[column]!r}"
    problems = (
        [faulty_rows(table, absent, what, "Fill in the cell, or delete the row.")] if absent else []
    )
    return [str(cells[row]).strip() for row in rows], problems


def choose_columns(
    table: Table, words: TableWords, *, taken: Sequence[int | None]
) -> tuple[int, list[int]]:
    """Return the columns of the image and of its label: those that are named, else by their names, else by their cells.

    Columns that are ``taken`` for other things are chosen only where they are named.
    """
    if len(table.columns) < 2:
        raise TableError(
            f"The table {table.source} has a single column, {', '.join(table.columns)!r}. It needs one column for "
            "the image's path and one for its label."
        )
    by_name = {name.lower(): position for position, name in reversed([*enumerate(table.columns)])}

    def first(names: Sequence[str], used: Sequence[int | None]) -> int | None:
        found = (by_name[name] for name in names if name in by_name)
        return next((position for position in found if position not in used), None)

    every = words.label == (ALL_COLUMNS,) and ALL_COLUMNS not in table.columns
    named = [] if every else list(map(table.position, words.label))
    image = table.position(words.image) if words.image else first(IMAGE_COLUMNS, [*named, *taken])
    labels = named or [first(LABEL_COLUMNS, [image, *taken])]
    # An index that a program wrote has no name, or that of its kind.
    free = [p for p, name in enumerate(table.columns) if name and not name.startswith("Unnamed:")]
    free = [position for position in free if position not in taken]
    free = free if len(free) > 1 else list(range(len(table.columns)))
    if image is None:
        others = [position for position in free if position not in labels]
        files = (p for p in others if is_image_name(str(table.rows[0][p]).strip()))
        image = next(files, others[0])
    rest = [position for position in free if position != image]
    if every:
        return image, rest
    return image, [rest[0] if position is None else position for position in labels]


def labels_to_refuse(table: Table, label: int, *, image: int) -> list[Problem]:
    """Return the problem of a column that holds something else than one class for each image; nothing is guessed then."""
    column, name = [str(cell).strip() for cell in table.column(label)], table.columns[label]
    about = f"Column {name!r} of {table.source}"
    empty = [row for row, cell in enumerate(column) if cell in _MISSING_WORDS]
    problems: list[Problem] = []
    if empty:
        words = (
            f"label of column {name!r} is a missing value",
            f"labels of column {name!r} are missing values",
        )
        entries = [f"row {table.numbers[row]}: {column[row]!r}" for row in empty]
        problems.append(
            listing(LabelError, words, entries, "Fill in the cells, or delete the rows.")
        )
    filled = [cell for cell in column if cell]
    if not filled:
        return problems

    def refuse(what: str, words: str, python: str) -> None:
        way = f'Choose with --labels "csv:FILE,{words}"; in Python ImageDataLoaders.from_csv(..., {python}).'
        problems.append(Problem(kind=LabelError, text=f"{what} {way}"))

    others = [place for place in range(len(table.columns)) if place != image]
    zero_one = [
        table.columns[place] for place in others if {*map(str, table.column(place))} <= {"0", "1"}
    ]
    if len(zero_one) > 1 and len(zero_one) == len(others):
        refuse(
            f"The columns {', '.join(map(repr, zero_one))} of {table.source} hold zeros and ones, so an image can "
            "have several of these labels; a single label column is not enough.",
            "label=*",
            f"label_col={zero_one!r}, y_block=MultiCategoryBlock(encoded=True)",
        )
    for delimiter in "|; ":
        if holds_lists(filled, delimiter):
            example = next(cell for cell in filled if delimiter in cell)
            refuse(
                f"{about} holds lists of labels, such as {example!r}.",
                f"label={name},delimiter={delimiter.strip() or repr(delimiter)}",
                f"label_col={name!r}, label_delim={delimiter!r}",
            )
    if all(re.fullmatch(r"-?\d+\.\d+(?:[eE][-+]?\d+)?", cell) for cell in filled):
        refuse(
            f"{about} holds decimal numbers, such as {filled[0]}, which are measurements, not classes.",
            f"label={name},kind=number",
            f"label_col={name!r}, y_block=RegressionBlock",
        )
    return problems


_MISSING_WORDS = frozenset(("nan", "NaN", "NAN", "<NA>", "NULL", "N/A", "#N/A"))
"""What programs write for a missing value. ``none`` and ``None`` may be the name of a class."""
