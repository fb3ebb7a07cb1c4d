"""RandomErasing: cover blocks of each image with noise, after everything else.

Shape legend: B images, K blocks, h x w pixels of what comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.augment.batch_augmentation import Draws, ErasingTransform, check_options
from vizsla.augment.kernels import Erasing
from vizsla.seeding import generator

if TYPE_CHECKING:
    from vizsla.augment.normalize import Normalize
    from vizsla.types import Size

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class RandomErasing(ErasingTransform):
    """Cover blocks of each image with noise, after all other transforms.

    Zhong et al., "Random Erasing Data Augmentation", 2017.

    Each image has its own blocks. The noise looks to the network like normally distributed numbers: it has the mean
    and the spread of ``Normalize`` where one stands in the list, else of ImageNet, and is kept within 0-1.

    Args:
        p: Probability, per image, that it acts.
        sl: Smallest share of the area that is covered.
        sh: Largest share of the area that is covered.
        min_aspect: Smallest height / width of a block, 0-1; the largest is its inverse.
        max_count: Most blocks; there are 1 to ``max_count``, which share the area.
    """

    p: float = 0.5
    sl: float = 0.0
    sh: float = 0.3
    min_aspect: float = 0.3
    max_count: int = 1

    def __post_init__(self) -> None:
        check_options(
            self, sl=(0, self.sh), sh=(self.sl, 1), min_aspect=(0.01, 1), max_count=(1, 100)
        )

    def blocks(
        self, draws: Draws, stream: str, *, size: Size, normalize: Normalize | None
    ) -> Erasing:
        """Draw the blocks of each image and where its noise begins."""
        most = self.max_count
        uniform = draws.uniform(stream, count=4 + 4 * most)
        counts = (uniform[:, 1] * most).floor() + 1
        boxes = self.boxes(uniform[:, 4:].unflatten(1, (most, 4)), counts=counts, size=size)
        used = (uniform[:, :1] < self.p) & (torch.arange(most) < counts[:, None])
        return Erasing(
            boxes=boxes * used[..., None],
            offsets=(uniform[:, 2:4] * torch.tensor(size)).long(),
            noise=erasing_noise(size, seed=draws.seed, normalize=normalize),
        )

    def boxes(self, uniform: Tensor, *, counts: Tensor, size: Size) -> Tensor:
        """Return blocks, int64 ``(B, K, 4)``: top, left, height, width, from uniform numbers ``(B, K, 4)``.

        The numbers are for area, shape, row and column. A block has an area of U(sl, sh) of the image over the number of
        blocks ``(B,)``, and height / width exp(U(log a, -log a)).
        """
        height, width = size
        share = self.sl + (self.sh - self.sl) * uniform[..., 0]
        area = share * (height * width / counts[:, None])
        aspect = (math.log(self.min_aspect) * (1 - 2 * uniform[..., 1])).exp()
        sides = torch.stack([area * aspect, area / aspect], dim=-1).sqrt().round()
        limits = torch.tensor(size, dtype=sides.dtype)
        sides = torch.minimum(sides, limits)
        corners = (uniform[..., 2:] * (limits - sides + 1)).floor()
        return torch.cat([corners, sides], dim=-1).long()


@lru_cache(maxsize=4)  # the same for all batches of a run
def erasing_noise(size: Size, *, seed: int, normalize: Normalize | None = None) -> Tensor:
    """Return what blocks are filled with: normal noise with the statistics of normalised images, within 0-1.

    It is drawn once for a run; images see it from different offsets, which costs nothing and looks the same as drawing it
    again for each. The statistics are ImageNet's where ``normalize`` has none. float32 ``(3, h, w)``, 0-1, on the CPU; the
    same tensor at every call, not to be written to.
    """
    mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    if normalize is not None and normalize.mean is not None and normalize.std is not None:
        mean, std = normalize.mean, normalize.std
    noise = torch.randn((3, *size), generator=generator(seed, "augment/randomerasing/noise"))
    mean_C11, std_C11 = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))
    return (noise * std_C11 + mean_C11).clamp_(0, 1)
