"""Loaders of a table: augmented float batches for training, images that are only resized for validation and everything else."""

from __future__ import annotations

import copy
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import (
    BatchAugmentation,
    BatchTransform,
    OwnTransform,
    instances,
)
from vizsla.data.cache.cache import ImageCache, expected_bytes
from vizsla.data.cache.device import load_decoder
from vizsla.data.images.bit_depth import FULL_DEPTH, bit_depth_line, check_bit_depth
from vizsla.data.images.facts import guess_bit_depth
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.loader import MAX_BLOCKS, ImageLoader
from vizsla.data.loading.order import (
    ALL,
    Balance,
    Share,
    balancing_weights,
    check_balance,
    take_share,
)
from vizsla.data.table.items import as_files, find_image
from vizsla.data.table.labels import CategoryMap, KnownLabels, each_item, labelled_like
from vizsla.errors import ConfigError, DataError, SuggestsNames
from vizsla.machine import Blocks, worker_count
from vizsla.types import Batch, ImageTable, Size, unknown_targets

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager
    from typing import Unpack

    import pandas as pd
    from torch import nn

    from vizsla.data.images.decode import Truncated
    from vizsla.data.images.item_transforms import ItemPipeline, ItemTransforms
    from vizsla.data.images.sizing import Sizing
    from vizsla.lists import L
    from vizsla.machine import NumWorkers
    from vizsla.notebook.datasets import Datasets
    from vizsla.notebook.summary import Steps


Getters = tuple[Callable[[Any], Any] | None, Callable[[Any], Any]]
"""What gives the path and the label of an item; None where items are paths."""

BatchTransforms = BatchTransform | OwnTransform | Sequence[BatchTransform | OwnTransform] | None


class LoaderOptions(TypedDict, total=False):
    """Options of every function that makes loaders: ``DataBlock.dataloaders``, ``ImageDataLoaders`` and ``DataLoaders.from_table``.

    Attributes:
        bs: Images in a training batch; 64 if not given.
        val_bs: Images in a validation batch; ``None`` is ``bs``.
        shuffle: Training images are always shuffled; only ``True`` is accepted.
        shuffle_train: An older name of ``shuffle``.
        num_workers: Threads that read ahead; ``"auto"`` is one for each core, 0 reads in the caller's thread.
        device: Where batches go; ``None`` is the best there is.
        cache: Keeps decoded images; ``None`` is a new one with the default budget.
        truncated: ``"ok"`` reads JPEGs that end too early as far as they go; ``"strict"`` refuses them.
        balance: What to do where classes are of unequal size: ``"weights"``: a learner's own loss counts images of rare
            classes more; ``"sample"``: they come up more often, and an epoch is as long as usual; ``"auto"``: the latter where
            one class has three times as many images as another; ``"none"``: nothing.
        bit_depth: How many bits the values of 16-bit files use, 8 to 16; ``None`` decides by a sample of the images.
    """

    bs: int
    val_bs: int | None
    shuffle: bool
    shuffle_train: bool
    num_workers: NumWorkers
    device: torch.device | str | None
    cache: ImageCache | None
    truncated: Truncated
    balance: Balance
    bit_depth: int | None


def check_loader_options(
    options: LoaderOptions, item_tfms: ItemTransforms, *, known: type[LoaderOptions] = LoaderOptions
) -> None:
    """Raise an error for options that are not ``known`` (TypeError) or cannot work, before any image is looked for."""
    names = known.__annotations__
    for name in options:
        if name not in names:
            how = " To set the image size, use item_tfms=Resize(...)." if name == "size" else ""
            raise TypeError(f"Loaders have no option {name!r}.{how} Options: {', '.join(names)}")
    for name in ("shuffle", "shuffle_train"):
        if options.get(name, True) is not True:
            raise ConfigError(
                "Training images are always shuffled, in an order set by the seed. Received: "
                f"{name}={options.get(name)!r}. Leave this option out; for a fixed order use the validation "
                "loader."
            )
    item_pipeline(item_tfms)


