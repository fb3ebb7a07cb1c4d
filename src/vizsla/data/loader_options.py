"""How loaders shall be made, and pictures with labels, in; loaders out. For blocks and factories alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vizsla.augment.policy import BatchTransform
from vizsla.data.assemble import assemble_for
from vizsla.data.blocks import CategoryBlock, OutputBlock
from vizsla.data.dataloaders import DataLoaders
from vizsla.data.item_transforms import ItemTransforms, item_pipeline
from vizsla.data.listings import pictures_of_table, positions_of
from vizsla.data.splits import RandomSplitter
from vizsla.data.targets import cell_labels
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vizsla.data.cache import PictureCache
    from vizsla.data.decode import Truncated
    from vizsla.data.labels import LabelledPictures
    from vizsla.data.tables import Table
    from vizsla.types import PictureTable

BatchTransforms = BatchTransform | Sequence[BatchTransform] | None
BY_CLASS = CategoryBlock()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderOptions:
    """How loaders are made of a table.

    Attributes:
        item_tfms: See ``DataBlock``.
        batch_tfms: Augmentations.
        bs: Pictures in a training batch.
        val_bs: Pictures in a validation batch; ``None`` is ``bs``.
        shuffle: Training pictures are always shuffled; only ``True`` is accepted.
        num_workers: Threads that read ahead; ``None`` is one for each core.
        device: Where batches go; ``None`` is the best there is.
        seed: Of shuffling, crops and augmentation.
        cache: Keeps decoded pictures; ``None`` is a new one with the default budget.
        truncated: What to do about JPEGs that end too early, see ``DataLoaders``.
        balanced: Draw classes equally often, see ``DataLoaders``.

    Raises:
        ConfigError: One of them cannot work.
    """

    item_tfms: ItemTransforms
    batch_tfms: BatchTransforms
    bs: int
    val_bs: int | None
    shuffle: bool
    num_workers: int | None
    device: str | torch.device | None
    seed: int = 0
    cache: PictureCache | None = None
    truncated: Truncated = "strict"
    balanced: bool = False

    def __post_init__(self) -> None:
        item_pipeline(self.item_tfms)
        if self.shuffle is not True:
            raise ConfigError(
                "Training pictures are always shuffled, in an order that follows from the seed. "
                f"Received: shuffle={self.shuffle!r}. Leave it out; for a fixed order use the validation loader."
            )

    def loaders_of(self, table: PictureTable) -> DataLoaders:
        """Return the loaders of a table."""
        found = (
            list(self.batch_tfms) if isinstance(self.batch_tfms, Sequence) else [self.batch_tfms]
        )
        return DataLoaders(
            table,
            resize=self.item_tfms,
            transforms=[transform for transform in found if transform is not None],
            batch_size=self.bs,
            valid_batch_size=self.val_bs,
            seed=self.seed,
            num_workers=self.num_workers,
            device=self.device,
            cache=self.cache,
            truncated=self.truncated,
            balanced=self.balanced,
        )


def loaders_of_table(
    table: Table,
    options: LoaderOptions,
    *,
    folder: Path,
    image: str | int,
    label: str | int | Sequence[str | int],
    split: str | int | None,
    locate: Callable[[Sequence[Any]], Sequence[Path]],
    delimiter: str | None,
    block: OutputBlock,
    valid_pct: float,
    seed: int | None,
) -> DataLoaders:
    """Return the loaders of the pictures of a table.

    Args:
        table: One row for each picture.
        options: How the loaders are made.
        folder: See ``pictures_of_table``, as for ``image``, ``label``, ``split``, ``locate`` and ``delimiter``.
        image: Column of the picture's name.
        label: Column of its label, or several.
        split: Column that says which set it belongs to; ``None`` draws the sets.
        locate: Returns the paths of names.
        delimiter: What stands between the labels of one cell.
        block: Says what the labels are.
        valid_pct: Part of the pictures to hold out, where they are drawn.
        seed: Of the draw.

    Raises:
        DataError: Something is wrong with the data.
    """
    pictures, splits = pictures_of_table(
        table,
        folder=folder,
        image=image,
        label=label,
        split=split,
        locate=locate,
        delimiter=delimiter,
    )
    columns = [label] if isinstance(label, str | int) else label
    return loaders_of_pictures(
        replace(pictures, labels=cell_labels(block, pictures.labels)),
        options,
        valid_pct=valid_pct,
        seed=seed,
        splits=splits,
        block=block,
        names=[table.columns[table.position(column)] for column in columns],
    )


def loaders_of_pictures(
    pictures: LabelledPictures,
    options: LoaderOptions,
    *,
    valid_pct: float,
    seed: int | None,
    splits: Sequence[str] | None = None,
    block: OutputBlock = BY_CLASS,
    names: Sequence[str] = (),
) -> DataLoaders:
    """Return the loaders of labelled pictures.

    Args:
        pictures: Pictures and labels as found.
        options: How the loaders are made.
        valid_pct: Part of the pictures to hold out, where they are drawn.
        seed: Of the draw.
        splits: ``"train"``, ``"valid"`` or another word for each picture; ``None`` draws the sets.
        block: Says what the labels are.
        names: Of the columns that the labels stand in.

    Raises:
        DataError: Something is wrong with the data.
    """
    if splits is None:
        train, valid = RandomSplitter(valid_pct, seed)(pictures.paths)
    else:
        train, valid = positions_of("train", splits), positions_of("valid", splits)
    table = assemble_for(block, pictures, train=train, valid=valid, names=names)
    return options.loaders_of(table)
