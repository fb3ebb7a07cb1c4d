"""Small things that notebooks expect to have a name: choices, statistics, getters of items, the check of picture files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vizsla.data.images.decode import open_picture
from vizsla.data.loading.loader import read_ahead
from vizsla.errors import PictureError
from vizsla.machine import default_num_workers
from vizsla.notebook.collections import L

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

imagenet_stats = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's red, green and blue, for pixels 0-1."""


class ResizeMethod(StrEnum):
    """How ``Resize`` makes a picture square."""

    Crop = "crop"
    Pad = "pad"
    Squish = "squish"


class PadMode(StrEnum):
    """What is seen outside of a picture."""

    Zeros = "zeros"
    Border = "border"
    Reflection = "reflection"


@dataclass(frozen=True)
class ItemGetter:
    """Takes one part of an item: ``item[i]``.

    Args:
        i: Position or key.
    """

    i: Any

    def __call__(self, item: Any) -> Any:
        """Return that part of an item."""
        return item[self.i]


@dataclass(frozen=True)
class AttrGetter:
    """Takes one attribute of an item.

    Args:
        nm: Its name.
        default: For items without it.
    """

    nm: str
    default: Any = None

    def __call__(self, item: Any) -> Any:
        """Return that attribute of an item."""
        return getattr(item, self.nm, self.default)


def verify_images(fns: Iterable[Path | str]) -> L[Path | str]:
    """Return the files that cannot be read as pictures; they are decoded whole, by as many threads as there are cores.

    Args:
        fns: Files.
    """

    def unreadable(file: Path | str) -> bool:
        try:
            open_picture(file)
        except PictureError:
            return True
        return False

    files = list(fns)
    workers = default_num_workers()
    wrong = read_ahead(unreadable, files, num_workers=workers, max_waiting=8 * workers)
    return L([file for file, bad in zip(files, wrong, strict=True) if bad])
