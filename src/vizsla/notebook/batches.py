"""What a notebook shows of data loaders: batches that print their kind, and grids of labelled images.

Training reads plain tensors (``DataLoader.batches``). Only what a person asks for (``one_batch``, iteration, ``show_batch``) comes
as ``TensorImage`` and ``TensorCategory``. Shapes: B images of H x W pixels.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import BatchAugmentation
from vizsla.data.images.item_transforms import Grey, item_pipeline
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.order import rows_of, turns_of
from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.plots import image_grid, set_fitting_titles
from vizsla.lists import L
from vizsla.models.classifier import in_grey
from vizsla.notebook.summary import transforms_of
from vizsla.notebook.tensors import TensorImage, as_target
from vizsla.train.losses import loss_for
from vizsla.types import is_labelled, label_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from vizsla.data.loading.dataloaders import DataLoader, DataLoaders
    from vizsla.types import Batch


def dressed(batch: Batch, *, loader: DataLoader) -> tuple[Tensor, Tensor]:
    """Return images and targets of a batch as tensors that print their kind; images alone where no label is known."""
    images = TensorImage(in_grey(batch.images) if loader.loader.reader.items.grey else batch.images)
    if not bool(is_labelled(batch.targets).any()):
        return (images,)  # pyright: ignore[reportReturnType] (nothing to unpack, as in fastai)
    return images, as_target(batch.targets, task=loader.table.task)


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
            f"get_idxs must return positions of the {loader.n} images, from 0 to {loader.n - 1}. Received: "
            f"{outside[0]}"
        )
    return torch.split(turns_of(loader.rows[places]), loader.bs)


def as_bytes(images: Tensor) -> TensorImage:
    """Return images, float 0-1 or uint8, as ``TensorImage`` uint8."""
    images = images.detach().as_subclass(Tensor)
    if images.is_floating_point():
        images = (images.clamp(0, 1) * 255).to(torch.uint8)
    return TensorImage(images)


def decode_batch(loader: DataLoader, batch: Sequence[Tensor], *, max_n: int) -> L[Any]:
    """Return (``TensorImage`` uint8 ``(3, H, W)``, label in words) of each image of a batch."""
    shown = [TensorImage(image) for image in as_bytes(batch[0][:max_n]).cpu()]
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
        return dressed(batch, loader=loader)
    raise DataError("There is no batch to show: this loader has no images.")


def loss_of(dls: DataLoaders) -> nn.Module:
    """Return the loss that a learner takes by default."""
    return loss_for(dls)


def with_items(reader: ImageReader, transforms: Sequence[Any]) -> ImageReader:
    """Return a reader that does more to each image."""
    items = reader.items
    sizing = [] if items.sizing is None else [items.sizing]
    grey = [Grey()] if items.grey else []
    return ImageReader(
        resize=item_pipeline([*grey, *items.before, *sizing, *items.after, *transforms]),
        cache=reader.cache,
        truncated=reader.truncated,
        bit_depth=reader.bit_depth,
    )


def with_batch_transforms(old: BatchAugmentation, transforms: Sequence[Any]) -> BatchAugmentation:
    """Return an augmentation that does more to each batch."""
    size = old.size if BatchAugmentation(old.transforms).size != old.size else None
    return BatchAugmentation([*transforms_of(old), *transforms], size=size, seed=old.seed)


def add_transforms(
    dls: DataLoaders,
    transforms: Sequence[Any],
    event: str,
    *,
    loaders: Sequence[int | DataLoader] | None,
) -> None:
    """Add transforms to those of loaders, in place; see ``DataLoaders.add_tfms``."""
    if event not in ("after_item", "after_batch"):
        raise ConfigError(f"event must be after_item or after_batch. Received: {event!r}")
    if event == "after_item":
        dls.reader = with_items(dls.reader, transforms)
        for loader in dls:
            loader.loader.reader = dls.reader
        return
    new = with_batch_transforms(dls.augmentation, transforms)
    for loader in dls if loaders is None else loaders:
        (dls[loader] if isinstance(loader, int) else loader).augmentation = new
    if loaders is None:
        dls.augmentation = new
