"""How labels are taken from a path or a table row, and which classes they make.

A label that cannot be used becomes a ``LabelError`` that says why; ``check.py`` tells of all of them together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from vizsla.errors import ConfigError, LabelError, Problem, TableError, VizslaError
from vizsla.paths import ImagePaths
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Set

    import pandas as pd

UNKNOWN_CLASS = "#na#"
"""The class at position 0 that takes labels outside the vocabulary, where a block asks for it with ``add_na``."""


FOLDER_ADVICE = (
    "Labels are the names of the folders that images lie in. Put each class into a folder of its own, or take labels "
    "from file names (labels regex:PATTERN) or from a table (labels csv:FILE)."
)


def parent_label(path: Path | str) -> str:
    """Return the name of the folder that a file lies in.

    Args:
        path: Of the file.

    Examples:
        >>> parent_label("pets/beagle/12.jpg")
        'beagle'
    """
    return Path(path).parent.name


def folder_labels(paths: ImagePaths, *, loose: Set[Path]) -> tuple[str | LabelError, ...]:
    """Return the name of each image's folder, or an error for those that lie directly in one of ``loose``."""
    missed = LabelError("it lies in no folder of a class")
    folders = map(Path, paths.folders)
    labels = [missed if folder in loose else folder.name for folder in folders]
    return tuple(map(labels.__getitem__, paths.folder_numbers))


def using_attr(function: Callable[[Any], Any], attribute: str) -> Callable[[Any], Any]:
    """Return a function that applies ``function`` to one attribute of its argument.

    Args:
        function: Called with the attribute's value.
        attribute: Name of the attribute, such as ``"name"`` of a path.

    Examples:
        >>> using_attr(str.upper, "name")(Path("pets/beagle.jpg"))
        'BEAGLE.JPG'
    """
    return partial(_apply_to_attribute, function, attribute)


def _apply_to_attribute(function: Callable[[Any], Any], attribute: str, item: Any) -> Any:
    return function(getattr(item, attribute))


@dataclass(frozen=True)
class RegexLabeller:
    r"""Takes the label from a path or name: what the first group of a regular expression matches.

    Args:
        pat: The expression; it is searched in the text with ``/`` between folders, on Windows too.
        match: Whether it must match from the start of the text.

    Raises:
        ConfigError: ``pat`` is no regular expression, or has no group.

    Examples:
        >>> RegexLabeller(r"(.+)_\d+.jpg$")("great_pyrenees_173.jpg")
        'great_pyrenees'
    """

    pat: str | re.Pattern[str]
    match: bool = False
    _expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            expression = re.compile(self.pat)
        except re.error as error:
            raise ConfigError(
                f"{self.pat!r} is no regular expression: {error}. Correct it at that position."
            ) from error
        if expression.groups == 0:
            raise ConfigError(
                f"The regular expression {expression.pattern!r} has no group, so it does not say which part is the "
                r"label. Put that part in round brackets, for example '(.+)_\d+\.jpg$'."
            )
        object.__setattr__(self, "_expression", expression)

    def __call__(self, item: PurePath | str) -> str:
        """Return the label in a path or name.

        Raises:
            LabelError: The expression is not found, or its first group is empty.
        """
        text = item.as_posix() if isinstance(item, PurePath) else str(item)
        found = self._expression.match(text) if self.match else self._expression.search(text)
        label = found.group(1) if found else None
        if not label:
            raise LabelError(
                f"the expression {self._expression.pattern!r} finds no label in {quoted(text)}"
            )
        return label


