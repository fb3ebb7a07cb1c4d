"""Tell whether a JPEG that decodes without an error is only a part of an image: grey from some line on, or coarse.

To libjpeg a file that was cut off and closed again with an end marker is whole: it fills the rest with grey, and Pillow passes
its warning on to nobody. Copies that other programs made of such a file look the same. The first test is one pixel, the last
that is decoded: it has that grey in 1 of 1,272 photos, and only there the image is looked at again, at an eighth of its size.
Of a progressive file the headers of its scans tell.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import JpegImagePlugin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_PROGRESSIVE, _BASELINE = 0xC2, (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SIGN = "JPEG ends in grey"
_GREY = 128
_NEAR = 3  # In copies, colours of what is above reach into it.
_TAIL_BYTES = 4
_MOST_TAIL_BLOCKS = 16
"""A filled block takes at least two bits."""


def is_filled(pixel: object) -> bool:
    """Whether a pixel as it is stored, one value or several, has the grey that libjpeg fills with."""
    values = pixel if isinstance(pixel, tuple) else (pixel,)
    # Inverted CMYK has the grey below.
    return all(value == _GREY or (value == _GREY - 1 and len(values) == 4) for value in values)


def signs_of(image: Image.Image) -> dict[str, bool]:
    """Return what ``missing_part`` wants to know of a JPEG as it was decoded, at any scale; to be kept as ``info``."""
    ends_in_grey = is_filled(image.getpixel((image.width - 1, image.height - 1)))
    return {_SIGN: ends_in_grey} if ends_in_grey or "progressive" in image.info else {}


def missing_part(image: Image.Image, data: bytes) -> str:
    """Return what seems to be missing of an image from ``decode_image``, in words, or nothing; ``data`` are those of its file."""
    if _SIGN not in image.info:
        return ""
    if not data.endswith(_END):
        data += _END
    try:
        frame = _frame(data)
        if frame.marker == _PROGRESSIVE and _lacks_scans(data, frame):
            return "it is coarse because the last scans of the file are missing"
        share = _filled_share(data, frame) if image.info[_SIGN] else 0
    except (OSError, SyntaxError, LookupError, ValueError):
        return ""  # It was decoded, but is built as no file of the usual programs.
    return f"its last {share:.0%} is grey because the file ends early" if share else ""


def _filled_share(data: bytes, frame: _Frame) -> float:
    """Return the share of rows at the end that libjpeg filled, for want of data; 0 where grey seems to be meant."""
    means = _decoded(data, scale=8).astype(np.float32)  # Of 8 x 8 pixels; (H, W) or (H, W, C)
    is_near: Any = np.abs(means - _GREY) <= _NEAR
    is_grey = is_near.all(axis=2) if is_near.ndim == 3 else is_near
    height, width = is_grey.shape
    # How many grey blocks each row of blocks ends with, from the last row up.
    ends = np.where(is_grey.all(axis=1), width, np.argmin(is_grey[:, ::-1], axis=1))[::-1]
    num_rows = int(np.argmin(ends == width))
    if num_rows == 0:  # no row of blocks is lost, or the whole image is grey
        return 0
    above = ends[num_rows:]
    if above[0] > 1:
        # What is lost begins somewhere in a row of blocks, or in two where colours have half the resolution. Borders,
        # padding and backgrounds have no such step. The next row has none of it.
        coarse = max(sampling & 15 for sampling in frame.samplings)
        steps = (coarse,) if coarse > 1 else (1, 2)  # A copy may be finer than what it was made of.
        is_lost = any(np.ptp(above[:n]) <= 1 and (above[n : n + 1] <= 1).all() for n in steps)
    else:
        is_lost = num_rows * width > _MOST_TAIL_BLOCKS and _last_bytes_matter(
            data, frame, above=8 * (height - num_rows) - 2
        )
    return num_rows / height if is_lost else 0


def _decoded(data: bytes, *, scale: int) -> NDArray[np.uint8]:
    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
    return np.asarray(image)


def _last_bytes_matter(data: bytes, frame: _Frame, *, above: int) -> bool:
    """Whether the last bytes of a file code something above this row; those of a border that is meant to be grey do not.

    Two pixels are left out above the grey, into which its last, now damaged colours reach.
    """
    shorter = data[: -len(_END) - _TAIL_BYTES] + _END
    return frame.marker in _BASELINE and not np.array_equal(
        _decoded(data, scale=1)[:above], _decoded(shorter, scale=1)[:above]
    )


def _lacks_scans(data: bytes, frame: _Frame) -> bool:
    """Whether no scan of a progressive JPEG has the last bit of some coefficient of some colour."""
    found = dict.fromkeys(frame.colours, 0)
    at, end = frame.end, data.find(_END, frame.end)
    while at >= 0:
        count = data[at + 4]
        first, last, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        if bits & 15 == 0:
            for colour in data[at + 5 : at + 5 + 2 * count : 2]:
                found[colour] |= (2 << last) - (1 << first)
        at = data.find(_SCAN, at + 2, end)
    return any(coefficients != 2**64 - 1 for coefficients in found.values())


class _Frame(NamedTuple):
    """How a JPEG is coded: the marker of its frame, of each colour the name and the sampling, and where the first scan begins."""

    marker: int
    colours: bytes
    samplings: bytes
    end: int


def _frame(data: bytes) -> _Frame:
    marker, colours, at = 0, b"", 2
    while data[at : at + 2] != _SCAN:
        if data[at + 1] in _FRAMES:
            marker, colours = data[at + 1], data[at + 10 : at + 10 + 3 * data[at + 9]]
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return _Frame(marker, colours[::3], colours[1::3], at)
