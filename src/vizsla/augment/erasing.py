"""A ``RandomErasing`` and the rows of a batch come in, blocks per picture and then pictures with noise in them go out.

Shape legend: B pictures, K blocks, C channels, h x w pixels of what comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.seeding import generator

if TYPE_CHECKING:
    from vizsla.augment.pixels import Normalize, RandomErasing
    from vizsla.augment.sample import Draws
    from vizsla.types import Size

_STREAM = "augment/randomerasing/0"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasing:
    """What is covered in each picture of a batch, and with what.

    Attributes:
        boxes: int64 ``(B, K, 4)``: top, left, height, width in pixels; a height of 0 is no block.
        offsets: int64 ``(B, 2)``: how far the noise of each picture is rolled, in pixels.
        noise: float32 ``(3, h, w)``, 0-1.
    """

    boxes: Tensor
    offsets: Tensor
    noise: Tensor

    @property
    def is_neutral(self) -> Tensor:
        """Bool ``(B,)``: pictures that nothing is covered of."""
        return (self.boxes[..., 2:].amin(dim=-1) == 0).all(dim=-1)

    def of(self, chosen: slice | Tensor) -> Erasing:
        """Return what is covered in some of the pictures."""
        return Erasing(boxes=self.boxes[chosen], offsets=self.offsets[chosen], noise=self.noise)

    def on(self, device: torch.device) -> Erasing:
        """Return it on a device, without waiting for it."""
        boxes, offsets, noise = (
            part.to(device, non_blocking=True) for part in (self.boxes, self.offsets, self.noise)
        )
        return Erasing(boxes=boxes, offsets=offsets, noise=noise)


def sample_erasing(transform: RandomErasing, *, draws: Draws, size: Size) -> tuple[Tensor, Tensor]:
    """Draw the blocks of each picture and where its noise begins.

    Args:
        transform: What may happen.
        draws: For whom.
        size: (height, width) of the pictures that come out.

    Returns:
        int64 ``(B, K, 4)`` boxes and int64 ``(B, 2)`` offsets, as in ``Erasing``.
    """
    most = transform.max_count
    uniform = draws.uniform(_STREAM, count=4 + 4 * most)
    counts = (uniform[:, 1] * most).floor() + 1
    boxes = erasing_boxes(transform, uniform=uniform[:, 4:].unflatten(1, (most, 4)), counts=counts, size=size)  # fmt: skip
    used = (uniform[:, :1] < transform.p) & (torch.arange(most) < counts[:, None])
    return boxes * used[..., None], (uniform[:, 2:4] * torch.tensor(size)).long()


def erasing_boxes(
    transform: RandomErasing, *, uniform: Tensor, counts: Tensor, size: Size
) -> Tensor:
    """Return blocks from uniform numbers.

    Each has an area of U(sl, sh) of the picture over the number of blocks, and height / width exp(U(log a, -log a)).

    Args:
        transform: The limits.
        uniform: float64 ``(B, K, 4)`` in [0, 1): for area, shape, row, column.
        counts: float64 ``(B,)``: blocks per picture.
        size: (height, width) of the pictures.

    Returns:
        int64 ``(B, K, 4)``: top, left, height, width; within the picture.
    """
    height, width = size
    share = transform.sl + (transform.sh - transform.sl) * uniform[..., 0]
    area = share * (height * width / counts[:, None])
    aspect = (math.log(transform.min_aspect) * (1 - 2 * uniform[..., 1])).exp()
    sides = torch.stack([area * aspect, area / aspect], dim=-1).sqrt().round()
    limits = torch.tensor(size, dtype=sides.dtype)
    sides = torch.minimum(sides, limits)
    corners = (uniform[..., 2:] * (limits - sides + 1)).floor()
    return torch.cat([corners, sides], dim=-1).long()


@lru_cache(maxsize=4)  # the same for all batches of a run
def erasing_noise(size: Size, *, seed: int, normalize: Normalize | None = None) -> Tensor:
    """Return what blocks are filled with: normal noise with the statistics of normalised pictures, within 0-1.

    It is drawn once for a run; pictures see it from different offsets, which costs nothing and cannot be told from
    drawing it anew.

    Args:
        size: (height, width) of the pictures.
        seed: The run's seed.
        normalize: Where the statistics come from; ``None``, or one without statistics: ImageNet's.

    Returns:
        float32 ``(3, h, w)``, 0-1, on the CPU; the same tensor at every call, not to be written to.
    """
    mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    if normalize is not None and normalize.mean is not None and normalize.std is not None:
        mean, std = normalize.mean, normalize.std
    noise = torch.randn((3, *size), generator=generator(seed, "augment/randomerasing/noise"))
    mean_C11, std_C11 = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))
    return (noise * std_C11 + mean_C11).clamp_(0, 1)


def erase_blocks(images: Tensor, *, erasing: Erasing) -> Tensor:
    """Return pictures with their blocks covered.

    Args:
        images: float ``(B, 3, h, w)``.
        erasing: What and with what, on the device of the pictures.

    Returns:
        float ``(B, 3, h, w)``.
    """
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
