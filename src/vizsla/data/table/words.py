"""Read the words that describe a table: ``csv:FILE,image=COLUMN,label=COLUMN,delimiter=TEXT,kind=number,group=COLUMN``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vizsla.errors import ConfigError

LabelKind = Literal["class", "labels", "number"]
"""What the labels of a table are: one class of each image, any number of classes, or numbers."""

ALL_COLUMNS = "*"
"""Stands for every column that is not used otherwise."""

_WORD = r"(?:^|,)(?=(?:image|label|delimiter|kind|group)=)"
TABLE_FORM = "csv:FILE[,image=COLUMN][,label=COLUMN][,delimiter=TEXT][,kind=class|labels|number][,group=COLUMN]"
"""How labels describe a table; ``label`` may be repeated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableWords:
    """What the words say; empty where they do not say it.

    Attributes:
        file: The table.
        options: What follows the file, as written.
        image: Column of the images' names.
        label: Columns of the labels.
        delimiter: Separates the labels in a cell.
        kind: What the labels are.
        group: Column of the groups that the split keeps together.
    """

    file: str = ""
    options: str = ""
    image: str = ""
    label: tuple[str, ...] = ()
    delimiter: str = ""
    kind: LabelKind = "class"
    group: str = ""

    @property
    def has_several_columns(self) -> bool:
        """Whether an image's label is in several columns."""
        return len(self.label) > 1 or self.label == (ALL_COLUMNS,)


def table_words(labels: str) -> TableWords:
    """Return what labels say of a table: nothing where they are not ``csv:...``.

    Raises:
        ConfigError: A word is empty or repeated, or two words contradict each other.
    """
    scheme, _, text = labels.partition(":")
    if scheme != "csv":
        return TableWords()
    file, *pairs = re.split(_WORD, text)
    names = [pair.partition("=")[0] for pair in pairs]
    values = {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}
    columns = tuple(pair.partition("=")[2] for pair in pairs if pair.startswith("label="))
    delimiter = values.get("delimiter", "")
    if len(delimiter) > 2 and delimiter[0] == delimiter[-1] and delimiter[0] in "'\"":
        delimiter = delimiter[1:-1]
    are_lists = bool(delimiter) or len(columns) > 1 or columns == (ALL_COLUMNS,)
    kind: Any = values.get("kind", "labels" if are_lists else "class")
    fault = ""
    if not all(values.values()) or "" in columns:
        fault = "An option has no value."
    elif len({*names}) < len([name for name in names if name != "label"]) + ("label" in names):
        fault = "An option is repeated."
    elif kind not in get_args(LabelKind):
        fault = f"There is no kind {kind!r}."
    elif kind == "class" and are_lists:
        fault = "With kind=class an image has one class, in one column and without a delimiter."
    elif kind == "number" and delimiter:
        fault = "kind=number allows no delimiter; for several numbers name each column."
    elif kind == "labels" and not are_lists:
        fault = "kind=labels needs the delimiter between labels in a cell, or several columns."
    if fault:
        raise ConfigError(
            f"{fault} Labels of a table are given as {TABLE_FORM}, where label may be repeated. Received: "
            f"{labels!r}"
        )
    return TableWords(
        file=file,
        options=text[len(file) :],
        image=values.get("image", ""),
        label=columns,
        delimiter=delimiter.replace(r"\t", "\t"),
        kind=kind,
        group=values.get("group", ""),
    )