def default_device() -> torch.device:
    """Return the fastest device of this machine: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class DataLoader:
    """Batches of float images: an ``ImageLoader``, whose ``training`` decides whether to augment, and the augmentation."""

    def __init__(self, loader: ImageLoader, *, augmentation: BatchAugmentation) -> None:
        self.loader = loader
        self.augmentation = augmentation
        self._num_looks = 0
        self._get_idxs: Callable[[], Iterable[int]] | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch 0, each as ``one_batch`` returns it; ``batches`` gives plain tensors of any epoch."""
        from vizsla.notebook.batches import dressed

        with closing(self.batches()) as batches:
            for batch in batches:
                yield dressed(batch, loader=self)

    def batches(
        self,
        *,
        epoch: int = 0,
        start: int = 0,
        share: Share = ALL,
        augmenting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Generator[Batch]:
        """Yield the batches of an epoch; reading threads end when the generator is closed.

        Args:
            epoch: Number of the epoch, from 0; matters in training only.
            start: Number of batches to skip at the beginning; the others do not change, bit for bit.
            share: (rank, world): of every batch, only the part for one of several processes, see ``ImageLoader.batches``.
            augmenting: A context manager entered while a batch is augmented, to measure the time.

        Yields:
            Images float32 ``(B, 3, H, W)`` with values 0-1, channels-last, on the device.

        Raises:
            PictureError: An image cannot be read.
            DataError: The images of a batch differ in size, because there is no ``Resize``.
            ConfigError: There are fewer batches than ``start``, or the share is impossible.
        """
        if self._get_idxs is None:
            plan = self.loader.plan(epoch=epoch, start=start, share=share)
        else:
            from vizsla.notebook.batches import chosen_plan

            plan = chosen_plan(self, num_batches=len(self))[start:]
            plan = [take_share(turns, share=share) for turns in plan]
        return self.read_plan(plan, epoch=epoch, augmenting=augmenting)

    def read_plan(
        self,
        plan: Sequence[Tensor],
        *,
        epoch: int,
        augmenting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Generator[Batch]:
        """Yield the batches of a plan, the turns of each batch as ``ImageLoader.plan`` gives them; see ``batches``."""
        augment = self.augmentation.ahead(plan, epoch=epoch, training=self.loader.training)
        with closing(self.loader.read_plan(plan, epoch=epoch)) as batches:
            for number, batch in enumerate(batches):
                with augmenting():
                    images = augment(number, batch.images)
                yield replace(batch, images=images)

    def one_batch(self, *, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one batch to look at, without reading others.

        Args:
            epoch: Return the first batch of this epoch, from 0; None takes the next epoch at each call, so training images
                look different each time.

        Returns:
            ``TensorImage`` float32 ``(B, 3, H, W)`` with values 0-1 (one channel with ``PILImageBW``), and ``TensorCategory`` int64 ``(B,)`` (or the type that
            fits the labels), on the device; the images alone where no label is known.

        Raises:
            DataError: There are no images.
        """
        from vizsla.notebook.batches import chosen_plan, dressed

        epoch = self.next_look() if epoch is None else epoch
        if self._get_idxs is None:
            plan = self.loader.plan(epoch=epoch)[:1]
        else:
            plan = chosen_plan(self, num_batches=1)
        for batch in self.read_plan(plan, epoch=epoch):
            return dressed(batch, loader=self)
        raise DataError("There is no batch to show: this loader has no images.")

    @property
    def n(self) -> int:
        """Number of images, including those of a last batch that is left out."""
        return len(self.loader.rows)

    @property
    def bs(self) -> int:
        """Images in a batch."""
        return self.loader.batch_size

    @property
    def rows(self) -> Tensor:
        """Rows of the table, int64 ``(N,)`` on the CPU, before any shuffling."""
        return self.loader.rows

    @property
    def table(self) -> ImageTable:
        """The table that the rows point into."""
        return self.loader.table

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.loader.device

    @property
    def c(self) -> int:
        """Number of classes, or of numbers that are predicted."""
        return len(self.table.vocab)

    @property
    def vocab(self) -> CategoryMap:
        """The classes, in the order of the network's outputs."""
        return CategoryMap(self.table.classes, sort=False)

    @property
    def get_idxs(self) -> Callable[[], Iterable[int]]:
        """A function that returns the positions of an epoch's images; replace it to choose them.

        It may be endless (``Inf.ones`` for always the second image): an epoch stays as long as it was.
        """
        from vizsla.notebook.batches import usual_positions

        return self._get_idxs or partial(usual_positions, self)

    @get_idxs.setter
    def get_idxs(self, function: Callable[[], Iterable[int]] | None) -> None:
        self._get_idxs = function

    def new(
        self, *, bs: int | None = None, shuffle: bool | None = None, drop_last: bool | None = None
    ) -> DataLoader:
        """Return a loader of the same images.

        Args:
            bs: Images in a batch; None keeps it.
            shuffle: False gives the images in order, prepared as in validation; True and None keep the loader's own way.
            drop_last: Drop a last batch that is not full; None keeps the current setting.

        Raises:
            ConfigError: The batch would be empty, or shuffling was asked for validation images.
        """
        made = copy.copy(self)
        made.loader = loader = copy.copy(self.loader)
        if bs is not None and bs < 1:
            raise ConfigError(f"bs must be at least 1. Received: bs={bs!r}")
        if shuffle and not loader.training:
            raise ConfigError(
                "Validation images are always in order. Received: shuffle=True. To see a random selection, use "
                "learn.show_results()."
            )
        loader.batch_size = loader.batch_size if bs is None else bs
        loader.training = loader.training and shuffle is not False
        loader.drop_last = (loader.drop_last and loader.training) if drop_last is None else drop_last  # fmt: skip
        return made

    def next_look(self) -> int:
        """Return the next epoch to look at: a different one at each call."""
        self._num_looks += 1
        return self._num_looks - 1

    @property
    def dataset(self) -> Datasets:
        """Images and labels, before any transform."""
        from vizsla.notebook.datasets import Datasets

        return Datasets.of_table(self.table, self.rows)

    @property
    def items(self) -> L[Any]:
        """The paths."""
        return self.dataset.items

    @property
    def after_item(self) -> Steps:
        """What is done to each image; ``add`` adds to it."""
        from vizsla.notebook.batches import with_items
        from vizsla.notebook.summary import item_steps

        def add(transforms: list[Any]) -> None:
            self.loader.reader = with_items(self.loader.reader, transforms)

        return item_steps(self.loader.reader.items, on_add=add)

    @property
    def before_batch(self) -> Steps:
        """What is done to the images together before they are a batch: nothing."""
        from vizsla.notebook.summary import Steps

        return Steps()

    @property
    def after_batch(self) -> Steps:
        """What is done to a training batch; validation batches are only resized; ``add`` adds to it."""
        from vizsla.notebook.batches import with_batch_transforms
        from vizsla.notebook.summary import batch_steps

        def add(transforms: list[Any]) -> None:
            self.augmentation = with_batch_transforms(self.augmentation, transforms)

        return batch_steps(self.augmentation, on_add=add)

    def decode(self, b: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a batch ``b`` (see ``one_batch``) with its images as bytes, ``TensorImage`` uint8 ``(B, 3, H, W)``."""
        from vizsla.notebook.batches import as_bytes

        return as_bytes(b[0]), *b[1:]

    def decode_batch(self, b: Sequence[Tensor], max_n: int = 9) -> L[Any]:
        """Return the first ``max_n`` images of a batch ``b`` (see ``one_batch``) as bytes, with their labels in words.

        Returns:
            (``TensorImage`` uint8 ``(3, H, W)``, label) for each; ``(TensorImage,)`` where there are no labels.
        """
        from vizsla.notebook.batches import decode_batch

        return decode_batch(self, b, max_n=max_n)

    def show_batch(
        self,
        b: Sequence[Tensor] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        show: bool = True,
        *,
        cmap: str | None = None,  # noqa: ARG002 (see below)
    ) -> L[Any] | None:
        """Show the images of a batch with their labels, in a new figure.

        Args:
            b: The batch, (images, labels); None takes the next one.
            max_n: Largest number of images to show.
            nrows: Rows; None follows from the rest.
            ncols: Columns; None follows from the rest.
            figsize: (width, height) of the figure in inches; None is 3 x 3 for each image.
            unique: Show one image several times, as different training epochs would see it.
            show: False draws nothing and returns what would be drawn, as from ``decode_batch``.
            cmap: Changes nothing: grey images are drawn grey.

        Raises:
            ConfigError: There is no image to show, or a number is not positive.
        """
        from vizsla.notebook.batches import show_batch

        return show_batch(
            self,
            b,
            max_n=max_n,
            nrows=nrows,
            ncols=ncols,
            figsize=figsize,
            unique=unique,
            show=show,
        )

    def __repr__(self) -> str:
        from vizsla.notebook.cards import loader_card

        return loader_card(self).text()

    def _repr_html_(self) -> str:
        """Return the loader as a card, for notebooks."""
        from vizsla.notebook.cards import loader_card

        return loader_card(self).html()


_NAME_OF_OPTION = {"bs": "batch_size", "val_bs": "valid_batch_size"}


class DataLoaders(SuggestsNames):
    """The training and the validation loader of a table, which prepare images in the same way.

    Training images are shuffled, cropped at random and augmented; a last batch that is not full is left out unless it
    is the only one. Validation images come in order, centred and only resized; so do those of ``loader_for`` and ``test_dl``.

    Args:
        table: Images, targets and splits.
        resize: Brings every image to one size on the CPU, or a list of item transforms, see ``DataBlock``; None needs images
            that have one size already.
        transforms: Augmentations, as ``aug_transforms`` returns them.
        size: ``(height, width)`` that the network sees; None follows the transforms, else ``resize``.
        batch_size: Images in a training batch.
        valid_batch_size: Images in all other batches; None is ``batch_size``.
        seed: Order, crops and augmentation depend only on the seed, the epoch and the row.
        num_workers: Threads that read images; ``"auto"`` is one for each core, 0 reads in the caller's thread.
        device: Where batches go; None is ``default_device()``.
        cache: Keeps images once read; None is one in mode ``"auto"``, which uses the memory and disk that are free.
        truncated: What to do about JPEGs that end too early, see ``decode_image``.
        balance: As in ``LoaderOptions``; the attribute says what is done.
        weights: Relative frequency of each training row, ``(T,)``; instead of ``balance="sample"``.
        bit_depth: How many bits the values of 16-bit files use, 8 to 16, for all images and the exported model; None is
            that of the table, or else estimated from a sample of its images, with a warning if below 16.

    Attributes:
        path: Folder that learners save and export to: that of the data, or of ``DataBlock.dataloaders`` its ``path``.

    Raises:
        ConfigError: A number is out of range, or the images cannot be sampled as asked.
        DataError: A row of a split is outside of the table, or 16-bit images may use different numbers of bits.
    """

    def __init__(
        self,
        table: ImageTable,
        *,
        resize: ItemTransforms | ItemPipeline,
        transforms: Sequence[BatchTransform] = (),
        size: Size | None = None,
        batch_size: int = 64,
        valid_batch_size: int | None = None,
        seed: int = 0,
        num_workers: NumWorkers = "auto",
        device: torch.device | str | None = None,
        cache: ImageCache | None = None,
        truncated: Truncated = "strict",
        balance: Balance = "none",
        weights: Tensor | Sequence[float] | None = None,
        bit_depth: int | None = None,
    ) -> None:
        if bit_depth is None and table.bit_depth is None:
            bit_depth = guess_bit_depth(table)
            if bit_depth is not None and bit_depth < FULL_DEPTH:
                warnings.warn(
                    f"{bit_depth_line(bit_depth)}. This was estimated from a sample; if it is wrong, set it: "
                    "bit_depth=16.",
                    stacklevel=2,
                )
        if bit_depth is not None:
            table = replace(table, bit_depth=check_bit_depth(bit_depth))
        targets = table.targets[table.train_rows]
        self.balance: Balance = check_balance(balance, targets)
        if self.balance == "sample":
            if weights is not None:
                raise ConfigError(
                    'balance="sample" sets the weights of the rows. Give balance or weights, not both.'
                )
            weights = balancing_weights(targets)
        self.table = table
        self.path = table.root
        self.augmentation = BatchAugmentation(transforms, size=size, seed=seed)
        self.device = default_device() if device is None else torch.device(device)
        if cache is None:
            needed = expected_bytes(
                item_pipeline(resize).sizing,
                num_centred=len(table.valid_rows),
                num_strips=len(table.train_rows),
            )
            cache = ImageCache(device=self.device, expected_bytes=needed)
        self.reader = ImageReader(
            resize=resize, cache=cache, truncated=truncated, bit_depth=table.bit_depth
        )
        self.bs = batch_size
        self.valid_bs = batch_size if valid_batch_size is None else valid_batch_size
        self.seed = seed
        self.num_workers = worker_count(num_workers)
        self.getters: Getters = (None, KnownLabels(table))
        self._memory = Blocks(max_blocks=MAX_BLOCKS)
        self.train = self._loader(
            table, table.train_rows, training=True, drop_last=True, weights=weights
        )
        self.valid = self._loader(table, table.valid_rows, training=False)
        if self.device.type == "cuda" and cache.device_store is not None:
            load_decoder(self.device)

    @classmethod
    def from_table(
        cls,
        table: ImageTable,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        seed: int = 0,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Return the loaders of a table, from the arguments of a ``DataBlock`` and ``LoaderOptions``.

        Raises:
            TypeError: There is no such option.
            ConfigError: An option cannot work.
        """
        check_loader_options(options, item_tfms)
        given: dict[str, Any] = {
            _NAME_OF_OPTION.get(name, name): value
            for name, value in options.items()
            if name not in ("shuffle", "shuffle_train")
        }
        listed: Any = batch_tfms if isinstance(batch_tfms, Sequence) else [batch_tfms]
        made = instances(listed)
        transforms = [one.for_batches() if hasattr(one, "for_batches") else one for one in made]
        return cls(table, resize=item_tfms, transforms=transforms, seed=seed, **given)

    @classmethod
    def from_dsets(
        cls, train: Any, valid: Any, path: Path | str = ".", **options: Any
    ) -> DataLoaders:
        """Return the loaders of two sets of one ``Datasets``, such as ``dsets.train`` and ``dsets.valid``.

        Args:
            train: The items for training.
            valid: The items for validation.
            path: Folder that paths are shown relative to.
            **options: As ``Datasets.dataloaders`` takes them.

        Raises:
            ConfigError: One of them is something else.
        """
        if not (hasattr(train, "joined") and hasattr(valid, "joined")):
            raise ConfigError(
                "from_dsets takes the two sets of one Datasets, dsets.train and dsets.valid. For images and "
                f"labels from your own code, write a DataBlock. Received: {type(train).__name__}, "
                f"{type(valid).__name__}"
            )
        return train.joined(valid).dataloaders(path=path, **options)

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
        """What brings every image to one size on the CPU."""
        return self.reader.resize

    @property
    def items(self) -> L[Any]:
        """Paths of the training images."""
        return self.train.items

    @property
    def cache(self) -> ImageCache:
        """What keeps the images that were read."""
        return self.reader.cache

    @property
    def vocab(self) -> CategoryMap:
        """The classes, in the order of the network's outputs."""
        return CategoryMap(self.table.classes, sort=False)

    @property
    def c(self) -> int:
        """Number of classes."""
        return len(self.table.vocab)

    @property
    def final_size(self) -> Size | None:
        """``(height, width)`` of the batches; None where each image keeps its own."""
        if self.augmentation.size is not None:
            return self.augmentation.size
        return None if self.resize is None else self.resize.size

    def one_batch(self, *, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one training batch; see ``DataLoader.one_batch``."""
        return self.train.one_batch(epoch=epoch)

    def loader_for(
        self, rows: Tensor, *, training: bool = False, table: ImageTable | None = None
    ) -> DataLoader:
        """Return a loader of any rows, int64 ``(N,)``; every row comes up.

        Args:
            rows: Rows of ``table``, or of the loaders' own table; training rows too.
            training: Shuffle, crop at random and augment; otherwise images are prepared as in validation.
            table: Where the rows point into; None is the loaders' own.
        """
        return self._loader(self.table if table is None else table, rows, training=training)

    def to(self, device: torch.device | str) -> DataLoaders:
        """Move batches to another device from now on, and return these loaders."""
        self.device = torch.device(device)
        for loader in self:
            loader.loader.device = self.device
        return self

    def test_dl(
        self,
        items: Sequence[Any] | pd.DataFrame,
        with_labels: bool = False,
        *,
        bs: int | None = None,
        num_workers: NumWorkers | None = None,
        device: torch.device | str | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        rm_type_tfms: int | None = None,  # noqa: ARG002
    ) -> DataLoader:
        """Return a loader of other images, prepared as in validation and in the order given.

        Args:
            items: Image files, or images in memory (Pillow, array, tensor, bytes of a file), which are kept as files as long as the
                loader; rows, or a DataFrame with a column of paths; or items as the ``DataBlock`` takes them that made the loaders.
            with_labels: Label the images in the same way as the training images: by folder, regular expression, function or
                column. If those had a list of labels, each item must be a pair (path, label), or an image of that list.
            bs: Images in a batch; None is that of validation.
            num_workers: Threads that read ahead; None is as in training.
            device: Where batches go; None is that of the loaders.
            drop_last: Leave out a last batch that is not full.
            shuffle: Must be False: predictions are in the order of the items.
            rm_type_tfms: Not needed, images in memory are recognised.

        Raises:
            ConfigError: An item is neither an image nor a row, or an option cannot work.
            LabelError: An item has no label, or one that is not a class of the training images.
        """
        if shuffle:
            raise ConfigError(
                "test_dl keeps the order of its items, so that predictions match them. Received: "
                f"shuffle={shuffle!r}. Leave it out."
            )
        if bs is not None and (not isinstance(bs, int) or bs < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(
                f"bs, the number of images in a batch, must be at least 1. Received: bs={bs!r}"
            )
        frame: Any = [items] if isinstance(items, str | Path) else items
        if not isinstance(frame, Iterable):
            raise ConfigError(
                f"test_dl takes a list of image files, or a DataFrame. Received: {type(frame).__name__} {frame!r:.80}"
            )
        rows = list(each_item(frame))
        get_x, get_y = self.getters
        root = self.table.root
        files, folder = as_files([find_image(row, root=root, get_x=get_x) for row in rows])
        table = ImageTable(
            root=root,
            paths=tuple(files),
            targets=unknown_targets(len(rows), task=self.table.task, num_outputs=self.c),
            vocab=self.table.vocab,
            class_type=self.table.class_type,
            task=self.table.task,
            train_rows=torch.zeros(0, dtype=torch.int64),
            valid_rows=torch.arange(len(rows)),
        )
        if with_labels:
            table = labelled_like(table, rows, get_y)
        made = self._loader(
            table,
            table.valid_rows,
            training=False,
            drop_last=drop_last,
            batch_size=bs,
            num_workers=num_workers,
            device=device,
        )
        if folder is not None:
            weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
        return made

    def _loader(
        self,
        table: ImageTable,
        rows: Tensor,
        *,
        training: bool,
        drop_last: bool = False,
        weights: Tensor | Sequence[float] | None = None,
        batch_size: int | None = None,
        num_workers: NumWorkers | None = None,
        device: torch.device | str | None = None,
    ) -> DataLoader:
        if batch_size is None:
            batch_size = self.bs if training else self.valid_bs
        loader = ImageLoader(
            table,
            rows,
            reader=self.reader,
            batch_size=batch_size,
            training=training,
            seed=self.seed,
            num_workers=self.num_workers if num_workers is None else worker_count(num_workers),
            device=self.device if device is None else torch.device(device),
            drop_last=drop_last,
            weights=weights,
            memory=self._memory,
        )
        return DataLoader(loader, augmentation=self.augmentation)

    @property
    def loaders(self) -> list[DataLoader]:
        """The training and the validation loader."""
        return [self.train, self.valid]

    @property
    def train_ds(self) -> Datasets:
        """Training images with their labels, before any transform."""
        return self.train.dataset

    @property
    def valid_ds(self) -> Datasets:
        """Validation images with their labels, before any transform."""
        return self.valid.dataset

    @property
    def dataset(self) -> Datasets:
        """Training images with their labels, before any transform."""
        return self.train.dataset

    @property
    def n(self) -> int:
        """Number of training images."""
        return self.train.n

    @property
    def n_inp(self) -> int:
        """Number of inputs of the network: 1, the image."""
        return 1

    @property
    def loss_func(self) -> nn.Module:
        """The loss that suits the labels."""
        from vizsla.notebook.batches import loss_of

        return loss_of(self)

    @property
    def after_item(self) -> Steps:
        """What is done to each image; ``add`` adds to it for both loaders."""
        return replace(self.train.after_item, on_add=partial(self.add_tfms, event="after_item"))

    @property
    def before_batch(self) -> Steps:
        """What is done to the images together before they are a batch: nothing."""
        return self.train.before_batch

    @property
    def after_batch(self) -> Steps:
        """What is done to a training batch; ``add`` adds to it for both loaders."""
        return replace(self.train.after_batch, on_add=partial(self.add_tfms, event="after_batch"))

    def decode(self, b: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a batch with its images as bytes; see ``DataLoader.decode``."""
        return self.train.decode(b)

    def decode_batch(self, b: Sequence[Tensor], max_n: int = 9) -> L[Any]:
        """Return the images of a batch as bytes, with their labels in words; see ``DataLoader.decode_batch``."""
        return self.train.decode_batch(b, max_n)

    def show_batch(
        self,
        b: Sequence[Tensor] | None = None,
        max_n: int = 9,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        unique: bool = False,
        show: bool = True,
        *,
        cmap: str | None = None,  # noqa: ARG002 (see below)
    ) -> L[Any] | None:
        """Draw the images of a training batch, or of ``b``, with their labels; see ``DataLoader.show_batch``."""
        return self.train.show_batch(b, max_n, nrows, ncols, figsize, unique, show)

    def cuda(self) -> DataLoaders:
        """Give batches on the CUDA device from now on; see ``to``."""
        return self.to("cuda")

    def cpu(self) -> DataLoaders:
        """Give batches on the CPU from now on; see ``to``."""
        return self.to("cpu")

    def new(self, **options: Any) -> DataLoader:
        """Return another loader of the training images; see ``DataLoader.new``."""
        return self.train.new(**options)

    def new_empty(self) -> DataLoaders:
        """Return loaders that prepare images in the same way and have no images."""
        nothing = torch.zeros(0, dtype=torch.int64)
        made = copy.copy(self)
        made.table = replace(
            self.table,
            paths=(),
            targets=self.table.targets[:0],
            train_rows=nothing,
            valid_rows=nothing,
            skipped=(),
            untrainable=None,
            copies=None,
        )
        made.train = made.loader_for(nothing, training=True)
        made.valid = made.loader_for(nothing)
        return made

    def add_tfms(
        self,
        tfms: Sequence[Any],
        event: str,
        loaders: Sequence[int | DataLoader] | None = None,
    ) -> DataLoaders:
        """Add transforms to the existing ones, and return these loaders.

        Args:
            tfms: Batch transforms for ``"after_batch"``, item transforms for ``"after_item"``.
            event: One of these two words.
            loaders: The loaders that get batch transforms, by position or themselves; None is both.

        Raises:
            ConfigError: The event is unknown, or the transforms do not fit those that are there.
        """
        from vizsla.notebook.batches import add_transforms

        add_transforms(self, tfms, event, loaders=loaders)
        return self

    def __repr__(self) -> str:
        from vizsla.notebook.cards import loaders_card

        return loaders_card(self).text()

    def _repr_html_(self) -> str:
        """Return the loaders as a card, for notebooks."""
        from vizsla.notebook.cards import loaders_html

        return loaders_html(self)
