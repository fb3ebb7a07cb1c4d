"""Pictures in folders, a CSV file or arrays in; the datasets and loaders of lesson one out, over the engine's reading and batching.

Folders or a CSV file in, file names with their labels out; nothing is opened but the CSV file.

Items one by one: a picture file, or a row of an array, in; the normalised array that the network sees, and its target, out.

Pictures or features in, batches out: 0-1 with rows for the engine, normalised ``[x, y]`` for whoever iterates.

N: items; B: items of a batch; D: features.

Sets of pictures with labels in; the table that the engine works on, and loaders of any of the sets, out.

Picture files in, smaller copies of them in another folder out.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.classic.metrics import to_array
from vizsla.data.cache.cache import PictureCache, expected_bytes
from vizsla.data.images.decode import open_picture
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import PictureReader
from vizsla.data.loading.dataloaders import default_device
from vizsla.data.loading.loader import PictureLoader
from vizsla.data.loading.order import shuffled
from vizsla.data.table.sources import check_folder, is_image_name
from vizsla.data.table.tables import read_table
from vizsla.errors import ConfigError, DataError, PictureError, TableError
from vizsla.machine import default_num_workers
from vizsla.types import Batch, PictureTable, Task

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from vizsla.classic.transforms import Transforms

__all__ = [
    "ImageClassifierData",
    "csv_source",
    "folder_source",
    "get_cv_idxs",
    "open_image",
    "read_dir",
    "split_by_idx",
]

_NO_CLASSES = {".ipynb_checkpoints", ".DS_Store"}
CV_SEED = 42


def folder_classes(path: str | Path, folder: str) -> list[str]:
    """Return the names of the classes: the folders in ``path/folder``, sorted.

    Raises:
        DataError: There is no such folder, or it is empty.
    """
    check_folder(Path(path, folder))
    classes = sorted(name for name in os.listdir(Path(path, folder)) if name not in _NO_CLASSES)  # noqa: PTH208
    if not classes:
        raise DataError(
            f"There are no folders of classes in {Path(path, folder)}. It holds one folder per class, with pictures in each."
        )
    return classes


def folder_source(
    path: str | Path, folder: str, classes: Sequence[str] | None = None
) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """List the pictures of a folder with one folder per class.

    Args:
        path: The data's folder.
        folder: Name of the folder in it.
        classes: Names of the classes in their order; None takes those of this folder.

    Returns:
        File names relative to ``path``, sorted; the position of each one's class, int64; the classes.

    Raises:
        ConfigError: A class of the folder is not among ``classes``.
        NotADirectoryError: A file stands where a class folder should.
        DataError: There is no such folder.
    """
    found = folder_classes(path, folder)
    known = found if classes is None else list(classes)
    if unknown := [name for name in found if name not in known]:
        raise ConfigError(
            f"The folder {Path(path, folder)} has classes that the training pictures do not: {', '.join(unknown)}. "
            f"Those are: {', '.join(known)}. Rename or remove the folders."
        )
    fnames: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name in found:
        listing = sorted(os.listdir(Path(path, folder, name)))  # noqa: PTH208 (NotADirectoryError where it is a file)
        pictures = [file for file in listing if is_image_name(file) and not file.startswith(".")]
        others.update(Path(file).suffix or file for file in set(listing) - set(pictures))
        fnames += [f"{folder}/{name}/{file}" for file in pictures]
        labels += [known.index(name)] * len(pictures)
    if others:
        kinds = ", ".join(sorted(others))
        warnings.warn(
            f"{others.total()} files in {Path(path, folder)} are no pictures and were left out ({kinds}).",
            stacklevel=4,
        )
    return fnames, np.array(labels, dtype=np.int64), known


def read_dir(path: str | Path, folder: str) -> list[str]:
    """List the files of a folder of unlabelled pictures, relative to ``path``, sorted.

    Raises:
        FileNotFoundError: It does not exist or has no pictures.
    """
    place = Path(path, folder)
    names = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    fnames = [f"{folder}/{name}" for name in names if is_image_name(name)]
    if not fnames:
        raise FileNotFoundError(f"{folder} folder doesn't exist or is empty")
    return fnames


def csv_source(
    folder: str,
    csv_file: str | Path,
    skip_header: bool = True,
    suffix: str = "",
    continuous: bool = False,
) -> tuple[list[str], NDArray[Any], list[str]]:
    """Read file names and labels of a CSV file.

    Args:
        folder: Folder of the pictures, relative to the data's.
        csv_file: The file: a column of names, then one of labels, separated by spaces where a picture has several.
        skip_header: Whether its first row names the columns.
        suffix: Added to each name, for example ``".jpg"``.
        continuous: Labels are numbers.

    Returns:
        File names; labels sorted by name: int64 ``(N,)``, float32 n-hot ``(N, C)`` where a picture has several, float32
        ``(N,)`` if they are numbers; the classes, sorted.

    Raises:
        TableError: The file cannot be read, or a label is no number.
    """
    table = read_table(csv_file, header="infer" if skip_header else None, delimiter=",")
    pairs = sorted(zip(map(str, table.column(0)), map(str, table.column(1)), strict=True))
    fnames = [f"{folder}/{name}{suffix}" for name, _ in pairs]
    if continuous:
        return fnames, _numbers([label for _, label in pairs], csv_file), []
    labels = [label.split(" ") for _, label in pairs]
    classes = sorted({name for names in labels for name in names})
    if all(len(names) == 1 for names in labels):
        return fnames, np.array([classes.index(names[0]) for names in labels]), classes
    rows = [[float(each in names) for each in classes] for names in labels]
    return fnames, np.array(rows, dtype=np.float32), classes


def get_cv_idxs(
    n: int, cv_idx: int = 0, val_pct: float = 0.2, seed: int = CV_SEED
) -> NDArray[np.int64]:
    """Return the positions of a validation set, chosen at random.

    Args:
        n: Number of items.
        cv_idx: Which part, of those that can be made.
        val_pct: Share of the items.
        seed: Of the choice; the global random state is neither used nor changed.
    """
    order = np.random.RandomState(seed).permutation(n)  # noqa: TID251 (the numbers that this dialect had)
    size = int(val_pct * n)
    return order[cv_idx * size : (cv_idx + 1) * size]


def split_by_idx(idxs: Sequence[int], *a: Any) -> list[tuple[Any, Any]]:
    """Return (chosen, others) of each array, both in the order of the array.

    Args:
        idxs: Positions that are chosen.
        *a: Arrays of one length.
    """
    chosen = np.zeros(len(a[0]), dtype=bool)
    chosen[np.array(idxs, dtype=np.int64)] = True
    return [(np.asarray(each)[chosen], np.asarray(each)[~chosen]) for each in a]


def targets_of(y: NDArray[Any], *, is_reg: bool) -> torch.Tensor:
    """Return labels as a table's targets: int64 ``(N,)``, or float32 ``(N, C)`` for several labels and for numbers."""
    if is_reg:
        return torch.tensor(y, dtype=torch.float32).reshape(len(y), -1)
    return torch.tensor(y, dtype=torch.float32 if y.ndim == 2 else torch.int64)


