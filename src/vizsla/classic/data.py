"""Pictures in folders, a CSV file or arrays in; the datasets and loaders of lesson one out, over the engine's reading and batching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vizsla.classic.listing import csv_source, folder_source, get_cv_idxs, split_by_idx
from vizsla.classic.loaders import TrainingLoaders
from vizsla.classic.parts import Part, Workshop, check_transforms, new_cache, test_part
from vizsla.classic.resizing import write_smaller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vizsla.classic.items import Dataset
    from vizsla.classic.loaders import Batches
    from vizsla.classic.transforms import Transforms

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

    def of_features(
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
