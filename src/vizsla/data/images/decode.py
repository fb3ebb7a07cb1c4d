"""Decode an image file, or its bytes, to upright RGB; errors say in one sentence what is wrong with the file.

Pillow decodes everything, but holds the interpreter lock for most of the time: on 16 cores, 16 threads decoded and presized
673 images a second with it, one thread alone 500. torchvision releases the lock (3,400), so on machines with enough cores it
decodes plain JPEGs. Both call libjpeg-turbo with the same settings; whether their pixels are the same is tried once, on an
image made for that. The header says whether a JPEG is plain. It is parsed here, because Pillow needs 80 microseconds for it
under the lock instead of 10, too long where a device decodes ten thousand images a second.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import PIL
import torch
from PIL import ExifTags, Image, TiffImagePlugin

from vizsla.cores import num_cores
from vizsla.data.images.bit_depth import check_bit_depth, scaled_to_bytes, wide_file
from vizsla.data.images.cut_off import is_filled, signs_of
from vizsla.data.images.decoded_size import TooCostlyError, decoded_pixels
from vizsla.data.images.heic import is_heic, open_heic
from vizsla.data.images.profiles import in_srgb, srgb_conversion
from vizsla.data.images.refusals import (
    DAMAGED,
    NOT_AN_IMAGE,
    UNSUPPORTED,
    UnreadableError,
    is_unscalable_jpeg,
    refused_data,
    refused_header,
)
from vizsla.data.storage import storage
from vizsla.errors import ConfigError, MissingExtraError, PictureError
from vizsla.seeding import counter_uniform
from vizsla.types import SYMMETRIES, SYMMETRY_OF_ORIENTATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vizsla.types import Size

DECODER_VERSION = f"5, Pillow {PIL.__version__}"
"""Changes when the same file may give other pixels; part of the key of every cached image."""

MAX_PIXELS = 200_000_000
"""Larger images are refused: 200 million pixels, the largest phone cameras, take 600 MB; a crafted file claims far more."""

Truncated = Literal["strict", "ok"]
"""What to do about a JPEG that ends too early: refuse it, or read it as far as it goes."""

# Raster formats that are recognised by their first bytes. Pillow's others run a program (EPS), guess (TGA), or are not images.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_LONGEST_NAME = 4_096  # A longer text is no path on any system.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_HEADER_LOCK = threading.Lock()


# ── any file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def decode_image(
    source: Path | str | bytes,
    *,
    cover: Size | None = None,
    truncated: Truncated = "strict",
    data: bytes | None = None,
    bit_depth: int | None = None,
    on_wide: Callable[[int], None] | None = None,
) -> Image.Image:
    """Open, decode and turn upright one image.

    The EXIF orientation is applied; 16-bit values are scaled to 8 bits; grey, 1-bit, palette and CMYK images become
    RGB; colours are converted to sRGB by the ICC profile if there is one; what is transparent is laid over white; of an
    animation the first frame is taken.

    Args:
        source: A file, or the bytes of one.
        cover: ``(height, width)``. A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 at which it still
            covers this size; None decodes all pixels. See ``benchmarks/README.md`` for what that saves.
        truncated: ``"ok"`` decodes a JPEG that ends too early as far as it goes; the rest of it is grey. ``"strict"``
            refuses it, as other truncated files are always refused.
        data: The bytes of the file, if they were read already.
        bit_depth: How many bits the values of 16-bit files use, 8 to 16, see ``decide_bit_depth``; None is 16.
        on_wide: Called with the largest value of a 16-bit image, rounded up, if that depends on ``bit_depth`` and there is none.

    Returns:
        A decoded image of mode RGB; its ``info`` has only what ``missing_part`` wants to know.

    Raises:
        PictureError: The file is missing, empty, truncated, damaged, not an image, or decoding it would take more than
            ``MAX_PIXELS`` or far more pixels than its header claims. The message names the file; ``cause_of`` returns the
            cause alone, ``kind`` tells what kind of refusal it is.
        ConfigError: ``truncated`` or ``bit_depth`` is something else.
    """
    if truncated not in get_args(Truncated):
        raise ConfigError(f"truncated must be 'strict' or 'ok'. Received: {truncated!r}")
    check_bit_depth(bit_depth)
    try:
        data = _bytes_of(source) if data is None else data
        try:
            return _decode(data, cover, bit_depth=bit_depth, on_wide=on_wide)
        except UnreadableError as failure:
            if truncated == "strict" or not failure.is_truncated or data[:2] != _JPEG_START:
                raise
            # With an end appended, libjpeg fills in the rest. Pillow's own switch for this is global, not for one file.
            return _decode(data + _JPEG_END, cover)
    except UnreadableError as failure:
        raise _error(source, failure) from failure


def read_bytes(source: Path | str | bytes) -> bytes:
    """Return the bytes of an image file, or those given; raise a PictureError for a file that is unreadable or empty."""
    try:
        return _bytes_of(source)
    except UnreadableError as failure:
        raise _error(source, failure) from failure


def size_from_header(source: Path | str | bytes) -> Size | None:
    """Return the upright ``(height, width)`` of an image from its header alone, or None if it cannot be read."""
    try:
        image = _open_header(_bytes_of(source))
    except UnreadableError:
        return None
    width, height = image.size
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode all pixels to look for EXIF data behind them, even those of a decompression bomb.
        return height, width
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size may be upright already
        tags: Any = image.tag_v2
        width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    swapped, *_ = SYMMETRIES[_symmetry_of(image)]
    return (width, height) if swapped else (height, width)


def wide_maximum(source: Path | str | bytes) -> int | None:
    """Return the largest value of a 16-bit image whose depth depends on its data set; None for all others.

    Of images that Pillow opens with 8 bits only the header is read; ``decode_image`` says what is wrong with unreadable ones.
    """
    found: list[int] = []
    try:
        data = _bytes_of(source)
        image = _open_header(data)
        if wide_file(image, data) is not None:
            _decode(data, None, on_wide=found.append)
    except UnreadableError:
        return None
    return found[0] if found else None


def source_name(source: Path | str | bytes | Image.Image) -> str:
    """Return how messages name an image: its path (quoted if it has line breaks or bytes that are not text), or its length."""
    if isinstance(source, Image.Image):
        return "given as an image in memory"
    if isinstance(source, bytes):
        return f"given as {len(source)} bytes"
    name = str(source)
    if len(name) > _LONGEST_NAME:
        name = f"{name[:100]}... ({len(name):,} characters)"
    return name if name.isprintable() else repr(name)


def cause_of(error: PictureError) -> str:
    """Return why ``decode_image`` could not read an image, without the file's name; of another error the whole message."""
    cause = error.__cause__
    return str(cause) if isinstance(cause, UnreadableError) else str(error)