def _numbers(labels: list[str], csv_file: str | Path) -> NDArray[np.float32]:
    try:
        return np.array([float(label) for label in labels], dtype=np.float32)
    except ValueError as error:
        raise TableError(f"A label in {csv_file} is no number: {error}. Correct it.") from error


class Dataset(Protocol):
    """Items by number.

    Attributes:
        y: Targets.
        c: Number of classes or outputs.
        is_reg: Whether targets are numbers.
        is_multi: Whether an item has several labels.
    """

    y: NDArray[Any]
    c: int
    is_reg: bool
    is_multi: bool

    @property
    def sz(self) -> int:
        """Pixels of a side, or number of features."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)`` of one item, or of a slice of them stacked."""
        ...


class ImageDataset:
    """Pictures of a folder.

    Args:
        path: The folder.
        fnames: Files, relative to it.
        y: One target for each.
        reader: Reads them as the loaders do.
        transforms: How they are prepared.
        c: Number of classes or outputs.
        is_reg: Whether targets are numbers.

    Attributes:
        fnames: As given.
        y: As given.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fnames: Sequence[str],
        y: NDArray[Any],
        reader: PictureReader,
        transforms: Transforms,
        c: int,
        is_reg: bool,
    ) -> None:
        self.path = path
        self.fnames = fnames
        self.y = y
        self.c = c
        self.is_reg = is_reg
        self.is_multi = y.ndim == 2 and y.shape[1] == c and not is_reg
        self.transform = transforms
        self._reader = reader

    @property
    def sz(self) -> int:
        """Pixels of a side."""
        return self.transform.sz

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.fnames)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)``: float32 ``(3, sz, sz)`` normalised and the target; of a slice x stacked and a tuple of y.

        Raises:
            OSError: The file cannot be read.
        """
        if isinstance(index, slice):
            items = [self[position] for position in range(len(self))[index]]
            return np.stack([x for x, _ in items]), tuple(y for _, y in items)
        position = range(len(self))[int(index)]
        tfm = self.transform
        seed = int(torch.randint(2**31, ())) if tfm.is_random else 0
        with _as_os_error(file := Path(self.path) / self.fnames[position]):
            kept = self._reader.read(file, training=tfm.is_random)
        return tfm.finished(kept, reader=self._reader, seed=seed), self.y[position]

    def denorm(self, arr: Any) -> NDArray[np.float32]:
        """Return normalised pictures, ``(3, H, W)`` or ``(N, 3, H, W)``, as float32 ``(N, H, W, 3)``, about 0-1."""
        return self.transform.denorm(arr)


