"""The data of lesson one: lists of files with labels, and ``ImageClassifierData`` with its datasets and loaders."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from vizsla.classic.loaders import (
    ArrayDataset,
    ArrayReader,
    ArrayRows,
    Batches,
    ImageDataset,
    ItemSets,
    LabelledItems,
    TrainerLoaders,
    open_image,
    table_of_test,
    training_table,
)
from vizsla.data.cache.cache import ImageCache, expected_bytes
from vizsla.data.images.decode import decode_image
from vizsla.data.images.reader import ImageReader
from vizsla.data.loading.dataloaders import DataLoader, default_device
from vizsla.data.loading.loader import ImageLoader
from vizsla.data.table.sources import check_folder, is_image_name
from vizsla.data.table.tables import read_table
from vizsla.errors import ConfigError, DataError, TableError
from vizsla.machine import default_num_workers, map_in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from vizsla.classic.transforms import Transforms
    from vizsla.types import ImageTable

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


def folder_source(
    path: str | Path, folder: str, classes: Sequence[str] | None = None
) -> tuple[list[str], NDArray[np.int64], list[str]]:
    """List the images of a folder with one folder per class.

    Args:
        path: The data's folder.
        folder: Name of the folder in it.
        classes: Names of the classes in their order; None takes those of this folder.

    Returns:
        File names relative to ``path``, sorted; the position of each one's class, int64; the classes.

    Raises:
        ConfigError: A class of the folder is not among ``classes``.
        NotADirectoryError: A file stands where a class folder should.
        DataError: There is no such folder, or it is empty.
    """
    place = Path(path, folder)
    check_folder(place)
    found = sorted({each.name for each in place.iterdir()} - _NO_CLASSES)
    if not found:
        raise DataError(
            f"There are no class folders in {place}. Create one folder per class there, with its images inside."
        )
    known = found if classes is None else list(classes)
    if unknown := [name for name in found if name not in known]:
        raise ConfigError(
            f"The folder {place} has classes that the training images do not have: {', '.join(unknown)}. The "
            f"training classes are: {', '.join(known)}. Rename or remove the folders."
        )
    fnames: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name in found:
        listing = sorted(os.listdir(place / name))  # noqa: PTH208 (NotADirectoryError where it is a file)
        images = [file for file in listing if is_image_name(file) and not file.startswith(".")]
        others.update(Path(file).suffix or file for file in set(listing) - set(images))
        fnames += [f"{folder}/{name}/{file}" for file in images]
        labels += [known.index(name)] * len(images)
    if others:
        kinds = ", ".join(sorted(others))
        warnings.warn(
            f"Skipped {others.total()} files in {place} that are not images ({kinds}).",
            stacklevel=4,
        )
    return fnames, np.array(labels, dtype=np.int64), known


def read_dir(path: str | Path, folder: str) -> list[str]:
    """List the images of a folder without labels, relative to ``path``, sorted.

    Raises:
        FileNotFoundError: The folder does not exist or has no images.
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
    """Read file names and labels from a CSV file.

    Args:
        folder: Folder of the images, relative to the data's.
        csv_file: The file: a column of names, then one of labels, separated by spaces where an image has several.
        skip_header: Whether the first row names the columns.
        suffix: Added to each name, for example ``".jpg"``.
        continuous: Whether labels are numbers.

    Returns:
        File names; labels sorted by name: int64 ``(N,)``, float32 n-hot ``(N, C)`` where an image has several, float32
        ``(N,)`` if they are numbers; the classes, sorted.

    Raises:
        TableError: The file cannot be read, or a label is not a number.
    """
    table = read_table(csv_file, header="infer" if skip_header else None, delimiter=",")
    pairs = sorted(zip(map(str, table.column(0)), map(str, table.column(1)), strict=True))
    fnames = [f"{folder}/{name}{suffix}" for name, _ in pairs]
    if continuous:
        try:
            return fnames, np.array([float(label) for _, label in pairs], dtype=np.float32), []
        except ValueError as error:
            raise TableError(
                f"A label in {csv_file} is not a number: {error}. Correct it."
            ) from error
    labels = [label.split(" ") for _, label in pairs]
    classes = sorted({name for names in labels for name in names})
    if all(len(names) == 1 for names in labels):
        return fnames, np.array([classes.index(names[0]) for names in labels]), classes
    rows = [[float(each in names) for each in classes] for names in labels]
    return fnames, np.array(rows, dtype=np.float32), classes