def to_rgb(image: Image.Image, *, bit_depth: int | None = None) -> Image.Image:
    """Return an image of any mode as sRGB: 16 bits scaled to 8, transparency laid over white.

    Colours are converted by the image's ICC profile, see ``profiles.py``; plain sRGB is returned as it is. ``bit_depth`` is as in
    ``decode_image``.

    Raises:
        ValueError: The values of mode I or F are not within 0-65535 or 0-1, or Pillow cannot convert the mode.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        white = 1.0 if image.mode == "F" else 2 ** (bit_depth or 16) - 1
        grey = Image.fromarray(scaled_to_bytes(np.asarray(image), white=white))
        grey.info["icc_profile"] = image.info.get("icc_profile")
        image = grey
    image = in_srgb(image)
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if image.mode == "RGB" and not transparent:
        return image
    if transparent:
        image = image.convert("LA") if image.mode == "La" else image
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        over_white = Image.new("RGB", image.size, "white")
        over_white.paste(with_alpha, mask=with_alpha)
        return over_white
    return image.convert("RGB")


def _error(source: Path | str | bytes, failure: UnreadableError) -> PictureError:
    return PictureError(
        f"Cannot read the image {source_name(source)}: {failure}. Replace or remove the file.",
        kind=failure.kind,
    )


def _bytes_of(source: Path | str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    path = Path(source)
    try:
        if path.is_char_device():  # /dev/zero has no end
            raise UnreadableError("it is a device, not a file", NOT_AN_IMAGE)
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise UnreadableError("there is no such file") from error
    except (OSError, ValueError) as error:  # the second where a name holds a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        cause = "it is a folder" if os.path.isdir(path) else f"the system says {reason!r}"  # noqa: PTH112 (it raises nothing)
        raise UnreadableError(cause) from error
    if not data:
        raise UnreadableError("the file is empty (0 bytes)", NOT_AN_IMAGE)
    return data


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open_header(data: bytes) -> Image.Image:
    formats = _formats()
    try:
        # Before Pillow opens it, which may already take memory and time.
        decoded_pixels(data, max_pixels=MAX_PIXELS)
    except TooCostlyError as error:
        raise UnreadableError(str(error), DAMAGED if error.__cause__ else None) from error
    if is_heic(data):
        try:
            return open_heic(data)
        except MissingExtraError as error:
            raise UnreadableError(f"an HEIC image. {error}", UNSUPPORTED) from error
        except Exception as error:
            raise refused_data(data, error) from error
    # Pillow's own limit (a warning from 89 million pixels, an error from 179) is a module global and would turn away
    # cameras of today. Opening reads the header only, so the lock is held for some 20 microseconds.
    with _HEADER_LOCK:
        usual_limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(BytesIO(data), formats=formats)
        except Exception as error:
            raise refused_header(data, formats=formats, error=error) from error
        finally:
            Image.MAX_IMAGE_PIXELS = usual_limit


def _decode(
    data: bytes,
    cover: Size | None,
    *,
    bit_depth: int | None = None,
    on_wide: Callable[[int], None] | None = None,
) -> Image.Image:
    image = _open_header(data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(
            f"it has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} million"
        )
    try:
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and cover is not None:
            swapped, *_ = SYMMETRIES[_symmetry_of(image)]
            image.draft(image.mode, cover if swapped else (cover[1], cover[0]))
        wide = None if is_jpeg else wide_file(image, data)
        if wide is None:
            image.load()
        else:
            image = wide.narrowed(image, bit_depth=bit_depth, on_wide=on_wide)
        signs = signs_of(image) if is_jpeg else {}
        symmetry = _symmetry_of(image)
        upright = to_rgb(image)
        if symmetry:
            upright = upright.transpose(Image.Transpose(symmetry - 1))
    except Exception as error:
        if cover is not None and is_unscalable_jpeg(data):
            return _decode(data, None)
        raise refused_data(data, error) from error
    # It still has the EXIF data, and the orientation must not be applied twice.
    upright.info = {**signs}
    return upright


def _symmetry_of(image: Image.Image) -> int:
    """Return what turns an image upright; 0 if its EXIF data is absent or damaged: the pixels may still be good."""
    damaged = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, OSError)
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*damaged, UserWarning, struct.error):
        return 0
    return SYMMETRY_OF_ORIENTATION.get(orientation, 0)


# ── plain JPEGs ───────────────────────────────────────────────────────────────────────────────────────────────────────

LARGEST_PLAIN_PIXELS = 2**22
"""Larger images are left to Pillow, which decodes only a part of the frequencies if it can."""

_FEWEST_CORES = 4
"""With fewer there is nothing to gain from releasing the lock, and torchvision need not be imported."""

_BASELINE = 0xC0
_NOT_BASELINE = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _APP2, _APP14, _SCAN = 0xE1, 0xE2, 0xEE, 0xDA
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))
_ORIENTATION, _SHORT = 0x0112, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegHeader:
    """What the header of a plain JPEG says."""

    size: Size  # As stored, before it is turned upright.
    orientation: int  # As EXIF counts, 1 to 8; 1 is upright.


class _UnusualError(Exception):
    """Something about the file is better left to the usual decoder."""


def plain_jpeg(data: bytes) -> JpegHeader | None:
    """Return the header of a plain JPEG from all bytes of its file: baseline, 8 bits, grey or YCbCr, sRGB, complete.

    None for everything else: progressive, CMYK or stored as RGB, with a profile other than sRGB, without a proper end, with
    damaged EXIF data or with an orientation that stands elsewhere.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(_JPEG_END):
        return None
    try:
        return _plain_header(data)
    except (IndexError, _UnusualError):
        return None