class ArrayDataset:
    """Rows of an array, as they are.

    Args:
        x: ``(N, ...)``.
        y: One target for each.
        c: Number of classes or outputs.
        is_reg: Whether targets are numbers.
    """

    def __init__(self, x: NDArray[Any], *, y: NDArray[Any], c: int, is_reg: bool) -> None:
        self.x = x
        self.y = y
        self.c = c
        self.is_reg = is_reg
        self.is_multi = y.ndim == 2 and y.shape[1] == c and not is_reg

    @property
    def sz(self) -> int:
        """Length of the last-but-not-first axis: the number of features of a table of them."""
        return int(self.x.shape[1])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)`` of one row or of a slice of rows."""
        return self.x[index], self.y[index]


class ArrayReader(PictureReader):
    """Reads pictures out of an array instead of files.

    Args:
        pictures: float ``(N, H, W, 3)`` of values 0-1, or uint8 0-255, by the name that stands for each.
        transforms: How they are prepared.
    """

    def __init__(self, pictures: dict[Path, NDArray[Any]], *, transforms: Transforms) -> None:
        super().__init__(resize=transforms.sizing, cache=PictureCache(mode="off"))
        self._pictures = pictures

    def read(
        self,
        source: Path | str | bytes | Image.Image,
        *,
        training: bool = False,
        draws: Sequence[float] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the pixels of one image, see ``PictureReader.read``; the source is the name of a row."""
        values = self._pictures[Path(str(source))]
        pixels = values if values.dtype == np.uint8 else np.rint(np.clip(values, 0, 1) * 255)
        image = Image.fromarray(pixels.astype(np.uint8))
        return super().read(image, training=training, draws=draws)


def open_image(fn: str | Path) -> NDArray[np.float32]:
    """Return a picture file as float32 ``(H, W, 3)``, RGB, 0-1, upright.

    Args:
        fn: The file.

    Raises:
        OSError: There is no such file, it is a folder, or it cannot be read as a picture.
    """
    with _as_os_error(Path(fn)):
        return to_array(open_picture(fn)).astype(np.float32) / np.float32(255)


@contextmanager
def _as_os_error(file: Path) -> Generator[None]:
    """Turn the engine's error about a picture into the one that this dialect promises."""
    try:
        yield
    except PictureError as error:
        if not file.exists():
            raise OSError(f"No such file or directory: {file}") from error
        if file.is_dir():
            raise OSError(f"Is a directory: {file}") from error
        raise OSError(f"Error handling image at: {file}") from error


