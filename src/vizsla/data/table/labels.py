"""Take labels from paths or table rows, and turn them into classes and targets.

A label that cannot be used becomes a ``LabelError`` that says why; ``check.py`` reports all of them together.
N images, C classes, K numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.data.table.items import is_pair, item_path
from vizsla.errors import ConfigError, LabelError, Problem, TableError, VizslaError
from vizsla.lists import L, chosen, is_one_place
from vizsla.paths import ImagePaths
from vizsla.text import listed, quoted, valid_unicode
from vizsla.types import UNLABELLED, is_labelled, shown_path

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from vizsla.types import ClassType, Fix, ImageTable, Task

LabelSet = tuple[Any, ...]
"""The classes of one image, each once, as text or whole numbers."""

Numbers = tuple[float, ...]

UNKNOWN_CLASS = "#na#"
"""The class at position 0 that takes labels outside the vocabulary, where a block asks for it with ``add_na``."""

FOLDER_ADVICE = (
    "Labels are the names of the images' folders. Put each class into its own folder, or take labels from file "
    "names (--labels regex:PATTERN, in Python ImageDataLoaders.from_name_re) or from a table (--labels csv:FILE, "
    "in Python ImageDataLoaders.from_csv)."
)


def parent_label(path: Path | str) -> str:
    """Return the name of the folder that contains a file.

    Args:
        path: Path of the file.

    Examples:
        >>> parent_label("pets/beagle/12.jpg")
        'beagle'
    """
    return Path(path).parent.name


def folder_labels(paths: ImagePaths, classes: Sequence[str]) -> tuple[str | LabelError, ...]:
    """Return the class of each image, given that of each folder, or an error where that is empty."""
    missed = LabelError("it is not in a class folder")
    labels = [name or missed for name in classes]
    return tuple(map(labels.__getitem__, paths.folder_numbers))


def folder_label(path: Path | str, *, root: Path, vocab: Sequence[str]) -> str:
    """Return the class that a folder on the way to an image names: below ``root``, where the image lies there."""
    folder = Path(path).parent
    parts = (folder.relative_to(root) if folder.is_relative_to(root) else folder).parts
    classes = [name for name in dict.fromkeys(parts) if name in vocab]
    if len(classes) != 1:
        found = (
            f"folders of {len(classes)} classes: {classes}" if classes else "no folder of a class"
        )
        raise LabelError(f"it is in {found}")
    return classes[0]


@dataclass(frozen=True)
class KnownLabels:
    """Returns the label that a table has for an image, or the one in a pair of an image and its label."""

    table: ImageTable

    def __call__(self, item: Any) -> Any:
        """Return the label of an item."""
        if is_pair(item):
            return item[1]
        row = self._row_of.get(str(item_path(item, root=self.table.root)))
        if row is None:
            raise LabelError("it is not one of the images of these loaders")
        target = self.table.targets[row]
        if self.table.task == "category":
            return self.table.label(row)
        if self.table.task == "regression":
            return target.tolist()
        return [
            name for name, present in zip(self.table.vocab, target.tolist(), strict=True) if present
        ]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(ImagePaths.of(self.table.paths).texts())}


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

    Calling it raises ``LabelError`` where the expression is not found, or its first group is empty.

    Args:
        pat: The expression, searched in the text with ``/`` between folders, on Windows too.
        match: Whether it must match from the start of the text.

    Raises:
        ConfigError: ``pat`` is not a regular expression, or has no group.

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
                f"{self.pat!r} is not a regular expression: {error}. Correct it at that position."
            ) from error
        if expression.groups == 0:
            raise ConfigError(
                f"The regular expression {expression.pattern!r} has no group, so it does not say which part is the "
                r"label. Put parentheses around that part, for example '(.+)_\d+\.jpg$'."
            )
        object.__setattr__(self, "_expression", expression)

    def __call__(self, item: PurePath | str) -> str:
        """Return the label in a path or name."""
        text = item.as_posix() if isinstance(item, PurePath) else str(item)
        found = self._expression.match(text) if self.match else self._expression.search(text)
        label = found.group(1) if found else None
        if not label:
            raise LabelError(
                f"the expression {self._expression.pattern!r} finds no label in {quoted(text)}"
            )
        return label


def advice_about(labeller: Callable[[Any], Any]) -> str:
    """Return where a labeller takes labels from, as messages say it."""
    source = "path"
    if isinstance(labeller, partial) and labeller.args[1:] == ("name",):
        labeller, source = labeller.args[0], "file name"
    if isinstance(labeller, RegexLabeller):
        return f"Labels are taken from the {source} by {labeller.pat!r}."
    return "Labels are returned by label_func."


@dataclass(frozen=True)
class ColReader:
    """Reads one or several fields of a table row: a pandas Series, a dict, a named tuple or a sequence.

    Calling it raises ``TableError`` where the row has no such column.

    Args:
        cols: Name or position of the column; a list of them gives a list of values.
        pref: Put before the value; a ``Path`` is joined with a separator.
        suff: Put after the value.
        label_delim: Splits the value into a list of labels without spaces around them; an empty cell gives none.

    Examples:
        >>> ColReader("name", pref=Path("images"), suff=".jpg")({"name": "beagle_1"})
        'images/beagle_1.jpg'
    """

    cols: str | int | Sequence[str | int]
    pref: Path | str = ""
    suff: str = ""
    label_delim: str | None = None

    def __call__(self, row: Any) -> Any:
        """Return the field of a row."""
        if isinstance(self.cols, str | int):
            return self._shape(_field_of(row, self.cols))
        return [self._shape(_field_of(row, column)) for column in self.cols]

    def names(self, items: Any) -> list[str]:
        """Return the names of the columns, which ``items`` knows if it is a DataFrame."""
        columns = [self.cols] if isinstance(self.cols, str | int) else self.cols
        by_position = list(getattr(items, "columns", ()))
        return [
            str(by_position[column] if isinstance(column, int) and by_position else column)
            for column in columns
        ]

    def read_frame(self, frame: pd.DataFrame) -> list[Any]:
        """Return the field of every row of a DataFrame: as a call for each row, but 50 times faster."""
        if isinstance(self.cols, str | int):
            return [self._shape(value) for value in _field_of(frame, self.cols).tolist()]
        columns = [_field_of(frame, column).tolist() for column in self.cols]
        return [list(map(self._shape, values)) for values in zip(*columns, strict=True)]

    def _shape(self, value: Any) -> Any:
        if self.label_delim is not None:
            return split_labels(value, self.label_delim)
        if isinstance(self.pref, Path):
            return (self.pref / f"{value}{self.suff}").as_posix()
        return f"{self.pref}{value}{self.suff}" if self.pref or self.suff else value


def split_labels(value: Any, delimiter: str) -> list[str]:
    """Return the labels in one cell, without spaces around them; a cell that is empty or missing has none."""
    parts = [] if is_missing(value) else str(value).split(delimiter)
    return [part.strip() for part in parts if part.strip()]


def holds_lists(cells: Sequence[str], delimiter: str) -> bool:
    """Return whether cells are probably lists of labels: half have the delimiter, and few labels make many cells.

    Names of several words have blanks, too: there the number of words must vary, and the cells be twice as many as the words.
    """
    distinct = {*cells}
    lists = [cell.split(delimiter) for cell in distinct]
    num_parts = len({part for parts in lists for part in parts})
    if 2 * sum(delimiter in cell for cell in cells) < len(cells) or num_parts >= len(distinct):
        return False
    return delimiter != " " or (2 * num_parts <= len(distinct) and len({*map(len, lists)}) > 1)


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


class CategoryMap(tuple[Any, ...]):
    """The list of unique classes; ``vocab[3]`` is class number 3, ``vocab.o2i["beagle"]`` the number of a class.

    ``vocab[predicted]`` gives an ``L`` of the classes for a list, array or tensor of numbers, or for a mask.

    Args:
        col: Labels; missing ones are left out. A pandas categorical gives its categories in their own order.
        sort: Whether to sort by Python's order (upper case before lower), else in order of appearance.
        add_na: Whether ``"#na#"`` comes first, for labels that are not a class.
        strict: Whether to leave out categories of a pandas categorical that no label has.

    Attributes:
        o2i: The number of each class.

    Examples:
        >>> CategoryMap(["b", "a", "c", "a", "B"])
        ['B', 'a', 'b', 'c']
    """

    o2i: dict[Any, int]

    def __new__(
        cls, col: Iterable[Any], sort: bool = True, add_na: bool = False, strict: bool = False
    ) -> CategoryMap:
        """Return the classes among labels."""
        present = dict.fromkeys(label for label in col if not is_missing(label))
        categories = getattr(getattr(col, "dtype", None), "categories", None)
        if categories is not None:
            vocab = [category for category in categories if not strict or category in present]
        elif not sort:
            vocab = list(present)
        else:
            try:
                vocab = sorted(present)
            except TypeError:  # numbers beside text
                vocab = sorted(present, key=str)
        made = super().__new__(cls, (UNKNOWN_CLASS, *vocab) if add_na else vocab)
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

    def __getitem__(self, number: Any) -> Any:
        """Return the class of a number, or a collection of those of several numbers, of a mask or of a slice.

        Raises:
            ConfigError: It is none of these.
        """
        if isinstance(number, slice):
            return L(super().__getitem__(number))
        if isinstance(number, str):
            raise ConfigError(
                f"Classes are looked up by their numbers; vocab.o2i[{number!r}] gives the number of a class. Received: {number!r}"
            )
        if getattr(number, "ndim", 1) > 1:
            raise ConfigError(
                f"Classes are looked up by their numbers, such as predictions.argmax(1). Received: shape {tuple(number.shape)}"
            )
        return super().__getitem__(number) if is_one_place(number) else chosen(self, number)

    @property
    def items(self) -> L[Any]:
        """The classes."""
        return L(tuple(self))

    def map_ids(self, ids: Iterable[int]) -> L[Any]:
        """Return the classes of numbers."""
        return self[list(ids)]

    def map_objs(self, objs: Iterable[Any]) -> L[int]:
        """Return the numbers of classes."""
        return L(list(objs)).map(self.o2i)


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


def class_type_of(labels: Iterable[Any]) -> ClassType | None:
    """Return what usable labels are, or None where some are of one type and some of another."""
    types = {type(label) for label in labels}
    found: set[ClassType] = {
        "bool" if issubclass(kind, bool | np.bool_) else "int" if issubclass(kind, Integral) else "text"
        for kind in types
    }  # fmt: skip
    return "text" if not found else found.pop() if len(found) == 1 else None


def class_texts(labels: Iterable[Any]) -> list[str | None]:
    """Return ``label_text`` of every label; each text is looked at once, however often it comes up."""
    of_text = cache(label_text)
    return [of_text(label) if type(label) is str else label_text(label) for label in labels]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages:
    """Images with their labels and split as they were found, before any check.

    Attributes:
        root: Folder that paths are shown relative to.
        paths: Image files.
        labels: For each image its label as given, or the ``LabelError`` that says why there is none.
        train: Positions of the images to learn from.
        valid: Positions of the images to hold out.
        names: The columns that labels were read from, which name numbers or zeros and ones; else empty.
        row_word: What messages call a position: ``"row"`` of a table, ``"item"`` of a list, empty for files of a folder.
        row_numbers: The number that goes with it.
        advice: Where the labels come from and how to get others; ends messages about labels.
        problems: What was found wrong while reading.
        before_training: False: images that can be looked at but not trained on give a warning instead of an error.
        in_doubt: Positions of the images that may not exist; the others were found, each once. ``None``: nothing is known.
        notes: What was guessed or left out while reading, a line each.
        by_chance: Whether chance drew the sets; an image of a class that training would miss is then moved there.
        copies: Positions of files with the same bytes, see ``ImageTable``.
        moved: What left the set that was drawn for it, see ``ImageTable``.
        fixes: What was changed of the labels and images.
    """

    root: Path
    paths: Sequence[Path]
    labels: tuple[Any, ...]
    train: Sequence[int] = ()
    valid: Sequence[int] = ()
    names: Sequence[str] = ()
    row_word: str = ""
    row_numbers: tuple[int, ...] = ()
    advice: str = ""
    problems: tuple[Problem, ...] = ()
    before_training: bool = True
    in_doubt: Sequence[int] | None = None
    notes: tuple[str, ...] = ()
    by_chance: bool = False
    copies: tuple[tuple[int, ...], ...] | None = None
    moved: tuple[tuple[str, str], ...] = ()
    fixes: tuple[Fix, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ImagePaths.of(self.paths))

    @property
    def used(self) -> list[int]:
        """Positions of the images in either set, in order."""
        return sorted({*self.train, *self.valid})

    def without(self, dropped: Collection[int]) -> LabelledImages:
        """Return these images without those at some positions."""
        if not dropped:
            return self
        kept = [position for position in range(len(self.paths)) if position not in dropped]
        new = {position: number for number, position in enumerate(kept)}

        def renumbered(positions: Iterable[int]) -> tuple[int, ...]:
            return tuple(new[position] for position in positions if position in new)

        copies = None if self.copies is None else map(renumbered, self.copies)
        return replace(
            self,
            paths=ImagePaths.of(self.paths).chosen(kept),
            labels=tuple(self.labels[position] for position in kept),
            train=renumbered(self.train),
            valid=renumbered(self.valid),
            row_numbers=tuple(self.row_numbers[p] for p in kept if p < len(self.row_numbers)),
            in_doubt=None if self.in_doubt is None else renumbered(self.in_doubt),
            copies=None if copies is None else tuple(same for same in copies if len(same) > 1),
        )

    def with_unlabelled(self, paths: Iterable[Path | str]) -> LabelledImages:
        """Return these images and, after them, others that exist and that nobody has labelled."""
        more = list(paths)
        missed = LabelError("it has no label yet")
        return replace(
            self,
            paths=ImagePaths((*ImagePaths.of(self.paths).texts(), *more)),
            labels=(*self.labels, *[missed] * len(more)),
        )

    def shown_path(self, position: int) -> str:
        """Return the path of an image as files show it, see ``ImageTable``."""
        text = shown_path(ImagePaths.of(self.paths).text(position), root=self.root)
        return valid_unicode(text)

    def entry(self, position: int) -> str:
        """Return an image as messages show it: its row, where it has one, and its path."""
        row, path = self.row(position), quoted(self.paths[position])
        return path if row == path else f"{row} ({path})"

    def row(self, position: int) -> str:
        """Return the row of an image as messages show it, or its path where it has none."""
        if not self.row_word or position >= len(self.row_numbers):
            return quoted(self.paths[position])
        return f"{self.row_word} {self.row_numbers[position]}"


def each_item(items: Any) -> Iterable[Any]:
    """Return the items, of a DataFrame its rows: iterating over one gives the names of its columns.

    A number in a row stays one of numpy, so ``r["age"].astype(str)`` works; ``iterrows`` would make it Python's.
    """
    return map(items.iloc.__getitem__, range(len(items))) if hasattr(items, "iloc") else items


def take_labels(items: Iterable[Any], labeller: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return the label of every item, or the ``LabelError`` of those that have none; any other error is raised."""
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
                f"The label function failed for {shown}: {type(error).__name__}: {error}. It must return a label "
                "for every item, or raise a LabelError for one that has none."
            ) from error
    return tuple(labels)


