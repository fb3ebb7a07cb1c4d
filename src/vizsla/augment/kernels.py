"""What is done to the pixels of a batch of float images, and the numbers per image that say how much.

Nothing is drawn or decided here: `batch_augmentation.py` draws, `apply.py` decides which image needs what.

Shape legend: B images, C channels, H x W source, h x w output, K blocks. Sizes are (height, width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.types import Size

Mode = Literal["bilinear", "nearest", "bicubic"]
"""How pixels between pixels are interpolated."""

PadMode = Literal["reflection", "border", "zeros"]
"""What is seen outside the image."""

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""How much red, green and blue count in a grey (ITU-R BT.601, rounded as in PIL and fastai; the sum is 0.9999)."""

_LOGIT_LIMIT = 1e-7
"""Pixels are kept this far from 0 and 1 before their logit is taken."""

HORIZON = 1e-6
"""Smallest homogeneous coordinate; a perspective beyond its horizon would turn the image inside out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourStep:
    """z' = gain * z + grey_gain * grey(z) + offset on the logits z of the pixels, then a turn of the colour circle.

    Brightness, contrast and saturation are all of the first form, and so is any sequence of them. Each number is float
    ``(B,)``; ``hue`` is a share of the circle. ``None`` is 0 for all.
    """

    gain: Tensor
    grey_gain: Tensor | None
    offset: Tensor
    hue: Tensor | None = None

    @classmethod
    def neutral(cls, count: int) -> ColourStep:
        """Return the step that changes nothing, float64, for ``count`` images."""
        zero = torch.zeros(count, dtype=torch.float64)
        return cls(gain=zero + 1, grey_gain=None, offset=zero)

    @property
    def is_neutral(self) -> Tensor:
        """Bool ``(B,)``: images whose logits the step leaves as they are, whatever happens to their hue."""
        neutral = (self.gain == 1) & (self.offset == 0)
        return neutral if self.grey_gain is None else neutral & (self.grey_gain == 0)

    @property
    def keeps_hue(self) -> Tensor:
        """Bool ``(B,)``: images whose colour circle is not turned."""
        return (
            torch.ones_like(self.gain, dtype=torch.bool) if self.hue is None else self.hue % 1 == 0
        )

    def scaled(self, factors: Tensor) -> ColourStep:
        """Return the step with its logits multiplied at the end, float ``(B,)``."""
        return replace(self._each(lambda part: part * factors), hue=self.hue)

    def of(self, chosen: slice | Tensor) -> ColourStep:
        """Return the step of some of the images."""
        return self._each(lambda part: part[chosen])

    def on(self, device: torch.device) -> ColourStep:
        """Return the step as float32 on a device, without waiting for it."""
        return self._each(lambda part: part.float().to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> ColourStep:
        grey_gain = None if self.grey_gain is None else change(self.grey_gain)
        return ColourStep(
            gain=change(self.gain),
            grey_gain=grey_gain,
            offset=change(self.offset),
            hue=None if self.hue is None else change(self.hue),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasing:
    """What is covered in each image of a batch, and with what."""

    boxes: Tensor  # int64 (B, K, 4): top, left, height, width in pixels; a block of height 0 covers nothing.
    offsets: Tensor  # int64 (B, 2): how far the noise of each image is rolled, in pixels.
    noise: Tensor  # float32 (3, h, w), 0-1.

    @property
    def is_neutral(self) -> Tensor:
        """Bool ``(B,)``: images in which nothing is covered."""
        return (self.boxes[..., 2:].amin(dim=-1) == 0).all(dim=-1)

    def of(self, chosen: slice | Tensor) -> Erasing:
        """Return what is covered in some of the images."""
        return Erasing(boxes=self.boxes[chosen], offsets=self.offsets[chosen], noise=self.noise)

    def on(self, device: torch.device) -> Erasing:
        """Return it on a device, without waiting for it."""
        boxes, offsets, noise = (
            part.to(device, non_blocking=True) for part in (self.boxes, self.offsets, self.noise)
        )
        return Erasing(boxes=boxes, offsets=offsets, noise=noise)


def warp_images(
    images: Tensor,
    *,
    warp: Tensor,
    size: Size,
    mode: Mode = "bilinear",
    pad_mode: PadMode = "reflection",
    align_corners: bool = True,
) -> Tensor:
    """Return images ``(B, C, H, W)`` seen through their maps ``(B, 3, 3)``, as ``(B, C, h, w)``: one resampling.

    Values keep their scale and dtype. Positions and sums are float32 at least: the 8 bits of a bfloat16 could not distinguish
    neighbouring pixels.
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
    """Return what images ``(B, C, H, W)`` show at the places of a grid ``(B, h, w, 2)``, in the dtype of the images."""
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.grid_sample(
        exact, grid.to(exact), mode=mode, padding_mode=pad_mode, align_corners=align_corners
    ).to(images.dtype)


def sampling_grid(warp: Tensor, *, size: Size, align_corners: bool = True) -> Tensor:
    """Return where each output pixel lies in the source, float32 ``(B, h, w, 2)``: x, y, -1 to 1 inside the image."""
    ys, xs = (_positions(side, align_corners=align_corners, device=warp.device) for side in size)
    along_x = warp[:, :, 0, None] * xs  # B 3 w
    along_y = warp[:, :, 1, None] * ys + warp[:, :, 2, None]  # B 3 h
    points = along_y[..., None] + along_x[:, :, None]  # B 3 h w
    depth = points[:, 2:].clamp_min_(HORIZON)
    return points[:, :2].div_(depth).permute(0, 2, 3, 1)


