"""Datasets and TfmdLists: items passed through transforms when they are looked at, and the table that training reads instead.

Labels are data: ``Datasets.dataloaders`` resolves the items once, with a ``DataBlock``, and no function that made a label or a
path is called again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from vizsla.data.images.decode import decode_image
from vizsla.data.loading.dataloaders import DataLoaders, LoaderOptions
from vizsla.data.table.block import (
    DataBlock,
    as_list,
    check_loader_type,
    composed,
    image_steps,
    label_steps,
)
from vizsla.data.table.labels import CategoryMap
from vizsla.errors import ConfigError
from vizsla.lists import L, collection_text
from vizsla.notebook.images import PILImage
from vizsla.notebook.tensors import as_target
from vizsla.notebook.transforms import Category, MultiCategory, Pipeline, Transform
from vizsla.paths import ImagePaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

    from vizsla.types import ImageTable, Task


class TfmdLists:
    """Items that are transformed when they are accessed.

    Args:
        items: A list, an array, a tensor, or a DataFrame, whose rows are the items.
        tfms: Transforms and functions, as ``Pipeline`` takes them.
        splits: Positions (or masks) of the items of each set: training, then validation. ``None``: all are for training.
        split_idx: The set that all items belong to, see ``Transform``.
        do_setup: Whether transforms see the items first: ``Categorize`` collects the classes.
        train_setup: Whether they look at the items for training only.
        dl_type: Not supported; loaders are always ours.

    Examples:
        >>> TfmdLists([Path("beagle/1.jpg"), Path("pug/2.jpg")], [parent_label, Categorize()])[1]
        TensorCategory(1)
    """

    def __init__(
        self,
        items: Any,
        tfms: Any = None,
        *,
        splits: Any = None,
        split_idx: int | None = None,
        do_setup: bool = True,
        train_setup: bool = True,
        dl_type: Any = None,
    ) -> None:
        check_loader_type(dl_type)
        kept = hasattr(items, "iloc") or isinstance(items, ImagePaths | torch.Tensor)
        self.items: Any = items if kept else L(items, use_list=hasattr(items, "__array__"))
        everything = range(len(self.items))
        self.splits = [list(everything), []] if splits is None else [*map(_positions, splits)]
        outside = [place for places in self.splits for place in places if place not in everything]
        if outside:
            raise ConfigError(
                f"splits names position {outside[0]}; there are {len(everything)} items, from 0 on."
            )
        self.tfms = Pipeline(tfms, split_idx)
        if do_setup and not isinstance(tfms, Pipeline):
            self.tfms.set_up(self, train_setup=train_setup)

    def subset(self, i: int) -> TfmdLists:
        """Return the items of set ``i``, 0 for training."""
        made = TfmdLists(_chosen(self.items, self.splits[i]), self.tfms, split_idx=i)
        made.tfms.fs = self.tfms.fs
        return made

    @property
    def train(self) -> TfmdLists:
        """The items for training."""
        return self.subset(0)

    @property
    def valid(self) -> TfmdLists:
        """The items for validation."""
        return self.subset(1)

    @property
    def split_idx(self) -> int | None:
        """The set that all items belong to, None for several."""
        return self.tfms.split_idx

    @property
    def vocab(self) -> CategoryMap | None:
        """The classes, if a transform knows them."""
        return self.tfms.vocab

    @property
    def c(self) -> int:
        """Number of classes, or of predicted numbers."""
        return self.tfms.c

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Return one item, transformed, or those of a slice, list of positions or mask."""
        if hasattr(index, "__index__"):
            place = range(len(self))[int(index)]
            frame = hasattr(self.items, "iloc")
            return self.tfms(self.items.iloc[place] if frame else self.items[place])
        return L([self[place] for place in L(range(len(self)))[index]])

    def __iter__(self) -> Iterator[Any]:
        """Yield all items, transformed."""
        return (self[place] for place in range(len(self)))

    def __call__(self, o: Any) -> Any:
        """Return another item, transformed."""
        return self.tfms(o)

    def decode(self, o: Any, full: bool = True) -> Any:
        """Return what a transformed item was before; see ``Pipeline.decode``."""
        return self.tfms.decode(o, full=full)

    def show(self, o: Any, ctx: Axes | None = None, **kwargs: Any) -> Axes | None:
        """Draw a transformed item on axes, or print it."""
        return self.tfms.show(o, ctx=ctx, **kwargs)

    def dataloaders(self, *_: Any, **__: Any) -> DataLoaders:
        """Not supported: one pipeline cannot give an image and its label.

        Raises:
            ConfigError: Always; the message says what to use instead.
        """
        raise ConfigError(
            "TfmdLists has one pipeline, and loaders need an image and its label: use Datasets(items, [[PILImage.create], "
            "[parent_label, Categorize()]], splits=splits).dataloaders(...), or a DataBlock. Pairs of images (siamese networks) "
            "and text are not supported."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.items!r}\ntfms - {self.tfms.fs!r}"


