"""A picture file or its bytes in, an upright RGB Pillow picture out; whatever is wrong with the file becomes one sentence."""

from __future__ import annotations

import functools
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import PIL
from PIL import ExifTags, Image, UnidentifiedImageError

from vizsla.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from vizsla.types import Size

DECODER_VERSION = f"2, Pillow {PIL.__version__}"
"""Changes when the same file may give other pixels; part of the key of every cached picture."""

MAX_PIXELS = 200_000_000
"""Larger pictures are refused: 200 million pixels, the largest phone cameras, take 600 MB; a crafted file claims far more."""

Truncated = Literal["strict", "ok"]
"""What to do about a JPEG that ends too early: refuse it, or take what is there."""

# Raster formats that are recognised by their first bytes. Pillow's others either run a program (EPS), guess (TGA), or are no pictures.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED_FROM = 5
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TRUNCATED = "the file is truncated, it ends before the picture does"
_WIDE_ROWS = 64
_HEADER_LOCK = threading.Lock()


class _UnreadableError(Exception):
    """Why a picture cannot be read, in words that continue "Cannot read the picture PATH: ..."."""


def open_picture(
    source: Path | str | bytes,
    *,
    cover: Size | None = None,
    truncated: Truncated = "strict",
    data: bytes | None = None,
) -> Image.Image:
    """Open, decode and turn upright one picture.

    The EXIF orientation is applied; 16-bit values are scaled to 8 bits; grey, 1-bit, palette and CMYK pictures become
    RGB; what is transparent is laid over white; of an animation the first frame is taken.

    Args:
        source: A file, or the bytes of one.
        cover: ``(height, width)``. A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 at which it still
            covers this size; None decodes all pixels. See ``benchmarks/README.md`` for what that saves.
        truncated: ``"ok"`` takes of a JPEG that ends too early what is there; the rest of it is grey. ``"strict"`` refuses
            it, as other truncated files always are.
        data: The bytes of the file, where they were read already.

    Returns:
        A decoded picture of mode RGB.

    Raises:
        PictureError: The file is missing, empty, truncated, damaged, larger than ``MAX_PIXELS`` or no picture. The
            message names the file; ``cause_of`` gives the cause alone.
        ConfigError: ``truncated`` is something else.
    """
    if truncated not in get_args(Truncated):
        raise ConfigError(f"truncated is 'strict' or 'ok'. Received: {truncated!r}")
    try:
        if data is None:
            data = source if isinstance(source, bytes) else _read_bytes(Path(source))
        try:
            return _decode(data, cover)
        except _UnreadableError as failure:
            if truncated == "strict" or str(failure) != _TRUNCATED or data[:2] != _JPEG_START:
                raise
            # With an end put to it libjpeg fills up the rest. Pillow's own switch for this is global, not for one file.
            return _decode(data + _JPEG_END, cover)
    except _UnreadableError as failure:
        raise _error(source, failure) from failure


def read_bytes(source: Path | str | bytes) -> bytes:
    """Return the bytes of a picture.

    Args:
        source: A file, or the bytes themselves.

    Raises:
        PictureError: The file cannot be read or is empty.
    """
    try:
        return source if isinstance(source, bytes) else _read_bytes(Path(source))
    except _UnreadableError as failure:
        raise _error(source, failure) from failure


def picture_size(source: Path | str | bytes) -> Size | None:
    """Return the size of a picture from its header alone, upright, or None where it cannot be read.

    Args:
        source: A file, or the bytes of one.

    Returns:
        ``(height, width)``.
    """
    try:
        data = source if isinstance(source, bytes) else _read_bytes(Path(source))
        picture = _open_header(data)
    except _UnreadableError:
        return None
    width, height = picture.size
    if picture.format == "PNG" and "exif" not in picture.info:
        return (
            height,
            width,
        )  # Pillow would decode all pixels to look behind them, those of a bomb too.
    swapped = _orientation(picture) >= _SIDES_SWAPPED_FROM
    return (width, height) if swapped else (height, width)


