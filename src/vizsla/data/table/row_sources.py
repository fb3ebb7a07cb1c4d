"""Make a table of the rows of a Hugging Face dataset or of Parquet files: cells of the plain columns, images by their paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.data.table.columns import LABEL_COLUMNS, SPLIT_COLUMNS
from vizsla.data.table.layout import read_split_name
from vizsla.data.table.sources import not_of_images, parts_of_rows, rows_folder
from vizsla.data.table.tables import Table
from vizsla.data.table.words import TableWords, table_words
from vizsla.errors import ConfigError, DataError, TableError
from vizsla.text import joined, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vizsla.data.storage import Rows

_FORM = "hf:COLUMN[,image=COLUMN][,delimiter=TEXT][,kind=class|labels|number][,group=COLUMN]"

_OF_SEVERAL = re.compile(r"-\d+-of-\d+.*")
"""What follows the split in the name of a Parquet file: train-00000-of-00002."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowTable:
    """Rows as a table.

    Attributes:
        table: A row for each image; the cells of the image's column are whole paths.
        words: Which columns are meant, chosen where they were not named.
        folder: What paths are shown relative to.
        classes: Names of the label's classes in their own order, where its column knows them; else empty.
    """

    table: Table
    words: TableWords
    folder: Path
    classes: tuple[str, ...]


def table_of_rows(data: Path, labels: str, group: str) -> RowTable | None:
    """Return the table of a dataset on the Hub, a saved one, a Parquet file, or a folder of such files; None for other data.

    Raises:
        DataError: The dataset cannot be read, no column holds images, or nothing says which column is the label.
        ConfigError: The labels are not words about columns.
    """
    parts = parts_of_rows(data)
    if not parts:
        return None
    source, first = quoted(data), next(iter(parts.values()))
    words = _words_of(labels, source=source)
    image = words.image or next(iter(first.image_columns), "")
    plain = [name for name in first.plain_columns if name != image]
    for place, part in parts.items():
        if image in part.image_columns and {*plain} <= {*part.plain_columns}:
            continue
        what = "different columns from the first part" if part.image_columns else "no image column"
        raise not_of_images(place, part, f"no image column {image!r}" if words.image else what)
    words = replace(
        words,
        image=image,
        label=words.label or _label_of(first, plain, group or words.group, source),
    )
    splits = _splits_of(parts, plain, source)
    own = f"{image}:" if image != first.image_columns[0] else ""
    rows: list[tuple[Any, ...]] = []
    for place, part in parts.items():
        names = [f"{place}{os.sep}{own}{row}" for row in range(len(part))]
        of_part = [[splits[place]] * len(part)] if splits else []
        rows += zip(names, *map(part.cells, plain), *of_part, strict=True)
    columns = (image, *plain, *(["split"] if splits else []))
    table = Table(source=source, columns=columns, rows=tuple(rows), numbers=tuple(range(len(rows))))
    label = words.label[0] if len(words.label) == 1 else ""
    if label in plain and any(isinstance(cell, list) for cell in table.column(label)):
        words = replace(words, kind="labels")
    classes = first.class_names.get(label, ())
    return RowTable(table=table, words=words, folder=rows_folder(data), classes=classes)


def _words_of(labels: str, *, source: str) -> TableWords:
    kind, _, text = labels.partition(":")
    if labels == "auto":
        return TableWords()
    first = text.partition(",")[0]
    words = table_words(
        f"csv:,{text if '=' in first else f'label={text}'}" if kind == "hf" else labels
    )
    if kind not in ("hf", "csv") or words.file:
        raise ConfigError(
            f"Labels of {source} come from a column: labels must be 'auto' or {_FORM!r}, where label=COLUMN may "
            f"be repeated. Received: {labels!r}"
        )
    return words


def _label_of(rows: Rows, plain: list[str], group: str, source: str) -> tuple[str, ...]:
    """Return the only column that can be the label: by its name, by its classes, or because no other is left."""
    free = [name for name in plain if name.lower() not in SPLIT_COLUMNS and name != group]
    by_name = [name for word in LABEL_COLUMNS for name in free if name.lower() == word]
    by_classes = [name for name in free if name in rows.class_names]
    found = by_name[:1] or (by_classes if len(by_classes) == 1 else free)
    if len(found) != 1:
        may_be = f"Several columns of {source} may be the label: {joined([*map(repr, found)], limit=20)}."
        raise TableError(
            f"{may_be if found else f'{source} has no label column.'} Choose with --labels hf:COLUMN"
        )
    return (found[0],)


def _splits_of(parts: Mapping[str, Rows], plain: list[str], source: str) -> dict[str, str]:
    """Return the set that each part names; nothing where a column says it or all parts are of one set."""
    found = {
        place: read_split_name(_OF_SEVERAL.sub("", Path(place).stem))
        or read_split_name(Path(place).parent.name)
        for place in parts
    }
    splits = {place: name.split if name else "" for place, name in found.items()}
    if len({*splits.values()}) == 1 or any(name.lower() in SPLIT_COLUMNS for name in plain):
        return {}
    if unclear := [quoted(place) for place, split in splits.items() if not split]:
        raise DataError(
            f"Some parts of {source} are named after a set, but these are not: {joined(unclear, limit=5)}. Name "
            "files and splits train, valid (or validation) and test, or move the others elsewhere."
        )
    return splits
