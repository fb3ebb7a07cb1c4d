"""Float pictures and what is to be done to each of them come in, float pictures go out; nothing is drawn or decided here.

Shape legend: B pictures, C channels, H x W source, h x w output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vizsla.augment.compose import GREY_WEIGHTS, ColourStep

if TYPE_CHECKING:
    from vizsla.augment.options import Mode, PadMode
    from vizsla.types import Size

_LOGIT_LIMIT = 1e-7
"""Pixels are kept this far from 0 and 1 before their logit is taken."""

HORIZON = 1e-6
"""Smallest homogeneous coordinate; a perspective beyond its horizon would turn the picture inside out."""


def warp_pictures(
    images: Tensor,
    *,
    warp: Tensor,
    size: Size,
    mode: Mode = "bilinear",
    pad_mode: PadMode = "reflection",
    align_corners: bool = True,
) -> Tensor:
    """Return pictures seen through their maps: one resampling, nothing before it.

    Args:
        images: float ``(B, C, H, W)``; values keep their scale.
        warp: float ``(B, 3, 3)``, output coordinates to source coordinates (see ``compose``).
        size: (height, width) of what comes out.
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.

    Returns:
        ``(B, C, h, w)`` in the dtype of the pictures. Positions and sums are float32 at least: 8 bits of a bfloat16 could
        not tell neighbouring pixels apart.
    """
    exact = torch.promote_types(images.dtype, torch.float32)
    grid = sampling_grid(warp.to(images.device, exact), size=size, align_corners=align_corners)
    return sample_at(images, grid=grid, mode=mode, pad_mode=pad_mode, align_corners=align_corners)


def sample_at(
    images: Tensor,
    *,
    grid: Tensor,
    mode: Mode = "bilinear",
    pad_mode: PadMode = "reflection",
    align_corners: bool = True,
) -> Tensor:
    """Return what pictures show at some places.

    Args:
        images: float ``(B, C, H, W)``; values keep their scale.
        grid: float ``(B, h, w, 2)``: x, y of each place, -1 to 1 inside the picture.
        mode: Interpolation.
        pad_mode: What is seen outside the picture.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.

    Returns:
        ``(B, C, h, w)`` in the dtype of the pictures.
    """
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.grid_sample(
        exact, grid.to(exact), mode=mode, padding_mode=pad_mode, align_corners=align_corners
    ).to(images.dtype)


def sampling_grid(warp: Tensor, *, size: Size, align_corners: bool = True) -> Tensor:
    """Return where each output pixel lies in the source.

    Args:
        warp: float32 ``(B, 3, 3)``, output coordinates to source coordinates.
        size: (height, width) of the output.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.

    Returns:
        float32 ``(B, h, w, 2)``: x, y, -1 to 1 inside the picture.
    """
    ys, xs = (_positions(side, align_corners=align_corners, device=warp.device) for side in size)
    along_x = warp[:, :, 0, None] * xs  # B 3 w
    along_y = warp[:, :, 1, None] * ys + warp[:, :, 2, None]  # B 3 h
    points = along_y[..., None] + along_x[:, :, None]  # B 3 h w
    depth = points[:, 2:].clamp_min_(HORIZON)
    return points[:, :2].div_(depth).permute(0, 2, 3, 1)


def area_average(images: Tensor, *, size: Size, spare: Tensor | None = None) -> Tensor:
    """Return pictures of a smaller size whose pixels are the mean of the area that they cover, partly or fully.

    Args:
        images: float ``(B, C, H, W)``.
        size: (height, width) of what comes out, at most those of the pictures.
        spare: Memory that may be overwritten, like ``images`` or larger, channels-last; ``None``: fresh memory.

    Returns:
        float ``(B, C, h, w)``; the same as ``torch.nn.functional.adaptive_avg_pool2d``.
    """
    if images.device.type != "cpu":
        return F.adaptive_avg_pool2d(images, size)
    height, width = size
    turned = _average_rows(images.permute(0, 2, 3, 1), length=height).transpose(1, 2)  # B W h C
    memory = torch.empty(0) if spare is None else spare.permute(0, 2, 3, 1).view(-1)
    if memory.numel() < turned.numel():
        memory = torch.empty(turned.numel())
    columns = memory[: turned.numel()].view(turned.shape).copy_(turned)
    return _average_rows(columns, length=width).permute(0, 3, 2, 1)


def change_lighting(images: Tensor, *, colour: ColourStep) -> Tensor:
    """Return pictures after one colour step in logit space: between one logit and one sigmoid.

    Args:
        images: float ``(B, 3, H, W)``, RGB, 0-1.
        colour: The step, float32 on the device of the pictures.

    Returns:
        ``(B, 3, H, W)`` in the dtype of the pictures, above 0 and below 1 as far as it can tell; the logits are float32 at
        least. The hue of the step is not looked at, see ``turn_hue``.
    """
    added = colour.offset[:, None, None, None]
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    logits = torch.logit(exact, eps=_LOGIT_LIMIT)
    if colour.grey_gain is not None:
        weights = logits.new_tensor(GREY_WEIGHTS)[:, None, None]
        grey = (logits * weights).sum(dim=1, keepdim=True)
        added = grey.mul_(colour.grey_gain[:, None, None, None]).add_(added)
    changed = logits.mul_(colour.gain[:, None, None, None]).add_(added).sigmoid_()
    return changed.to(images.dtype)


def turn_hue(images: Tensor, *, shift: Tensor) -> Tensor:
    """Return pictures whose colour circle is turned: the hue of HSV moves, saturation and value stay.

    With the hue h in sixths of the circle, a channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6 and
    n = 5, 3, 1 for red, green, blue; so there is no case for each sixth.

    Args:
        images: float ``(B, 3, H, W)``, RGB, 0-1.
        shift: float ``(B,)``, share of the circle; 1/3 makes red green.

    Returns:
        ``(B, 3, H, W)`` in the dtype of the pictures.
    """
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    value, chroma, sixths = _hue_parts(exact)
    sixths = sixths + 6 * shift.to(exact)[:, None, None, None]
    places = torch.arange(5, 0, -2, device=exact.device)[
        :, None, None
    ]  # no copy to a device to wait for
    k = (places + sixths).remainder_(6)
    return value.addcmul(chroma, torch.minimum(k, 4 - k).clamp_(0, 1), value=-1).to(images.dtype)


def _hue_parts(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, chroma and hue in sixths of the circle, each ``(B, 1, H, W)``; the hue of a grey is 0."""
    red, green, blue = images.split(1, dim=1)
    value, largest = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    opposite = torch.cat([green - blue, blue - red, red - green], dim=1).gather(1, largest)
    sixths = opposite / chroma.clamp_min(1e-12) + 2 * largest
    return value, chroma, sixths


