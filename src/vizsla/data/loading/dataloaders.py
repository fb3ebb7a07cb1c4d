"""A table in; augmented float batches for training, plainly resized ones for validation and for anything else out."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.apply import BatchAugmentation
from vizsla.data.cache.cache import PictureCache, expected_bytes
from vizsla.data.cache.device_decode import load_decoder
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import PictureReader
from vizsla.data.loading.loader import MAX_BLOCKS, PictureLoader
from vizsla.data.loading.order import ALL, Share, balancing_weights
from vizsla.errors import ConfigError, DataError
from vizsla.machine import Blocks
from vizsla.types import Batch, PictureTable, Size, unknown_targets

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from vizsla.augment.policy import BatchTransform
    from vizsla.data.images.decode import Truncated
    from vizsla.data.images.item_transforms import ItemPipeline, ItemTransforms, Sizing


def default_device() -> torch.device:
    """Return the fastest device that is there: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class DataLoader:
    """Batches of float pictures: a ``PictureLoader`` followed by the augmentation.

    Args:
        loader: Gives uint8 batches; its ``training`` decides whether pictures are augmented or only resized.
        augmentation: Makes them float and, in training, different each epoch.
    """

    def __init__(self, loader: PictureLoader, *, augmentation: BatchAugmentation) -> None:
        self.loader = loader
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, targets) of the batches of epoch 0; ``batches`` gives any epoch."""
        with closing(self.batches()) as batches:
            for batch in batches:
                yield batch.images, batch.targets

    def batches(self, *, epoch: int = 0, start: int = 0, share: Share = ALL) -> Generator[Batch]:
        """Yield the batches of an epoch; reading threads end when the generator is closed.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.
            start: So many batches are left out at the beginning, their pictures not read; the others are the same as
                without it, bit for bit.
            share: (rank, world): of every batch only the part of one of several processes, see ``PictureLoader.batches``.
                All get the same number of batches; of a last batch with fewer pictures than processes some get a
                batch of no pictures.

        Yields:
            Images float32 ``(B, 3, H, W)`` with values 0-1, channels-last, on the device.

        Raises:
            PictureError: A picture cannot be read.
            DataError: The pictures of a batch differ in size, because there is no ``Resize``.
            ConfigError: There are fewer batches than ``start``, or no such share.
        """
        return self._prepared(self.loader.plan(epoch=epoch, start=start, share=share), epoch=epoch)

    def one_batch(self, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Return images and targets of the first batch, and read no other.

        Args:
            epoch: Number of the epoch, from 0; another one gives other pictures in training.

        Returns:
            Images float32 ``(B, 3, H, W)`` with values 0-1, and targets int64 ``(B,)``, on the device.

        Raises:
            DataError: There are no pictures.
        """
        for batch in self._prepared(self.loader.plan(epoch=epoch)[:1], epoch=epoch):
            return batch.images, batch.targets
        raise DataError("There is no batch to show: this loader was given no pictures.")

    @property
    def n(self) -> int:
        """Number of pictures, those of a last batch that is left out included."""
        return len(self.loader.rows)

    @property
    def bs(self) -> int:
        """Pictures in a batch."""
        return self.loader.batch_size

    @property
    def rows(self) -> Tensor:
        """Rows of the table, int64 ``(N,)`` on the CPU, before any shuffling."""
        return self.loader.rows

    @property
    def table(self) -> PictureTable:
        """The table that the rows point into."""
        return self.loader.table

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.loader.device

    def _prepared(self, plan: Sequence[Tensor], *, epoch: int) -> Generator[Batch]:
        training = self.loader.training
        with (
            closing(self.loader.read_plan(plan, epoch=epoch)) as batches,
            self.augmentation.foresee(plan, epoch=epoch, training=training),
        ):
            for turns, batch in zip(plan, batches, strict=True):
                images = self.augmentation(batch.images, rows=turns, epoch=epoch, training=training)
                yield replace(batch, images=images)