def read_label_set(label: Any) -> LabelSet | LabelError:
    """Return the classes of an image whose label is a list, tuple, set or array of texts or whole numbers."""
    if isinstance(label, LabelError):
        return label
    label = _plain(label)
    if not is_several(label) or isinstance(label, Mapping):
        return LabelError(
            f"the label is {_shown(label)}, not a list of labels; split it with label_delim, or put it into a "
            "list, which may be empty"
        )
    classes = [_plain(one) for one in label]
    odd = [one for one in classes if label_text(one) is None]
    if not odd:
        return tuple(dict.fromkeys(classes))
    return LabelError(
        f"{_shown(odd[0])} in the list {_shown(label)} is not a class: classes are text or whole numbers. To "
        "predict numbers, use a RegressionBlock"
    )


def read_encoded(label: Any, vocab: Sequence[str]) -> LabelSet | LabelError:
    """Return the classes of an image whose label has a one for each class of the image, and else zeros."""
    numbers = read_numbers(label)
    if isinstance(numbers, LabelError):
        return numbers
    if len(numbers) != len(vocab) or not {*numbers} <= {0.0, 1.0}:
        return LabelError(
            f"the label {_shown(label)} is not a list of zeros and ones, one for each of {len(vocab)} classes"
        )
    return tuple(name for name, number in zip(vocab, numbers, strict=True) if number)


