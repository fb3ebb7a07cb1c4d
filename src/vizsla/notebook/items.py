"""A table and some of its rows in, pairs of picture and label out, read when they are looked at: ``dls.train_ds[0]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from vizsla.notebook.collections import L, collection_text
from vizsla.notebook.pictures import PILImage
from vizsla.notebook.tensors import TensorCategory
from vizsla.notebook.vocab import CategoryMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vizsla.types import PictureTable, Task


class TensorMultiCategory(Tensor):
    """Several labels of a picture, or of a batch: 1 for each class that it has, else 0; prints as ``TensorMultiCategory``.

    Args:
        data: Numbers of 0 and 1.
    """

    def __new__(cls, data: Tensor | Sequence[float]) -> TensorMultiCategory:
        """Return the labels as float32."""
        return torch.as_tensor(data, dtype=torch.float32).as_subclass(cls)


def as_target(target: Tensor, *, task: Task) -> Tensor:
    """Return a target, or those of a batch, as what prints its kind.

    Args:
        target: As a ``PictureTable`` or a ``Batch`` has it.
        task: What it is.
    """
    if task == "category":
        return TensorCategory(target)
    return TensorMultiCategory(target) if task == "multi_category" else target


class PictureItems:
    """Pictures with their labels, before any transform.

    Args:
        table: Paths and targets.
        rows: int64 ``(N,)``, which of them.

    Example:
        >>> dls.train_ds[0]
        (PILImage mode=RGB size=375x500, TensorCategory(1))
    """

    def __init__(self, table: PictureTable, rows: Tensor) -> None:
        self.table = table
        self.rows = rows

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> tuple[PILImage, Tensor]: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> L[Any]: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """Return one pair, or for a slice or list of positions several."""
        if isinstance(index, slice):
            return L([self[place] for place in range(len(self))[index]])
        if not isinstance(index, int):
            return L([self[place] for place in index])
        row = int(self.rows[range(len(self))[index]])
        picture = PILImage.create(self.table.paths[row])
        return picture, as_target(self.table.targets[row], task=self.table.task)

    def __iter__(self) -> Iterator[tuple[PILImage, Tensor]]:
        """Yield all pairs."""
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return collection_text(self)  # pyright: ignore[reportArgumentType] (it has a length and positions)

    @property
    def items(self) -> L[Any]:
        """The paths."""
        return L([self.table.paths[row] for row in self.rows.tolist()])

    @property
    def vocab(self) -> CategoryMap:
        """The classes."""
        return CategoryMap(self.table.vocab, sort=False)


class Datasets:
    """The training and the validation pictures of a table.

    Args:
        table: Paths, targets, and who is in which split.

    Attributes:
        train: Training pictures.
        valid: Validation pictures.
    """

    def __init__(self, table: PictureTable) -> None:
        self.table = table
        self.train = PictureItems(table, table.train_rows)
        self.valid = PictureItems(table, table.valid_rows)

    def __len__(self) -> int:
        """Return the number of pictures in both."""
        return len(self.train) + len(self.valid)

    def __getitem__(self, index: int) -> tuple[PILImage, Tensor]:
        """Return one pair, training pictures first."""
        place = range(len(self))[index]
        num_train = len(self.train)
        return self.train[place] if place < num_train else self.valid[place - num_train]

    def __repr__(self) -> str:
        return f"train: {self.train!r}\nvalid: {self.valid!r}"

    @property
    def vocab(self) -> CategoryMap:
        """The classes."""
        return self.train.vocab

    @property
    def c(self) -> int:
        """Number of classes, or of numbers that are predicted."""
        return len(self.table.vocab)
