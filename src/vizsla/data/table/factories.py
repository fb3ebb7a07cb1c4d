"""A folder, list, CSV file or DataFrame in, ``DataLoaders`` out: the common cases in one call each.

How loaders shall be made, and pictures with labels, in; loaders out. For blocks and factories alike.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vizsla.augment.batch_augmentation import BatchTransform
from vizsla.data.images.item_transforms import ItemTransforms, item_pipeline
from vizsla.data.loading.dataloaders import DataLoaders
from vizsla.data.table.blocks import CategoryBlock, OutputBlock, block_for_columns, block_for_labels
from vizsla.data.table.build_table import assemble_for, assemble_table
from vizsla.data.table.from_words import FOLDER_ADVICE, folder_labels
from vizsla.data.table.labels import LabelledPictures, RegexLabeller, using_attr
from vizsla.data.table.sources import list_pictures
from vizsla.data.table.splits import RandomSplitter
from vizsla.data.table.tables import (
    listed_pictures,
    paths_below,
    pictures_of_table,
    positions_of,
    read_table,
    table_of_frame,
)
from vizsla.data.table.targets import cell_labels
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    import re

    import pandas as pd
    import torch

    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.images.decode import Truncated
    from vizsla.data.table.blocks import OutputBlockOrClass
    from vizsla.data.table.tables import Table
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


BY_FUNCTION = "Labels are what label_func returns."


class ImageDataLoaders:
    """Makes ``DataLoaders`` of pictures whose labels are classes, lists of classes, or numbers.

    Arguments that all methods share:
        path: Folder that the pictures lie in, and that their paths are shown relative to.
        valid_pct: Part of the pictures to hold out, drawn at random.
        seed: Makes the split repeatable (``None``: another one each time); also that of shuffling and augmentation.
        item_tfms: A ``Resize``, or a list with one.
        batch_tfms: Augmentations, as ``aug_transforms`` gives them.
        bs: Pictures in a training batch.
        val_bs: Pictures in a validation batch; ``None`` is ``bs``.
        shuffle: Training pictures are always shuffled; only ``True`` is accepted.
        device: Where batches go; ``None`` is the best there is.
        num_workers: Threads that read ahead; ``None`` is one for each core.

    All raise ``DataError`` with everything that is wrong with the data, and ``ConfigError`` for an argument that cannot
    work. Labels are classes, one for each picture, unless a method says otherwise; ``y_block`` is the block to use instead:
    ``MultiCategoryBlock`` for several labels, ``RegressionBlock`` for numbers, or one of them with arguments.

    Example:
        >>> loaders = ImageDataLoaders.from_folder("dogscats", item_tfms=Resize(224))
    """

    @staticmethod
    def from_folder(
        path: Path | str,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int | None = None,
        vocab: Sequence[str] | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take labels from the names of the folders that pictures lie in.

        The sub-folders ``train`` and ``valid`` are the two sets; with ``valid_pct`` all pictures below ``path`` are split
        at random instead. ``vocab`` gives the classes in their order; ``None`` takes those of the training pictures, sorted.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        root = Path(path)
        if valid_pct is None:
            listing = list_pictures(root, folders=(train, valid))
            inside = [Path(folder).is_relative_to(root / train) for folder in listing.paths.folders]
            numbers = listing.paths.folder_numbers
            train_rows = [row for row, number in enumerate(numbers) if inside[number]]
            valid_rows = [row for row, number in enumerate(numbers) if not inside[number]]
        else:
            listing = list_pictures(root)
            train_rows, valid_rows = RandomSplitter(valid_pct, seed)(listing.paths)
        loose = {root} if valid_pct is not None else {root / train, root / valid}
        pictures = LabelledPictures(
            root=root,
            paths=listing.paths,
            in_doubt=listing.in_doubt,
            labels=folder_labels(listing.paths, loose=loose),
            advice=FOLDER_ADVICE,
        )
        table = assemble_table(pictures, train=train_rows, valid=valid_rows, vocab=vocab)
        return options.loaders_of(table)

    @staticmethod
    def from_path_func(
        path: Path | str,
        fnames: Sequence[Path | str],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take labels from a function of the path.

        ``label_func`` is called with the ``Path`` of each of ``fnames``. Names that do not exist as given are looked for
        below ``path``.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        pictures = listed_pictures(path, fnames, label_func, advice=BY_FUNCTION)
        return loaders_of_pictures(pictures, options, valid_pct=valid_pct, seed=seed)

    @staticmethod
    def from_name_func(
        path: Path | str,
        fnames: Sequence[Path | str],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take labels from a function of the file name.

        ``label_func`` is called with the name of each of ``fnames``, without its folder.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        pictures = listed_pictures(path, fnames, using_attr(label_func, "name"), advice=BY_FUNCTION)
        return loaders_of_pictures(pictures, options, valid_pct=valid_pct, seed=seed)

    @staticmethod
    def from_path_re(
        path: Path | str,
        fnames: Sequence[Path | str],
        pat: str | re.Pattern[str],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take labels from the path by a regular expression.

        ``pat`` is searched in the whole path of each of ``fnames``, with ``/`` between folders; its first group is the label.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        pictures = listed_pictures(
            path, fnames, RegexLabeller(pat), advice=f"Labels are taken from the path by {pat!r}."
        )
        return loaders_of_pictures(pictures, options, valid_pct=valid_pct, seed=seed)

    @staticmethod
    def from_name_re(
        path: Path | str,
        fnames: Sequence[Path | str],
        pat: str | re.Pattern[str],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take labels from the file name by a regular expression.

        ``pat`` is searched in the name of each of ``fnames``, without its folder; its first group is the label.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        pictures = listed_pictures(
            path,
            fnames,
            using_attr(RegexLabeller(pat), "name"),
            advice=f"Labels are taken from the file name by {pat!r}.",
        )
        return loaders_of_pictures(pictures, options, valid_pct=valid_pct, seed=seed)

    @staticmethod
    def from_lists(
        path: Path | str,
        fnames: Sequence[Path | str],
        labels: Sequence[Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        y_block: OutputBlockOrClass | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take the labels of ``fnames`` from a list, ``labels``, in the same order.

        Labels that are lists are several labels, decimal numbers are numbers to predict; ``y_block`` decides otherwise.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        block = block_for_labels(labels, y_block)
        pictures = listed_pictures(path, fnames, labels, advice="Labels are given as a list.")
        return loaders_of_pictures(pictures, options, valid_pct=valid_pct, seed=seed, block=block)

    @staticmethod
    def from_df(
        df: pd.DataFrame,
        path: Path | str = ".",
        valid_pct: float = 0.2,
        seed: int | None = None,
        fn_col: str | int = 0,
        folder: Path | str | None = None,
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: OutputBlockOrClass | None = None,
        valid_col: str | int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take pictures and labels from the columns of a DataFrame.

        ``fn_col`` and ``label_col`` are the columns of the picture's path and label, by name or position. A picture's file is
        ``path`` / ``folder`` / value + ``suff``. ``valid_col`` is true for validation and takes the place of ``valid_pct``.
        With several ``label_col`` or with a ``label_delim`` between the labels of a cell a picture has several labels.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        return loaders_of_table(
            table_of_frame(df),
            options,
            folder=Path(path),
            image=fn_col,
            label=label_col,
            split=valid_col,
            locate=partial(paths_below, Path(path) / (folder or ""), suffix=suff),
            delimiter=label_delim,
            block=block_for_columns(label_col, label_delim, y_block),
            valid_pct=valid_pct,
            seed=seed,
        )

    @staticmethod
    def from_csv(
        path: Path | str,
        csv_fname: Path | str = "labels.csv",
        header: Literal["infer"] | int | None = "infer",
        delimiter: str | None = None,
        quoting: int = csv.QUOTE_MINIMAL,
        valid_pct: float = 0.2,
        seed: int | None = None,
        fn_col: str | int = 0,
        folder: Path | str | None = None,
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: OutputBlockOrClass | None = None,
        valid_col: str | int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        device: str | torch.device | None = None,
        num_workers: int | None = None,
    ) -> DataLoaders:
        """Take pictures and labels from the columns of a CSV file.

        The file ``csv_fname`` lies in ``path``; ``header``, ``delimiter`` and ``quoting`` are those of ``read_table``.
        ``fn_col`` and ``label_col`` are the columns of the picture's path and label, by name or position. A picture's file is
        ``path`` / ``folder`` / value + ``suff``. ``valid_col`` is true for validation and takes the place of ``valid_pct``.
        With several ``label_col`` or with a ``label_delim`` between the labels of a cell a picture has several labels.
        """
        options = LoaderOptions(
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed or 0,
        )
        return loaders_of_table(
            read_table(Path(path) / csv_fname, header=header, delimiter=delimiter, quoting=quoting),
            options,
            folder=Path(path),
            image=fn_col,
            label=label_col,
            split=valid_col,
            locate=partial(paths_below, Path(path) / (folder or ""), suffix=suff),
            delimiter=label_delim,
            block=block_for_columns(label_col, label_delim, y_block),
            valid_pct=valid_pct,
            seed=seed,
        )
