"""A description of where pictures, labels and split come from in; for each source a ``PictureTable``, and loaders, out.

The description is resolved once for each call: its functions are called then, and none of them survives in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsla.data.images.item_transforms import ItemTransforms, item_pipeline
from vizsla.data.table.blocks import BlockOrClass, CategoryBlock, ImageBlock, output_block
from vizsla.data.table.build_table import assemble_for
from vizsla.data.table.factories import BatchTransforms, LoaderOptions
from vizsla.data.table.labels import ColReader, LabelledPictures, take_labels
from vizsla.data.table.splits import RandomSplitter, Split, Splitter
from vizsla.data.table.targets import cell_labels
from vizsla.errors import ConfigError, DataError
from vizsla.text import quoted

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from vizsla.data.cache.cache import PictureCache
    from vizsla.data.images.decode import Truncated
    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.notebook.batches import Datasets
    from vizsla.types import PictureTable


@dataclass(frozen=True)
class DataBlock:
    r"""Describes how to get from a source to labelled pictures; it can be used on any number of sources.

    Args:
        blocks: What goes in and what comes out, classes or instances: ``ImageBlock``, and ``CategoryBlock``,
            ``MultiCategoryBlock`` or ``RegressionBlock``.
        dl_type: Not supported; loaders are always ours.
        getters: ``(get_x, get_y)`` in one list.
        n_inp: Number of inputs, 1.
        item_tfms: What is done to each picture: a ``Resize`` (or ``RandomResizedCrop``, ``RandomCrop``, ``CropPad``,
            ``RatioResize``), or a list of one of these and functions of uint8 ``(H, W, 3)`` arrays. Functions before it
            see the whole decoded picture, functions after it the resized one, in training and validation alike.
        batch_tfms: Augmentations, as ``aug_transforms`` gives them.
        get_items: Called with the source, returns the items; ``None`` says that the source is the items.
        splitter: Called with the items, returns the positions of the training and of the validation items; ``None`` is
            ``RandomSplitter()``.
        get_y: Called with an item, returns its label: a class, a list of classes, a number or a list of numbers.
        get_x: Called with an item, returns the path of its picture; ``None`` says that the item is the path.

    Raises:
        ConfigError: One of the arguments cannot work.

    Example:
        >>> pets = DataBlock(
        ...     blocks=(ImageBlock, CategoryBlock),
        ...     get_items=get_image_files,
        ...     splitter=RandomSplitter(seed=42),
        ...     get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
        ...     item_tfms=Resize(460),
        ...     batch_tfms=aug_transforms(size=224, min_scale=0.75),
        ... )
        >>> loaders = pets.dataloaders(Path("pets/images"))
    """

    blocks: Sequence[BlockOrClass] = (ImageBlock, CategoryBlock)
    dl_type: None = None
    getters: Sequence[Callable[[Any], Any]] | None = None
    n_inp: int = 1
    item_tfms: ItemTransforms = None
    batch_tfms: BatchTransforms = None
    _: KW_ONLY
    get_items: Callable[[Any], Any] | None = None
    splitter: Splitter | None = None
    get_y: Callable[[Any], Any] | None = None
    get_x: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None

    def __post_init__(self) -> None:
        output_block(self.blocks)
        if self.dl_type is not None:
            raise ConfigError(f"dl_type is not supported; leave it out. Received: {self.dl_type!r}")
        if self.n_inp != 1:
            raise ConfigError(
                f"n_inp is 1, the picture; other numbers of inputs are not supported. Received: {self.n_inp!r}"
            )
        if self.getters is not None and len(self.getters) != 2:
            raise ConfigError(
                f"getters needs 2 functions, one for the picture and one for the label. Received: {len(self.getters)}"
            )
        if self.getters is not None and (self.get_x is not None or self.get_y is not None):
            raise ConfigError("Give either getters or get_x and get_y, not both.")
        if isinstance(self.get_x, Sequence) and len(self.get_x) != 1:
            raise ConfigError(
                f"get_x needs 1 function, for the one input. Received: {len(self.get_x)}"
            )
        item_pipeline(self.item_tfms)

    def resolve(self, source: Any, path: Path | str = ".") -> PictureTable:
        """Return the table of a source: items listed, split and labelled, everything checked.

        Images that can be shown but not trained on (of one class only, or the same one in both sets) give a warning
        here, and the error when training begins.

        Args:
            source: What ``get_items`` is called with, or the items: a list of paths, a DataFrame.
            path: Folder that paths are shown relative to, where the source is no folder.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
        """
        items: Any = source if self.get_items is None else self.get_items(source)
        if isinstance(items, str | Path):
            raise ConfigError(
                f"A source must be a list of items when there is no get_items. Received: {quoted(items)}. "
                "Add get_items=get_image_files."
            )
        is_frame = hasattr(items, "iterrows")
        items = items if is_frame else list(items)
        if not len(items):
            where = "The source" if self.get_items is None else "get_items"
            raise DataError(
                f"{where} gives no items. Received the source {source!r}. Check the path."
            )
        splitter = RandomSplitter() if self.splitter is None else self.splitter
        train, valid = checked_split(splitter(items), len(items))
        used = sorted({*train, *valid})
        position_of = {item: position for position, item in enumerate(used)}
        chosen = items.iloc[used] if is_frame else [items[position] for position in used]
        get_x, get_y = self._getters()
        found, labels = _read_all(chosen, get_x, get_y)
        block = output_block(self.blocks)
        names: Sequence[str] = ()
        if isinstance(get_y, ColReader):
            names = _column_names(get_y, items if is_frame else None)
            labels = cell_labels(block, labels)
        is_folder = isinstance(source, str | Path) and Path(source).is_dir()
        return assemble_for(
            block,
            LabelledPictures(
                root=Path(source if is_folder else path),
                paths=tuple(map(_as_path, found)),
                labels=labels,
                row_word="row" if is_frame else "" if is_folder else "item",
                row_numbers=tuple(used),
                advice="Labels are what get_y returns.",
                before_training=False,
            ),
            train=[position_of[item] for item in train],
            valid=[position_of[item] for item in valid],
            names=names,
        )

    def dataloaders(
        self,
        source: Any,
        path: Path | str = ".",
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        num_workers: int | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        cache: PictureCache | None = None,
        truncated: Truncated = "strict",
        balanced: bool = False,
    ) -> DataLoaders:
        """Return the loaders of a source.

        Args:
            source: See ``resolve``.
            path: See ``resolve``.
            bs: Pictures in a training batch.
            val_bs: Pictures in a validation batch; ``None`` is ``bs``.
            shuffle: Training pictures are always shuffled; only ``True`` is accepted.
            num_workers: Threads that read ahead; ``None`` is one for each core.
            device: Where batches go; ``None`` is the best there is.
            seed: Of shuffling, crops and augmentation.
            cache: Keeps decoded pictures; ``None`` is a new one with the default budget.
            truncated: ``"ok"`` takes what is there of JPEGs that end too early; ``"strict"`` refuses them.
            balanced: Draw training pictures so that all classes come up equally often.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
            ConfigError: One of the arguments cannot work.
        """
        options = LoaderOptions(
            item_tfms=self.item_tfms,
            batch_tfms=self.batch_tfms,
            bs=bs,
            val_bs=val_bs,
            shuffle=shuffle,
            num_workers=num_workers,
            device=device,
            seed=seed,
            cache=cache,
            truncated=truncated,
            balanced=balanced,
        )
        loaders = options.loaders_of(self.resolve(source, path))
        loaders.getters = self._getters()
        return loaders

    def new(
        self,
        item_tfms: ItemTransforms = None,
        batch_tfms: BatchTransforms = None,
    ) -> DataBlock:
        """Return the same description with other transforms; ``None`` keeps those that are there."""
        return replace(
            self,
            item_tfms=self.item_tfms if item_tfms is None else item_tfms,
            batch_tfms=self.batch_tfms if batch_tfms is None else batch_tfms,
        )

    def datasets(self, source: Any, path: Path | str = ".") -> Datasets:
        """Return the images of a source with their labels, split, before any transform.

        Args:
            source: See ``resolve``.
            path: See ``resolve``.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
        """
        from vizsla.notebook.batches import Datasets

        return Datasets(self.resolve(source, path))

    def summary(
        self, source: Any, bs: int = 4, show_batch: bool = False, path: Path | str = "."
    ) -> None:
        """Print what happens to the images of a source on their way into a batch, stage by stage.

        One image is followed through everything that is done to it, then a small batch. Where the images do not make a
        batch, the last lines say why and what to add.

        Args:
            source: See ``resolve``.
            bs: Images in the batch; the first training images, fewer where there are fewer.
            show_batch: Draw it, too.
            path: See ``resolve``.

        Raises:
            DataError: Something is wrong with the data; everything that was found is in the message.
            CollateError: The images have different sizes.
        """
        from vizsla.notebook.summary import summarise_block

        loaders = summarise_block(self, source, getters=self._getters(), bs=bs, path=path)
        if show_batch:
            loaders.show_batch(max_n=bs)

    def _getters(self) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any]]:
        if self.getters is not None:
            return self.getters[0], self.getters[1]
        if self.get_y is None:
            raise ConfigError(
                "The DataBlock has no get_y, so nothing says what the label of a picture is. "
                "Add for example get_y=parent_label."
            )
        return (self.get_x[0] if isinstance(self.get_x, Sequence) else self.get_x), self.get_y


def checked_split(split: Any, num_items: int) -> Split:
    """Return the positions that a splitter returned as lists of ints.

    Raises:
        ConfigError: There are not two sets, a position has no item, or an item is in both sets.
    """
    sets = [[int(position) for position in positions] for positions in split]
    if len(sets) != 2:
        raise ConfigError(
            f"A splitter returns two lists of positions, for training and for validation. Received: {len(sets)} lists"
        )
    train, valid = sets
    outside = [position for position in (*train, *valid) if not 0 <= position < num_items]
    if outside:
        raise ConfigError(
            f"The splitter returned position {outside[0]}; there are {num_items} items, from 0 to {num_items - 1}."
        )
    both = sorted(set(train) & set(valid))
    if both:
        raise ConfigError(
            f"The splitter put {len(both)} items into training and into validation, the first at position {both[0]}. "
            "The validation result would be worth nothing; put each item into one of them."
        )
    return train, valid


def _read_all(
    chosen: Any, get_x: Callable[[Any], Any] | None, get_y: Callable[[Any], Any]
) -> tuple[list[Any], tuple[Any, ...]]:
    """Return the pictures and the labels of items, which are a list or a DataFrame."""
    if not hasattr(chosen, "iterrows"):
        pictures = list(chosen) if get_x is None else [get_x(item) for item in chosen]
        return pictures, take_labels(chosen, get_y)
    columns_only = isinstance(get_x, ColReader) and isinstance(get_y, ColReader)
    # A Series for each row takes 100 times as long as reading whole columns: only where a function wants to see one.
    rows = [] if columns_only else [row for _, row in chosen.iterrows()]
    if isinstance(get_x, ColReader):
        pictures = get_x.read_frame(chosen)
    else:
        pictures = rows if get_x is None else [get_x(row) for row in rows]
    if isinstance(get_y, ColReader):
        return pictures, tuple(get_y.read_frame(chosen))
    return pictures, take_labels(rows, get_y)


def _column_names(reader: ColReader, frame: pd.DataFrame | None) -> list[str]:
    columns = [reader.cols] if isinstance(reader.cols, str | int) else reader.cols
    by_position = [] if frame is None else list(frame.columns)
    return [
        str(by_position[column]) if isinstance(column, int) and by_position else str(column)
        for column in columns
    ]


def _as_path(item: Any) -> Path:
    if isinstance(item, str | Path):
        return item if isinstance(item, Path) else Path(item)
    raise ConfigError(
        f"A picture is given by its path. Received: {type(item).__name__} {item!r:.80}. "
        "Give a get_x that returns the path of an item."
    )