def read_numbers(label: Any) -> Numbers | LabelError:
    """Return the numbers of an image as floats that float32 can hold."""
    if isinstance(label, LabelError):
        return label
    label = _plain(label)
    if isinstance(label, Mapping | set | frozenset):
        return LabelError(f"the label is {_shown(label)}, which has no order")
    parts: Iterable[Any] = label if is_several(label) else (label,)
    numbers: list[float] = []
    for part in parts:
        number = _number(_plain(part))
        if number is None:
            return LabelError(f"{_shown(part)} is not a number")
        if not abs(number) <= torch.finfo(torch.float32).max:  # NaN too
            return LabelError(f"{_shown(part)} is not finite, or too large for 32 bits")
        numbers.append(number)
    return tuple(numbers) if numbers else LabelError("the list of numbers is empty")


def same_length(
    labels: Sequence[Numbers | LabelError], *, expected: int | None
) -> list[Numbers | LabelError]:
    """Replace labels of another length than expected by an error; ``None`` expects the length that most have."""
    lengths = Counter(len(label) for label in labels if not isinstance(label, LabelError))
    if expected is None and lengths:
        expected = lengths.most_common(1)[0][0]
    return [
        label
        if isinstance(label, LabelError) or len(label) == expected
        else LabelError(f"it has {len(label)} numbers {_shown(label)} instead of {expected}")
        for label in labels
    ]