@cache
def is_worthwhile() -> bool:
    """Whether this machine has cores that would wait for Pillow, and a second decoder with the same pixels."""
    return num_cores() >= _FEWEST_CORES and decodes_as_pillow()


def plain_pixels(data: bytes, *, cover: Size) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, uint8 ``(H, W, 3)``, from all bytes of its file, on a machine where it ``is_worthwhile``.

    None for what is left to Pillow: everything unusual, and images of which Pillow decodes less because half of the sides
    still cover the ``(height, width)`` that is wanted.
    """
    header = plain_jpeg(data)
    if header is None or header.orientation != 1:
        return None
    height, width = header.size
    can_be_halved = min(height // cover[0], width // cover[1]) >= 2
    if can_be_halved or height * width > LARGEST_PLAIN_PIXELS:
        return None
    try:
        pixels = _decode_plain(data)
    except RuntimeError:
        return None
    # What ends in the grey that libjpeg fills with may be incomplete.
    return None if is_filled(tuple(pixels[-1, -1].tolist())) else pixels


@cache
def decodes_as_pillow() -> bool:
    """Whether there is a second decoder on this machine whose pixels are those of Pillow."""
    try:
        import torchvision.io  # noqa: F401  # pyright: ignore[reportUnusedImport] (it registers the operations)

        values = counter_uniform(0, "decoders", epoch=0, rows=torch.arange(9), count=33)
        pixels = (values * 256).to(torch.uint8).view(9, 11, 3).numpy()
        image = Image.fromarray(pixels).resize((75, 53), Image.Resampling.BICUBIC)
        for subsampling in (0, 1, 2):
            stream = BytesIO()
            image.save(stream, "JPEG", quality=85, subsampling=subsampling)
            with Image.open(stream) as opened:
                if not np.array_equal(np.asarray(opened), _decode_plain(stream.getvalue())):
                    return False
    except (ImportError, AttributeError, RuntimeError, OSError):
        return False
    return True


def _decode_plain(data: bytes) -> NDArray[np.uint8]:
    # The operation behind ``torchvision.io.decode_jpeg``, which warns in every thread that it will move to another package.
    mode = 3  # ImageReadMode.RGB
    source = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return torch.ops.image.decode_jpeg(source, mode).permute(1, 2, 0).contiguous().numpy()


def _plain_header(data: bytes) -> JpegHeader:
    size: Size | None = None
    profile, mode, orientation, at = b"", "", 1, 2
    while True:
        if data[at] != 0xFF:
            raise _UnusualError
        marker = data[at + 1]
        if marker == 0xFF:  # Fill bytes may stand before a marker.
            at += 1
            continue
        if marker == _SCAN and size is not None:
            if profile and srgb_conversion(profile, mode) is not None:
                raise _UnusualError
            return JpegHeader(size=size, orientation=orientation)
        if marker in _WITHOUT_LENGTH or marker in _NOT_BASELINE or marker == _SCAN:
            raise _UnusualError
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        body = data[at + 4 : end]
        if marker == _BASELINE:
            size, mode = _frame_size(body), "L" if body[5] == 1 else "RGB"
        elif marker == _APP2 and body.startswith(b"ICC_PROFILE\0"):
            if profile or size is not None or body[12:14] != b"\1\1":
                raise _UnusualError  # A profile in several parts is too large to be an ordinary sRGB.
            profile = body[14:]
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
    order: Literal["little", "big"] = "little" if tiff[:4] == b"II*\0" else "big"
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        raise _UnusualError

    def number(start: int, length: int) -> int:
        part = tiff[start : start + length]
        if len(part) < length:
            raise _UnusualError
        return int.from_bytes(part, order)

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 8, 2)
            if number(entry + 2, 2) != _SHORT or not 1 <= value <= 8:
                raise _UnusualError
            return value
    return 1
