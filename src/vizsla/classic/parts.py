"""Sets of pictures with labels in; the table that the engine works on, and loaders of any of the sets, out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.classic.items import ArrayDataset, ArrayReader, PictureDataset
from vizsla.classic.listing import read_dir, targets_of
from vizsla.classic.loaders import ArrayBatches, PictureBatches
from vizsla.data.cache.cache import PictureCache, expected_bytes
from vizsla.data.images.item_transforms import item_pipeline
from vizsla.data.images.reader import PictureReader
from vizsla.data.loading.dataloaders import default_device
from vizsla.data.loading.loader import PictureLoader
from vizsla.errors import ConfigError
from vizsla.machine import default_num_workers
from vizsla.types import PictureTable, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.classic.loaders import Batches
    from vizsla.classic.transforms import Transforms


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
        dataset = PictureDataset(
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