@dataclass(frozen=True)
class ColReader:
    """Reads one or several fields of a table row.

    Args:
        cols: Name or position of the column; a list of them gives a list of values.
        pref: Put before the value; a ``Path`` is joined with a separator.
        suff: Put after the value.
        label_delim: Splits the value into a list of labels; spaces around them go, an empty cell gives none.

    Examples:
        >>> ColReader("name", pref=Path("images"), suff=".jpg")({"name": "beagle_1"})
        'images/beagle_1.jpg'
    """

    cols: str | int | Sequence[str | int]
    pref: Path | str = ""
    suff: str = ""
    label_delim: str | None = None

    def __call__(self, row: Any) -> Any:
        """Return the field of a row: a pandas Series, a dict, a named tuple or a sequence.

        Raises:
            TableError: The row has no such column.
        """
        if isinstance(self.cols, str | int):
            return self._shape(_field_of(row, self.cols))
        return [self._shape(_field_of(row, column)) for column in self.cols]

    def read_frame(self, frame: pd.DataFrame) -> list[Any]:
        """Return the field of every row of a DataFrame; the same as a call for each row, 50 times faster.

        Raises:
            TableError: The DataFrame has no such column.
        """
        columns = [self.cols] if isinstance(self.cols, str | int) else self.cols
        fields = [
            [self._shape(value) for value in _field_of(frame, column).tolist()]
            for column in columns
        ]
        if isinstance(self.cols, str | int):
            return fields[0]
        return [list(values) for values in zip(*fields, strict=True)]

    def _shape(self, value: Any) -> Any:
        if self.label_delim is not None:
            return split_labels(value, self.label_delim)
        if isinstance(self.pref, Path):
            return (self.pref / f"{value}{self.suff}").as_posix()
        return f"{self.pref}{value}{self.suff}" if self.pref or self.suff else value


def split_labels(value: Any, delimiter: str) -> list[str]:
    """Return the labels that stand in one cell, without spaces around them; a cell that is empty or missing has none."""
    parts = [] if is_missing(value) else str(value).split(delimiter)
    return [part.strip() for part in parts if part.strip()]


def _field_of(row: Any, column: str | int) -> Any:
    try:
        if isinstance(column, int):
            if hasattr(row, "iloc"):
                return row.iloc[column] if row.ndim == 1 else row.iloc[:, column]
            return list(row.values() if isinstance(row, dict) else row)[column]
        return getattr(row, column) if hasattr(row, "_fields") else row[column]
    except (KeyError, IndexError, AttributeError) as error:
        names = row.keys() if hasattr(row, "keys") else getattr(row, "_fields", ())
        present = f" It has: {[*map(str, names)]}. Name one of them." if len(names) else ""
        raise TableError(f"A row has no column {column!r}.{present}") from error


def build_vocab(
    labels: Iterable[Any], *, sort: bool = True, add_na: bool = False, strict: bool = False
) -> tuple[Any, ...]:
    """Return the classes among labels, each once, in the order that their positions shall have.

    Args:
        labels: The labels of the training images; missing ones (``None``, NaN) are passed over. A pandas categorical
            gives its categories in their own order.
        sort: Whether to sort by Python's order (upper case before lower), else in order of appearance.
        add_na: Whether to put ``"#na#"`` first, for labels that are not in the vocabulary.
        strict: Whether to leave out categories of a pandas categorical that no label has.

    Examples:
        >>> build_vocab(["b", "a", "c", "a", "B"])
        ('B', 'a', 'b', 'c')
    """
    categories = getattr(getattr(labels, "dtype", None), "categories", None)
    present = dict.fromkeys(label for label in labels if not is_missing(label))
    if categories is not None:
        vocab = [category for category in categories if not strict or category in present]
    else:
        vocab = list(present)
    if sort and categories is None:
        try:
            vocab.sort()
        except TypeError:  # numbers beside text
            vocab = sorted(present, key=str)
    return (UNKNOWN_CLASS, *vocab) if add_na else tuple(vocab)


