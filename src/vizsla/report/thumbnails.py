"""A picture file in, a small JPEG as a ``data:`` address out, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vizsla.data.decode import open_picture
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_SIDE = 224
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small picture for a page.

    Attributes:
        address: ``data:image/jpeg;base64,...``, or an empty string where the picture cannot be read.
        width: Pixels.
        height: Pixels.
    """

    address: str
    width: int
    height: int


def make_thumbnail(path: Path) -> Thumbnail:
    """Return the whole picture, scaled down so that its longest side is at most 224 pixels.

    Args:
        path: A picture file. One that cannot be read any more gives an empty address: a report on hundreds of
            pictures is not given up for one of them.
    """
    try:
        picture = open_picture(path, cover=(LONGEST_SIDE, LONGEST_SIDE), truncated="ok")
    except (PictureError, OSError):
        return Thumbnail(address="", width=LONGEST_SIDE, height=LONGEST_SIDE)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(
        address=f"data:image/jpeg;base64,{code}", width=picture.width, height=picture.height
    )
