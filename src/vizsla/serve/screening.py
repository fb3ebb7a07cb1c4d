"""The bytes of an upload in; why they are not decoded, or what decoding them takes, out: from headers, in microseconds.

What passes may still be damaged, which decoding finds; what does not pass would take far more memory or time than a picture
of the size that people send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.data.images.decode import picture_size

if TYPE_CHECKING:
    from vizsla.types import Size

MOST_SCANS = 200
"""Progressive JPEGs of cameras and editors have about 10 scans; each one more costs a pass over all pixels."""

SMALL_PIXELS = 12_000_000
"""Pictures of which more than this is decoded come one at a time."""

# In coded data a 255 is followed by 0 or by a restart marker; any other follower begins the next segment.
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_SCAN = re.compile(
    rb"\xff\xda"
)  # A plain string is sought 20 times as fast: 0.04 ms in a JPEG of 120 kB.
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ICON_START = b"\x00\x00\x01\x00"
_JPEG_START = b"\xff\xd8"
_JPEG_SCALES = (8, 4, 2)

_WEBP_CANVASES = 3
"""Pillow holds a WebP picture so many times while it decodes it: 16 bytes a pixel were measured, of PNG 6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """What is known of an upload before it is decoded.

    Attributes:
        refusal: Why it is not decoded, empty where it may be.
        pixels: So many will be in memory at once; 0 where the header does not tell, and decoding will find nothing.
    """

    refusal: str = ""
    pixels: int = 0

    @property
    def is_large(self) -> bool:
        """Whether decoding takes so much memory that it is done one picture at a time."""
        return self.pixels > SMALL_PIXELS


def screened(data: bytes, *, max_pixels: int, cover: Size | None = None) -> Screened:
    """Return whether and with how many pixels an upload may be decoded.

    Args:
        data: The bytes of a file.
        max_pixels: Of a picture.
        cover: ``(height, width)``; JPEGs are decoded at the smallest of libjpeg's scales that covers it. None for all pixels.
    """
    if not data:
        return Screened(refusal="the file is empty (0 bytes)")
    if data[:4] == _ICON_START:
        # The size in its directory need not be that of the picture inside.
        why = "it is an icon (ICO), which is not taken here; convert it to PNG"
        return Screened(refusal=why)
    # Pillow sets aside two canvases to open a WebP file, which may be of 34 bytes: so its header is read here.
    webp = _webp_size(data)
    size = webp or picture_size(data)
    if size is None:
        return Screened()  # Decoding says what is wrong.
    height, width = size
    if width * height > max_pixels:
        why = f"it has {width} x {height} pixels, more than {max_pixels / 1e6:g} million"
        return Screened(refusal=why)
    if data[:2] != _JPEG_START:
        return Screened(pixels=width * height * (_WEBP_CANVASES if webp else 1))
    scans = num_scans(data, most=MOST_SCANS)
    if scans > MOST_SCANS:
        why = f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode"
        return Screened(refusal=why)
    # Of one with several scans libjpeg holds all of the picture, whatever scale is asked for.
    scale = 1 if scans > 1 or cover is None else _jpeg_scale(size, cover=cover)
    return Screened(pixels=-(-width // scale) * -(-height // scale))


def num_scans(data: bytes, *, most: int) -> int:
    """Return how many scans a JPEG has, counted up to ``most + 1``; 0 where it is damaged early.

    Args:
        data: The bytes of the file.
        most: Where to stop counting.
    """
    place, count = 2, 0
    while count <= most:
        found = _NEXT_MARKER.search(data, place)
        if found is None:
            break
        marker, place = found.group(1)[0], found.end()
        if marker == _END_OF_IMAGE:
            break
        count += marker == _START_OF_SCAN
        place += int.from_bytes(data[place : place + 2], "big")
        if count and _SCAN.search(data, place) is None:
            break
    return count


def _webp_size(data: bytes) -> Size | None:
    """Return ``(height, width)`` as stored (RFC 9649, section 2.5 to 2.7), None where it is no WebP file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") for at in (26, 28))
        return height & 0x3FFF, width & 0x3FFF
    return None


def _jpeg_scale(size: Size, *, cover: Size) -> int:
    """Return the factor by which a JPEG is shrunk while it is decoded, as Pillow chooses it."""
    shrinks = min(side // needed for side, needed in zip(size, cover, strict=True))
    return next((scale for scale in _JPEG_SCALES if shrinks >= scale), 1)
