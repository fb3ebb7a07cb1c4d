"""Pictures or features in, batches out: 0-1 with rows for the engine, normalised ``[x, y]`` for whoever iterates.

N: items; B: items of a batch; D: features.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from vizsla.data.loading.order import shuffled
from vizsla.types import Batch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from vizsla.classic.items import Dataset
    from vizsla.classic.transforms import Transforms
    from vizsla.data.loading.loader import PictureLoader
    from vizsla.types import PictureTable


class Batches(Protocol):
    """What the engine needs of a loader."""

    dataset: Dataset

    @property
    def n(self) -> int:
        """Number of items."""
        ...

    @property
    def bs(self) -> int:
        """Items of a full batch."""
        ...

    @property
    def rows(self) -> Tensor:
        """Rows of the table."""
        ...

    @property
    def table(self) -> PictureTable:
        """The table that the rows point into."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]`` as the network gets them; each pass is another one where something is random."""
        ...

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch for the engine."""
        ...


def planned(
    rows: Tensor, *, batch_size: int, shuffle: bool, seed: int, epoch: int
) -> tuple[Tensor, ...]:
    """Return the rows of each batch of an epoch.

    Args:
        rows: int64 ``(N,)``.
        batch_size: Items of a batch; the last may hold fewer. In training one of a single item is left out, unless it is the
            only one: batch norms could not work with it.
        shuffle: For training: in a new order each epoch.
        seed: Of the orders.
        epoch: Number of the epoch.
    """
    if not len(rows):
        return ()
    order = shuffled(rows, seed=seed, epoch=epoch) if shuffle else rows
    plan = torch.split(order, batch_size)
    return plan[:-1] if shuffle and len(plan) > 1 and len(plan[-1]) == 1 else plan


class PictureBatches:
    """Batches of prepared pictures, in order or shuffled.

    Args:
        loader: Reads them; its ``training`` says whether windows are random.
        dataset: The same pictures one by one.
        transforms: How they are prepared.
        shuffle: Whether they come in a new order each epoch.
    """

    def __init__(
        self, loader: PictureLoader, *, dataset: Dataset, transforms: Transforms, shuffle: bool
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self._loader = loader
        self._transforms = transforms
        self._augment = transforms.augmentation(seed=loader.seed)
        self._passes = 0

    @property
    def n(self) -> int:
        """Number of pictures."""
        return len(self._loader.rows)

    @property
    def bs(self) -> int:
        """Pictures of a full batch."""
        return self._loader.batch_size

    @property
    def rows(self) -> Tensor:
        """Rows of the table, int64 ``(N,)``."""
        return self._loader.rows

    @property
    def table(self) -> PictureTable:
        """The table that the rows point into."""
        return self._loader.table

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]``: float32 ``(B, 3, sz, sz)`` normalised, and targets, on the device; each pass is another one."""
        epoch, self._passes = self._passes, self._passes + 1
        with closing(self.batches(epoch=epoch)) as batches:
            for batch in batches:
                yield [self._transforms.normalised(batch.images), batch.targets]

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch, pictures with values 0-1: the classifier normalises them.

        Args:
            epoch: Number of the epoch; another one has other crops and another order where they are random.
            start: So many batches are left out at the beginning.
        """
        plan = self._plan(epoch)[start:]
        with closing(self._loader.read_plan(plan, epoch=epoch)) as batches:
            for batch in batches:
                images = self._augment(
                    batch.images, rows=batch.rows, epoch=epoch, training=self._loader.training
                )
                yield replace(batch, images=images)

    def _plan(self, epoch: int) -> tuple[Tensor, ...]:
        return planned(
            self.rows, batch_size=self.bs, shuffle=self.shuffle, seed=self._loader.seed, epoch=epoch
        )


class ArrayBatches:
    """Batches of rows of an array, as they are: cached features.

    Args:
        values: float32 ``(N, ...)``.
        dataset: The same rows one by one.
        table: Has the targets.
        rows: int64 ``(N,)``, row of the table of each value.
        batch_size: Rows of a batch.
        shuffle: Whether they come in a new order each epoch.
        seed: Of the orders.
        device: Where batches go.
    """

    def __init__(
        self,
        values: Tensor,
        *,
        dataset: Dataset,
        table: PictureTable,
        rows: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        self.dataset = dataset
        self.table = table
        self.rows = rows
        self.bs = batch_size
        self.shuffle = shuffle
        self._seed = seed
        self._values = values.to(device)
        self._targets = table.targets[rows].to(device)
        self._passes = 0

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]`` on the device."""
        epoch, self._passes = self._passes, self._passes + 1
        for batch in self.batches(epoch=epoch):
            yield [batch.images, batch.targets]

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Number of the epoch.
            start: So many batches are left out at the beginning.
        """
        for places in self._plan(epoch)[start:]:
            on_device = places.to(self._values.device)
            yield Batch(
                images=self._values[on_device],
                targets=self._targets[on_device],
                rows=self.rows[places],
            )

    def _plan(self, epoch: int) -> tuple[Tensor, ...]:
        places = torch.arange(self.n)
        return planned(
            places, batch_size=self.bs, shuffle=self.shuffle, seed=self._seed, epoch=epoch
        )


@dataclass(frozen=True, kw_only=True)
class TrainingLoaders:
    """What the engine's trainer takes.

    Attributes:
        train: Shuffled.
        valid: In order.
        fixed: The training items in order, prepared as in validation.
        table: Targets and splits.
        device: Where batches are.
        seed: Of the data.
        path: The data's folder.
    """

    train: Batches
    valid: Batches
    fixed: Batches
    table: PictureTable
    device: torch.device
    seed: int
    path: Path

    @property
    def vocab(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.table.vocab

    @property
    def c(self) -> int:
        """Number of outputs."""
        return len(self.table.vocab)

    def loader_for(self, rows: Tensor) -> Batches:
        """Return the training items in order; other rows are not asked for.

        Args:
            rows: Of the training items.
        """
        del rows
        return self.fixed