class Batches(Protocol):
    """What the engine needs of a loader."""

    dataset: Dataset

    @property
    def n(self) -> int:
        """Number of items."""
        ...

    @property
    def bs(self) -> int:
        """Items of a full batch."""
        ...

    @property
    def rows(self) -> Tensor:
        """Rows of the table."""
        ...

    @property
    def table(self) -> PictureTable:
        """The table that the rows point into."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]`` as the network gets them; each pass is another one where something is random."""
        ...

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch for the engine."""
        ...


def planned(
    rows: Tensor, *, batch_size: int, shuffle: bool, seed: int, epoch: int
) -> tuple[Tensor, ...]:
    """Return the rows of each batch of an epoch.

    Args:
        rows: int64 ``(N,)``.
        batch_size: Items of a batch; the last may hold fewer. In training one of a single item is left out, unless it is the
            only one: batch norms could not work with it.
        shuffle: For training: in a new order each epoch.
        seed: Of the orders.
        epoch: Number of the epoch.
    """
    if not len(rows):
        return ()
    order = shuffled(rows, seed=seed, epoch=epoch) if shuffle else rows
    plan = torch.split(order, batch_size)
    return plan[:-1] if shuffle and len(plan) > 1 and len(plan[-1]) == 1 else plan


class PictureBatches:
    """Batches of prepared pictures, in order or shuffled.

    Args:
        loader: Reads them; its ``training`` says whether windows are random.
        dataset: The same pictures one by one.
        transforms: How they are prepared.
        shuffle: Whether they come in a new order each epoch.
    """

    def __init__(
        self, loader: PictureLoader, *, dataset: Dataset, transforms: Transforms, shuffle: bool
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self._loader = loader
        self._transforms = transforms
        self._augment = transforms.augmentation(seed=loader.seed)
        self._passes = 0

    @property
    def n(self) -> int:
        """Number of pictures."""
        return len(self._loader.rows)

    @property
    def bs(self) -> int:
        """Pictures of a full batch."""
        return self._loader.batch_size

    @property
    def rows(self) -> Tensor:
        """Rows of the table, int64 ``(N,)``."""
        return self._loader.rows

    @property
    def table(self) -> PictureTable:
        """The table that the rows point into."""
        return self._loader.table

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]``: float32 ``(B, 3, sz, sz)`` normalised, and targets, on the device; each pass is another one."""
        epoch, self._passes = self._passes, self._passes + 1
        with closing(self.batches(epoch=epoch)) as batches:
            for batch in batches:
                yield [self._transforms.normalised(batch.images), batch.targets]

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch, pictures with values 0-1: the classifier normalises them.

        Args:
            epoch: Number of the epoch; another one has other crops and another order where they are random.
            start: So many batches are left out at the beginning.
        """
        plan = self._plan(epoch)[start:]
        with closing(self._loader.read_plan(plan, epoch=epoch)) as batches:
            for batch in batches:
                images = self._augment(
                    batch.images, rows=batch.rows, epoch=epoch, training=self._loader.training
                )
                yield replace(batch, images=images)

    def _plan(self, epoch: int) -> tuple[Tensor, ...]:
        return planned(
            self.rows, batch_size=self.bs, shuffle=self.shuffle, seed=self._loader.seed, epoch=epoch
        )


class ArrayBatches:
    """Batches of rows of an array, as they are: cached features.

    Args:
        values: float32 ``(N, ...)``.
        dataset: The same rows one by one.
        table: Has the targets.
        rows: int64 ``(N,)``, row of the table of each value.
        batch_size: Rows of a batch.
        shuffle: Whether they come in a new order each epoch.
        seed: Of the orders.
        device: Where batches go.
    """

    def __init__(
        self,
        values: Tensor,
        *,
        dataset: Dataset,
        table: PictureTable,
        rows: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        self.dataset = dataset
        self.table = table
        self.rows = rows
        self.bs = batch_size
        self.shuffle = shuffle
        self._seed = seed
        self._values = values.to(device)
        self._targets = table.targets[rows].to(device)
        self._passes = 0

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]`` on the device."""
        epoch, self._passes = self._passes, self._passes + 1
        for batch in self.batches(epoch=epoch):
            yield [batch.images, batch.targets]

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: Number of the epoch.
            start: So many batches are left out at the beginning.
        """
        for places in self._plan(epoch)[start:]:
            on_device = places.to(self._values.device)
            yield Batch(
                images=self._values[on_device],
                targets=self._targets[on_device],
                rows=self.rows[places],
            )

    def _plan(self, epoch: int) -> tuple[Tensor, ...]:
        places = torch.arange(self.n)
        return planned(
            places, batch_size=self.bs, shuffle=self.shuffle, seed=self._seed, epoch=epoch
        )


@dataclass(frozen=True, kw_only=True)
class TrainingLoaders:
    """What the engine's trainer takes.

    Attributes:
        train: Shuffled.
        valid: In order.
        fixed: The training items in order, prepared as in validation.
        table: Targets and splits.
        device: Where batches are.
        seed: Of the data.
        path: The data's folder.
    """

    train: Batches
    valid: Batches
    fixed: Batches
    table: PictureTable
    device: torch.device
    seed: int
    path: Path

    @property
    def vocab(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.table.vocab

    @property
    def c(self) -> int:
        """Number of outputs."""
        return len(self.table.vocab)

    def loader_for(self, rows: Tensor) -> Batches:
        """Return the training items in order; other rows are not asked for.

        Args:
            rows: Of the training items.
        """
        del rows
        return self.fixed


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the sets of pictures.

    Attributes:
        fnames: File names relative to the data's folder, or names that stand for rows of an array.
        y: Their labels.
        x: The array itself, where there are no files.
    """

    fnames: Sequence[str]
    y: NDArray[Any]
    x: NDArray[Any] | None = None

    @classmethod
    def of_array(cls, name: str, x: NDArray[Any], y: NDArray[Any]) -> Part:
        """Return a part of an array, whose rows are called ``name/0`` and so on."""
        return cls(fnames=[f"{name}/{row}" for row in range(len(x))], y=np.asarray(y), x=x)


