"""The bytes of a JPEG in, its size and orientation out, if it is of the plain kind that any decoder takes; nothing is decoded.

Pillow tells as much, but needs 80 instead of 10 microseconds under the interpreter lock, which is too long where a device decodes
ten thousand pictures a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vizsla.types import Size

_BASELINE = 0xC0
_NOT_BASELINE = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _APP14, _SCAN = 0xE1, 0xEE, 0xDA
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))
_ORIENTATION = 0x0112
_SHORT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegHeader:
    """What is known of a plain JPEG.

    Attributes:
        size: ``(height, width)`` as stored, before it is turned upright.
        orientation: As EXIF counts, 1 to 8; 1 is upright.
    """

    size: Size
    orientation: int


def plain_jpeg(data: bytes) -> JpegHeader | None:
    """Return the header of a plain JPEG: baseline, 8 bits, grey or YCbCr, whole.

    Args:
        data: All bytes of a file.

    Returns:
        None for everything else, also where something about the file is unusual: progressive, CMYK or stored as RGB, one that
        does not end as it should, one whose EXIF data is damaged or whose orientation stands elsewhere than there.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return None
    try:
        return _header(data)
    except (IndexError, _UnusualError):
        return None


class _UnusualError(Exception):
    """There is something about the file that the usual decoder should see."""


def _header(data: bytes) -> JpegHeader:
    size: Size | None = None
    orientation, at = 1, 2
    while True:
        if data[at] != 0xFF:
            raise _UnusualError
        marker = data[at + 1]
        if marker == 0xFF:  # Fill bytes may stand before a marker.
            at += 1
            continue
        if marker == _SCAN and size is not None:
            return JpegHeader(size=size, orientation=orientation)
        if marker in _WITHOUT_LENGTH or marker in _NOT_BASELINE or marker == _SCAN:
            raise _UnusualError
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        body = data[at + 4 : end]
        if marker == _BASELINE:
            size = _frame_size(body)
        elif marker == _APP1 and body.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(body[6:])
        elif (marker == _APP1 and b"tiff:Orientation" in body) or (
            # 1 is YCbCr; 0 is RGB or unknown, 2 is for CMYK.
            marker == _APP14 and body.startswith(b"Adobe") and body[11] != 1
        ):
            raise _UnusualError
        at = end


def _frame_size(body: bytes) -> Size:
    precision, num_components = body[0], body[5]
    size = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
    names = body[6 : 6 + 3 * num_components : 3]
    if precision != 8 or num_components not in (1, 3) or 0 in size or names == b"RGB":
        raise _UnusualError
    return size


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation that the first directory of EXIF data states, 1 if it states none."""
    orders = {b"II*\0": "little", b"MM\0*": "big"}
    order = orders.get(tiff[:4])
    if order is None:
        raise _UnusualError

    def number(start: int, length: int) -> int:
        part = tiff[start : start + length]
        if len(part) < length:
            raise _UnusualError
        return int.from_bytes(part, "little" if order == "little" else "big")

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            if number(entry + 2, 2) != _SHORT or not 1 <= value <= 8:
                raise _UnusualError
            return value
    return 1
