"""Bring pixels to sRGB, which networks and screens expect, by the ICC profile that an image carries.

LittleCMS converts (``PIL.ImageCms``): relative colorimetric with black point compensation, as image editors do by default.
Whether a profile is sRGB under another name is tried, not read from its description: there are dozens of sRGB profiles, from
410 bytes to 61 kB. All that were tried move no colour by more than 1 of 255; the nearest other space, Rec. 709, by 16.
"""

from __future__ import annotations

import hashlib
import threading
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_LARGEST_ROUNDING = 2
"""A profile that moves no colour by more is sRGB."""

_MOST_KEPT = 32
"""Conversions that are kept; a set of photos has one or two profiles."""

_KINDS = {
    **dict.fromkeys(("L", "LA", "La"), "L"),
    **dict.fromkeys(("RGB", "RGBX", "RGBA", "RGBa", "P", "PA"), "RGB"),
    "CMYK": "CMYK",
}
"""Of which mode the colours are that a profile describes, by the mode of the image."""

_CONVERSIONS: dict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = {}
_LOCK = threading.Lock()


def in_srgb(image: Image.Image) -> Image.Image:
    """Return an image in sRGB, as RGB or RGBA, or the image itself where there is nothing to convert.

    That is: where it has no profile or one of sRGB, and where the profile is damaged or of another kind than the pixels,
    such as an RGB profile in a grey image. Lab needs no profile. Images of 1, 16 and 32 bits are returned as they are.
    """
    if image.mode == "LAB":
        return _apply(_lab_conversion(), image)
    profile, kind = image.info.get("icc_profile"), _KINDS.get(image.mode)
    conversion = srgb_conversion(profile, kind) if profile and kind else None
    if kind is None or conversion is None:
        return image
    if "transparency" in image.info or image.mode.endswith(("A", "a")):
        image = image.convert("LA" if kind == "L" else "RGBA")
        converted = _apply(conversion, image.convert(kind))
        converted.putalpha(image.getchannel("A"))
        return converted
    return _apply(conversion, image if image.mode == kind else image.convert(kind))


def srgb_conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts images of mode L, RGB or CMYK with this profile to sRGB; None as in ``in_srgb``.

    The same for any number of threads, which may use it at the same time.
    """
    key = hashlib.blake2b(profile, digest_size=16).digest(), mode
    with _LOCK:
        if key not in _CONVERSIONS:
            if len(_CONVERSIONS) == _MOST_KEPT:
                del _CONVERSIONS[next(iter(_CONVERSIONS))]
            _CONVERSIONS[key] = _conversion_of(profile, mode)
        return _CONVERSIONS[key]


def _conversion_of(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        conversion = _conversion(ImageCms.ImageCmsProfile(BytesIO(profile)), mode)
    except (ImageCms.PyCMSError, OSError):  # damaged, or for other pixels
        return None
    if mode == "CMYK":
        return conversion
    colours = _colours(mode)
    moved = np.asarray(_apply(conversion, colours), dtype=np.int16) - np.asarray(
        colours.convert("RGB")
    )
    return conversion if np.abs(moved).max() > _LARGEST_ROUNDING else None


def _conversion(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


@cache
def _lab_conversion() -> ImageCms.ImageCmsTransform:
    return _conversion(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _colours(mode: str) -> Image.Image:
    """Return an image of all greys, or of 16 levels of each of red, green and blue."""
    if mode == "L":
        return Image.linear_gradient("L")
    levels = np.indices((16, 16, 16), dtype=np.uint8).reshape(3, 64, 64) * 17
    return Image.fromarray(np.moveaxis(levels, 0, 2).copy())


def _apply(conversion: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = conversion.apply(image)
    converted.info = {}
    return converted
