"""Folders or a CSV file in, file names with their labels out; nothing is opened but the CSV file."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vizsla.data.table.sources import check_folder, is_picture_name
from vizsla.data.table.tables import read_table
from vizsla.errors import ConfigError, DataError, TableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
        pictures = [file for file in listing if is_picture_name(file) and not file.startswith(".")]
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
    fnames = [f"{folder}/{name}" for name in names if is_picture_name(name)]
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
