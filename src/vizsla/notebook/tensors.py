"""Tensors that print their kind, show themselves, and transform themselves: for looking and trying out, not for training.

Training works on plain tensors, because a subclass costs time at every operation. Here each call acts at once, with its own
interpolation, so a chain of calls shows what several interpolations do to an image; a ``Pipeline`` composes its transforms and
interpolates once.

B images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import Tensor

from vizsla.augment.apply import Sampling, augment_images
from vizsla.augment.batch_augmentation import act, as_batch, in_form_of
from vizsla.augment.colour import Brightness, Contrast
from vizsla.augment.geometry import Dihedral, Flip, Rotate, Warp, Zoom
from vizsla.augment.kernels import area_average, prefilter_sizes, sample_at, sampling_grid
from vizsla.errors import ConfigError
from vizsla.notebook.images import show_image
from vizsla.types import as_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from vizsla.augment.batch_augmentation import Draw
    from vizsla.augment.kernels import Mode, PadMode
    from vizsla.types import Size, Task


class _Sampling(TypedDict):
    mode: Mode
    pad_mode: PadMode
    align_corners: bool


class _Geometry(TypedDict, total=False):
    p: float
    size: int | Size | None
    mode: Mode
    pad_mode: PadMode
    align_corners: bool
    batch: bool


class _Lighting(TypedDict, total=False):
    max_lighting: float
    p: float
    draw: Draw
    batch: bool


class _KindOfTensor(Tensor):
    """A tensor with a kind; what is computed of two kinds, such as a loss of outputs and targets, is a plain tensor."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if all(issubclass(cls, kind) for kind in types):
            return super().__torch_function__(func, types, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage] (the way that torch documents)
            return func(*args, **(kwargs or {}))


class TensorCategory(_KindOfTensor):
    """A label, or the labels of a batch, as int64; prints as ``TensorCategory(1)``.

    Args:
        data: One integer or several.
    """

    def __new__(cls, data: ArrayLike | Tensor) -> TensorCategory:
        """Return the labels as int64."""
        return torch.as_tensor(data, dtype=torch.int64).as_subclass(cls)


class TensorMultiCategory(_KindOfTensor):
    """Labels of an image, or of a batch; prints as ``TensorMultiCategory``.

    Args:
        data: 1 for each class that the image has, else 0.
    """

    def __new__(cls, data: Tensor | Sequence[float]) -> TensorMultiCategory:
        """Return the labels as float32."""
        return torch.as_tensor(data, dtype=torch.float32).as_subclass(cls)


def as_target(target: Tensor, *, task: Task) -> Tensor:
    """Return a target, or those of a batch, as a tensor that prints its kind."""
    if task == "category":
        return TensorCategory(target)
    return TensorMultiCategory(target) if task == "multi_category" else target