def _average_rows(table: Tensor, *, length: int) -> Tensor:
    """Average ``(B, L, D, C)`` over areas of its second axis to ``(B, length, D, C)``.

    ``embedding_bag`` is a mean of rows that uses the CPU's vector units. Two of these passes were measured at 1.2 ms for
    a 460 x 460 picture to 448 x 448, ``adaptive_avg_pool2d`` at 6.4 ms.
    """
    count, rows, *rest = table.shape
    bag = torch.arange(count * length)
    at, picture = bag % length, bag // length
    start, end = at * rows // length, -(-(at + 1) * rows // length)
    bag_sizes = end - start
    offsets = bag_sizes.cumsum(0) - bag_sizes
    inside = torch.arange(int(bag_sizes.sum())) - offsets.repeat_interleave(bag_sizes)
    indices = (picture * rows + start).repeat_interleave(bag_sizes) + inside
    flat = table.reshape(count * rows, -1)
    return F.embedding_bag(indices, flat, offsets, mode="mean").view(count, length, *rest)


def _positions(side: int, *, align_corners: bool, device: torch.device) -> Tensor:
    """Return the coordinates of pixel centres along a side, float32, -1 to 1; a single pixel is in the middle."""
    edge = 1 - 1 / side if side == 1 or not align_corners else 1
    return torch.linspace(-edge, edge, side, device=device)
