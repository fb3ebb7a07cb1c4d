"""Take one image in any form that a program has it: a file, its bytes, base64 text, a file object, an array, a tensor."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vizsla.data.images.decode import to_rgb
from vizsla.errors import PictureError
from vizsla.files import read_whole

Bytes = bytes | bytearray | memoryview
AnyImage = str | os.PathLike[str] | Bytes | BinaryIO | NDArray[Any] | Tensor | Image.Image
"""A file; the bytes of one, also as base64 text or a data URL; a file open for reading bytes, taken from its beginning; an
array ``(H, W)`` or ``(H, W, 1 | 3 | 4)`` or a tensor ``(H, W)`` or ``(1 | 3 | 4, H, W)`` of uint8 0-255 or floats 0-1; or a
Pillow image of any mode. A ``Path`` is always a file; text is base64 if it begins as the base64 of an image does."""

# What JPEG, PNG, GIF, WebP, BMP, TIFF (two orders), HEIC, AVIF, JPEG 2000 and ICO begin with; then at least 33 bytes, as no
# image is shorter. Names of images have a suffix, and a dot is not base64.
_BASE64_IMAGE = re.compile(
    r"\s*(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK|AAAA|AAABAA)[A-Za-z0-9+/\s]{44,}[=\s]*"
)
_DATA_URL = re.compile(r"\s*data:([\w.+-]*/?[\w.+-]*(?:;[^,]{0,200})?),", re.IGNORECASE)
_MOST_CHANNELS = 4


def as_source(image: AnyImage, *, bit_depth: int | None = None) -> Path | str | bytes | Image.Image:
    """Return an image as ``ImageReader.read`` takes it: a path, the bytes of a file, or an upright RGB image.

    What was given is not changed. ``bit_depth`` is that of 16-bit images, see ``decode_image``.

    Raises:
        PictureError: It has none of the forms of ``AnyImage``; what is read later may have faults of its own.
    """
    given: Any = image
    if isinstance(given, Path):
        return given
    if isinstance(given, str):
        return _decoded(given) or given
    if isinstance(given, Bytes):
        return _file_bytes(given)
    if isinstance(given, Tensor):
        given = tensor_pixels(given)
    if isinstance(given, np.ndarray):
        given = _from_array(cast("NDArray[Any]", given))
    if isinstance(given, Image.Image):
        try:
            return to_rgb(ImageOps.exif_transpose(given), bit_depth=bit_depth)
        except Exception as error:
            raise PictureError(
                f"Cannot use the image {given!r}: {error}. Give an image that Pillow can convert to RGB."
            ) from error
    if isinstance(given, os.PathLike):
        return Path(os.fsdecode(cast("os.PathLike[str]", given)))
    if hasattr(given, "read"):
        try:
            return _file_bytes(read_whole(given))
        except ValueError as error:
            raise PictureError(f"Cannot read the image from {given!r:.200}: {error}") from error
    several = " Give several to predict_many." if isinstance(given, list | tuple) else ""
    raise PictureError(
        "An image is a path, the bytes of a file, base64 text, a data URL, an open file, an array, a tensor or a Pillow image. "
        f"Received: {type(given).__name__}.{several}"
    )


def tensor_pixels(image: Tensor) -> NDArray[Any]:
    """Return a tensor as an array, channels last where it is ``(C, H, W)`` with up to 4; half precision becomes float32."""
    plain = image.detach().as_subclass(Tensor).cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()
    channels_first = plain.ndim == 3 and plain.shape[0] <= _MOST_CHANNELS
    return (plain.permute(1, 2, 0) if channels_first else plain).numpy()


def _file_bytes(given: Bytes) -> bytes:
    """Return the bytes of an image file, which may have come as base64 text."""
    data = bytes(given)
    return (data[:48].isascii() and _decoded(data.decode("latin-1"))) or data


def _decoded(text: str) -> bytes | None:
    """Return the bytes behind a data URL or the base64 text of an image; None for other text, such as a path."""
    url = _DATA_URL.match(text)
    if url is None and _BASE64_IMAGE.fullmatch(text) is None:
        return None
    body = text
    if url is not None:
        if not url[1].lower().endswith(";base64"):
            raise PictureError(
                "The data URL of an image must begin with data:image/...;base64, the only encoding that is "
                f"supported. Received: {text[:60]!r}"
            )
        body = unquote(text[url.end() :])
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            f"The text of {len(text):,} characters that begins with {text[:30]!r} is not complete base64: "
            f"{error}. Encode the bytes of the image file again."
        ) from error


def _from_array(pixels: NDArray[Any]) -> Image.Image:
    """Return an array of bytes, or of floats 0-1, as a Pillow image."""
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    is_float = np.issubdtype(pixels.dtype, np.floating)
    if not is_image or 0 in pixels.shape or not (is_float or pixels.dtype == np.uint8):
        raise PictureError(
            "Pixel values must be uint8 0-255 or float 0-1, of shape (height, width) or (height, width, 1, 3 or "
            f"4); a tensor's channels come first. Received: {pixels.dtype} of shape {pixels.shape}"
        )
    if is_float:
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 1:
            raise PictureError(
                "Float images must have values from 0 to 1: scale them, or convert values from 0 to 255 to "
                f"uint8. Received: values from {low:g} to {high:g}"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