def source_name(source: Path | str | bytes) -> str:
    """Return how messages name a picture: its path (quoted where it has line breaks or bytes that are no text), or its length.

    Args:
        source: A file, or the bytes of one.
    """
    if isinstance(source, bytes):
        return f"given as {len(source)} bytes"
    name = str(source)
    return name if name.isprintable() else repr(name)


def cause_of(error: PictureError) -> str:
    """Return why a picture cannot be read, in words, without the name of the file.

    Args:
        error: As ``open_picture`` raised it; of any other the whole message is returned.
    """
    cause = error.__cause__
    return str(cause) if isinstance(cause, _UnreadableError) else str(error)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB: 16 bits scaled to 8, transparency laid over white.

    Args:
        picture: Any Pillow picture. Modes I and F must hold values of 0-65535 and 0-1.

    Returns:
        ``picture`` itself where it is plain RGB.

    Raises:
        ValueError: The values of a mode I or F picture are outside of that range, or Pillow cannot convert its mode.
    """
    transparent = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa")
    if picture.mode == "RGB" and not transparent:
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _from_wide_values(picture)
    if transparent:
        with_alpha = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        over_white = Image.new("RGB", picture.size, "white")
        over_white.paste(with_alpha, mask=with_alpha)
        return over_white
    return picture.convert("RGB")


def _error(source: Path | str | bytes, failure: _UnreadableError) -> PictureError:
    return PictureError(
        f"Cannot read the picture {source_name(source)}: {failure}. Replace the file or leave it out."
    )


def _from_wide_values(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    white = 1.0 if picture.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:
        raise ValueError(
            f"its values go from {low:g} to {high:g}, only 0 to {white:g} have a known meaning"
        )
    narrow = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _WIDE_ROWS):  # At once, 50 million values took 1.3 GB.
        rows = slice(start, start + _WIDE_ROWS)
        narrow[rows] = np.rint(values[rows].astype(np.float64) * (255 / white)).astype(np.uint8)
    return Image.fromarray(narrow).convert("RGB")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _UnreadableError("there is no such file") from error
    except OSError as error:
        cause = "it is a folder" if path.is_dir() else f"the system says {error.strerror!r}"
        raise _UnreadableError(cause) from error
    if not data:
        raise _UnreadableError("the file is empty (0 bytes)")
    return data


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open_header(data: bytes) -> Image.Image:
    formats = _formats()
    # Pillow's own limit (a warning from 89 million pixels, an error from 179) is a module global and would turn away
    # cameras of today. Opening reads the header only, so the lock is held for some 20 microseconds.
    with _HEADER_LOCK:
        usual_limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(BytesIO(data), formats=formats)
        except UnidentifiedImageError as error:
            raise _UnreadableError(_what_it_is_instead(data)) from error
        except Exception as error:
            raise _UnreadableError(_why_not_decoded(error)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = usual_limit


def _what_it_is_instead(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return "it is an HEIC picture, which Pillow does not read; convert it to JPEG"
    start = data[:24]
    if start.isascii() and start.decode("ascii").split() and b"\0" not in start:
        return f"it is no picture but text that begins with {start.decode('ascii')!r}"
    return f"it is no picture, or its header is damaged (it begins with {start[:8]!r})"


def _decode(data: bytes, cover: Size | None) -> Image.Image:
    picture = _open_header(data)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _UnreadableError(
            f"it has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million"
        )
    try:
        if picture.format in ("JPEG", "MPO") and cover is not None:
            swapped = _orientation(picture) >= _SIDES_SWAPPED_FROM
            picture.draft(picture.mode, cover if swapped else (cover[1], cover[0]))
        picture.load()
        turn = _UPRIGHT.get(_orientation(picture))
        upright = to_rgb(picture)
        upright = upright if turn is None else upright.transpose(turn)
    except Exception as error:
        raise _UnreadableError(_why_not_decoded(error)) from error
    upright.info = {}  # it still has the EXIF data, and the orientation must not be applied twice
    return upright


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or the EXIF data is damaged: the pixels may still be good."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        OSError,
        UserWarning,
        struct.error,
    ):
        return 1


def _why_not_decoded(error: Exception) -> str:
    text = _one_line(error)
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return _TRUNCATED
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, ValueError) and text.startswith("its values"):
        return text
    return f"its data is damaged ({text})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
