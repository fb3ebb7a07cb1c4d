"""Open HEIC images, the photos of many phones, where the extra ``heic`` is installed.

pillow-heif decodes them. It is not registered with Pillow, which would change what ``Image.open`` reads in the whole process.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from vizsla.errors import MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

# Still images and sequences coded by HEVC (ISO 23008-12, annex B). Those coded by AV1 are AVIF, which Pillow reads.
_BRANDS = frozenset(b"he" + end for end in (b"ic", b"ix", b"im", b"is", b"vc", b"vx", b"vm", b"vs"))


def is_heic(data: bytes) -> bool:
    """Whether the bytes of a file begin as those of an HEIC image do; its own brand may stand behind a general one."""
    brands = data[8 : min(int.from_bytes(data[:4]), 256)] if data[4:8] == b"ftyp" else b""
    return any(brands[at : at + 4] in _BRANDS for at in range(0, len(brands), 4))


def open_heic(data: bytes) -> Image.Image:
    """Return the main image of an HEIC file, to be loaded: upright, of 8 bits, with its colour profile.

    libheif turns it as the file says; EXIF data says it again, and pillow-heif sets that to upright.

    Raises:
        MissingExtraError: pillow-heif is not installed.
        SyntaxError: The file is damaged.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MissingExtraError("pillow-heif", extra="heic", purpose="read HEIC images") from error
    return HeifImageFile(BytesIO(data))