def area_average(images: Tensor, *, size: Size, spare: Tensor | None = None) -> Tensor:
    """Return ``torch.nn.functional.adaptive_avg_pool2d(images, size)`` for a size at most that of the images.

    ``spare`` is memory that may be overwritten, like ``images`` or larger, channels-last; ``None``: fresh memory.
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


def prefilter_sizes(warp: Tensor, *, source_size: Size, size: Size) -> list[Size | None]:
    """Return the size that each image is averaged to before it is resampled; ``None`` where it is not.

    Bilinear sampling looks at 2 pixels in a row, so an image that shrinks by more than 2 loses pixels without a
    filter. It is averaged to twice the output size (of the side that shrinks less), and to a size doubled as often as
    the map magnifies by 2, so that a small crop of a large image keeps its detail. Sizes depend on the maps, which
    the CPU knows, and on nothing else: neither on the other images of the batch nor on a read from the device.
    """
    (height, width), (out_height, out_width) = source_size, size
    shrinks_by = min(height / out_height, width / out_width)
    if shrinks_by <= 2:
        return [None] * len(warp)
    sizes: list[Size | None] = []
    magnifications: list[float] = _magnification(warp).tolist()
    for magnifies_by in magnifications:
        doubled = 2 << max(0, math.floor(math.log2(magnifies_by)))
        if shrinks_by <= max(doubled, 2 * magnifies_by):
            sizes.append(None)
        elif height * out_width <= width * out_height:
            sizes.append((doubled * out_height, width * doubled * out_height // height))
        else:
            sizes.append((height * doubled * out_width // width, doubled * out_width))
    return sizes


def change_lighting(images: Tensor, *, colour: ColourStep) -> Tensor:
    """Return RGB images ``(B, 3, H, W)``, 0-1, after one colour step in logit space: between one logit and one sigmoid.

    They stay above 0 and below 1 as far as their dtype can tell; the logits are float32 at least. The hue of the step is left
    to ``turn_hue``.
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
    """Return images whose colour circle is turned: the hue of HSV moves, saturation and value stay.

    With the hue h in sixths of the circle, a channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6 and
    n = 5, 3, 1 for red, green, blue; so no sixth is a case of its own. ``shift``, float ``(B,)``, is a share of the circle:
    1/3 makes red green.
    """
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    value, chroma, sixths = _hue_parts(exact)
    sixths = sixths + 6 * shift.to(exact)[:, None, None, None]
    places = torch.arange(5, 0, -2, device=exact.device)[
        :, None, None
    ]  # no copy to a device to wait for
    k = (places + sixths).remainder_(6)
    return value.addcmul(chroma, torch.minimum(k, 4 - k).clamp_(0, 1), value=-1).to(images.dtype)


def erase_blocks(images: Tensor, *, erasing: Erasing) -> Tensor:
    """Return images, float ``(B, 3, h, w)``, with their blocks covered."""
    height, width = images.shape[-2:]
    ys, xs = (torch.arange(side, device=images.device) for side in (height, width))
    top, left, tall, wide = erasing.boxes.unsqueeze(-1).unbind(2)  # each B K 1
    in_rows = (ys >= top) & (ys < top + tall)
    in_columns = (xs >= left) & (xs < left + wide)
    covered = (in_rows[..., None] & in_columns[..., None, :]).any(dim=1)  # B h w
    rows = (ys + erasing.offsets[:, :1]) % height
    columns = (xs + erasing.offsets[:, 1:]) % width
    noise = erasing.noise[:, rows[:, :, None], columns[:, None]].transpose(0, 1)  # B 3 h w
    return torch.where(covered[:, None], noise.to(images.dtype), images)


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
    a 460 x 460 image to 448 x 448, ``adaptive_avg_pool2d`` at 6.4 ms.
    """
    count, rows, *rest = table.shape
    bag = torch.arange(count * length)
    at, image = bag % length, bag // length
    start, end = at * rows // length, -(-(at + 1) * rows // length)
    bag_sizes = end - start
    offsets = bag_sizes.cumsum(0) - bag_sizes
    inside = torch.arange(int(bag_sizes.sum())) - offsets.repeat_interleave(bag_sizes)
    indices = (image * rows + start).repeat_interleave(bag_sizes) + inside
    flat = table.reshape(count * rows, -1)
    return F.embedding_bag(indices, flat, offsets, mode="mean").view(count, length, *rest)


def _positions(side: int, *, align_corners: bool, device: torch.device) -> Tensor:
    """Return the coordinates of pixel centres along a side, float32, -1 to 1; a single pixel is in the middle."""
    edge = 1 - 1 / side if side == 1 or not align_corners else 1
    return torch.linspace(-edge, edge, side, device=device)


def _magnification(warp: Tensor) -> Tensor:
    """Return by how much each map magnifies the source, float64 ``(B,)``: a length, from the area that the output shows.

    An area does not change when an image is turned; the extent of its corners, which fastai takes, does.
    """
    corners = warp.new_tensor([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]])
    mapped_B34 = warp @ corners
    seen_B24 = mapped_B34[:, :2] / mapped_B34[:, 2:].clamp_min(HORIZON)
    x, y = seen_B24.unbind(1)
    area = (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(dim=1).abs() / 2
    return (4 / area.clamp_min(HORIZON)).sqrt()
