"""A table of pictures in, how many of them are where and of which class out, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.types import is_labelled

if TYPE_CHECKING:
    from vizsla.types import PictureTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """How many pictures of a class are where.

    Attributes:
        label: Name of the class.
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        num_other: Pictures in neither set, such as those of a ``test`` folder.
    """

    label: str
    num_train: int
    num_valid: int
    num_other: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What is in a table, for people.

    Attributes:
        classes: Counts of each class, in the order of the vocabulary; a picture with several labels counts in each of its
            classes. Empty where the labels are numbers.
        num_train: Pictures to learn from.
        num_valid: Pictures held out.
        num_other: Pictures in neither set.
        num_unlabelled: Those of the pictures in neither set whose label is not known.
        num_skipped: Unreadable pictures that were left out.
    """

    classes: tuple[ClassCount, ...]
    num_train: int
    num_valid: int
    num_other: int
    num_unlabelled: int
    num_skipped: int


def describe_data(table: PictureTable) -> DataSummary:
    """Count the pictures of a table by class and set."""
    outside = torch.ones(len(table.paths), dtype=torch.bool)
    outside[table.train_rows] = False
    outside[table.valid_rows] = False
    columns = [
        class_counts(table, rows)
        for rows in (table.train_rows, table.valid_rows, outside.nonzero()[:, 0])
    ]
    return DataSummary(
        classes=tuple(
            ClassCount(label=label, num_train=train, num_valid=valid, num_other=other)
            for label, train, valid, other in zip(table.vocab, *columns, strict=False)
        ),
        num_train=len(table.train_rows),
        num_valid=len(table.valid_rows),
        num_other=int(outside.sum()),
        num_unlabelled=int((~is_labelled(table.targets)).sum()),
        num_skipped=len(table.skipped),
    )


def class_counts(table: PictureTable, rows: torch.Tensor) -> list[int]:
    """Return how many of some rows have each class, in the order of the vocabulary; nothing where labels are numbers.

    Args:
        table: The table.
        rows: int64 ``(N,)``, or bool for every row.
    """
    targets = table.targets[rows]
    if table.task == "regression":
        return []
    if table.task == "multi_category":
        return targets.nan_to_num().sum(0).long().tolist()
    return torch.bincount(targets[targets >= 0], minlength=len(table.vocab)).tolist()
