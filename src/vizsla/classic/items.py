"""Items one by one: a picture file, or a row of an array, in; the normalised array that the network sees, and its target, out."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from vizsla.classic.transforms import to_array
from vizsla.data.cache.cache import PictureCache
from vizsla.data.images.decode import open_picture
from vizsla.data.images.reader import PictureReader
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from vizsla.classic.transforms import Transforms


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


class PictureDataset:
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

    def _kept(self, source: Path | str | bytes, *, training: bool) -> NDArray[np.uint8]:
        values = self._pictures[Path(str(source))]
        pixels = values if values.dtype == np.uint8 else np.rint(np.clip(values, 0, 1) * 255)
        return self.items.kept(
            Image.fromarray(pixels.astype(np.uint8)), training=training, name=str(source)
        )


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
