"""How labels become the targets of training: lists of classes, numbers, and labels of new images in the same terms.

A label that cannot be used becomes a ``LabelError`` that says why, as where a label function finds none; ``check.py`` tells
of all of them together. N images, C classes, K numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.data.table.labels import is_missing, is_several, label_text, take_labels
from vizsla.errors import ConfigError, LabelError
from vizsla.text import listed, quoted

if TYPE_CHECKING:
    from vizsla.types import ImageTable

LabelSet = tuple[Any, ...]
"""The classes of one image, each once, as text or whole numbers."""

Numbers = tuple[float, ...]

_LARGEST = torch.finfo(torch.float32).max


def read_label_set(label: Any) -> LabelSet | LabelError:
    """Return the classes of an image.

    Args:
        label: A list, tuple, set or array of texts or whole numbers; it may be empty, and a class may stand in it twice.
    """
    if isinstance(label, LabelError):
        return label
    label = _plain(label)
    if is_missing(label):
        return LabelError(
            f"the label is {label!r}; it must be a list, [] for an image that has none of the classes"
        )
    if not is_several(label):
        return LabelError(
            f"the label is {_shown(label)}, and not a list of labels; split it (label_delim), or put it in a list"
        )
    if isinstance(label, Mapping):
        return LabelError(f"the label is {_shown(label)}, which is no list")
    classes = [_plain(one) for one in label]
    odd = [one for one in classes if label_text(one) is None]
    if not odd:
        return tuple(dict.fromkeys(classes))
    if is_missing(odd[0]):
        return LabelError(f"a label of the list {_shown(label)} is empty")
    return LabelError(
        f"{_shown(odd[0])} in the list {_shown(label)} is no class, which is text or a whole number; "
        "numbers to predict need a RegressionBlock"
    )


def read_encoded(label: Any, vocab: Sequence[str]) -> LabelSet | LabelError:
    """Return the classes of an image whose label has a one for each class that it has, else a zero."""
    numbers = read_numbers(label)
    if isinstance(numbers, LabelError):
        return numbers
    if len(numbers) != len(vocab) or not {*numbers} <= {0.0, 1.0}:
        return LabelError(
            f"the label {_shown(label)} is no list of zeros and ones, one for each of {len(vocab)} classes"
        )
    return tuple(name for name, number in zip(vocab, numbers, strict=True) if number)


def read_numbers(label: Any) -> Numbers | LabelError:
    """Return the numbers of an image as floats that float32 can hold."""
    if isinstance(label, LabelError):
        return label
    label = _plain(label)
    if is_missing(label):
        return LabelError(f"the label is {label!r}, which is no number")
    if isinstance(label, Mapping | set | frozenset):
        return LabelError(f"the label is {_shown(label)}, which has no order")
    parts: Iterable[Any] = label if is_several(label) else (label,)
    numbers: list[float] = []
    for part in parts:
        number = _number(_plain(part))
        if number is None:
            return LabelError(f"{_shown(part)} is no number")
        if not abs(number) <= _LARGEST:  # NaN too
            return LabelError(f"{_shown(part)} is not finite, or too large for 32 bits")
        numbers.append(number)
    return tuple(numbers) if numbers else LabelError("the list of numbers is empty")


def same_length(
    labels: Sequence[Numbers | LabelError], *, expected: int | None
) -> list[Numbers | LabelError]:
    """Return labels with those replaced by an error that have another number of numbers than the others.

    Args:
        labels: As ``read_numbers`` gives them.
        expected: How many there must be; ``None`` is as many as most have.
    """
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
    labels: Sequence[LabelSet | LabelError], vocab: Sequence[str], *, unknown: int | None
) -> Tensor:
    """Return float32 ``(N, C)``, 1 for each class that an image has; NaN where that is not known.

    Args:
        labels: The classes of each image.
        vocab: All C classes.
        unknown: Position of the class that takes those which are not in the vocabulary; ``None`` if there is none: the
            whole label then counts as not known.
    """
    index = {name: position for position, name in enumerate(vocab)}
    targets = torch.zeros(len(labels), len(vocab))
    for row, label in enumerate(labels):
        found = [] if isinstance(label, LabelError) else [index.get(str(one), unknown) for one in label]  # fmt: skip
        if isinstance(label, LabelError) or None in found:
            targets[row] = torch.nan
        else:
            targets[row, [position for position in found if position is not None]] = 1
    return targets


def number_targets(labels: Sequence[Numbers | LabelError], *, num_numbers: int) -> Tensor:
    """Return float32 ``(N, K)``, NaN where the numbers are not known."""
    missing = (torch.nan,) * num_numbers
    rows = [missing if isinstance(label, LabelError) else label for label in labels]
    return torch.tensor(rows, dtype=torch.float32).view(len(labels), num_numbers)


def _plain(label: Any) -> Any:
    """Return arrays and tensors as lists, their scalars as Python's, and what can be walked through once as a tuple."""
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


def labelled_like(
    table: ImageTable, items: Sequence[Any], label_of: Callable[[Any], Any] | None
) -> ImageTable:
    """Return a table with the targets of its items' labels.

    Args:
        table: Images without labels; its task and vocabulary are those of the training images.
        items: One for each image.
        label_of: Gives the label of an item; None where nothing does.

    Raises:
        ConfigError: There is no ``label_of``.
        LabelError: A label is missing or no class of the training images; all of them are counted, the first ones named.
    """
    if label_of is None:
        raise ConfigError(
            "with_labels=True takes labels as the DataBlock does that made the loaders, and none made these. "
            "Make them with DataBlock(...).dataloaders(...), or leave with_labels out."
        )
    labels = take_labels(items, label_of)
    number_of = {name: number for number, name in enumerate(table.vocab)}
    targets: list[Tensor | None] = [
        _target_like(one, table=table, number_of=number_of) for one in labels
    ]
    wrong = [place for place, target in enumerate(targets) if target is None]
    if wrong:
        entries = [
            f"{quoted(table.paths[place])}: {_shown_label(labels[place])}" for place in wrong
        ]
        raise LabelError(
            f"{len(wrong)} of {len(labels)} images have no label that the training images have:\n"
            f"{listed(entries)}\nThe classes are {list(table.vocab)[:20]}. Correct the labels, or leave with_labels out."
        )
    known = [target for target in targets if target is not None]
    return replace(table, targets=torch.stack(known) if known else table.targets)


def _target_like(label: Any, *, table: ImageTable, number_of: dict[str, int]) -> Tensor | None:
    if isinstance(label, LabelError):
        return None
    match table.task:
        case "category":
            number = number_of.get(label_text(label) or "")
            return None if number is None else torch.tensor(number)
        case "multi_category":
            names = [str(label)] if isinstance(label, str) else [str(name) for name in label]
            if not number_of.keys() >= set(names):
                return None
            return torch.tensor([float(name in names) for name in table.vocab])
        case "regression":
            values = torch.as_tensor(label, dtype=torch.float32).reshape(-1)
            return values if len(values) == len(table.vocab) else None


def _shown_label(label: Any) -> str:
    return str(label) if isinstance(label, LabelError) else repr(label)
