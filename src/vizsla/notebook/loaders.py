"""The engine's ``DataLoaders`` in, the ones of a notebook out: both loaders, the pictures behind them and their vocabulary to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vizsla.augment.apply import BatchAugmentation
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import PictureReader
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.table.labels import take_labels
from vizsla.errors import ConfigError
from vizsla.notebook.batches import NotebookLoader
from vizsla.notebook.labelling import labelled_like
from vizsla.notebook.steps import Steps, transforms_of
from vizsla.notebook.vocab import CategoryMap
from vizsla.train.losses import default_loss
from vizsla.types import PictureTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from torch import Tensor, nn

    from vizsla.augment.policy import BatchTransform
    from vizsla.notebook.collections import L
    from vizsla.notebook.items import PictureItems

EVENTS = ("after_item", "after_batch")


class NotebookLoaders(DataLoaders):
    """Training and validation loaders that can be looked at; made of the engine's by ``of``, trained on like those.

    What is asked of them that only one loader can answer (``one_batch``, ``show_batch``, ``n``) is asked of the training
    loader.

    Attributes:
        train: Shuffled, augmented.
        valid: In order, only resized.
    """

    train: NotebookLoader
    valid: NotebookLoader
    _label_of: Callable[[Any], Any] | None = None
    _picture_of: Callable[[Any], Any] | None = None

    @classmethod
    def of(
        cls,
        loaders: DataLoaders,
        *,
        label_of: Callable[[Any], Any] | None = None,
        picture_of: Callable[[Any], Any] | None = None,
    ) -> NotebookLoaders:
        """Return loaders of the same pictures, prepared in the same way, with the same cache.

        Args:
            loaders: The engine's.
            label_of: Gives the label of an item, for ``test_dl(items, with_labels=True)``.
            picture_of: Gives the path of an item; None where items are paths.
        """
        made = cls.__new__(cls)
        # Whatever the engine's loaders know, in whatever way they were built; only the two loaders become others.
        vars(made).update(vars(loaders))
        made.train, made.valid = NotebookLoader.of(loaders.train), NotebookLoader.of(loaders.valid)
        made._label_of, made._picture_of = label_of, picture_of
        return made

    @property
    def loaders(self) -> list[NotebookLoader]:
        """The training and the validation loader."""
        return [self.train, self.valid]

    @property
    def train_ds(self) -> PictureItems:
        """Training pictures with their labels, before any transform."""
        return self.train.dataset

    @property
    def valid_ds(self) -> PictureItems:
        """Validation pictures with their labels, before any transform."""
        return self.valid.dataset

    @property
    def dataset(self) -> PictureItems:
        """Training pictures with their labels, before any transform."""
        return self.train.dataset

    @property
    def vocab(self) -> CategoryMap:
        """The classes, in the order of the network's outputs."""
        return CategoryMap(self.table.vocab, sort=False)

    @property
    def n(self) -> int:
        """Number of training pictures."""
        return self.train.n

    @property
    def n_inp(self) -> int:
        """Number of things that go into the network: 1, the picture."""
        return 1

    @property
    def loss_func(self) -> nn.Module:
        """The loss that suits the labels."""
        return default_loss(self.table.task)

    @property
    def after_item(self) -> Steps:
        """What is done to each picture."""
        return self.train.after_item

    @property
    def before_batch(self) -> Steps:
        """What is done to the pictures together before they are a batch: nothing."""
        return self.train.before_batch

    @property
    def after_batch(self) -> Steps:
        """What is done to a training batch."""
        return self.train.after_batch

    def one_batch(self, *, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one training batch; see ``NotebookLoader.one_batch``.

        Args:
            epoch: The first batch of this epoch; None is the next epoch at each call.
        """
        return self.train.one_batch(epoch=epoch)

    def show_batch(
        self,
        b: Sequence[Tensor] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        show: bool = True,
    ) -> L[Any] | None:
        """Draw the pictures of a training batch with their labels; see ``NotebookLoader.show_batch``.

        Args:
            b: The batch, (pictures, labels), of either loader; None takes the next training batch.
            max_n: At most so many pictures.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) of the figure in inches; None is 3 x 3 for each picture.
            unique: Show one picture again and again, as different epochs of training see it.
            show: False draws nothing.
        """
        return self.train.show_batch(b, max_n, nrows, ncols, figsize, unique, show)

    def decode_batch(self, b: Sequence[Tensor], max_n: int = 9) -> L[Any]:
        """Return the pictures of a batch as bytes, with their labels in words; see ``NotebookLoader.decode_batch``.

        Args:
            b: As ``one_batch`` returns it.
            max_n: At most so many.
        """
        return self.train.decode_batch(b, max_n)

    def to(self, device: torch.device | str) -> NotebookLoaders:
        """Give batches on another device from now on.

        Args:
            device: Which.

        Returns:
            These loaders.
        """
        self.device = torch.device(device)
        for loader in self.loaders:
            loader.loader.device = self.device
        return self

    def cuda(self) -> NotebookLoaders:
        """Give batches on the CUDA device from now on; see ``to``."""
        return self.to("cuda")

    def cpu(self) -> NotebookLoaders:
        """Give batches on the CPU from now on; see ``to``."""
        return self.to("cpu")

    def new_empty(self) -> NotebookLoaders:
        """Return loaders that prepare pictures in the same way and have none."""
        nothing = torch.zeros(0, dtype=torch.int64)
        table = PictureTable(
            root=self.table.root,
            paths=(),
            targets=self.table.targets[:0],
            vocab=self.table.vocab,
            train_rows=nothing,
            valid_rows=nothing,
            task=self.table.task,
        )
        made = NotebookLoaders.__new__(NotebookLoaders)
        vars(made).update(vars(self))
        made.table = table
        made.train = self._loader(table, nothing, training=True, drop_last=True)
        made.valid = self._loader(table, nothing, training=False)
        return made

    def test_dl(
        self, items: Sequence[Any] | pd.DataFrame, with_labels: bool = False
    ) -> NotebookLoader:
        """Return a loader of other pictures, prepared as in validation and in the order given.

        Args:
            items: Picture files; or what the ``DataBlock`` takes for items, where it made these loaders.
            with_labels: Take their labels as those of the training pictures were taken.

        Raises:
            ConfigError: Labels are wanted, and these loaders were not made by a ``DataBlock``.
            LabelError: An item has no label, or one that is no class of the training pictures.
        """
        frame: Any = items
        rows = [row for _, row in frame.iterrows()] if hasattr(frame, "iterrows") else list(frame)
        paths = rows if self._picture_of is None else [self._picture_of(row) for row in rows]
        made = super().test_dl([Path(path) for path in paths])
        if with_labels:
            table = self._labelled(made.table, rows)
            made = self._loader(table, table.valid_rows, training=False)
        return NotebookLoader.of(made)

    def add_tfms(
        self,
        tfms: Sequence[Any],
        event: str,
        loaders: Sequence[int | NotebookLoader] | None = None,
    ) -> NotebookLoaders:
        """Add transforms to those that are there.

        Args:
            tfms: Batch transforms for ``"after_batch"``; item transforms for ``"after_item"``.
            event: Which of the two.
            loaders: Which loaders get them, by position or themselves; None is both. Item transforms go to both.

        Returns:
            These loaders.

        Raises:
            ConfigError: There is no such event, or the transforms cannot work with those that are there.
        """
        if event not in EVENTS:
            raise ConfigError(f"event is one of {', '.join(EVENTS)}. Received: {event!r}")
        chosen = self.loaders if loaders is None else [self._one_of(loader) for loader in loaders]
        if event == "after_item":
            items = self.items
            sizing = [] if items.sizing is None else [items.sizing]
            listed = item_pipeline([*items.before, *sizing, *items.after, *tfms])
            self.reader = PictureReader(
                resize=listed, cache=self.cache, truncated=self.reader.truncated
            )
            for loader in self.loaders:
                loader.loader.reader = self.reader
            return self
        added = self._augmented(tfms)
        for loader in chosen:
            loader.augmentation = added
        if loaders is None:
            self.augmentation = added
        return self

    def _augmented(self, tfms: Sequence[BatchTransform]) -> BatchAugmentation:
        there = self.augmentation
        size = there.size if there.policy.size != there.size else None
        return BatchAugmentation([*transforms_of(there.policy), *tfms], size=size, seed=there.seed)

    def _one_of(self, loader: int | NotebookLoader) -> NotebookLoader:
        return self.loaders[loader] if isinstance(loader, int) else loader

    def _labelled(self, table: PictureTable, items: Sequence[Any]) -> PictureTable:
        if self._label_of is None:
            raise ConfigError(
                "with_labels=True takes labels as the DataBlock does that made the loaders, and none made these. "
                "Make them with DataBlock(...).dataloaders(...), or leave with_labels out."
            )
        return labelled_like(table, take_labels(items, self._label_of))

    def _loader(
        self,
        table: PictureTable,
        rows: Tensor,
        *,
        training: bool,
        drop_last: bool = False,
        weights: Tensor | Sequence[float] | None = None,
    ) -> NotebookLoader:
        made = super()._loader(table, rows, training=training, drop_last=drop_last, weights=weights)
        return NotebookLoader.of(made)
