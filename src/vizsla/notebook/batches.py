"""What a notebook shows of data loaders: batches that print their kind, grids of labelled images, the items behind them.

Training reads plain tensors (``DataLoader.batches``). Only what a person asks for (``one_batch``, iteration, ``show_batch``) comes
as ``TensorImage`` and ``TensorCategory``. Shapes: B images of H x W pixels.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.data.images.decode import decode_image
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.order import rows_of, turns_of
from vizsla.data.table.labels import CategoryMap
from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.plots import image_grid, set_fitting_titles
from vizsla.lists import L, collection_text
from vizsla.notebook.images import PILImage
from vizsla.notebook.summary import transforms_of
from vizsla.notebook.tensors import TensorImage, as_target
from vizsla.train.losses import loss_for
from vizsla.types import is_labelled, label_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.types import Batch, ImageTable


class ImageItems:
    """Images with their labels before any transform, each read when it is looked at.

    Examples:
        >>> dls.train_ds[0]
        (PILImage mode=RGB size=40x30, TensorCategory(...))
    """

    def __init__(self, table: ImageTable, rows: Tensor) -> None:
        self.table = table
        self.rows = rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> tuple[PILImage, Tensor]: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> L[Any]: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> Any:
        """Return one pair, or those of a slice or list of positions."""
        if isinstance(index, slice):
            return L([self[place] for place in range(len(self))[index]])
        if not isinstance(index, int):
            return L([self[place] for place in index])
        row = int(self.rows[range(len(self))[index]])
        image = PILImage.create(decode_image(self.table.paths[row], bit_depth=self.table.bit_depth))
        return image, as_target(self.table.targets[row], task=self.table.task)

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
        return CategoryMap(self.table.classes, sort=False)


class Datasets:
    """The training and the validation images of a table.

    Args:
        table: Paths, targets and split.

    Attributes:
        train: Training images.
        valid: Validation images.
    """

    def __init__(self, table: ImageTable) -> None:
        self.table = table
        self.train = ImageItems(table, table.train_rows)
        self.valid = ImageItems(table, table.valid_rows)

    def __len__(self) -> int:
        """Return the number of images in both."""
        return len(self.train) + len(self.valid)

    def __getitem__(self, index: int) -> tuple[PILImage, Tensor]:
        """Return one pair, training images first."""
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
        """Number of classes, or of predicted numbers."""
        return len(self.table.vocab)


def dressed(batch: Batch, *, table: ImageTable) -> tuple[Tensor, Tensor]:
    """Return images and targets of a batch as tensors that print their kind; images alone where no label is known."""
    images = TensorImage(batch.images)
    if not bool(is_labelled(batch.targets).any()):
        return (images,)  # pyright: ignore[reportReturnType] (nothing to unpack, as in fastai)
    return images, as_target(batch.targets, task=table.task)


def usual_positions(loader: DataLoader) -> list[int]:
    """Return the positions of the images in the order in which epoch 0 reads them."""
    position_of = {row: place for place, row in enumerate(loader.rows.tolist())}
    turns = loader.loader.plan()
    rows = rows_of(torch.cat(turns)) if turns else loader.rows
    return [position_of[row] for row in rows.tolist()]


def chosen_plan(loader: DataLoader, *, num_batches: int) -> tuple[Tensor, ...]:
    """Return the turns of up to ``num_batches`` batches of the positions that the loader's ``get_idxs`` gives."""
    most = min(num_batches * loader.bs, loader.n) if num_batches > 1 else loader.bs
    places = [int(place) for place in islice(iter(loader.get_idxs()), most)]
    outside = [place for place in places if not -loader.n <= place < loader.n]
    if outside:
        raise ConfigError(
            f"get_idxs gives positions of the {loader.n} images, from 0 to {loader.n - 1}. Received: {outside[0]}"
        )
    return torch.split(turns_of(loader.rows[places]), loader.bs)


def decode_batch(loader: DataLoader, batch: Sequence[Tensor], *, max_n: int) -> L[Any]:
    """Return (``TensorImage`` uint8 ``(3, H, W)``, label in words) of each image of a batch."""
    images = batch[0][:max_n].detach().as_subclass(Tensor).cpu()
    if images.is_floating_point():
        images = (images.clamp(0, 1) * 255).to(torch.uint8)
    shown = [TensorImage(image) for image in images]
    if len(batch) < 2:
        return L([(image,) for image in shown])
    table, targets = loader.table, batch[1][:max_n].detach().as_subclass(Tensor).cpu()
    labels = [label_of(one, task=table.task, vocab=table.vocab) for one in targets]
    return L(list(zip(shown, labels, strict=True)))


def show_batch(
    loader: DataLoader,
    batch: Sequence[Tensor] | None,
    *,
    max_n: int,
    nrows: int | None = None,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    unique: bool = False,
    show: bool = True,
) -> L[Any] | None:
    """Draw the images of a batch with their labels, or return what would be drawn."""
    if nrows is not None and ncols is not None:
        most = nrows * ncols
        max_n = most if batch is None and unique else min(max_n, most)
    if batch is None:
        batch = _one_image(loader, max_n) if unique else loader.one_batch()
    if not len(batch) or batch[0].ndim != 4:
        raise ConfigError(
            "A batch to show is (images, labels) with images (B, 3, H, W), as one_batch() returns it. "
            f"Received: {[tuple(part.shape) for part in batch]}"
        )
    decoded = decode_batch(loader, batch, max_n=max_n)
    if not show:
        return decoded
    places = image_grid(len(decoded), nrows=nrows, ncols=ncols, figsize=figsize)
    for axes, (image, *_) in zip(places, decoded, strict=False):
        image.show(ctx=axes)
    set_fitting_titles(places, [label for _, *labels in decoded for label in labels])
    return None


def _one_image(loader: DataLoader, count: int) -> tuple[Tensor, Tensor]:
    """Return the first image ``count`` times, cropped and augmented differently each time."""
    rows = rows_of(loader.loader.plan()[0][:1]) if len(loader) else loader.rows
    for batch in loader.read_plan([turns_of(rows.repeat(count))], epoch=loader.next_look()):
        return dressed(batch, table=loader.table)
    raise DataError("There is no batch to show: this loader was given no images.")


def loss_of(dls: DataLoaders) -> nn.Module:
    """Return the loss that a learner takes by default."""
    return loss_for(dls)


def add_transforms(
    dls: DataLoaders,
    transforms: Sequence[Any],
    event: str,
    *,
    loaders: Sequence[int | DataLoader] | None,
) -> None:
    """Add transforms to those of loaders, in place; see ``DataLoaders.add_tfms``."""
    if event not in ("after_item", "after_batch"):
        raise ConfigError(f"event is after_item or after_batch. Received: {event!r}")
    if event == "after_item":
        items = dls.reader.items
        sizing = [] if items.sizing is None else [items.sizing]
        pipeline = item_pipeline([*items.before, *sizing, *items.after, *transforms])
        dls.reader = ImageReader(
            resize=pipeline,
            cache=dls.cache,
            truncated=dls.reader.truncated,
            bit_depth=dls.reader.bit_depth,
        )
        for loader in dls:
            loader.loader.reader = dls.reader
        return
    old = dls.augmentation
    size = old.size if BatchAugmentation(old.transforms).size != old.size else None
    new = BatchAugmentation([*transforms_of(old), *transforms], size=size, seed=old.seed)
    for loader in dls if loaders is None else loaders:
        (dls[loader] if isinstance(loader, int) else loader).augmentation = new
    if loaders is None:
        dls.augmentation = new
