"""Images in a notebook: ``PILImage``, which shows itself, and functions that draw images or a curve on a pyplot figure.

An image is a tensor (channels, height, width), float 0-1 or uint8 0-255, an array (height, width, channels), or a Pillow image;
without channels it is grey.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizsla.data.images.any_image import as_source, tensor_pixels
from vizsla.data.images.decode import decode_image
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vizsla.data.images.any_image import AnyImage
    from vizsla.types import Size

    Drawable = Tensor | NDArray[Any] | Image.Image

ImageKind = TypeVar("ImageKind", bound=Image.Image)

INCHES = 3.0
"""Default side of one image in a figure."""


def show_image(
    im: Drawable,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    ctx: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw one image, without scales around it, and return its axes.

    Args:
        im: A tensor ``(C, H, W)``, an array ``(H, W, C)`` or a Pillow image; without channels it is grey.
        ax: Axes to draw on; None: a new figure of pyplot.
        figsize: (width, height) of a new figure in inches; None: 3 by 3.
        title: Title above it.
        ctx: Another name of ``ax``.
        **options: For matplotlib's ``imshow``: ``cmap="Greys"`` for a grey image, ``interpolation``, ``vmin``, ``alpha`` ...

    Raises:
        ConfigError: It is not an image, or a batch of images.
    """
    pixels = image_pixels(im)
    axes = ctx if ax is None else ax
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(figsize=figsize or (INCHES, INCHES))[1]
    axes.imshow(pixels, **options)
    if title is not None:
        axes.set_title(title)
    axes.axis("off")
    return axes


def show_images(
    ims: Sequence[Drawable],
    nrows: int = 1,
    ncols: int | None = None,
    titles: Sequence[str] | None = None,
    figsize: tuple[float, float] | None = None,
    imsize: float = INCHES,
    suptitle: str | None = None,
) -> None:
    """Draw images side by side.

    Args:
        ims: The images.
        nrows: Rows.
        ncols: Images per row; None: as many as it takes.
        titles: One above each.
        figsize: (width, height) of the figure in inches; None: by ``imsize``.
        imsize: Side of one image in inches.
        suptitle: Title of the figure.

    Raises:
        ConfigError: One of them is not an image, or the number of titles differs.
    """
    if titles is not None and len(titles) != len(ims):
        raise ConfigError(
            f"Give one title for each of the {len(ims)} images. Received: {len(titles)}"
        )
    columns = math.ceil(len(ims) / nrows) if ncols is None else ncols
    _, places = subplots(nrows, max(1, columns), figsize=figsize, imsize=imsize, suptitle=suptitle)
    for place in places.flat:
        place.axis("off")
    for number, (image, place) in enumerate(zip(ims, places.flat, strict=False)):
        show_image(image, ax=place, title=None if titles is None else titles[number])


