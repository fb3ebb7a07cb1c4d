"""A transform and the rows of a batch come in, random numbers for each picture go out; no pixels are touched.

Every number depends on (seed, stream, epoch, row) only (``seeding.counter_uniform``), never on the batch that a picture
happens to be in. Everything here is a few numbers per picture and stays on the CPU, whatever the device of the pictures.

Shape legend: B pictures, T tries, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.pixels import Brightness, Contrast, Hue, Saturation
from vizsla.augment.policy import (
    BatchTransform,
    ColourTransform,
    Dihedral,
    Flip,
    MatrixTransform,
    RandomResizedCropGPU,
    Rotate,
    Warp,
    Zoom,
)
from vizsla.errors import ConfigError
from vizsla.seeding import counter_uniform

if TYPE_CHECKING:
    from vizsla.augment.options import Draw
    from vizsla.types import Size

_TRIES = 10
"""How often a window is drawn before the middle is taken instead; torchvision and fastai use the same number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Where random numbers come from: who asks, for which pictures.

    Attributes:
        seed: The run's seed.
        epoch: Epoch number, from 0.
        rows: int64 ``(B,)`` on the CPU.
        images: The pictures as they come in, for transforms whose ``draw`` is a function of them.
    """

    seed: int
    epoch: int
    rows: Tensor
    images: Tensor | None = None

    def uniform(self, stream: str, *, count: int, same_for_all: bool = False) -> Tensor:
        """Return float64 ``(B, count)`` in [0, 1); with ``same_for_all`` those of the first row for every picture."""
        rows = self.rows[:1].expand(len(self.rows)) if same_for_all else self.rows
        return counter_uniform(self.seed, stream, epoch=self.epoch, rows=rows, count=count).double()


def stream_names(transforms: Sequence[BatchTransform]) -> tuple[str, ...]:
    """Return a stream of random numbers for each transform: its class, and which one of that class it is."""
    classes = [type(transform).__name__.lower() for transform in transforms]
    return tuple(f"augment/{name}/{classes[:at].count(name)}" for at, name in enumerate(classes))


def sample_matrix(transform: MatrixTransform, *, draws: Draws, stream: str) -> Tensor:
    """Draw what ``compose.affine_matrix`` needs to know for each picture.

    Args:
        transform: What may happen.
        draws: For whom.
        stream: Name of the stream of random numbers.

    Returns:
        float64 ``(B, K)``. Flip: 0 or 1. Dihedral: 0-7. Rotate: degrees. Zoom: factor, x and y of the fixed point (0-1).
    """
    uniform = draws.uniform(stream, count=4, same_for_all=transform.batch)
    acts = uniform[:, 0] < transform.p
    fresh = uniform[:, 1]
    match transform:
        case Flip():
            drawn, neutral = torch.ones_like(fresh), 0.0
        case Dihedral():
            drawn, neutral = (fresh * 8).floor(), 0.0
        case Rotate():
            drawn, neutral = (fresh * 2 - 1) * transform.max_deg, 0.0
        case Zoom():
            drawn, neutral = _between(fresh, transform.min_zoom, transform.max_zoom), 1.0
    values = _masked(_fixed(transform.draw, drawn, draws=draws), acts, neutral=neutral)
    if not isinstance(transform, Zoom):
        return values[:, None]
    x = _fixed(transform.draw_x, uniform[:, 2], draws=draws)
    y = _fixed(transform.draw_y, uniform[:, 3], draws=draws)
    return torch.stack([values, x, y], dim=1)


def sample_warp(transform: Warp, *, draws: Draws, stream: str) -> Tensor:
    """Draw the perspective of each picture; each direction acts with probability ``p`` on its own.

    Returns:
        float64 ``(B, 2)``: x and y, in half-widths and half-heights.
    """
    uniform = draws.uniform(stream, count=4, same_for_all=transform.batch)
    fresh = (uniform[:, 2:] * 2 - 1) * transform.magnitude
    fixed_x = _fixed(transform.draw_x, fresh[:, 0], draws=draws)
    fixed_y = _fixed(transform.draw_y, fresh[:, 1], draws=draws)
    x = _masked(fixed_x, uniform[:, 0] < transform.p, neutral=0.0)
    y = _masked(fixed_y, uniform[:, 1] < transform.p, neutral=0.0)
    return torch.stack([x, y], dim=1)


def sample_colour(transform: ColourTransform | Hue, *, draws: Draws, stream: str) -> Tensor:
    """Draw the strength of a colour transform for each picture.

    Returns:
        float64 ``(B,)``. Brightness: 0-1, neutral 0.5. Contrast, Saturation: factor, neutral 1. Hue: shift, neutral 0.
    """
    uniform = draws.uniform(stream, count=2, same_for_all=transform.batch)
    match transform:
        case Brightness():
            strength = transform.max_lighting
            low, high = 0.5 * (1 - strength), 0.5 * (1 + strength)
            fresh, neutral = _between(uniform[:, 1], low, high), 0.5
        case Contrast() | Saturation():
            fresh, neutral = _factor(uniform[:, 1], transform.max_lighting), 1.0
        case Hue():
            fresh, neutral = _factor(uniform[:, 1], transform.max_hue) - 1, 0.0
    acts = uniform[:, 0] < transform.p
    return _masked(_fixed(transform.draw, fresh, draws=draws), acts, neutral=neutral)


def sample_crop(
    transform: RandomResizedCropGPU, *, draws: Draws, stream: str, source_size: Size
) -> Tensor:
    """Draw a window for each picture.

    Returns:
        int64 ``(B, 4)``: top, left, height, width in pixels of the source.
    """
    uniform = draws.uniform(stream, count=2 * _TRIES + 2)
    return crop_boxes(transform, uniform=uniform, source_size=source_size)


def crop_boxes(transform: RandomResizedCropGPU, *, uniform: Tensor, source_size: Size) -> Tensor:
    """Return windows from uniform numbers: the first of ten tries that fits, else the middle.

    A try has area U(min_scale, max_scale) of the picture, width / height exp(U(log ratio)), sides rounded to pixels.

    Args:
        transform: The limits.
        uniform: float64 ``(B, 2T + 2)`` in [0, 1): area of each try, shape of each try, row, column.
        source_size: (height, width) of the pictures.

    Returns:
        int64 ``(B, 4)``: top, left, height, width in pixels of the source.
    """
    height, width = source_size
    area_BT = _between(uniform[:, :_TRIES], transform.min_scale, transform.max_scale)
    low, high = (math.log(ratio) for ratio in transform.ratio)
    ratio_BT = _between(uniform[:, _TRIES : 2 * _TRIES], low, high).exp()
    area_BT = area_BT * height * width
    sides_BT2 = torch.stack([area_BT / ratio_BT, area_BT * ratio_BT], dim=-1).sqrt().round()
    limits = torch.tensor([height, width])
    fits_BT = ((sides_BT2 <= limits) & (sides_BT2 >= 1)).all(dim=-1)
    first = fits_BT.int().argmax(dim=1)
    sides_B2 = sides_BT2[torch.arange(len(first)), first].long()
    corners_B2 = (uniform[:, 2 * _TRIES :] * (limits - sides_B2 + 1)).floor().long()
    middle = torch.tensor(centre_crop_box(source_size, ratio=transform.ratio))
    return torch.where(
        fits_BT.any(dim=1, keepdim=True), torch.cat([corners_B2, sides_B2], dim=1), middle
    )


def centre_crop_box(
    source_size: Size, *, ratio: tuple[float, float], scale: float = 1.0
) -> tuple[int, int, int, int]:
    """Return the middle of a picture at the nearest allowed ratio of width to height.

    Args:
        source_size: (height, width) of the picture.
        ratio: Smallest and largest width / height.
        scale: Both sides of the window are multiplied by it.

    Returns:
        Top, left, height, width in pixels.

    Example:
        >>> centre_crop_box((20, 32), ratio=(3 / 4, 4 / 3))
        (0, 3, 20, 26)
    """
    height, width = source_size
    crop_height, crop_width = height, width
    if width < ratio[0] * height:
        crop_height = int(width / ratio[0])
    elif width > ratio[1] * height:
        crop_width = int(height * ratio[1])
    crop_height = max(1, int(crop_height * scale))
    crop_width = max(1, int(crop_width * scale))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform


def _factor(uniform: Tensor, strength: float) -> Tensor:
    """Return factors whose logarithm is uniform around 0: as often ten per cent more as ten per cent less."""
    limit = -math.log1p(-strength)
    return _between(uniform, -limit, limit).exp()


def _masked(values: Tensor, acts: Tensor, *, neutral: float) -> Tensor:
    return torch.where(acts, values, torch.full_like(values, neutral))


def _fixed(draw: Draw, fresh: Tensor, *, draws: Draws) -> Tensor:
    """Return the values that the user fixed, or ``fresh`` ones."""
    if draw is None:
        return fresh
    if not isinstance(draw, (float, int, Sequence)):
        if draws.images is None:
            raise ConfigError(
                "A draw that is a function of the pictures needs them: give Draws(images=...). "
                f"Received: {draw!r} and no pictures"
            )
        made = draw(draws.images)
        draw = made.detach().cpu().double().tolist() if isinstance(made, Tensor) else made
    if isinstance(draw, Sequence):
        if len(draw) < len(fresh):
            raise ConfigError(
                f"A list of fixed draws needs one number per picture: give at least {len(fresh)}, or one number for all. "
                f"Received {len(draw)}: {draw!r}"
            )
        return torch.tensor(draw[: len(fresh)], dtype=fresh.dtype)
    return torch.full_like(fresh, draw)