def _new_seed() -> int:
    return int(torch.randint(2**31, ()))


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all loaders of one data object share.

    Attributes:
        path: The data's folder.
        classes: Names of the classes.
        is_reg: Whether labels are numbers.
        bs: Items of a batch.
        num_workers: Threads that read pictures.
        cache: Keeps pictures once read.
        seed: Of orders, crops and augmentation; another one for each data object, which ``torch.manual_seed`` repeats.
        device: Where batches go.
    """

    path: str | Path
    classes: tuple[str, ...]
    is_reg: bool
    bs: int
    num_workers: int
    cache: PictureCache
    seed: int = field(default_factory=_new_seed)
    device: torch.device = field(default_factory=default_device)

    def table(self, trn: Part, val: Part) -> PictureTable:
        """Return the table of training and validation items, in this order."""
        y = np.concatenate([np.asarray(trn.y), np.asarray(val.y)])
        names = [*trn.fnames, *val.fnames]
        if len(y) != len(names):
            raise ConfigError(
                f"There are {len(names)} pictures and {len(y)} labels. Give one each."
            )
        is_multi = y.ndim == 2 and not self.is_reg
        task: Task = "regression" if self.is_reg else "multi_category" if is_multi else "category"
        targets = targets_of(y, is_reg=self.is_reg)
        outputs = targets.shape[1] if targets.ndim == 2 else 1
        numbers = tuple(str(number) for number in range(outputs))
        rows = torch.arange(len(names))
        return PictureTable(
            root=Path(self.path),
            paths=tuple(Path(self.path, name) for name in names),
            targets=targets,
            vocab=numbers if self.is_reg else self.classes,
            train_rows=rows[: len(trn.fnames)],
            valid_rows=rows[len(trn.fnames) :],
            task=task,
        )

    def test_table(self, test: Part, *, table: PictureTable) -> PictureTable:
        """Return the table of test items; labels that are not known count as the first class."""
        shape = (len(test.fnames), *table.targets.shape[1:])
        given = targets_of(test.y, is_reg=self.is_reg)
        known = given.shape == shape and given.dtype == table.targets.dtype
        return PictureTable(
            root=table.root,
            paths=tuple(Path(self.path, name) for name in test.fnames),
            targets=given if known else torch.zeros(shape, dtype=table.targets.dtype),
            vocab=table.vocab,
            train_rows=torch.zeros(0, dtype=torch.int64),
            valid_rows=torch.arange(len(test.fnames)),
            task=table.task,
        )

    def loader(
        self,
        part: Part,
        *,
        table: PictureTable,
        rows: Tensor,
        tfm: Transforms | None,
        shuffle: bool = False,
    ) -> Batches:
        """Return a loader of one part.

        Args:
            part: The items.
            table: Has their targets.
            rows: Where they are in it, int64 ``(N,)``.
            tfm: How pictures are prepared; None for rows of an array as they are.
            shuffle: Whether they come in a new order each epoch.
        """
        outputs = len(table.vocab)
        if tfm is None:
            values = np.zeros(0) if part.x is None else np.asarray(part.x)
            return ArrayBatches(
                torch.as_tensor(values, dtype=torch.float32),
                dataset=ArrayDataset(values, y=part.y, c=outputs, is_reg=self.is_reg),
                table=table,
                rows=rows,
                batch_size=self.bs,
                shuffle=shuffle,
                seed=self.seed,
                device=self.device,
            )
        reader = PictureReader(resize=tfm.sizing, cache=self.cache)
        if part.x is not None:
            files = (table.paths[row] for row in rows.tolist())
            pictures = dict(zip(files, np.asarray(part.x), strict=True))
            reader = ArrayReader(pictures, transforms=tfm)
        dataset = ImageDataset(
            self.path,
            fnames=part.fnames,
            y=part.y,
            reader=reader,
            transforms=tfm,
            c=outputs,
            is_reg=self.is_reg,
        )
        loader = PictureLoader(
            table,
            rows,
            reader=reader,
            batch_size=self.bs,
            training=tfm.is_random,
            seed=self.seed,
            num_workers=min(self.num_workers, default_num_workers()),
            device=self.device,
        )
        return PictureBatches(loader, dataset=dataset, transforms=tfm, shuffle=shuffle)


def new_cache(
    tfms: tuple[Transforms | None, Transforms | None],
    *,
    num_pictures: int,
) -> PictureCache:
    """Return a cache that looks at what is free; each picture may be wanted as in training and as in validation."""
    train, valid = tfms
    if train is None or valid is None:
        return PictureCache(mode="off")
    parts = (
        expected_bytes(item_pipeline(train.sizing).sizing, num_centred=0, num_strips=num_pictures),
        expected_bytes(item_pipeline(valid.sizing).sizing, num_centred=num_pictures, num_strips=0),
    )
    needed = None if None in parts else sum(part or 0 for part in parts)
    return PictureCache(device=default_device(), expected_bytes=needed)


def test_part(path: str | Path, test_name: str) -> Part:
    """Return the pictures of a folder without labels.

    Raises:
        FileNotFoundError: It is missing or empty.
    """
    fnames = read_dir(path, test_name)
    return Part(fnames=fnames, y=np.zeros((len(fnames), 1), dtype=np.int64))


def check_transforms(tfms: tuple[Transforms | None, Transforms | None]) -> None:
    """Refuse to go on without transforms.

    Raises:
        AssertionError: One of the two is None.
    """
    if tfms[0] is None or tfms[1] is None:
        raise AssertionError("please provide transformations for your train and validation sets")


def write_smaller(source: Path, target: Path, names: Sequence[str], *, side: int) -> None:
    """Write pictures with a smaller side of so many pixels; nothing is done if the first is there already.

    Args:
        source: Folder of the pictures.
        target: Folder of the copies; the folders between are made.
        names: Files, relative to both.
        side: Pixels.

    Raises:
        PictureError: A picture cannot be read.
    """
    if not names or (target / names[0]).exists():
        return
    with ThreadPoolExecutor(max(1, default_num_workers())) as pool:
        # The first last, because it says that all are there.
        pending = [pool.submit(_write, source / name, target / name, side) for name in names[1:]]
        for done in pending:
            done.result()
    _write(source / names[0], target / names[0], side)


def _write(source: Path, target: Path, side: int) -> None:
    picture = open_picture(source, cover=(side, side))
    ratio = side / min(picture.size)
    size = (max(side, int(picture.width * ratio)), max(side, int(picture.height * ratio)))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.BILINEAR).save(target)


Tfms = tuple["Transforms | None", "Transforms | None"]


class ImageClassifierData:
    """Training, validation and test pictures with their loaders; made by ``from_paths`` and its siblings.

    Args:
        path: The data's folder; ``tmp`` and ``models`` are made in it.
        trn: Training pictures.
        val: Validation pictures.
        test: Test pictures, or None.
        tfms: How training and validation pictures are prepared; None in both for features.
        classes: Names of the classes.
        bs: Items of a batch.
        num_workers: Threads that read pictures, at most as many as there are CPU cores; 0 for none.
        is_reg: Whether labels are numbers.

    Attributes:
        classes: Names of the classes, a list.
        trn_dl: Shuffled batches of training pictures.
        val_dl: Batches of validation pictures, in order, like the following ones.
        fix_dl: Batches of training pictures, prepared as in validation.
        aug_dl: Batches of validation pictures, prepared as in training.
        test_dl: Batches of test pictures, or None.
        test_aug_dl: The same, prepared as in training, or None.
        table: Training and validation pictures as the engine sees them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        trn: Part,
        val: Part,
        test: Part | None,
        tfms: Tfms,
        classes: Sequence[str],
        bs: int,
        num_workers: int,
        is_reg: bool = False,
    ) -> None:
        self.path = path
        self.bs = bs
        self.num_workers = num_workers
        self.classes = list(classes)
        self.tfms = tfms
        self._parts = (trn, val, test)
        self._workshop = Workshop(
            path=path,
            classes=tuple(classes),
            is_reg=is_reg,
            bs=bs,
            num_workers=num_workers,
            cache=new_cache(tfms, num_pictures=len(trn.fnames) + len(val.fnames)),
        )
        make = self._workshop.loader
        self.table = table = self._workshop.table(trn, val)
        self.trn_dl = make(trn, table=table, rows=table.train_rows, tfm=tfms[0], shuffle=True)
        self.val_dl = make(val, table=table, rows=table.valid_rows, tfm=tfms[1])
        self.fix_dl = make(trn, table=table, rows=table.train_rows, tfm=tfms[1])
        self.aug_dl = make(val, table=table, rows=table.valid_rows, tfm=tfms[0])
        self.test_dl: Batches | None = None
        self.test_aug_dl: Batches | None = None
        if test is not None:
            table = self._workshop.test_table(test, table=table)
            self.test_dl = make(test, table=table, rows=table.valid_rows, tfm=tfms[1])
            self.test_aug_dl = make(test, table=table, rows=table.valid_rows, tfm=tfms[0])

    @classmethod
    def from_paths(
        cls,
        path: str | Path,
        bs: int = 64,
        tfms: Tfms = (None, None),
        trn_name: str = "train",
        val_name: str = "valid",
        test_name: str | None = None,
        test_with_labels: bool = False,
        num_workers: int = 8,
    ) -> ImageClassifierData:
        """Return the data of a folder with one folder per class in each of ``train`` and ``valid``.

        Args:
            path: The folder.
            bs: Pictures of a batch.
            tfms: As ``tfms_from_model`` returns them.
            trn_name: Name of the training folder.
            val_name: Name of the validation folder.
            test_name: Name of the folder of test pictures.
            test_with_labels: Whether that has one folder per class too.
            num_workers: Threads that read pictures.

        Raises:
            AssertionError: There are no transforms.
            DataError: A folder is missing.
            ConfigError: The validation folder has a class that the training folder has not.
            FileNotFoundError: The test folder is missing or empty.
        """
        check_transforms(tfms)
        fnames, y, classes = folder_source(path, trn_name)
        valid_fnames, valid_y, _ = folder_source(path, val_name, classes)
        test = None
        if test_name and test_with_labels:
            test_fnames, test_y, _ = folder_source(path, test_name, classes)
            test = Part(fnames=test_fnames, y=test_y)
        elif test_name:
            test = test_part(path, test_name)
        return cls(
            path,
            trn=Part(fnames=fnames, y=y),
            val=Part(fnames=valid_fnames, y=valid_y),
            test=test,
            tfms=tfms,
            classes=classes,
            bs=bs,
            num_workers=num_workers,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        folder: str,
        csv_fname: str | Path,
        bs: int = 64,
        tfms: Tfms = (None, None),
        val_idxs: Sequence[int] | NDArray[Any] | None = None,
        suffix: str = "",
        test_name: str | None = None,
        continuous: bool = False,
        skip_header: bool = True,
        num_workers: int = 8,
    ) -> ImageClassifierData:
        """Return the data of a CSV file of names and labels.

        Args:
            path: The data's folder.
            folder: Folder of the pictures, relative to it.
            csv_fname: The file; not relative to ``path``.
            bs: Pictures of a batch.
            tfms: As ``tfms_from_model`` returns them.
            val_idxs: Positions of the validation pictures among the names in their order; None chooses a fifth.
            suffix: Added to each name.
            test_name: Name of the folder of test pictures.
            continuous: Labels are numbers.
            skip_header: Whether the first row names the columns.
            num_workers: Threads that read pictures.

        Raises:
            AssertionError: There are no transforms, or ``folder`` is absolute.
            TableError: The file cannot be read.
        """
        check_transforms(tfms)
        if Path(folder).is_absolute():
            raise AssertionError("folder needs to be a relative path")
        fnames, y, classes = csv_source(folder, csv_fname, skip_header, suffix, continuous)
        return cls.from_names_and_array(
            path, fnames, y, classes, val_idxs, test_name, num_workers, "", tfms, bs, continuous
        )

    @classmethod
    def from_names_and_array(
        cls,
        path: str | Path,
        fnames: Sequence[str],
        y: NDArray[Any],
        classes: Sequence[str],
        val_idxs: Sequence[int] | NDArray[Any] | None = None,
        test_name: str | None = None,
        num_workers: int = 8,
        suffix: str = "",
        tfms: Tfms = (None, None),
        bs: int = 64,
        continuous: bool = False,
    ) -> ImageClassifierData:
        """Return the data of file names and an array of labels.

        Args:
            path: The data's folder.
            fnames: Files, relative to it.
            y: Labels: positions of classes ``(N,)``, n-hot ``(N, C)``, or numbers.
            classes: Names of the classes.
            val_idxs: Positions of the validation pictures; None chooses a fifth.
            test_name: Name of the folder of test pictures.
            num_workers: Threads that read pictures.
            suffix: Added to each name.
            tfms: As ``tfms_from_model`` returns them.
            bs: Pictures of a batch.
            continuous: Labels are numbers.

        Raises:
            AssertionError: There are no transforms.
        """
        check_transforms(tfms)
        chosen = get_cv_idxs(len(fnames)) if val_idxs is None else val_idxs
        names = np.array([f"{name}{suffix}" for name in fnames])
        (valid_names, names), (valid_y, train_y) = split_by_idx(chosen, names, np.asarray(y))  # pyright: ignore[reportArgumentType]
        return cls(
            path,
            trn=Part(fnames=names, y=train_y),
            val=Part(fnames=valid_names, y=valid_y),
            test=test_part(path, test_name) if test_name else None,
            tfms=tfms,
            classes=classes,
            bs=bs,
            num_workers=num_workers,
            is_reg=continuous,
        )

    @classmethod
    def from_arrays(
        cls,
        path: str | Path,
        trn: tuple[NDArray[Any], NDArray[Any]],
        val: tuple[NDArray[Any], NDArray[Any]],
        bs: int = 64,
        tfms: Tfms = (None, None),
        classes: Sequence[str] | None = None,
        num_workers: int = 4,
        test: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]] | None = None,
    ) -> ImageClassifierData:
        """Return the data of arrays in memory.

        Args:
            path: Folder that ``tmp`` and ``models`` are made in.
            trn: (x, y) to train on: pictures ``(N, H, W, 3)`` of values 0-1 with ``tfms``, or features ``(N, D)`` without.
            val: (x, y) held out.
            bs: Items of a batch.
            tfms: As ``tfms_from_model`` returns them; (None, None) takes the rows as they are.
            classes: Names of the classes; None numbers them.
            num_workers: Threads that prepare pictures.
            test: x, or (x, y), of the test set.
        """
        y = np.asarray(trn[1])
        count = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        names = [str(number) for number in range(count)] if classes is None else classes
        test_part = None
        if test is not None:
            x, test_y = test if isinstance(test, tuple) else (test, np.zeros((len(test), 1)))
            test_part = Part.of_array("test", x, test_y)
        return cls(
            path,
            trn=Part.of_array("train", *trn),
            val=Part.of_array("valid", *val),
            test=test_part,
            tfms=tfms,
            classes=names,
            bs=bs,
            num_workers=num_workers,
        )

    @property
    def trn_ds(self) -> Dataset:
        """Training pictures, prepared as in training."""
        return self.trn_dl.dataset

    @property
    def val_ds(self) -> Dataset:
        """Validation pictures."""
        return self.val_dl.dataset

    @property
    def fix_ds(self) -> Dataset:
        """Training pictures, prepared as in validation."""
        return self.fix_dl.dataset

    @property
    def aug_ds(self) -> Dataset:
        """Validation pictures, prepared as in training."""
        return self.aug_dl.dataset

    @property
    def test_ds(self) -> Dataset | None:
        """Test pictures; None if there are none."""
        return None if self.test_dl is None else self.test_dl.dataset

    @property
    def test_aug_ds(self) -> Dataset | None:
        """Test pictures, prepared as in training; None if there are none."""
        return None if self.test_aug_dl is None else self.test_aug_dl.dataset

    @property
    def trn_y(self) -> NDArray[Any]:
        """Labels of the training pictures: int64 ``(N,)``, or float32 ``(N, C)`` where a picture has several."""
        return self.trn_ds.y

    @property
    def val_y(self) -> NDArray[Any]:
        """Labels of the validation pictures."""
        return self.val_ds.y

    @property
    def is_reg(self) -> bool:
        """Whether labels are numbers."""
        return self.trn_ds.is_reg

    @property
    def is_multi(self) -> bool:
        """Whether a picture may have several labels."""
        return self.trn_ds.is_multi

    @property
    def c(self) -> int:
        """Number of classes, or of numbers."""
        return len(self.table.vocab)

    @property
    def sz(self) -> int:
        """Pixels of a side of what the network sees, or number of features."""
        return self.trn_ds.sz

    @property
    def loaders(self) -> TrainingLoaders:
        """What the engine's trainer takes."""
        return TrainingLoaders(
            train=self.trn_dl,
            valid=self.val_dl,
            fixed=self.fix_dl,
            table=self.table,
            device=self._workshop.device,
            seed=self._workshop.seed,
            path=Path(self.path),
        )

    def with_features(
        self, train: NDArray[Any], valid: NDArray[Any], test: NDArray[Any] | None
    ) -> ImageClassifierData:
        """Return the same items with rows of features instead of pictures.

        Args:
            train: float32 ``(T, D)``.
            valid: float32 ``(V, D)``.
            test: float32 ``(N, D)``, or None.
        """
        parts = [
            None if part is None or x is None else Part(fnames=part.fnames, y=part.y, x=x)
            for part, x in zip(self._parts, (train, valid, test), strict=True)
        ]
        return self._with(parts, path=self.path, tfms=(None, None))

    def resize(self, targ_sz: int, new_path: str = "tmp") -> ImageClassifierData:
        """Write every picture once with a smaller side of ``targ_sz`` pixels, and return the data of those.

        Args:
            targ_sz: Pixels.
            new_path: Folder in the data's folder; the pictures go to ``new_path/targ_sz``. If the first is there, all are.

        Returns:
            Data whose ``path`` is that folder.

        Raises:
            PictureError: A picture cannot be read.
        """
        target = Path(self.path, new_path, str(targ_sz))
        names = [name for part in self._parts if part is not None for name in part.fnames]
        write_smaller(Path(self.path), target, names, side=targ_sz)
        return self._with(list(self._parts), path=f"{target}/", tfms=self.tfms)

    def _with(
        self, parts: Sequence[Part | None], *, path: str | Path, tfms: Tfms
    ) -> ImageClassifierData:
        trn, val, test = parts
        empty = Part(fnames=(), y=np.zeros(0, dtype=np.int64))
        return ImageClassifierData(
            path,
            trn=trn or empty,
            val=val or empty,
            test=test,
            tfms=tfms,
            classes=self.classes,
            bs=self.bs,
            num_workers=self.num_workers,
            is_reg=self.is_reg,
        )