def n_hot(
    names: Sequence[tuple[str, ...] | None], vocab: Sequence[str], *, unknown: int | None
) -> Tensor:
    """Return float32 ``(N, C)``, 1 for each class of an image; NaN where the classes are not known.

    ``unknown`` is the position of the class that takes those outside the vocabulary. Without one, such a class makes all
    classes of its image unknown.
    """
    index = {name: position for position, name in enumerate(vocab)}
    targets = torch.zeros(len(names), len(vocab))
    for row, classes in enumerate(names):
        found = [None] if classes is None else [index.get(name, unknown) for name in classes]
        if None in found:
            targets[row] = torch.nan
        else:
            targets[row, found] = 1
    return targets


def number_targets(labels: Sequence[Numbers | LabelError], *, num_numbers: int) -> Tensor:
    """Return float32 ``(N, K)``, NaN where the numbers are not known."""
    missing = (torch.nan,) * num_numbers
    rows = [missing if isinstance(label, LabelError) else label for label in labels]
    return torch.tensor(rows, dtype=torch.float32).view(len(labels), num_numbers)


def names_of(classes: LabelSet | LabelError) -> tuple[str, ...] | None:
    """Return the classes of an image as text, or None where they are not known."""
    return None if isinstance(classes, LabelError) else tuple(map(str, classes))