def subplots(
    nrows: int = 1,
    ncols: int = 1,
    figsize: tuple[float, float] | None = None,
    imsize: float = INCHES,
    suptitle: str | None = None,
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure with room for images.

    Args:
        nrows: Rows of axes.
        ncols: Columns of axes.
        figsize: (width, height) in inches; None: by ``imsize``.
        imsize: Side of each axes in inches.
        suptitle: Title of the figure.

    Returns:
        The figure, and its axes as an array, even for a single one: ``(ncols,)`` for one row, ``(nrows,)`` for one
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
        tx: Label of the horizontal axis.
        ty: Label of the vertical axis.
        title: Title above it.
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


def image_pixels(image: Drawable) -> NDArray[Any]:
    """Return an image as matplotlib draws it, ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``; floats are clipped to 0-1.

    Raises:
        ConfigError: It is not an image, or a batch of images.
    """
    pixels = tensor_pixels(image) if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not is_image or not (np.issubdtype(pixels.dtype, np.number) or pixels.dtype == bool):
        raise ConfigError(
            "An image is a tensor (1, 3 or 4, height, width), an array (height, width, 1, 3 or 4), or without channels; "
            f"take one of a batch with [0]. Received: {type(image).__name__} of {pixels.dtype}, shape {pixels.shape}"
        )
    if pixels.ndim == 3 and np.issubdtype(pixels.dtype, np.floating):
        return pixels.astype(np.float32).clip(0, 1)
    return pixels


class PILImage(Image.Image):
    """A Pillow image that prints as ``PILImage mode=RGB size=500x375`` (width x height); make one with ``create``.

    Item transforms such as ``Resize(460)`` turn a ``PILImage`` into another; Pillow's own methods (``rotate``, ``crop`` ...) return
    plain Pillow images.

    Args:
        image: What ``create`` takes; None makes an empty image, as Pillow's own class does.
    """

    def __init__(self, image: AnyImage | None = None) -> None:
        super().__init__()
        if image is not None:
            vars(self).update(vars(type(self).create(image)))

    @classmethod
    def create(cls, fn: AnyImage) -> PILImage:
        """Return an image as upright RGB with 8 bits, in its own memory.

        As in training, the EXIF orientation is applied, transparent parts are laid over white, and 16 bits become 8.

        Args:
            fn: A file, the bytes of one, an array, a tensor, a Pillow image, or any other form that ``Predictor.predict`` takes.

        Raises:
            PictureError: It cannot be read, or is none of these.

        Examples:
            >>> PILImage.create(np.zeros((375, 500, 3), np.uint8))
            PILImage mode=RGB size=500x375
        """
        source = as_source(fn)
        image = source if isinstance(source, Image.Image) else decode_image(source)
        return _owned(image.convert("L") if cls.is_grey else image, cls)

    is_grey: ClassVar[bool] = False
    """Whether ``create`` gives up colours."""

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
        **options: Any,
    ) -> Axes:
        """Draw the image, and return its axes.

        Args:
            ctx: matplotlib axes to draw on; None: a new figure of pyplot.
            title: Title above it.
            figsize: (width, height) of a new figure in inches.
            **options: As ``show_image`` takes them.
        """
        return show_image(self, ctx=ctx, title=title, figsize=figsize, **options)

    def to_thumb(self, h: int, w: int | None = None) -> Self:
        """Return a copy that fits into ``h`` x ``w`` pixels (``w`` None: ``h``) and keeps its shape; small images keep their size."""
        thumb = _like(self.copy(), self)
        thumb.thumbnail((h if w is None else w, h))
        return thumb

    @property
    def n_px(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    def reshape(
        self, h: int, w: int, resample: Image.Resampling = Image.Resampling.BILINEAR
    ) -> Self:
        """Return the image at ``h`` x ``w`` pixels, whatever its shape was; ``resample`` is Pillow's filter."""
        return _like(self.resize((w, h), resample), self)

    def resize_max(
        self,
        resample: Image.Resampling = Image.Resampling.BILINEAR,
        max_px: int | None = None,
        max_h: int | None = None,
        max_w: int | None = None,
    ) -> Self:
        """Return the image, shrunk in its shape where it has more than ``max_px`` pixels, ``max_h`` rows or ``max_w`` columns."""
        h, w = self.height, self.width
        limits = (max_px and math.sqrt(max_px / (h * w)), max_h and max_h / h, max_w and max_w / w)
        scale = min(1.0, *(limit for limit in limits if limit), 1.0)
        small = self.resize((max(1, round(scale * w)), max(1, round(scale * h))), resample)
        return _like(small, self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} mode={self.mode} size={self.width}x{self.height}"

    __str__ = __repr__

    def _repr_pretty_(self, p: Any, cycle: bool) -> None:
        """Print the same in IPython, for which Pillow has its own text."""
        p.text("PILImage(...)" if cycle else repr(self))


class PILImageBW(PILImage):
    """A grey Pillow image; prints as ``PILImageBW mode=L size=28x28``.

    With ``ImageBlock(cls=PILImageBW)`` batches are grey, ``(B, 1, H, W)``, and a network of your own gets one channel.
    """

    is_grey = True


def patch_image() -> None:
    """Give all of Pillow's images ``shape``, ``aspect``, ``n_px``, ``to_thumb``, ``reshape`` and ``resize_max``, for the whole program.

    Calling it again changes nothing.
    """
    for name in ("shape", "aspect", "n_px", "to_thumb", "reshape", "resize_max"):
        if not hasattr(Image.Image, name):
            setattr(Image.Image, name, vars(PILImage)[name])


def _like(image: Image.Image, other: ImageKind) -> ImageKind:
    """Return an image as a ``PILImage`` where the other one is; Pillow's methods give plain images."""
    if isinstance(other, PILImage):
        image.__class__ = type(other)
    return cast("ImageKind", image)


def _owned(image: Image.Image, cls: type[PILImage]) -> PILImage:
    """Return a copy as an image of our class; a copy never keeps a file open."""
    copied = image.copy()
    copied.__class__ = cls
    return copied  # pyright: ignore[reportReturnType]
