"""Pictures or a function in, a pyplot figure with them out.

A picture is a tensor (channels, height, width), float 0-1 or uint8 0-255, an array (height, width, channels), or a
Pillow picture; without channels it is grey.

A picture in any form in, a ``PILImage`` out: a Pillow picture that prints its size, shows itself, and is always upright RGB.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vizsla.data.images.decode import open_picture, to_rgb
from vizsla.data.loading.loader import read_ahead
from vizsla.errors import ConfigError, PictureError
from vizsla.machine import default_num_workers
from vizsla.notebook.collections import L

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vizsla.types import Size

    Picture = Tensor | NDArray[Any] | Image.Image

INCHES = 3.0
"""Side of one picture in a figure, unless something else is asked for."""

_MOST_CHANNELS = 4


def show_image(
    im: Picture,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    ctx: Axes | None = None,
    *,
    cmap: str | None = None,
) -> Axes:
    """Draw one picture, without scales around it.

    Args:
        im: The picture; see the top of this module.
        ax: Axes to draw on; None: a new figure of pyplot.
        figsize: (width, height) of a new figure in inches; None: 3 by 3.
        title: Written above it.
        ctx: Another name of ``ax``.
        cmap: Colours of a picture without channels, a name of matplotlib's; None: its default.

    Returns:
        The axes.

    Raises:
        ConfigError: It is no picture, or a batch of them.
    """
    pixels = picture_pixels(im)
    axes = ctx if ax is None else ax
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(figsize=figsize or (INCHES, INCHES))[1]
    axes.imshow(pixels, cmap=cmap)
    if title is not None:
        axes.set_title(title)
    axes.axis("off")
    return axes


def show_images(
    ims: Sequence[Picture],
    nrows: int = 1,
    ncols: int | None = None,
    titles: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    imsize: float = INCHES,
    suptitle: str | None = None,
) -> None:
    """Draw pictures side by side.

    Args:
        ims: The pictures.
        nrows: Rows of them.
        ncols: Pictures in a row; None: as many as it takes.
        titles: One above each.
        figsize: (width, height) of the figure in inches; None: by ``imsize``.
        imsize: Side of one picture in inches.
        suptitle: Written above all.

    Raises:
        ConfigError: One of them is no picture, or there are not as many titles.
    """
    if titles is not None and len(titles) != len(ims):
        raise ConfigError(f"Each of the {len(ims)} pictures has one title. Received: {len(titles)}")
    columns = math.ceil(len(ims) / nrows) if ncols is None else ncols
    _, places = subplots(nrows, max(1, columns), figsize=figsize, imsize=imsize, suptitle=suptitle)
    for place in places.flat:
        place.axis("off")
    for number, (picture, place) in enumerate(zip(ims, places.flat, strict=False)):
        show_image(picture, ax=place, title=None if titles is None else titles[number])


def subplots(
    nrows: int = 1,
    ncols: int = 1,
    figsize: tuple[float, float] | None = None,
    imsize: float = INCHES,
    suptitle: str | None = None,
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure with room for pictures.

    Args:
        nrows: Rows of axes.
        ncols: Columns of axes.
        figsize: (width, height) in inches; None: by ``imsize``.
        imsize: Side of each axes in inches.
        suptitle: Written above all.

    Returns:
        The figure, and its axes as an array also where there is one: ``(ncols,)`` for one row, ``(nrows,)`` for one
        column, else ``(nrows, ncols)``.
    """
    import matplotlib.pyplot as plt

    heading = 0.6 if suptitle is not None and imsize <= 2 else 0.0
    figure, axes = plt.subplots(
        nrows, ncols, figsize=figsize or (ncols * imsize, nrows * imsize + heading)
    )
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure, np.atleast_1d(axes)


def plot_function(
    f: Callable[[Tensor], Any],
    tx: str | None = None,
    ty: str | None = None,
    title: str | None = None,
    min: float = -2,  # noqa: A002 (the name that notebooks use)
    max: float = 2,  # noqa: A002
    figsize: tuple[float, float] = (6, 4),
    steps: int = 100,
) -> None:
    """Draw a function on a new figure; where it is infinite or undefined the line is interrupted.

    Args:
        f: From a float32 tensor ``(steps,)`` to as many values.
        tx: What the horizontal axis says.
        ty: What the vertical axis says.
        title: Written above it.
        min: The first x.
        max: The last x.
        figsize: (width, height) in inches.
        steps: Number of points.
    """
    import matplotlib.pyplot as plt

    x = torch.linspace(min, max, steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = f(x)
    y = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    axes = plt.subplots(figsize=figsize, layout="constrained")[1]
    axes.plot(x.numpy(), np.where(np.isfinite(y), y, np.nan))
    if tx is not None:
        axes.set_xlabel(tx)
    if ty is not None:
        axes.set_ylabel(ty)
    if title is not None:
        axes.set_title(title)


def picture_pixels(picture: Picture) -> NDArray[Any]:
    """Return a picture as matplotlib draws it.

    Args:
        picture: See the top of this module. Floats are clipped to 0-1.

    Returns:
        uint8 or float32 ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``.

    Raises:
        ConfigError: It is no picture, or a batch of them.
    """
    if isinstance(picture, Tensor):
        pixels = tensor_pixels(picture)
    else:
        pixels = np.asarray(picture)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not is_picture or not (np.issubdtype(pixels.dtype, np.number) or pixels.dtype == bool):
        raise ConfigError(
            "A picture is a tensor (1, 3 or 4, height, width), an array (height, width, 1, 3 or 4), or without channels; "
            f"take one of a batch with [0]. Received: {type(picture).__name__} of {pixels.dtype}, shape {pixels.shape}"
        )
    if pixels.ndim == 3 and np.issubdtype(pixels.dtype, np.floating):
        return pixels.astype(np.float32).clip(0, 1)
    return pixels


def tensor_pixels(picture: Tensor) -> NDArray[Any]:
    """Return a tensor as an array, its channels last.

    Args:
        picture: ``(C, H, W)`` with up to 4 channels, or another shape, which is kept. Half precision becomes float32.
    """
    plain = picture.detach().as_subclass(Tensor).cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()
    channels_first = plain.ndim == 3 and plain.shape[0] <= _MOST_CHANNELS
    return (plain.permute(1, 2, 0) if channels_first else plain).numpy()


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


def verify_images(fns: Iterable[Path | str]) -> L[Path | str]:
    """Return the files that cannot be read as pictures; they are decoded whole, by as many threads as there are cores.

    Args:
        fns: Files.
    """

    def unreadable(file: Path | str) -> bool:
        try:
            open_picture(file)
        except PictureError:
            return True
        return False

    files = list(fns)
    workers = default_num_workers()
    wrong = read_ahead(unreadable, files, num_workers=workers, max_waiting=8 * workers)
    return L([file for file, bad in zip(files, wrong, strict=True) if bad])
