"""The bytes of an upload in; why they are not decoded out, or nothing: found from headers, at the cost of microseconds.

What passes may still be damaged, which decoding finds; what does not pass would take far more memory or time than a picture
of the size that people send.
"""

from __future__ import annotations

import re

from vizsla.data.decode import picture_size

MOST_SCANS = 200
"""Progressive JPEGs of cameras and editors have about 10 scans; each one more costs a pass over all pixels."""

SMALL_PIXELS = 12_000_000
"""Pictures above this are decoded one at a time."""

# In coded data a 255 is followed by 0 or by a restart marker; any other follower begins the next segment.
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ICON_START = b"\x00\x00\x01\x00"


def refusal(data: bytes, *, max_pixels: int) -> str | None:
    """Return why an upload is not decoded, or None.

    Args:
        data: The bytes of a file.
        max_pixels: Of a picture.
    """
    if not data:
        return "the file is empty (0 bytes)"
    if data[:4] == _ICON_START:
        # The size in its directory need not be that of the picture inside.
        return "it is an icon (ICO), which is not taken here; convert it to PNG"
    size = picture_size(data)
    if size is None:
        return None  # Decoding says what is wrong.
    height, width = size
    if width * height > max_pixels:
        return f"it has {width} x {height} pixels, more than {max_pixels / 1e6:g} million"
    if data[:2] == b"\xff\xd8" and num_scans(data, most=MOST_SCANS) > MOST_SCANS:
        return f"it is a JPEG of more than {MOST_SCANS} scans, which would take too long to decode"
    return None


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
    return count


def is_large(data: bytes) -> bool:
    """Return whether decoding takes so much memory that it is done one picture at a time.

    Args:
        data: The bytes of a file. JPEGs are decoded scaled down and never count as large, unless they are progressive:
            then libjpeg holds all of the picture.
    """
    size = picture_size(data)
    if size is None or size[0] * size[1] <= SMALL_PIXELS:
        return False
    return data[:2] != b"\xff\xd8" or num_scans(data, most=1) > 1
