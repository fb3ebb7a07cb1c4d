"""Numbers per picture come in, one 3x3 map and one colour step per picture go out; no pixels are touched.

A map takes coordinates of the **output** (x, y, 1), x to the right and y down, both from -1 to 1, to those of the source:
source = P . A . C . output, with A the product of flips, rotations and zooms, P the perspectives, C the crop. Resizing needs
no entry: output and source span -1 to 1 whatever their number of pixels. A colour step is three numbers per picture.

Shape legend: B pictures; maps are float64 ``(B, 3, 3)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.pixels import Brightness, Contrast, Saturation
from vizsla.augment.policy import ColourTransform, Dihedral, Flip, MatrixTransform, Rotate, Zoom
from vizsla.augment.sample import (
    Draws,
    centre_crop_box,
    sample_colour,
    sample_crop,
    sample_matrix,
    sample_warp,
    stream_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.augment.merge import AugmentationPolicy
    from vizsla.types import Size

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)
"""How much red, green and blue count in a grey (ITU-R BT.601, rounded as in PIL and fastai; the sum is 0.9999)."""

_DIHEDRAL = (
    ((1, 0), (0, 1)),
    ((-1, 0), (0, 1)),
    ((1, 0), (0, -1)),
    ((0, -1), (1, 0)),
    ((-1, 0), (0, -1)),
    ((0, 1), (-1, 0)),
    ((0, 1), (1, 0)),
    ((0, -1), (-1, 0)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourStep:
    """z' = gain * z + grey_gain * grey(z) + offset on the logits z of the pixels, then a turn of the colour circle.

    Brightness, contrast and saturation are all of the first form, and so is any sequence of them.

    Attributes:
        gain: float ``(B,)``.
        grey_gain: float ``(B,)``; ``None``: 0 for all, no transform changes the saturation.
        offset: float ``(B,)``.
        hue: float ``(B,)``, the turn as a share of the circle; ``None``: 0 for all.
    """

    gain: Tensor
    grey_gain: Tensor | None
    offset: Tensor
    hue: Tensor | None = None

    @property
    def is_neutral(self) -> Tensor:
        """Bool ``(B,)``: pictures whose logits the step leaves as they are, whatever happens to their hue."""
        neutral = (self.gain == 1) & (self.offset == 0)
        return neutral if self.grey_gain is None else neutral & (self.grey_gain == 0)

    @property
    def keeps_hue(self) -> Tensor:
        """Bool ``(B,)``: pictures whose colour circle is not turned."""
        return (
            torch.ones_like(self.gain, dtype=torch.bool) if self.hue is None else self.hue % 1 == 0
        )

    def scaled(self, factors: Tensor) -> ColourStep:
        """Return the step with its logits multiplied at the end, float ``(B,)``."""
        return replace(self._each(lambda part: part * factors), hue=self.hue)

    def of(self, chosen: slice | Tensor) -> ColourStep:
        """Return the step of some of the pictures."""
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


def affine_matrix(transform: MatrixTransform, *, values: Tensor) -> Tensor:
    """Return the maps of one transform, for a square picture.

    Args:
        transform: Its kind says what the values mean.
        values: float64 ``(B, K)`` as ``sample.sample_matrix`` draws them.
    """
    first = values[:, 0]
    one, zero = torch.ones_like(first), torch.zeros_like(first)
    match transform:
        case Flip():
            return _matrix((1 - 2 * first, zero, zero), (zero, one, zero))
        case Dihedral():
            signs = values.new_tensor(_DIHEDRAL)[first.long()]
            x, y = signs.unbind(1)
            return _matrix((x[:, 0], x[:, 1], zero), (y[:, 0], y[:, 1], zero))
        case Rotate():
            angle = first.deg2rad()
            return _matrix((angle.cos(), angle.sin(), zero), (-angle.sin(), angle.cos(), zero))
        case Zoom():
            scale = 1 / first
            x, y = ((1 - scale) * (2 * values[:, at] - 1) for at in (1, 2))
            return _matrix((scale, zero, x), (zero, scale, y))


def correct_aspect(affine: Tensor, *, source_size: Size) -> Tensor:
    """Return maps that act on a picture of this size as the given ones do on a square: rotations do not shear."""
    height, width = source_size
    factors = affine.new_tensor([[1, height / width, 1], [width / height, 1, 1], [1, 1, 1]])
    return affine * factors


def warp_matrix(values: Tensor) -> Tensor:
    """Return the perspective that takes four moved corners back to the corners of the square.

    With draws (a, b) the points (-1-b, -1-a), (-1+b, 1+a), (1+b, -1+a), (1-b, 1-a) go to (-1, -1), (-1, 1), (1, -1), (1, 1).
    Such a map has 8 unknowns; the symmetry of the points makes it [[1, s, u], [s, 1, v], [u, v, 1]] with
    s = 2ab / (1 - a^2 - b^2), u = -a - bs, v = -b - as.

    Args:
        values: float64 ``(B, 2)``: a and b.
    """
    a, b = values.unbind(1)
    s = 2 * a * b / (1 - a**2 - b**2)
    u, v = -a - b * s, -b - a * s
    one = torch.ones_like(a)
    return torch.stack([one, s, u, s, one, v, u, v, one], dim=1).view(-1, 3, 3)


def crop_matrix(boxes: Tensor, *, source_size: Size, align_corners: bool = True) -> Tensor:
    """Return the maps that show a window of the source only.

    Args:
        boxes: int64 ``(B, 4)``: top, left, height, width in pixels.
        source_size: (height, width) in pixels.
        align_corners: Whether -1 and 1 are the centres of the corner pixels.
    """
    height, width = source_size
    top, left, crop_height, crop_width = boxes.double().unbind(1)
    zero = torch.zeros_like(top)
    # With aligned corners a side of n pixels is n - 1 steps long; a single pixel is seen as one step.
    inset = 1 if align_corners else 0
    across, down = max(width - inset, 1), max(height - inset, 1)
    scale_x, scale_y = (crop_width - inset) / across, (crop_height - inset) / down
    shift_x = (2 * left + crop_width - inset) / across - 1
    shift_y = (2 * top + crop_height - inset) / down - 1
    return _matrix((scale_x, zero, shift_x), (zero, scale_y, shift_y))


def compose_map(policy: AugmentationPolicy, *, draws: Draws, source_size: Size) -> Tensor:
    """Draw and compose the geometry of training: one map per picture.

    Args:
        policy: What may happen.
        draws: For whom.
        source_size: (height, width) of the pictures that come in.

    Returns:
        float64 ``(B, 3, 3)``, output to source; exactly the identity where nothing happens.
    """
    affine = _identity(len(draws.rows))
    for transform, stream in zip(policy.matrices, stream_names(policy.matrices), strict=True):
        values = sample_matrix(transform, draws=draws, stream=stream)
        affine = affine @ affine_matrix(transform, values=values)
    total = correct_aspect(affine, source_size=source_size)
    for transform, stream in zip(policy.warps, stream_names(policy.warps), strict=True):
        total = warp_matrix(sample_warp(transform, draws=draws, stream=stream)) @ total
    if policy.crop is not None:
        (stream,) = stream_names([policy.crop])
        boxes = sample_crop(policy.crop, draws=draws, stream=stream, source_size=source_size)
        window = crop_matrix(boxes, source_size=source_size, align_corners=policy.align_corners)
        total = total @ window
    return total


def validation_map(policy: AugmentationPolicy, *, count: int, source_size: Size) -> Tensor:
    """Return the maps of validation: the middle window if the policy crops, else the whole picture."""
    if policy.crop is None:
        return _identity(count)
    crop = policy.crop
    box = centre_crop_box(source_size, ratio=crop.ratio, scale=crop.valid_scale)
    boxes = torch.tensor([box]).expand(count, 4)
    return crop_matrix(boxes, source_size=source_size, align_corners=policy.align_corners)


def compose_colour(policy: AugmentationPolicy, *, draws: Draws) -> ColourStep | None:
    """Draw and compose the colour of training: one step per picture, ``None`` if the policy has none."""
    if not policy.colours and not policy.hues:
        return None
    values = [
        sample_colour(transform, draws=draws, stream=stream)
        for transform, stream in zip(policy.colours, stream_names(policy.colours), strict=True)
    ]
    shifts = [
        sample_colour(transform, draws=draws, stream=stream)
        for transform, stream in zip(policy.hues, stream_names(policy.hues), strict=True)
    ]
    parts = list(zip(policy.colours, values, strict=True))
    step = colour_step(parts, count=len(draws.rows))
    return replace(step, hue=torch.stack(shifts).sum(dim=0)) if shifts else step


def colour_step(parts: list[tuple[ColourTransform, Tensor]], *, count: int) -> ColourStep:
    """Return the one step that does what the parts do in turn.

    Args:
        parts: Transforms, each with its draws, float64 ``(B,)``, as ``sample.sample_colour`` makes them.
        count: B, how many pictures there are.
    """
    zero = torch.zeros(count, dtype=torch.float64)
    changes_saturation = any(isinstance(transform, Saturation) for transform, _ in parts)
    start = ColourStep(gain=zero + 1, grey_gain=zero if changes_saturation else None, offset=zero)
    return reduce(_then, parts, start)


def _then(step: ColourStep, part: tuple[ColourTransform, Tensor]) -> ColourStep:
    """Return the step followed by one more transform."""
    transform, draw = part
    match transform:
        case Brightness():
            return replace(step, offset=step.offset + (draw / (1 - draw)).log())
        case Contrast():
            return step.scaled(draw)
        case Saturation():
            # grey(gain z + grey_gain grey(z) + offset), with the grey of a grey being itself times the weights' sum.
            weight = sum(GREY_WEIGHTS)
            before = 0 if step.grey_gain is None else step.grey_gain
            after = step.scaled(draw)
            kept = 0 if after.grey_gain is None else after.grey_gain
            return replace(
                after,
                grey_gain=kept + (step.gain + before * weight) * (1 - draw),
                offset=after.offset + step.offset * weight * (1 - draw),
            )


def _identity(count: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)


def _matrix(x_row: tuple[Tensor, ...], y_row: tuple[Tensor, ...]) -> Tensor:
    """Return ``(B, 3, 3)`` from the first two rows, entries ``(B,)``."""
    zero = torch.zeros_like(x_row[0])
    rows = (*x_row, *y_row, zero, zero, zero + 1)
    return torch.stack(rows, dim=1).view(-1, 3, 3)
