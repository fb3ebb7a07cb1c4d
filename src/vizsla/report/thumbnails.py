"""Picture files in, small JPEGs as ``data:`` addresses out; a file that is gone gives none, and all together have a limit."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vizsla.data.images.decode import open_picture
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

LONGEST_SIDE = 224
BUDGET_BYTES = 4_300_000
"""Of all addresses of a page; with its text it stays below 5 MB."""
GONE = "cannot be read any more"
NO_ROOM = "left out, the page is full"
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small picture for a page.

    Attributes:
        address: ``data:image/jpeg;base64,...``, or an empty string where there is no picture.
        width: Pixels.
        height: Pixels.
        missing: Why there is no picture; empty where there is one.
    """

    address: str
    width: int
    height: int
    missing: str = ""


class Album:
    """The pictures of one page: makes them small, and leaves further ones out when the page would grow too large.

    Args:
        budget_bytes: What the addresses may take together.
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._left = budget_bytes

    def of_file(
        self, path: Path, *, side: int = LONGEST_SIDE, quality: int = _JPEG_QUALITY
    ) -> Thumbnail:
        """Return the whole picture of a file, scaled down so that its longest side is at most ``side`` pixels.

        Args:
            path: A picture file. One that cannot be read any more gives an empty address: a report on hundreds of
                pictures is not given up for one of them.
            side: Pixels.
            quality: Of the JPEG, as Pillow counts.
        """
        if self._left <= 0:
            return _without(NO_ROOM, side=side)
        try:
            picture = open_picture(path, cover=(side, side), truncated="ok")
        except (PictureError, OSError):
            return _without(GONE, side=side)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        return self._placed(picture, side=side, quality=quality)

    def of_pixels(self, pixels: Tensor, *, side: int = LONGEST_SIDE) -> Thumbnail:
        """Return pixels as a small picture.

        Args:
            pixels: uint8 ``(3, H, W)`` on the CPU.
            side: Longest side in pixels; larger ones are scaled down.
        """
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        return self._placed(picture, side=side, quality=_JPEG_QUALITY)

    def _placed(self, picture: Image.Image, *, side: int, quality: int) -> Thumbnail:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=quality, optimize=True)
        code = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._left -= len(code)
        if self._left < 0:
            self._left = 0
            return _without(NO_ROOM, side=side)
        return Thumbnail(
            address=f"data:image/jpeg;base64,{code}", width=picture.width, height=picture.height
        )


def _without(why: str, *, side: int) -> Thumbnail:
    return Thumbnail(address="", width=side, height=side, missing=why)
