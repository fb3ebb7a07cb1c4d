"""ImageDataLoaders: loaders of a folder, a list, a CSV file or a DataFrame of images in one call each."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vizsla.data.loading.dataloaders import DataLoaders, LoaderOptions, check_loader_options
from vizsla.data.table.block import (
    CategoryBlock,
    block_for_columns,
    block_for_labels,
    fixed_images,
    item_labeller,
)
from vizsla.data.table.labels import (
    FOLDER_ADVICE,
    ColReader,
    LabelledImages,
    RegexLabeller,
    folder_label,
    folder_labels,
    using_attr,
)
from vizsla.data.table.layout import layout_of
from vizsla.data.table.sources import list_images
from vizsla.data.table.splits import RandomSplitter, positions_of
from vizsla.data.table.tables import (
    images_of_table,
    listed_images,
    read_table,
    table_of_frame,
)
from vizsla.errors import ConfigError, DataError
from vizsla.text import quoted

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence
    from typing import Unpack

    import pandas as pd

    from vizsla.data.images.item_transforms import ItemTransforms
    from vizsla.data.loading.dataloaders import BatchTransforms
    from vizsla.data.table.block import OutputBlock, OutputBlockOrClass
    from vizsla.data.table.fixes import Fixes
    from vizsla.data.table.tables import Table


class FactoryOptions(LoaderOptions, total=False):
    """Options of every method of ``ImageDataLoaders``: those of loaders, and what is to be changed of the data.

    Attributes:
        fixes: As ``DataBlock`` takes them.
        new_classes: As ``DataBlock`` takes it.
    """

    fixes: Fixes
    new_classes: bool


class ImageDataLoaders:
    """Makes ``DataLoaders`` of images whose labels are classes, lists of classes, or numbers.

    Arguments that all methods share:
        path: Folder of the images; their paths are shown relative to it.
        valid_pct: Share of the images to hold out, drawn at random.
        seed: Makes the split repeatable (``None``: a new one each time); also decides shuffling and augmentation.
        item_tfms: A ``Resize``, or a list with one.
        batch_tfms: Augmentations, as ``aug_transforms`` gives them.
        **options: ``bs``, ``val_bs``, ``num_workers``, ``device`` and the others of ``LoaderOptions``; and ``fixes``, a file of
            fixes or what ``read_fixes`` returns (``new_classes=True`` lets them name classes that the data does not have).

    All raise ``DataError`` listing every problem of the data, and ``ConfigError`` for an argument that cannot work. Labels
    are classes, one for each image, unless a method says otherwise; ``y_block`` is the block to use instead:
    ``MultiCategoryBlock`` for several labels, ``RegressionBlock`` for numbers, or one of them with arguments.

    Examples:
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
        label_level: int | None = None,
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take labels from the names of the images' folders.

        The sub-folders ``train`` and ``valid`` are the two sets; with ``valid_pct`` all images below ``path`` are split
        at random instead, which is refused if the folders are already a split. ``vocab`` gives the classes in their
        order; ``None`` takes those of the training images, sorted. A folder without sub-folders is a single class: its
        images can be shown but not trained on, and a warning says so. ``label_level`` is the level of folders that names
        the class, counted from 1 below the sets; ``None`` takes the only possible one.
        """
        check_loader_options(options, item_tfms, known=FactoryOptions)
        root = Path(path)
        if valid_pct is None:
            bases = (root / train, root / valid)
            listing = list_images(root, folders=(train, valid))
            inside = [Path(folder).is_relative_to(root / train) for folder in listing.paths.folders]
            in_train = [inside[number] for number in listing.paths.folder_numbers]
            splits = ["train" if is_inside else "valid" for is_inside in in_train]
        else:
            bases, splits, listing = (root,), None, list_images(root)
        if listing.parts:
            raise DataError(
                f"{quoted(path)} holds images in rows, whose labels are in a column, and from_folder takes them from folders. Use "
                "vizsla.data.table.resolve_data, or vizsla train."
            )
        layout = layout_of(listing.paths, bases, label_level=label_level)
        classes, notes = layout.classes, layout.notes
        is_flat = not any(classes) and layout.splits is None and label_level is None
        if is_flat and valid_pct is not None:
            classes = (root.resolve().name,) * len(classes)
            notes = (
                *notes,
                f"no folders in {quoted(root)}: all images have the class {classes[0]!r}",
            )
        if layout.splits is not None and valid_pct is not None:
            raise ConfigError(
                f"The folders of {quoted(root)} are a split already ({layout.notes[-1]}). Received: "
                f"valid_pct={valid_pct}. Leave valid_pct out and name the folders: train=FOLDER, valid=FOLDER."
            )
        images = LabelledImages(
            root=root,
            paths=listing.paths,
            in_doubt=listing.in_doubt,
            labels=folder_labels(listing.paths, classes),
            advice=FOLDER_ADVICE,
            notes=(*listing.notes, *notes),
            before_training=not is_flat,
        )
        block = CategoryBlock(vocab=vocab)
        loaders = _loaders(images, block, splits, valid_pct, seed, item_tfms, batch_tfms, options)
        loaders.getters = (None, partial(folder_label, root=root, vocab=loaders.table.vocab))
        return loaders

    @staticmethod
    def from_path_func(
        path: Path | str,
        fnames: Sequence[Path | str],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take labels from a function of the path.

        ``label_func`` is called with the ``Path`` of each of ``fnames``. Names that do not exist as given are looked for
        below ``path``.
        """
        check_loader_options(options, item_tfms, known=FactoryOptions)
        images = listed_images(path, fnames, label_func)
        block = CategoryBlock()
        loaders = _loaders(images, block, None, valid_pct, seed, item_tfms, batch_tfms, options)
        loaders.getters = (None, lambda item: label_func(Path(item)))
        return loaders

    @staticmethod
    def from_name_func(
        path: Path | str,
        fnames: Sequence[Path | str],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take labels from a function of the file name.

        ``label_func`` is called with the name of each of ``fnames``, without its folder.
        """
        labeller = using_attr(label_func, "name")
        return ImageDataLoaders.from_path_func(
            path, fnames, labeller, valid_pct, seed, item_tfms, batch_tfms, **options
        )

    @staticmethod
    def from_path_re(
        path: Path | str,
        fnames: Sequence[Path | str],
        pat: str | re.Pattern[str],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take labels from the path by a regular expression.

        ``pat`` is searched for in the whole path of each of ``fnames``, with ``/`` between folders; its first group is the
        label.
        """
        labeller = RegexLabeller(pat)
        return ImageDataLoaders.from_path_func(
            path, fnames, labeller, valid_pct, seed, item_tfms, batch_tfms, **options
        )

    @staticmethod
    def from_name_re(
        path: Path | str,
        fnames: Sequence[Path | str],
        pat: str | re.Pattern[str],
        valid_pct: float = 0.2,
        seed: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take labels from the file name by a regular expression.

        ``pat`` is searched in the name of each of ``fnames``, without its folder; its first group is the label.
        """
        labeller = using_attr(RegexLabeller(pat), "name")
        return ImageDataLoaders.from_path_func(
            path, fnames, labeller, valid_pct, seed, item_tfms, batch_tfms, **options
        )

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
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take the labels of ``fnames`` from a list, ``labels``, in the same order.

        Labels that are lists are several labels, decimal numbers are numbers to predict; ``y_block`` decides otherwise.
        """
        check_loader_options(options, item_tfms, known=FactoryOptions)
        block = block_for_labels(labels, y_block)
        images = listed_images(path, fnames, labels)
        return _loaders(images, block, None, valid_pct, seed, item_tfms, batch_tfms, options)

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
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take images and labels from the columns of a DataFrame.

        ``fn_col`` and ``label_col`` are the columns of the image's path and label, by name or position. An image's file is
        ``path`` / ``folder`` / value + ``suff``. ``valid_col`` is true for validation and replaces ``valid_pct``. With
        several ``label_col``, or with a ``label_delim`` between the labels of a cell, an image has several labels.
        """
        check_loader_options(options, item_tfms, known=FactoryOptions)
        return _of_columns(
            table_of_frame(df),
            path, valid_pct, seed, fn_col, folder, suff, label_col, label_delim, y_block, valid_col,
            item_tfms, batch_tfms, options,
        )  # fmt: skip

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
        **options: Unpack[FactoryOptions],
    ) -> DataLoaders:
        """Take images and labels from the columns of a CSV file, as ``from_df`` takes them from a DataFrame.

        The file ``csv_fname`` lies in ``path``; ``header``, ``delimiter`` and ``quoting`` are those of ``read_table``.
        """
        check_loader_options(options, item_tfms, known=FactoryOptions)
        file = Path(path) / csv_fname
        return _of_columns(
            read_table(file, header=header, delimiter=delimiter, quoting=quoting),
            path, valid_pct, seed, fn_col, folder, suff, label_col, label_delim, y_block, valid_col,
            item_tfms, batch_tfms, options,
        )  # fmt: skip


def _of_columns(
    cells: Table,
    path: Path | str,
    valid_pct: float,
    seed: int | None,
    fn_col: str | int,
    folder: Path | str | None,
    suff: str,
    label_col: str | int | Sequence[str | int],
    label_delim: str | None,
    y_block: OutputBlockOrClass | None,
    valid_col: str | int | None,
    item_tfms: ItemTransforms,
    batch_tfms: BatchTransforms,
    options: FactoryOptions,
) -> DataLoaders:
    block = block_for_columns(label_col, label_delim, y_block)
    file_of = ColReader(fn_col, pref=Path(path, folder or ""), suff=suff)
    images, splits = images_of_table(
        cells,
        folder=Path(path),
        image=fn_col,
        label=label_col,
        split=valid_col,
        locate=lambda names: [Path(path, folder or "", f"{name}{suff}") for name in names],
        delimiter=label_delim,
    )
    loaders = _loaders(images, block, splits, valid_pct, seed, item_tfms, batch_tfms, options)
    _, known_label = loaders.getters
    in_cells = item_labeller(
        block, ColReader(label_col, label_delim=label_delim), loaders.table.vocab
    )
    loaders.getters = (
        lambda item: item if isinstance(item, str | Path) else file_of(item),
        lambda item: known_label(item) if isinstance(item, str | Path) else _clean(in_cells(item)),
    )
    return loaders


def _clean(label: Any) -> Any:
    """Return the label in a cell, or in several, as ``images_of_table`` reads it."""
    if isinstance(label, list):
        return [
            one for each in label for one in (each if isinstance(each, list) else [_clean(each)])
        ]
    return label.strip() if isinstance(label, str) else label


def _loaders(
    images: LabelledImages,
    block: OutputBlock,
    splits: Sequence[str] | None,
    valid_pct: float | None,
    seed: int | None,
    item_tfms: ItemTransforms,
    batch_tfms: BatchTransforms,
    options: FactoryOptions,
) -> DataLoaders:
    """Return loaders of images that are split at random, or as ``splits`` says: ``train`` or ``valid`` for each."""
    if splits is None:
        train, valid = RandomSplitter(valid_pct or 0, seed)(images.paths)
    else:
        train, valid = positions_of(splits, "train"), positions_of(splits, "valid")
    images = replace(images, train=train, valid=valid, by_chance=splits is None)
    fixes, new_classes = options.pop("fixes", None), options.pop("new_classes", False)
    images, dropped = fixed_images(images, block, fixes, new_classes=new_classes)
    table = block.table(images.without(dropped))
    return DataLoaders.from_table(table, item_tfms, batch_tfms, seed=seed or 0, **options)