class TensorImage(_KindOfTensor):
    """One image ``(C, H, W)`` or a batch ``(B, C, H, W)``, uint8 0-255 or float 0-1; prints as ``TensorImage(...)``.

    The methods below return new images: float, in the dtype that came in (float32 for uint8). Their options are those of the
    transform of the same name. Random draws are made per image, from ``generator`` or torch's default one.

    Args:
        data: A tensor, or anything that ``torch.as_tensor`` takes; memory is shared where possible.

    Examples:
        >>> one_by_one = TensorImage(images).affine_coord(sz=224).rotate(draw=30, p=1).zoom(draw=1.2, p=1)
    """

    def __new__(cls, data: ArrayLike | Tensor) -> TensorImage:
        """Return the images, sharing memory where possible."""
        return torch.as_tensor(data).as_subclass(cls)

    def affine_coord(
        self,
        *,
        mat: Tensor | None = None,
        coord_tfm: Callable[[Tensor], Tensor] | None = None,
        sz: int | Size | None = None,
        mode: Mode = "bilinear",
        pad_mode: PadMode = "reflection",
        align_corners: bool = True,
    ) -> TensorImage:
        """Return the images seen through a map, in another size.

        Args:
            mat: float ``(2, 3)``, ``(3, 3)``, ``(B, 2, 3)`` or ``(B, 3, 3)``: output coordinates (x, y, 1), -1 to 1, to
                source coordinates; three rows for a perspective; ``None``: the whole image.
            coord_tfm: Changes the source coordinates (x, y) of all output pixels, ``(B, H, W, 2)``, after ``mat``; ``None``
                keeps them.
            sz: (height, width) of the result, or one number; ``None``: unchanged.
            mode: Interpolation: ``"bilinear"``, ``"nearest"`` or ``"bicubic"``.
            pad_mode: What is seen outside the image: ``"reflection"``, ``"border"`` or ``"zeros"``.
            align_corners: Whether -1 and 1 are the centres (True) or the outer edges of the corner pixels.

        Raises:
            ConfigError: ``mat`` or the result of ``coord_tfm`` has the wrong shape.
        """
        images = as_batch(self)
        maps = _as_maps(mat, count=len(images))
        size = (images.shape[-2], images.shape[-1]) if sz is None else as_size(sz)
        sampling = _Sampling(mode=mode, pad_mode=pad_mode, align_corners=align_corners)
        if coord_tfm is None:
            found = augment_images(images, warp=maps, size=size, sampling=Sampling(**sampling))
        else:
            found = _seen(images, maps, coord_tfm, size=size, **sampling)
        return TensorImage(in_form_of(self, found))

    def flip_batch(
        self,
        *,
        generator: torch.Generator | None = None,
        draw: Draw = None,
        **options: Unpack[_Geometry],
    ) -> TensorImage:
        """Mirror left and right, as ``Flip``."""
        return TensorImage(act([Flip(draw=draw, **options)], self, generator=generator))

    def dihedral_batch(
        self,
        *,
        generator: torch.Generator | None = None,
        draw: Draw = None,
        **options: Unpack[_Geometry],
    ) -> TensorImage:
        """Apply a symmetry of the square, as ``Dihedral``."""
        return TensorImage(act([Dihedral(draw=draw, **options)], self, generator=generator))

    def rotate(
        self,
        *,
        generator: torch.Generator | None = None,
        max_deg: float = 10,
        draw: Draw = None,
        **options: Unpack[_Geometry],
    ) -> TensorImage:
        """Turn about the middle, as ``Rotate``."""
        return TensorImage(act([Rotate(max_deg, draw=draw, **options)], self, generator=generator))

    def zoom(
        self,
        *,
        generator: torch.Generator | None = None,
        min_zoom: float = 1.0,
        max_zoom: float = 1.1,
        draw: Draw = None,
        draw_x: Draw = None,
        draw_y: Draw = None,
        **options: Unpack[_Geometry],
    ) -> TensorImage:
        """Magnify about a point, as ``Zoom``."""
        point = {"draw_x": draw_x, "draw_y": draw_y}
        transform = Zoom(min_zoom, max_zoom, draw=draw, **point, **options)
        return TensorImage(act([transform], self, generator=generator))

    def warp(
        self,
        *,
        generator: torch.Generator | None = None,
        magnitude: float = 0.2,
        draw_x: Draw = None,
        draw_y: Draw = None,
        **options: Unpack[_Geometry],
    ) -> TensorImage:
        """Change the perspective, as ``Warp``."""
        transform = Warp(magnitude, draw_x=draw_x, draw_y=draw_y, **options)
        return TensorImage(act([transform], self, generator=generator))

    def brightness(
        self, *, generator: torch.Generator | None = None, **options: Unpack[_Lighting]
    ) -> TensorImage:
        """Make lighter or darker, as ``Brightness``."""
        return TensorImage(act([Brightness(**options)], self, generator=generator))

    def contrast(
        self, *, generator: torch.Generator | None = None, **options: Unpack[_Lighting]
    ) -> TensorImage:
        """Change the contrast, as ``Contrast``."""
        return TensorImage(act([Contrast(**options)], self, generator=generator))

    def show(
        self,
        ctx: Axes | None = None,
        *,
        title: str | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Axes:
        """Draw the image, and return its axes.

        Args:
            ctx: matplotlib axes to draw on; ``None``: a new figure of pyplot.
            title: Title above it.
            figsize: (width, height) of a new figure in inches; ``None``: 3 by 3.

        Raises:
            ConfigError: This is a batch, or has neither 1 nor 3 channels.
        """
        if self.ndim != 3 or self.shape[0] not in {1, 3}:
            raise ConfigError(
                "Only one image (1 or 3, height, width) can be shown; take one of a batch with [0]. "
                f"Received: shape {tuple(self.shape)}"
            )
        plain = self.as_subclass(Tensor).expand(3, -1, -1)  # so that grey is drawn grey
        return show_image(plain, ctx=ctx, title=title, figsize=figsize)


def _seen(
    images: Tensor,
    maps: Tensor,
    coord_tfm: Callable[[Tensor], Tensor],
    *,
    size: Size,
    **sampling: Unpack[_Sampling],
) -> Tensor:
    """Return images seen through maps and a function of the coordinates, averaged before that as the maps need it."""
    align_corners = sampling["align_corners"]
    grid = sampling_grid(maps.float().to(images.device), size=size, align_corners=align_corners)
    shape = grid.shape
    grid = coord_tfm(grid)
    if grid.shape != shape:
        raise ConfigError(
            f"coord_tfm takes and returns coordinates of shape {tuple(shape)}. Received: {tuple(grid.shape)}"
        )
    source = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    pooled = prefilter_sizes(maps, source_size=(source.shape[-2], source.shape[-1]), size=size)
    seen: list[Tensor] = []
    for part, pooled_size, places in zip(source.split(1), pooled, grid.split(1), strict=True):
        if pooled_size is not None and sampling["mode"] != "nearest":
            part = area_average(part, size=pooled_size)
        seen.append(sample_at(part, grid=places, **sampling))
    found = torch.cat(seen)
    return found.clamp_(0, 1) if sampling["mode"] == "bicubic" else found


def _as_maps(mat: Tensor | None, *, count: int) -> Tensor:
    """Return maps ``(B, 3, 3)``."""
    maps = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    if mat is None:
        return maps
    shape = tuple(mat.shape)
    if shape[-2:] not in {(2, 3), (3, 3)} or shape[:-2] not in {(), (1,), (count,)}:
        raise ConfigError(
            f"A map is (2, 3) or (3, 3), or {count} of them for {count} images. Received: shape {shape}"
        )
    maps[:, : mat.shape[-2]] = mat.detach().cpu().double()
    return maps
