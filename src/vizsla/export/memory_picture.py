"""A picture in memory, an array or one of Pillow's, in; an upright RGB picture out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from vizsla.data.decode import to_rgb
from vizsla.errors import PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def as_rgb(picture: NDArray[np.uint8] | Image.Image) -> Image.Image:
    """Return a picture from memory as upright RGB; what was given is not changed.

    Args:
        picture: uint8 ``(H, W)`` or ``(H, W, 1 | 3 | 4)``, or a Pillow picture of any mode.

    Raises:
        PictureError: It is none of these, or Pillow cannot convert it.
    """
    if not isinstance(picture, Image.Image):
        picture = _from_array(picture)
    try:
        return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:
        raise PictureError(
            f"Cannot use the picture {picture!r}: {error}. Give a picture that Pillow can convert to RGB."
        ) from error


def _from_array(values: object) -> Image.Image:
    if not isinstance(values, np.ndarray):
        raise PictureError(
            "A picture is a path, the bytes of a file, a numpy array or a Pillow picture. "
            f"Received: {type(values).__name__}"
        )
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))
    if values.dtype != np.uint8 or not is_picture or 0 in values.shape:
        raise PictureError(
            "A numpy picture has uint8 values 0-255 of shape (height, width) or (height, width, 1, 3 or 4). "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