def is_missing(label: Any) -> bool:
    """Return whether a label says nothing: ``None``, NaN, pandas' NA, or blank text."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(label, str):
        return not label.strip()
    return isinstance(label, Real) and not isinstance(label, Integral) and math.isnan(label)


def is_several(label: Any) -> bool:
    """Return whether a label is a list of labels."""
    return isinstance(label, Iterable) and not isinstance(label, str)


def is_fraction(label: Any) -> bool:
    """Return whether a label is a decimal number, as they are predicted by regression."""
    return isinstance(label, Real) and not isinstance(label, Integral)


def label_text(label: Any) -> str | None:
    """Return a label as the name of its class, or ``None`` where it cannot be one (``check.label_problems`` says why)."""
    if isinstance(label, str):
        return str(label) if label.strip() else None
    unusable = (
        isinstance(label, LabelError)
        or is_missing(label)
        or is_several(label)
        or is_fraction(label)
    )
    return None if unusable else str(label)


def class_texts(labels: Iterable[Any]) -> list[str | None]:
    """Return ``label_text`` of every label; each text is looked at once, however often it comes up."""
    known = _ClassTexts()
    return [known[label] if type(label) is str else label_text(label) for label in labels]


class _ClassTexts(dict[str, "str | None"]):
    def __missing__(self, label: str) -> str | None:
        self[label] = text = label_text(label)
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages:
    """Images with their labels as they were found, before any check.

    Attributes:
        root: Folder that paths are shown relative to.
        paths: Image files.
        labels: For each image its label as given, or the ``LabelError`` that says why none could be taken.
        row_word: How messages call a position: ``"row"`` of a table, ``"item"`` of a list, empty for files of a folder.
        row_numbers: The number that goes with it.
        advice: Where the labels come from and how to get others; ends messages about labels.
        problems: What was found wrong while reading.
        before_training: Whether images that can be looked at but not trained on are an error; otherwise a warning.
        in_doubt: Positions of the images that may not be there; the others were found, each once. ``None``: of none of
            them that is known.
    """

    root: Path
    paths: Sequence[Path]
    labels: tuple[Any, ...]
    row_word: str = ""
    row_numbers: tuple[int, ...] = ()
    advice: str = ""
    problems: tuple[Problem, ...] = ()
    before_training: bool = True
    in_doubt: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ImagePaths.of(self.paths))

    def entry(self, position: int) -> str:
        """Return how messages show an image: its row, where it has one, and its path."""
        path = quoted(self.paths[position])
        return f"{self.row(position)} ({path})" if self.row_word else path

    def row(self, position: int) -> str:
        """Return how messages show an image's row; its path where it has none."""
        if not self.row_word:
            return quoted(self.paths[position])
        return f"{self.row_word} {self.row_numbers[position]}"


def take_labels(items: Iterable[Any], labeller: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return the label of every item, or the ``LabelError`` of those that have none.

    Raises:
        LabelError: The function failed in another way than by a ``LabelError``; the message names the item.
        VizslaError: The function raised another of our errors; it is passed on.
    """
    labels: list[Any] = []
    for item in items:
        try:
            labels.append(labeller(item))
        except LabelError as error:
            labels.append(error)
        except VizslaError:
            raise
        except Exception as error:
            shown = quoted(item) if isinstance(item, Path | str) else repr(item)
            raise LabelError(
                f"The label function failed on {shown}: {type(error).__name__}: {error}. "
                "It must return the label of every item, or raise a LabelError where there is none."
            ) from error
    return tuple(labels)


class CategoryMap(tuple[Any, ...]):
    """The classes, each once; ``vocab[3]`` is the class of number 3, ``vocab.o2i["beagle"]`` the number of a class.

    Args:
        col: Labels; missing ones are passed over. A pandas categorical gives its categories in their own order.
        sort: Whether to sort (upper case before lower), else in order of appearance.
        add_na: Whether ``"#na#"`` comes first, for labels that are no class.
        strict: Whether to leave out categories of a pandas categorical that no label has.

    Attributes:
        o2i: The number of each class.

    Examples:
        >>> CategoryMap(["b", "a", "b"])
        ['a', 'b']
    """

    o2i: dict[Any, int]

    def __new__(
        cls, col: Iterable[Any], sort: bool = True, add_na: bool = False, strict: bool = False
    ) -> CategoryMap:
        """Return the classes among labels."""
        made = super().__new__(cls, build_vocab(col, sort=sort, add_na=add_na, strict=strict))
        made.o2i = {name: number for number, name in enumerate(made)}
        return made

    def __eq__(self, other: object) -> bool:
        """Return whether ``other``, a list or a tuple, holds the same classes in the same order."""
        return isinstance(other, list | tuple) and list(self) == list(other)

    def __hash__(self) -> int:
        """Return the hash of the tuple."""
        return super().__hash__()

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def items(self) -> CategoryMap:
        """The classes."""
        return self
