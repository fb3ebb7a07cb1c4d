"""Find the images of items that loaders were not made of: paths, rows of a table, what ``get_x`` takes, or images in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from vizsla.data.images.any_image import Bytes, as_source
from vizsla.data.storage.storage import is_there
from vizsla.errors import ConfigError, VizslaError
from vizsla.text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.data.images.any_image import AnyImage


def existing(name: Path, folder: Path) -> Path:
    """Return a path as given, or the same below a folder where only that is there."""
    below = folder / name
    return below if not is_there(name) and is_there(below) else name


def is_pair(item: Any) -> bool:
    """Return whether an item is a pair, of an image and its label."""
    return isinstance(item, tuple | list) and len(item) == 2  # pyright: ignore[reportUnknownArgumentType]


def item_path(item: Any, *, root: Path) -> Path:
    """Return the image of an item: a path, as given or below ``root``; a pair of a path and its label; or a row that holds a path."""
    name = item[0] if is_pair(item) else item
    if hasattr(name, "iloc"):  # a row of a DataFrame
        return _path_in_row(name, root=root)
    if isinstance(name, str | Path):
        return existing(Path(name), root)
    raise ConfigError(
        "An image is given by its path, by a pair (path, label), or itself, as an array, a tensor or a Pillow image. "
        f"Received: {type(item).__name__} {item!r:.80}"
    )


def find_image(item: Any, *, root: Path, get_x: Callable[[Any], Any] | None) -> Path | AnyImage:
    """Return the image of an item, a path or an image in memory.

    ``get_x`` takes items of the source. A path that it cannot take, or for which it names no file, is the image itself.

    Raises:
        ConfigError: The item has no image.
        TableError: A row does not have the column.
    """
    if _is_in_memory(item):
        return item
    if get_x is None:
        return item_path(item, root=root)
    is_name = isinstance(item, str | Path)
    try:
        found = item_path(get_x(item), root=root)
    except Exception as error:
        if is_name:
            return item_path(item, root=root)
        if isinstance(error, VizslaError):
            raise
        raise ConfigError(
            f"get_x finds no image for the item {item!r:.200}: {type(error).__name__}: {error}. Items must be of "
            "the kind that the DataBlock was given, or paths of images."
        ) from error
    itself = existing(Path(item), root) if is_name else found
    return itself if not is_there(found) and is_there(itself) else found


def as_files(images: Sequence[Path | AnyImage]) -> tuple[list[Path], Path | None]:
    """Return images as files, and the new folder of those that were in memory, written without loss; None if none was.

    Raises:
        PictureError: One of them is no image.
    """
    named = [image for image in images if isinstance(image, Path)]
    if len(named) == len(images):
        return named, None
    sources = list(map(as_source, images))
    folder = Path(tempfile.mkdtemp(prefix="vizsla-images-"))
    files: list[Path] = []
    for number, source in enumerate(sources):
        file = folder / f"{number:06}.png"  # the bytes of a file say themselves what they are
        if isinstance(source, Image.Image):
            source.save(file, compress_level=1)
        elif isinstance(source, bytes):
            file.write_bytes(source)
        else:
            file = Path(source)
        files.append(file)
    return files, folder


def _is_in_memory(thing: Any) -> bool:
    """Return whether it is an image or the bytes of one; an array of one axis is a row."""
    if isinstance(thing, np.ndarray | Tensor):
        return thing.ndim >= 2
    return isinstance(thing, Image.Image | Bytes)


def _path_in_row(row: Any, *, root: Path) -> Path:
    """Return the file that a row of a DataFrame names, in the first column that has one."""
    for value in row.tolist():
        if isinstance(value, str | Path) and is_there(existing(Path(value), root)):
            return existing(Path(value), root)
    raise ConfigError(
        f"None of the columns {list(map(str, row.index))} names an image in this row, either as a path or below "
        f"{quoted(root)}: {row.tolist()!r:.200}. Give the paths: test_dl([folder / name for name in df[COLUMN]])."
    )