class DataLoaders:
    """The training and the validation loader of a table, with one way of preparing pictures between them.

    Training pictures are shuffled, cropped at random and augmented; a last batch that is not full is left out unless it
    is the only one. Validation pictures come in order, centred and only resized. ``loader_for`` and ``test_dl`` give
    the latter for other pictures.

    Args:
        table: Pictures, targets and who is in which split.
        resize: Brings every picture to one size on the CPU; None needs pictures that have one size already. Or a list of
            item transforms, see ``DataBlock``.
        transforms: Augmentations, as ``aug_transforms`` returns them.
        size: ``(height, width)`` that the network sees; None follows the transforms, else ``resize``.
        batch_size: Pictures in a training batch.
        valid_batch_size: Pictures in a batch otherwise; None is ``batch_size``.
        seed: Order, crops and augmentation depend on it, on the epoch and the row alone.
        num_workers: Threads that read pictures; 0 for none, None for ``default_num_workers()``.
        device: Where batches go; None is ``default_device()``.
        cache: Keeps pictures once read; None is one in mode ``"auto"``, which looks at what is free.
        truncated: What to do about JPEGs that end too early, see ``open_picture``.
        balanced: Training pictures are drawn, with replacement, so that all classes come up equally often; an epoch is
            as long as without.
        weights: How often each training row comes up, in proportion, ``(T,)``, instead; see ``PictureLoader``.

    Raises:
        ConfigError: A number is out of range, or the pictures cannot be drawn as asked.
        DataError: A row of a split is outside of the table.
    """

    def __init__(
        self,
        table: PictureTable,
        *,
        resize: ItemTransforms | ItemPipeline,
        transforms: Sequence[BatchTransform] = (),
        size: Size | None = None,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        device: torch.device | str | None = None,
        cache: PictureCache | None = None,
        truncated: Truncated = "strict",
        balanced: bool = False,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        if balanced:
            if weights is not None:
                raise ConfigError("balanced=True sets the weights of the rows. Give one of both.")
            weights = balancing_weights(table.targets[table.train_rows])
        self.table = table
        self.augmentation = BatchAugmentation(transforms, size=size, seed=seed)
        self.device = default_device() if device is None else torch.device(device)
        if cache is None:
            needed = expected_bytes(
                item_pipeline(resize).sizing,
                num_centred=len(table.valid_rows),
                num_strips=len(table.train_rows),
            )
            cache = PictureCache(device=self.device, expected_bytes=needed)
        self.reader = PictureReader(resize=resize, cache=cache, truncated=truncated)
        self.bs = batch_size
        self.valid_bs = batch_size if valid_batch_size is None else valid_batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._memory = Blocks(max_blocks=MAX_BLOCKS)
        self.train = self._loader(
            table, table.train_rows, training=True, drop_last=True, weights=weights
        )
        self.valid = self._loader(table, table.valid_rows, training=False)
        if self.device.type == "cuda" and cache.device_store is not None:
            load_decoder(self.device)

    def __iter__(self) -> Iterator[DataLoader]:
        """Yield the training, then the validation loader."""
        return iter((self.train, self.valid))

    def __getitem__(self, index: int) -> DataLoader:
        """Return the training (0) or the validation (1) loader."""
        return (self.train, self.valid)[index]

    def __len__(self) -> int:
        """Return the number of loaders, 2."""
        return 2

    @property
    def resize(self) -> Sizing | None:
        """What brings every picture to one size on the CPU."""
        return self.reader.resize

    @property
    def items(self) -> ItemPipeline:
        """Everything that is done to a picture on the CPU, functions of the user's own included."""
        return self.reader.items

    @property
    def cache(self) -> PictureCache:
        """What keeps the pictures that were read."""
        return self.reader.cache

    @property
    def vocab(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.table.vocab

    @property
    def c(self) -> int:
        """Number of classes."""
        return len(self.table.vocab)

    @property
    def path(self) -> Path:
        """Folder that paths are shown relative to."""
        return self.table.root

    @property
    def final_size(self) -> Size | None:
        """``(height, width)`` of the batches; None where each picture keeps its own."""
        if self.augmentation.size is not None:
            return self.augmentation.size
        return None if self.resize is None else self.resize.size

    def one_batch(self, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Return images and targets of the first training batch; see ``DataLoader.one_batch``.

        Args:
            epoch: Number of the epoch, from 0.
        """
        return self.train.one_batch(epoch=epoch)

    def loader_for(
        self, rows: Tensor, *, training: bool = False, table: PictureTable | None = None
    ) -> DataLoader:
        """Return a loader of any rows of the table, training rows included; every row comes up.

        Args:
            rows: int64 ``(N,)``.
            training: Shuffle, crop at random and augment; otherwise pictures are prepared as in validation.
            table: Where the rows point into; None is the loaders' own.
        """
        return self._loader(self.table if table is None else table, rows, training=training)

    def to(self, device: torch.device | str) -> DataLoaders:
        """Give batches on another device from now on, and return these loaders.

        Args:
            device: Which.
        """
        self.device = torch.device(device)
        for loader in self:
            loader.loader.device = self.device
        return self

    def test_dl(self, items: Sequence[Path | str]) -> DataLoader:
        """Return a loader of other pictures, without labels, prepared as in validation and in the order given.

        Args:
            items: Picture files.
        """
        table = PictureTable(
            root=self.table.root,
            paths=tuple(Path(item) for item in items),
            targets=unknown_targets(len(items), task=self.table.task, num_outputs=self.c),
            vocab=self.table.vocab,
            task=self.table.task,
            train_rows=torch.zeros(0, dtype=torch.int64),
            valid_rows=torch.arange(len(items)),
        )
        return self._loader(table, table.valid_rows, training=False)

    def _loader(
        self,
        table: PictureTable,
        rows: Tensor,
        *,
        training: bool,
        drop_last: bool = False,
        weights: Tensor | Sequence[float] | None = None,
    ) -> DataLoader:
        loader = PictureLoader(
            table,
            rows,
            reader=self.reader,
            batch_size=self.bs if training else self.valid_bs,
            training=training,
            seed=self.seed,
            num_workers=self.num_workers,
            device=self.device,
            drop_last=drop_last,
            weights=weights,
            memory=self._memory,
        )
        return DataLoader(loader, augmentation=self.augmentation)