class Datasets:
    r"""Items that pass through several pipelines, one for the image and one for its label, and come as tuples.

    Items are built when accessed, and nothing is opened before. ``dataloaders`` makes a table of them, as a ``DataBlock`` does.

    Args:
        items: As ``TfmdLists`` takes them.
        tfms: A pipeline for each element of the tuples: ``[[PILImage.create], [parent_label, Categorize()]]``.
        tls: The ``TfmdLists`` themselves, instead of items and ``tfms``.
        n_inp: How many elements go into the network; 1, the image, for loaders.
        dl_type: Not supported; loaders are always ours.
        splits: As ``TfmdLists`` takes it.
        do_setup: As ``TfmdLists`` takes it.

    Examples:
        >>> files = get_image_files(Path("breeds"))
        >>> label = using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name")
        >>> splits = RandomSplitter(seed=42)(files)
        >>> dsets = Datasets(files, [[PILImage.create], [label, Categorize()]], splits=splits)
        >>> dls = dsets.dataloaders(after_item=Resize(224), after_batch=aug_transforms(), bs=64)
    """

    def __init__(
        self,
        items: Any = None,
        tfms: Any = None,
        tls: Sequence[TfmdLists] | None = None,
        n_inp: int | None = None,
        dl_type: Any = None,
        *,
        splits: Any = None,
        do_setup: bool = True,
    ) -> None:
        check_loader_type(dl_type)
        if tls is None:
            pipelines = L(tfms) or [None]
            tls = [TfmdLists(items, one, splits=splits, do_setup=do_setup) for one in pipelines]
        self.tls: L[TfmdLists] = L(list(tls))
        self.n_inp = max(1, len(self.tls) - 1) if n_inp is None else n_inp
        self._table: ImageTable | None = None

    @classmethod
    def of_table(cls, table: ImageTable, rows: Tensor | None = None) -> Datasets:
        """Return the images of a table, or of some of its rows (one set), with their labels."""
        paths, targets = ImagePaths.of(table.paths), table.targets
        splits = [table.train_rows.tolist(), table.valid_rows.tolist()]
        if rows is not None:
            paths, targets, splits = paths.chosen(rows.tolist()), targets[rows], None
        images = TfmdLists(paths, _Open(table.bit_depth), splits=splits)
        made = cls(tls=[images, TfmdLists(targets, _KnownTarget(table), splits=splits)])
        made._table = table if rows is None else None
        return made

    def subset(self, i: int) -> Datasets:
        """Return the items of set ``i``, 0 for training."""
        return Datasets(tls=[one.subset(i) for one in self.tls], n_inp=self.n_inp)

    @property
    def train(self) -> Datasets:
        """The items for training."""
        return self.subset(0)

    @property
    def valid(self) -> Datasets:
        """The items for validation."""
        return self.subset(1)

    def joined(self, valid: Datasets) -> Datasets:
        """Return the items of this set for training with those of another, of the same pipelines, for validation."""
        items = [*self.items, *valid.items]
        splits = [range(len(self.items)), range(len(self.items), len(items))]
        pipelines = (one.tfms for one in self.tls)
        return Datasets(
            tls=[TfmdLists(items, one, splits=splits, do_setup=False) for one in pipelines],
            n_inp=self.n_inp,
        )

    @property
    def items(self) -> Any:
        """The items as they were given."""
        items = self.tls[0].items
        return L(list(items)) if isinstance(items, ImagePaths) else items

    @property
    def splits(self) -> list[list[int]]:
        """Positions of the items of each set."""
        return self.tls[0].splits

    @property
    def split_idx(self) -> int | None:
        """The set that all items belong to, None for several."""
        return self.tls[0].split_idx

    @property
    def tfms(self) -> L[Pipeline]:
        """The pipelines."""
        return L([one.tfms for one in self.tls])

    @property
    def vocab(self) -> CategoryMap:
        """The classes; none where no pipeline knows them."""
        return next((one.vocab for one in self.tls if one.vocab), CategoryMap([]))

    @property
    def c(self) -> int:
        """Number of classes, or of predicted numbers."""
        return next((one.c for one in self.tls if one.c), 0)

    def __len__(self) -> int:
        """Return the number of items in all sets."""
        return len(self.tls[0])

    def __getitem__(self, index: Any) -> Any:
        """Return one tuple, or those of a slice, list of positions or mask."""
        if hasattr(index, "__index__"):
            return tuple(one[index] for one in self.tls)
        return L([self[place] for place in L(range(len(self)))[index]])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield all tuples."""
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return collection_text(self)  # pyright: ignore[reportArgumentType] (it has a length and positions)

    def decode(self, o: Sequence[Any], full: bool = True) -> tuple[Any, ...]:
        """Return the elements of a tuple as they were: a label as its class."""
        return tuple(one.decode(part, full=full) for part, one in zip(o, self.tls, strict=False))

    def show(self, o: Sequence[Any], ctx: Axes | None = None, **kwargs: Any) -> Axes | None:
        """Draw a tuple: the image with its label as title."""
        for part, one in zip(o, self.tls, strict=False):
            ctx = one.show(part, ctx=ctx, **kwargs)
        return ctx

    def dataloaders(
        self,
        *,
        after_item: Any = None,
        before_batch: Any = None,
        after_batch: Any = None,
        path: Path | str = ".",
        dl_type: Any = None,
        seed: int = 0,
        **options: Unpack[LoaderOptions],
    ) -> DataLoaders:
        """Return loaders of the training and the validation items, as ``DataBlock.dataloaders`` does.

        Args:
            after_item: Item transforms, as ``DataBlock`` takes them; ``ToTensor`` may be among them.
            before_batch: Not supported.
            after_batch: Batch transforms, as ``DataBlock`` takes them; ``IntToFloatTensor`` may be among them.
            path: Folder that paths are shown relative to.
            dl_type: Not supported; loaders are always ours.
            seed: Decides shuffling, crops and augmentation.
            **options: ``bs``, ``val_bs``, ``device`` and the others of ``LoaderOptions``.

        Raises:
            DataError: Something is wrong with the data.
            ConfigError: The pipelines do not open an image and make a label, or an argument cannot work.
        """
        check_loader_type(dl_type)
        if as_list(before_batch):
            raise ConfigError(
                "before_batch is not supported: images get one size by after_item=Resize(...). Received: "
                f"{before_batch!r}"
            )
        if self._table is not None:
            loaders = DataLoaders.from_table(
                self._table, after_item, after_batch, seed=seed, **options
            )
            loaders.path = Path(path)
            return loaders
        if len(self.tls) != 2 or self.n_inp != 1:
            raise ConfigError(
                "Loaders need two pipelines, for an image and for its label: [[PILImage.create], [parent_label, Categorize()]]. "
                f"Received: {len(self.tls)}, n_inp={self.n_inp}. For images without labels use learn.dls.test_dl(files)."
            )
        if len(self.splits) != 2:
            raise ConfigError(
                f"splits has {len(self.splits)} sets; loaders are for training and validation. Leave the others out, and look at "
                "them with dls.test_dl(items, with_labels=True)."
            )
        images, labels = self.tls
        path_of, image_block, own = image_steps(images.tfms)
        functions, label_block = label_steps(labels.tfms)
        block = DataBlock(
            blocks=(image_block, label_block),
            getters=(path_of, composed(functions or [_itself])),
            splitter=lambda _: (self.splits[0], self.splits[1]),
            item_tfms=[*own, *as_list(after_item)],
            batch_tfms=as_list(after_batch),
        )
        return block.dataloaders(images.items, path, seed=seed, **options)


class _Open(Transform):
    """Opens an image as training reads it."""

    def __init__(self, bit_depth: int | None) -> None:
        super().__init__()
        self.bit_depth = bit_depth

    def encodes(self, path: Any) -> Any:
        return PILImage.create(decode_image(path, bit_depth=self.bit_depth))


class _KnownTarget(Transform):
    """Gives a target of a table its kind; decodes it to its label."""

    def __init__(self, table: ImageTable) -> None:
        super().__init__()
        self.task: Task = table.task
        self.vocab = None if table.task == "regression" else CategoryMap(table.classes, sort=False)
        self.c = len(table.vocab)

    def encodes(self, target: Any) -> Any:
        return as_target(target, task=self.task)

    def decodes(self, target: Any) -> Any:
        if self.vocab is None:
            return target.item() if target.numel() == 1 else tuple(target.tolist())
        if self.task == "category":
            name = self.vocab[int(target)]
            return Category(name) if isinstance(name, str) else name
        return MultiCategory([name for name, one in zip(self.vocab, target, strict=True) if one])


def decode_at(o: Datasets | TfmdLists, idx: int) -> Any:
    """Return the item at a position as it was before its transforms."""
    return o.decode(o[idx])


def show_at(o: Datasets | TfmdLists, idx: int, **kwargs: Any) -> Axes | None:
    """Draw the item at a position, and return its axes."""
    return o.show(o[idx], **kwargs)


def _itself(item: Any) -> Any:
    return item


def _positions(places: Any) -> list[int]:
    """Return positions, given as such, as a slice-like range or as a mask."""
    listed = places.tolist() if hasattr(places, "tolist") else list(places)
    is_mask = bool(listed) and all(isinstance(one, bool) for one in listed)
    return [place for place, chosen in enumerate(listed) if chosen] if is_mask else listed


def _chosen(items: Any, places: list[int]) -> Any:
    if hasattr(items, "iloc"):
        return items.iloc[places]
    return items.chosen(places) if isinstance(items, ImagePaths) else items[places]
