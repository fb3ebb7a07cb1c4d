"""Picture files in, smaller copies of them in another folder out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL import Image

from vizsla.data.images.decode import open_picture
from vizsla.machine import default_num_workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
