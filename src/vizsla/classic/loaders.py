"""The datasets and loaders of lesson one, over the engine's reading and batching.

A notebook that iterates gets normalised ``[x, y]``; the engine gets images of 0-1 with their rows. N: items; B: items per batch.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vizsla.classic.metrics import to_array
from vizsla.classic.transforms import as_image
from vizsla.data.cache.cache import ImageCache
from vizsla.data.images.decode import decode_image
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.order import shuffle_rows
from vizsla.errors import ConfigError, PictureError
from vizsla.types import Batch, ImageTable, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from vizsla.classic.transforms import Transforms
    from vizsla.data.images.sizing import Pixels
    from vizsla.data.loading.dataloaders import DataLoader
    from vizsla.data.loading.order import Balance


@dataclass(frozen=True)
class LabelledItems:
    """One set of items: training, validation or test.

    Attributes:
        fnames: File names relative to the data's folder, or names that stand for rows of an array.
        y: Their labels.
        x: The array itself, where there are no files.
    """

    fnames: Sequence[str]
    y: NDArray[Any]
    x: NDArray[Any] | None = None

    @classmethod
    def of_array(cls, name: str, x: NDArray[Any], y: NDArray[Any]) -> LabelledItems:
        """Return rows of an array, called ``name/0`` and so on."""
        return cls([f"{name}/{row}" for row in range(len(x))], np.asarray(y), x)


class ItemSets(NamedTuple):
    """What to train on, what is held out, and what to test on, if anything."""

    train: LabelledItems
    valid: LabelledItems
    test: LabelledItems | None = None


# --- datasets ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Dataset:
    """Items by number: ``(x, y)`` of one, or of a slice.

    Attributes:
        y: Targets.
        sz: Pixels per side, or number of features.
        c: Number of classes or outputs.
        is_reg: Whether targets are numbers.
    """

    y: NDArray[Any]
    sz: int
    c: int
    is_reg: bool

    @property
    def is_multi(self) -> bool:
        """Whether an item has several labels."""
        return self.y.ndim == 2 and self.y.shape[1] == self.c and not self.is_reg

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.y)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)`` of one item, or of a slice of them."""
        raise NotImplementedError

    def normalised(self, images: Tensor) -> Tensor:
        """Return a batch of the engine as the notebook gets it."""
        return images


@dataclass(eq=False, kw_only=True)
class ImageDataset(Dataset):
    """Images of a folder, read as the loaders do.

    Attributes:
        path: The folder.
        fnames: Files, relative to it.
        transform: How they are prepared.
        reader: Reads them.
    """

    path: str | Path
    fnames: Sequence[str]
    transform: Transforms
    reader: ImageReader

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)``: float32 ``(3, sz, sz)`` normalised and the target; for a slice stacked x and a tuple of y.

        Raises:
            OSError: The file cannot be read.
        """
        if isinstance(index, slice):
            items = [self[position] for position in range(len(self))[index]]
            return np.stack([x for x, _ in items]), tuple(y for _, y in items)
        position = range(len(self))[int(index)]
        with _as_os_error(file := Path(self.path) / self.fnames[position]):
            x = self.transform.prepare(file, reader=self.reader)
        return x, self.y[position]

    def normalised(self, images: Tensor) -> Tensor:
        """Return images of 0-1 normalised."""
        return self.transform.normalised(images)

    def denorm(self, arr: Any) -> NDArray[np.float32]:
        """Return normalised images, ``(3, H, W)`` or ``(N, 3, H, W)``, as float32 ``(N, H, W, 3)``, about 0-1."""
        return self.transform.denorm(arr)


@dataclass(eq=False, kw_only=True)
class ArrayDataset(Dataset):
    """Rows of an array, as they are."""

    x: NDArray[Any]

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """Return ``(x, y)`` of one row or of a slice of rows."""
        return self.x[index], self.y[index]


class ArrayReader(ImageReader):
    """Reads images ``(H, W, 3)`` out of arrays, by the paths that stand for them."""

    def __init__(self, arrays: dict[Path, NDArray[Any]], *, transforms: Transforms) -> None:
        super().__init__(resize=transforms.sizing, cache=ImageCache(mode="off"))
        self._arrays = arrays

    def read(
        self,
        source: Path | str | bytes | Image.Image,
        *,
        training: bool = False,
        draws: Sequence[float] | None = None,
        on_image: Callable[[Image.Image], None] | None = None,
    ) -> Pixels:
        """Return the pixels of one image; ``source`` is the path of a row."""
        image = as_image(self._arrays[Path(str(source))])
        return super().read(image, training=training, draws=draws, on_image=on_image)


def open_image(fn: str | Path) -> NDArray[np.float32]:
    """Return an image file as float32 ``(H, W, 3)``, RGB, 0-1, upright.

    Args:
        fn: The file.

    Raises:
        OSError: There is no such file, it is a folder, or it cannot be read as an image.
    """
    with _as_os_error(Path(fn)):
        return to_array(decode_image(fn)).astype(np.float32) / np.float32(255)


@contextmanager
def _as_os_error(file: Path) -> Generator[None]:
    """Turn the engine's error about an image into the ``OSError`` that this dialect promises."""
    try:
        yield
    except PictureError as error:
        if not file.exists():
            raise OSError(f"No such file or directory: {file}") from error
        if file.is_dir():
            raise OSError(f"Is a directory: {file}") from error
        raise OSError(f"Error handling image at: {file}") from error