def _plain(label: Any) -> Any:
    """Return arrays and tensors as lists, their scalars as Python's, and iterators as tuples."""
    if hasattr(label, "tolist"):
        return label.tolist()
    kept = str | bytes | Mapping | list | tuple | set | frozenset
    return tuple(label) if isinstance(label, Iterable) and not isinstance(label, kept) else label


def _number(value: Any) -> float | None:
    if isinstance(value, str) and "_" not in value:  # float("1_000") is 1000
        try:
            return float(value)
        except ValueError:
            return None
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:  # a whole number of 400 digits
        return math.inf


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def targets_in(labels: Sequence[Any], *, vocab: tuple[str, ...], task: Task) -> Tensor:
    """Return the targets of labels in a vocabulary, as in an ``ImageTable``; unknown where a label is missing or not in it.

    A vocabulary that begins with ``UNKNOWN_CLASS`` has that class for labels that are not in it.
    """
    unknown = 0 if vocab[:1] == (UNKNOWN_CLASS,) else None
    if task == "category":
        number_of = {name: number for number, name in enumerate(vocab)}
        other = UNLABELLED if unknown is None else unknown
        texts = class_texts(labels)
        numbers = [UNLABELLED if text is None else number_of.get(text, other) for text in texts]
        return torch.tensor(numbers, dtype=torch.int64)
    if task == "multi_category":
        return n_hot([names_of(read_label_set(label)) for label in labels], vocab, unknown=unknown)
    read = same_length(list(map(read_numbers, labels)), expected=len(vocab))
    return number_targets(read, num_numbers=len(vocab))


def labelled_like(
    table: ImageTable, items: Sequence[Any], label_of: Callable[[Any], Any]
) -> ImageTable:
    """Return a table of unlabelled images with the labels of its items, whose classes are those of the table.

    Raises:
        LabelError: A label is missing or unknown; they are counted, and the first ones named.
    """
    labels = take_labels(items, label_of)
    lists = [[label] if isinstance(label, str) else label for label in labels]
    targets = targets_in(
        lists if table.task == "multi_category" else labels, vocab=table.vocab, task=table.task
    )
    wrong: list[int] = (~is_labelled(targets)).nonzero()[:, 0].tolist()
    if wrong:
        shown = [
            str(label) if isinstance(label, LabelError) else repr(label)
            for label in (labels[place] for place in wrong)
        ]
        entries = [
            f"{quoted(table.paths[p])}: {text}" for p, text in zip(wrong, shown, strict=True)
        ]
        raise LabelError(
            f"{len(wrong)} of {len(labels)} images have a label that no training image has:\n"
            f"{listed(entries)}\n"
            f"The classes are {list(table.vocab)[:20]}. Correct the labels, or leave with_labels out."
        )
    return replace(table, targets=targets)
