"""A picture in any form in, a ``PILImage`` out: a Pillow picture that prints its size, shows itself, and is always upright RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from vizsla.data.images.decode import open_picture, to_rgb
from vizsla.errors import PictureError
from vizsla.notebook.show import show_image, tensor_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vizsla.types import Size

_WHITE = 255


class PILImage(Image.Image):
    """A Pillow picture that prints as ``PILImage mode=RGB size=500x375`` (width x height); make one with ``create``.

    Item transforms such as ``Resize(460)`` give a ``PILImage`` for one; Pillow's own methods (``rotate``, ``crop`` ...) give
    plain Pillow pictures.
    """

    @classmethod
    def create(
        cls, fn: Path | str | bytes | bytearray | NDArray[Any] | Tensor | Image.Image
    ) -> PILImage:
        """Return a picture as upright RGB with 8 bits, with memory of its own; what is given is not changed.

        The EXIF orientation is applied, what is transparent is laid over white, 16 bits become 8, as in training.

        Args:
            fn: A file; the bytes of one; an array ``(H, W)`` or ``(H, W, 1, 3 or 4)``, uint8, or float 0-1; a tensor
                ``(H, W)`` or ``(1, 3 or 4, H, W)``, uint8, or float 0-1; or a Pillow picture.

        Raises:
            PictureError: It cannot be read, or is none of these.

        Example:
            >>> PILImage.create(np.zeros((375, 500, 3), np.uint8))
            PILImage mode=RGB size=500x375
        """
        if isinstance(fn, Path | str | bytes | bytearray):
            return _owned(open_picture(bytes(fn) if isinstance(fn, bytearray) else fn), cls)
        if isinstance(fn, Tensor):
            fn = tensor_pixels(fn)
        if isinstance(fn, np.ndarray):
            return _owned(_from_pixels(fn), cls)
        if not isinstance(fn, Image.Image):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise PictureError(
                "A picture is a path, the bytes of a file, an array, a tensor or a Pillow picture. "
                f"Received: {type(fn).__name__}"
            )
        return _owned(_upright(fn), cls)

    @property
    def shape(self) -> Size:
        """(height, width)."""
        return self.height, self.width

    @property
    def aspect(self) -> float:
        """Width divided by height."""
        return self.width / self.height

    def show(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        ctx: Axes | None = None,
        title: str | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Axes:
        """Draw the picture.

        Args:
            ctx: matplotlib axes to draw on; None: a new figure of pyplot.
            title: Written above it.
            figsize: (width, height) of a new figure in inches.

        Returns:
            The axes.
        """
        return show_image(self, ctx=ctx, title=title, figsize=figsize)

    def to_thumb(self, h: int, w: int | None = None) -> PILImage:
        """Return a copy that is no larger than a box, with its shape kept; small pictures stay as they are.

        Args:
            h: Height of the box in pixels.
            w: Its width; None: as the height.
        """
        thumb = _owned(self, type(self))
        thumb.thumbnail((h if w is None else w, h))
        return thumb

    def __repr__(self) -> str:
        return f"PILImage mode={self.mode} size={self.width}x{self.height}"

    __str__ = __repr__

    def _repr_pretty_(self, p: Any, cycle: bool) -> None:
        """Print the same in IPython, for which Pillow has a text of its own."""
        p.text("PILImage(...)" if cycle else repr(self))


def _owned(picture: Image.Image, cls: type[PILImage]) -> PILImage:
    """Return a copy as a picture of our class; a copy never holds on to a file, whatever it was opened as."""
    copied = picture.copy()
    copied.__class__ = cls
    return copied  # pyright: ignore[reportReturnType]


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:
        raise PictureError(
            f"Cannot use the picture {picture!r}: {error}. Give a picture that Pillow can convert to RGB."
        ) from error


def _from_pixels(pixels: NDArray[Any]) -> Image.Image:
    """Return a picture of pixels ``(H, W)`` or ``(H, W, C)``."""
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    is_float = np.issubdtype(pixels.dtype, np.floating)
    if not is_picture or 0 in pixels.shape or not (is_float or pixels.dtype == np.uint8):
        raise PictureError(
            "A picture's values are uint8 0-255 or float 0-1, of shape (height, width) or (height, width, 1, 3 or 4); "
            f"a tensor's channels come first. Received: {pixels.dtype} of shape {pixels.shape}"
        )
    if is_float:
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 1:
            raise PictureError(
                "A picture of floats has values 0 to 1; bring them there, or convert 0 to 255 to uint8. "
                f"Received: values from {low:g} to {high:g}"
            )
        pixels = np.rint(pixels * _WHITE).astype(np.uint8)
    return to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