# --- loaders -----------------------------------------------------------------------------------------------------------


class ArrayRows:
    """Gives batches of rows of an array as the engine's loaders give images.

    ``values`` are float32 ``(N, ...)``, ``rows`` int64 ``(N,)`` neighbouring rows of the table, one for each value.
    """

    def __init__(
        self, values: Tensor, *, table: ImageTable, rows: Tensor, device: torch.device
    ) -> None:
        self._values = values.to(device)
        self._targets = table.targets[rows].to(device)
        self._first = int(rows[0]) if len(rows) else 0

    def read_plan(self, plan: Sequence[Tensor], *, epoch: int) -> Generator[Batch]:
        """Yield the batches of a plan, the same in every epoch."""
        del epoch
        for rows in plan:
            places = (rows - self._first).to(self._values.device)
            yield Batch(images=self._values[places], targets=self._targets[places], rows=rows)


@dataclass(eq=False, kw_only=True)
class Batches:
    """Batches of some items, in order or shuffled differently each epoch.

    Attributes:
        source: Reads the batches of a plan.
        dataset: The same items one by one.
        table: Has their targets.
        rows: int64 ``(N,)``, where they are in it.
        bs: Items per batch; the last may hold fewer. In training a last batch of one item is left out, unless it is the
            only one: batch norms could not work with it.
        shuffle: Whether for training.
        seed: Seed of the orders.
    """

    source: DataLoader | ArrayRows
    dataset: Dataset
    table: ImageTable
    rows: Tensor
    bs: int
    shuffle: bool
    seed: int
    _passes: int = field(default=0, init=False)

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.rows)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield ``[x, y]`` as the network gets them, on the device; where something is random, each pass differs."""
        epoch, self._passes = self._passes, self._passes + 1
        with closing(self.batches(epoch=epoch)) as batches:
            for batch in batches:
                yield [self.dataset.normalised(batch.images), batch.targets]

    def batches(self, *, epoch: int = 0, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch for the engine, from number ``start`` on; images are 0-1, since the classifier normalises them."""
        return self.source.read_plan(self._plan(epoch)[start:], epoch=epoch)

    def _plan(self, epoch: int) -> tuple[Tensor, ...]:
        if not self.n:
            return ()
        rows = shuffle_rows(self.rows, seed=self.seed, epoch=epoch) if self.shuffle else self.rows
        plan = torch.split(rows, self.bs)
        return plan[:-1] if self.shuffle and len(plan) > 1 and len(plan[-1]) == 1 else plan


@dataclass(frozen=True, kw_only=True)
class TrainerLoaders:
    """What the engine's trainer takes for its ``dls``."""

    train: Batches
    valid: Batches
    fixed: Batches
    table: ImageTable
    device: torch.device
    seed: int
    path: Path
    balance: ClassVar[Balance] = "none"

    @property
    def vocab(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.table.vocab

    @property
    def bs(self) -> int:
        """Items per training batch."""
        return self.train.bs

    def loader_for(self, rows: Tensor) -> Batches:
        """Return the training items in order, prepared as in validation; the trainer asks for no other rows."""
        del rows
        return self.fixed


# --- tables ------------------------------------------------------------------------------------------------------------


def training_table(
    path: str | Path,
    *,
    trn: LabelledItems,
    val: LabelledItems,
    classes: Sequence[str],
    is_reg: bool,
) -> ImageTable:
    """Return the engine's table of training items, then validation items.

    Raises:
        ConfigError: The numbers of labels and names differ.
    """
    y = np.concatenate([np.asarray(trn.y), np.asarray(val.y)])
    names = [*trn.fnames, *val.fnames]
    if len(y) != len(names):
        raise ConfigError(f"There are {len(names)} images and {len(y)} labels. Give one each.")
    is_multi = y.ndim == 2 and not is_reg
    task: Task = "regression" if is_reg else "multi_category" if is_multi else "category"
    targets = _targets(y, is_reg=is_reg)
    outputs = targets.shape[1] if targets.ndim == 2 else 1
    rows = torch.arange(len(names))
    return ImageTable(
        root=Path(path),
        paths=tuple(Path(path, name) for name in names),
        targets=targets,
        vocab=tuple(map(str, range(outputs))) if is_reg else tuple(classes),
        train_rows=rows[: len(trn.fnames)],
        valid_rows=rows[len(trn.fnames) :],
        task=task,
    )


def table_of_test(test: LabelledItems, *, like: ImageTable) -> ImageTable:
    """Return the engine's table of test items; unknown labels count as the first class."""
    given = _targets(test.y, is_reg=like.task == "regression")
    expected = torch.zeros((len(test.fnames), *like.targets.shape[1:]), dtype=like.targets.dtype)
    is_known = given.shape == expected.shape and given.dtype == expected.dtype
    return ImageTable(
        root=like.root,
        paths=tuple(Path(like.root, name) for name in test.fnames),
        targets=given if is_known else expected,
        vocab=like.vocab,
        train_rows=torch.zeros(0, dtype=torch.int64),
        valid_rows=torch.arange(len(test.fnames)),
        task=like.task,
    )


def _targets(y: NDArray[Any], *, is_reg: bool) -> Tensor:
    """Return labels as targets of a table: int64 ``(N,)``, or float32 ``(N, C)`` for several labels and for numbers."""
    if is_reg:
        return torch.tensor(y, dtype=torch.float32).reshape(len(y), -1)
    return torch.tensor(y, dtype=torch.float32 if y.ndim == 2 else torch.int64)