def get_cv_idxs(
    n: int, cv_idx: int = 0, val_pct: float = 0.2, seed: int = CV_SEED
) -> NDArray[np.int64]:
    """Return the positions of a random validation set; the global random state is neither used nor changed.

    Args:
        n: Number of items.
        cv_idx: Which of the parts of this size.
        val_pct: Share of the items.
        seed: Seed of the choice.
    """
    order = np.random.RandomState(seed).permutation(n)  # noqa: TID251 (the numbers that this dialect had)
    size = int(val_pct * n)
    return order[cv_idx * size : (cv_idx + 1) * size]


def split_by_idx(idxs: Sequence[int], *a: Any) -> list[tuple[Any, Any]]:
    """Return (chosen, others) of each array, both in the order of the array.

    Args:
        idxs: Positions that are chosen.
        *a: Arrays of equal length.
    """
    chosen = np.zeros(len(a[0]), dtype=bool)
    chosen[np.array(idxs, dtype=np.int64)] = True
    return [(np.asarray(each)[chosen], np.asarray(each)[~chosen]) for each in a]


Tfms = tuple["Transforms | None", "Transforms | None"]


class ImageClassifierData:
    """Training, validation and test images with their loaders; made by ``from_paths`` and its siblings.

    Each loader ``*_dl`` has its dataset ``*_ds``, which gives the same items one by one.

    Attributes:
        classes: Names of the classes, a list.
        c: Number of classes, or of numbers.
        sz: Pixels per side of what the network sees, or number of features.
        is_multi: Whether an image may have several labels.
        is_reg: Whether labels are numbers.
        trn_dl: Shuffled batches of training images.
        val_dl: Batches of validation images, in order, like the ones below.
        fix_dl: Batches of training images, prepared as in validation.
        aug_dl: Batches of validation images, prepared as in training.
        test_dl: Batches of test images, or None.
        test_aug_dl: The same, prepared as in training, or None.
        trn_y: Labels of the training images: int64 ``(N,)``, or float32 ``(N, C)`` where an image has several.
        val_y: Labels of the validation images.
        table: Training and validation images as the engine sees them.
        loaders: What the engine's trainer takes.
    """

    def __init__(
        self,
        path: str | Path,
        items: ItemSets,
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
        self.is_reg = is_reg
        self._items = items
        trn, val, test = items
        # A new one for each data object; ``torch.manual_seed`` makes it repeatable.
        self._seed = int(torch.randint(2**31, ()))
        self._device = default_device()
        self._cache = _new_cache(tfms, num_images=len(trn.fnames) + len(val.fnames))
        self.table = table = training_table(path, trn=trn, val=val, classes=classes, is_reg=is_reg)
        self.trn_dl = self._loader(trn, table, table.train_rows, tfms[0], shuffle=True)
        self.val_dl = self._loader(val, table, table.valid_rows, tfms[1])
        self.fix_dl = self._loader(trn, table, table.train_rows, tfms[1])
        self.aug_dl = self._loader(val, table, table.valid_rows, tfms[0])
        self.test_dl: Batches | None = None
        self.test_aug_dl: Batches | None = None
        if test is not None:
            table = table_of_test(test, like=table)
            self.test_dl = self._loader(test, table, table.valid_rows, tfms[1])
            self.test_aug_dl = self._loader(test, table, table.valid_rows, tfms[0])
        self.trn_ds, self.val_ds = self.trn_dl.dataset, self.val_dl.dataset
        self.fix_ds, self.aug_ds = self.fix_dl.dataset, self.aug_dl.dataset
        self.test_ds = None if self.test_dl is None else self.test_dl.dataset
        self.test_aug_ds = None if self.test_aug_dl is None else self.test_aug_dl.dataset
        self.trn_y, self.val_y = self.trn_ds.y, self.val_ds.y
        self.c, self.sz, self.is_multi = len(table.vocab), self.trn_ds.sz, self.trn_ds.is_multi
        self.loaders = TrainerLoaders(
            train=self.trn_dl,
            valid=self.val_dl,
            fixed=self.fix_dl,
            table=self.table,
            device=self._device,
            seed=self._seed,
            path=Path(path),
        )

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
            bs: Images per batch.
            tfms: From ``tfms_from_model``.
            trn_name: Name of the training folder.
            val_name: Name of the validation folder.
            test_name: Name of the folder of test images.
            test_with_labels: Whether that has one folder per class too.
            num_workers: Threads that read images.

        Raises:
            AssertionError: There are no transforms.
            DataError: A folder is missing.
            ConfigError: The validation folder has a class that the training folder has not.
            FileNotFoundError: The test folder is missing or empty.
        """
        _check_transforms(tfms)
        fnames, y, classes = folder_source(path, trn_name)
        valid_fnames, valid_y, _ = folder_source(path, val_name, classes)
        test = None
        if test_name and test_with_labels:
            test_fnames, test_y, _ = folder_source(path, test_name, classes)
            test = LabelledItems(test_fnames, test_y)
        elif test_name:
            test = _test_items(path, test_name)
        items = ItemSets(LabelledItems(fnames, y), LabelledItems(valid_fnames, valid_y), test)
        return cls(path, items, tfms, classes, bs, num_workers)

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
            folder: Folder of the images, relative to it.
            csv_fname: The file; not relative to ``path``.
            bs: Images per batch.
            tfms: From ``tfms_from_model``.
            val_idxs: Positions of the validation images in the sorted names; None chooses a fifth at random.
            suffix: Added to each name.
            test_name: Name of the folder of test images.
            continuous: Whether labels are numbers.
            skip_header: Whether the first row names the columns.
            num_workers: Threads that read images.

        Raises:
            AssertionError: There are no transforms, or ``folder`` is absolute.
            TableError: The file cannot be read.
        """
        _check_transforms(tfms)
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
        """Return the data of file names and an array of labels; the options are those of ``from_csv``.

        ``y`` holds positions of classes ``(N,)``, n-hot rows ``(N, C)``, or numbers; ``classes`` are the names of the classes.
        """
        _check_transforms(tfms)
        chosen = get_cv_idxs(len(fnames)) if val_idxs is None else val_idxs
        names = np.array([f"{name}{suffix}" for name in fnames])
        (valid_names, names), (valid_y, train_y) = split_by_idx(chosen, names, np.asarray(y))  # pyright: ignore[reportArgumentType]
        test = _test_items(path, test_name) if test_name else None
        items = ItemSets(LabelledItems(names, train_y), LabelledItems(valid_names, valid_y), test)
        return cls(path, items, tfms, classes, bs, num_workers, continuous)

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
            path: Folder that gets ``tmp`` and ``models``.
            trn: (x, y) to train on: images ``(N, H, W, 3)`` of values 0-1 with ``tfms``, or features ``(N, D)`` without.
            val: (x, y) held out.
            bs: Items per batch.
            tfms: From ``tfms_from_model``; (None, None) takes the rows as they are.
            classes: Names of the classes; None numbers them.
            num_workers: Threads that prepare images.
            test: x, or (x, y), of the test set.
        """
        y = np.asarray(trn[1])
        count = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        names = [str(number) for number in range(count)] if classes is None else classes
        of_test = None
        if test is not None:
            x, test_y = test if isinstance(test, tuple) else (test, np.zeros((len(test), 1)))
            of_test = LabelledItems.of_array("test", x, test_y)
        of_train, of_valid = (
            LabelledItems.of_array(name, *each) for name, each in (("train", trn), ("valid", val))
        )
        items = ItemSets(of_train, of_valid, of_test)
        return cls(path, items, tfms, names, bs, num_workers)

    def with_features(
        self, train: NDArray[Any], valid: NDArray[Any], test: NDArray[Any] | None
    ) -> ImageClassifierData:
        """Return the same items with features, float32 ``(N, D)``, instead of images."""
        trn, val, of_test = self._items
        items = ItemSets(
            LabelledItems(trn.fnames, trn.y, train),
            LabelledItems(val.fnames, val.y, valid),
            None if of_test is None else LabelledItems(of_test.fnames, of_test.y, test),
        )
        return self._with(self.path, items, (None, None))

    def resize(self, targ_sz: int, new_path: str = "tmp") -> ImageClassifierData:
        """Write every image once with a smaller side of ``targ_sz`` pixels, and return the data of those.

        Args:
            targ_sz: Pixels.
            new_path: Folder in the data's folder; the images go to ``new_path/targ_sz``. If the first is there, all are.

        Returns:
            Data whose ``path`` is that folder.

        Raises:
            PictureError: An image cannot be read.
        """
        target = Path(self.path, new_path, str(targ_sz))
        names = [name for items in self._items if items is not None for name in items.fnames]

        def write(some: Sequence[str]) -> Sequence[None]:
            for name in some:
                image = decode_image(Path(self.path, name), cover=(targ_sz, targ_sz))
                ratio = targ_sz / min(image.size)
                size = (
                    max(targ_sz, int(image.width * ratio)),
                    max(targ_sz, int(image.height * ratio)),
                )
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                image.resize(size, Image.Resampling.BILINEAR).save(target / name)
            return [None] * len(some)

        if names and not (target / names[0]).exists():
            map_in_threads(write, names[1:], num_threads=max(1, default_num_workers()), together=1)
            write(names[:1])  # Last, because it says that all are there.
        return self._with(f"{target}/", self._items, self.tfms)

    def _with(self, path: str | Path, items: ItemSets, tfms: Tfms) -> ImageClassifierData:
        return ImageClassifierData(
            path, items, tfms, self.classes, self.bs, self.num_workers, self.is_reg
        )

    def _loader(
        self,
        items: LabelledItems,
        table: ImageTable,
        rows: Tensor,
        tfm: Transforms | None,
        *,
        shuffle: bool = False,
    ) -> Batches:
        """Return a loader of items at these rows of the table; without transforms the rows of the array stay as they are."""
        c = len(table.vocab)
        if tfm is None:
            values: NDArray[Any] = np.zeros(0) if items.x is None else np.asarray(items.x)
            source = ArrayRows(
                torch.as_tensor(values, dtype=torch.float32),
                table=table,
                rows=rows,
                device=self._device,
            )
            width = values.shape[1] if values.ndim > 1 else 0
            dataset = ArrayDataset(x=values, y=items.y, sz=width, c=c, is_reg=self.is_reg)
        else:
            reader = ImageReader(resize=tfm.sizing, cache=self._cache)
            if items.x is not None:
                paths = (table.paths[row] for row in rows.tolist())
                arrays = dict(zip(paths, np.asarray(items.x), strict=True))
                reader = ArrayReader(arrays, transforms=tfm)
            loader = ImageLoader(
                table,
                rows,
                reader=reader,
                batch_size=self.bs,
                training=tfm.is_random,
                seed=self._seed,
                num_workers=min(self.num_workers, default_num_workers()),
                device=self._device,
            )
            source = DataLoader(loader, augmentation=tfm.augmentation(seed=self._seed))
            dataset = ImageDataset(
                path=self.path,
                fnames=items.fnames,
                y=items.y,
                transform=tfm,
                reader=reader,
                sz=tfm.sz,
                c=c,
                is_reg=self.is_reg,
            )
        return Batches(
            source=source,
            dataset=dataset,
            table=table,
            rows=rows,
            bs=self.bs,
            shuffle=shuffle,
            seed=self._seed,
        )


def _test_items(path: str | Path, test_name: str) -> LabelledItems:
    fnames = read_dir(path, test_name)
    return LabelledItems(fnames, np.zeros((len(fnames), 1), dtype=np.int64))


def _check_transforms(tfms: Tfms) -> None:
    if tfms[0] is None or tfms[1] is None:
        raise AssertionError("please provide transformations for your train and validation sets")


def _new_cache(tfms: Tfms, *, num_images: int) -> ImageCache:
    """Return a cache with room for each image as in training and as in validation."""
    train, valid = tfms
    if train is None or valid is None:
        return ImageCache(mode="off")
    parts = (
        expected_bytes(train.sizing, num_centred=0, num_strips=num_images),
        expected_bytes(valid.sizing, num_centred=num_images, num_strips=0),
    )
    needed = None if None in parts else sum(part or 0 for part in parts)
    return ImageCache(device=default_device(), expected_bytes=needed)
