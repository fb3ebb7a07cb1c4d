"""Why a file cannot be decoded: it is not an image, it is damaged, or it is of a kind that is not supported.

Only failures come here, so nothing of this costs time where an image is read.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, get_args

from PIL import Image, TiffImagePlugin

from vizsla.errors import PictureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUNCATED = "the file is truncated (it ends before the image is complete)"

NOT_AN_IMAGE: PictureKind = "not an image"
DAMAGED: PictureKind = "damaged"
UNSUPPORTED: PictureKind = "unsupported kind"

# Image formats that are not decoded, by their first bytes.
_OTHER_FORMATS = (
    (b"8BPS", "a Photoshop file"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"SIMPLE  =", "a FITS image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"II\xbc\x01", "a JPEG XR image"),
    (b"DDS ", "a DDS texture"),
    (b"qoif", "a QOI image"),
    (b"gimp xcf", "a GIMP file"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"<svg", "an SVG drawing"),
)
_DICOM = b"DICM"  # After 128 bytes that may be anything.

# What Pillow says of a file that is whole, but of a kind that it does not decode.
_UNSUPPORTED_WORDS = (
    *("not supported", "unsupported", "not yet supported", "not available", "cannot handle"),
    *("unknown raw mode", "unknown pixel mode", "unknown data organization", "samples per pixel"),
    "unable to determine",
)
_PLAUSIBLE_BITS = frozenset((1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64, 128))
_TIFF_VALUES = {2: "signed integers", 3: "floating-point numbers", 6: "complex numbers"}
_COMPRESSIONS = {33003: "JPEG 2000", 34712: "JPEG 2000", 34892: "lossy JPEG", 50001: "WebP"}

# Frames of JPEG that libjpeg does not decode: lossless and hierarchical ones (ITU-T T.81, table B.1).
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_HIERARCHICAL = (0xC5, 0xC6, 0xCD, 0xCE)
_NOT_A_FRAME = (0xC4, 0xC8, 0xCC)


class UnreadableError(Exception):
    """Why an image cannot be read, in words that continue "Cannot read the image PATH: ..."; ``kind`` is None for other reasons."""

    def __init__(self, cause: str, kind: PictureKind | None = None) -> None:
        super().__init__(cause if kind is None else f"{kind}: {cause}")
        self.kind: PictureKind | None = kind
        self.is_truncated = cause == TRUNCATED


def refused_header(data: bytes, *, formats: Sequence[str], error: Exception) -> UnreadableError:
    """Return why Pillow opens the bytes of a file as none of its formats; ``error`` is what it raised."""
    other = _other_format(data)
    if other:
        return UnreadableError(f"{other}, which is not decoded; convert it to PNG", UNSUPPORTED)
    start = data[:24]
    if start.isascii() and start.decode("ascii").split() and b"\0" not in start:
        text = f"text that begins with {start.decode('ascii')!r}"
        return UnreadableError(text, NOT_AN_IMAGE)
    for name in formats:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is True:
            try:
                factory(BytesIO(data), "")
            except Exception as reason:  # noqa: BLE001 (a plugin may raise anything)
                error = reason
            return refused_data(data, error)
    return UnreadableError(f"it begins with {start[:8]!r}", NOT_AN_IMAGE)


def refused_data(data: bytes, error: Exception) -> UnreadableError:
    """Return why an image that has a known beginning was not decoded; ``error`` is what Pillow raised."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return UnreadableError("decoding it needs more memory than is available")
    unsupported = _unsupported_jpeg(data) or _unsupported_tiff(data, error)
    if unsupported:
        return UnreadableError(unsupported, UNSUPPORTED)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return UnreadableError(TRUNCATED, DAMAGED)
    if isinstance(error, UnsupportedError) or _says_unsupported(error):
        return UnreadableError(text, UNSUPPORTED)
    return UnreadableError(f"its data cannot be decoded ({text})", DAMAGED)


class UnsupportedError(ValueError):
    """The image is whole, and of a kind whose values have no known meaning."""


def kind_of(cause: str) -> PictureKind | None:
    """Return the kind of refusal that a cause (see ``cause_of``) begins with, or None."""
    kinds: tuple[PictureKind, ...] = get_args(PictureKind)
    return next((kind for kind in kinds if cause.startswith(f"{kind}: ")), None)


def is_unscalable_jpeg(data: bytes) -> bool:
    """Whether a JPEG cannot be decoded at a smaller scale, because it is lossless."""
    return _jpeg_frame(data)[0] in _LOSSLESS


def _says_unsupported(error: Exception) -> bool:
    return any(words in str(error).lower() for words in _UNSUPPORTED_WORDS)


def _other_format(data: bytes) -> str:
    if data[128:132] == _DICOM:
        return "a DICOM file"
    beginnings = (what for start, what in _OTHER_FORMATS if data.startswith(start))
    return next(beginnings, "")


def _unsupported_jpeg(data: bytes) -> str:
    """Return the kind of a JPEG that no libjpeg of Pillow decodes, or nothing."""
    marker, precision = _jpeg_frame(data)
    if marker in _LOSSLESS:
        return "a lossless JPEG; convert it to PNG"
    if marker in _HIERARCHICAL:
        return "a hierarchical JPEG"
    if precision in (12, 16):
        return f"a JPEG with {precision} bits for each value; convert it to PNG"
    return ""


def _jpeg_frame(data: bytes) -> tuple[int, int]:
    """Return the marker of a JPEG's frame, which tells its kind, and the bits of each value; zeros if there is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # Fill bytes may stand before a marker.
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_A_FRAME:
            return marker, data[at + 4]
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return 0, 0


def _unsupported_tiff(data: bytes, error: Exception) -> str:
    """Return the kind of a TIFF that Pillow does not decode, or nothing for other files and damaged ones."""
    if not data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return ""
    is_big = 43 in data[2:4]
    stream = BytesIO(data)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if is_big else 8])
        stream.seek(tags.next)
        tags.load(stream)
        compression: int = tags.get(TiffImagePlugin.COMPRESSION, 1)
        bits: set[int] = set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        num_bands: int = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        values: int = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0]
        has_size = TiffImagePlugin.IMAGEWIDTH in tags and TiffImagePlugin.IMAGELENGTH in tags
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, UserWarning, struct.error):
        return ""
    if compression in _COMPRESSIONS:
        return f"a TIFF with {_COMPRESSIONS[compression]} compression"
    # Pillow looks kinds up in tables, and raises a SyntaxError that was a LookupError.
    is_unknown = isinstance(error.__cause__ or error, LookupError) or _says_unsupported(error)
    if not is_unknown or not has_size or not bits <= _PLAUSIBLE_BITS:
        return ""
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"a TIFF with compression {compression}"
    bands = "one band" if num_bands == 1 else f"{num_bands} bands"
    depths = "- and ".join(map(str, sorted(bits)))
    numbers = _TIFF_VALUES.get(values, "integers")
    return f"a TIFF of {bands} of {depths}-bit {numbers}; convert it to 8 or 16 bits, grey or RGB"
