"""Make photographs for measuring where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEIGHT, WIDTH = 375, 500
"""The size of most images on photo pages; their JPEGs take 40 to 60 kB."""
NUM_CLASSES = 2


def made_up_photograph(number: int, *, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image.Image:
    """Return noise with the 1/f amplitude spectrum of natural images, grey with a little colour, of ``(height, width)``.

    Decoders take as long for it as for a photograph. The spectrum: Field, "Relations between the statistics of natural images",
    1987.
    """
    height, width = size
    rows, columns = torch.fft.fftfreq(height) * height, torch.fft.rfftfreq(width) * width
    amplitude = 1 / torch.hypot(rows[:, None], columns[None]).clamp(min=1)
    chance = generator(0, f"photograph {number}")
    angles = 2 * torch.pi * torch.rand((4, *amplitude.shape), generator=chance)
    values = torch.fft.irfft2(torch.polar(amplitude.expand(4, -1, -1), angles), s=size)
    light, *tints = values / values.std(dim=(1, 2), keepdim=True)
    pixels = torch.stack([122 + 55 * light + 14 * tint for tint in tints], dim=-1)
    return Image.fromarray(pixels.clamp(0, 255).byte().numpy())


def make_photographs(
    folder: Path, *, number: int, on_progress: Callable[[int], None] = lambda _done: None
) -> None:
    """Fill an existing folder with JPEGs, a sub-folder for each of two classes."""
    for position in range(number):
        place = folder / f"class {position % NUM_CLASSES}"
        place.mkdir(exist_ok=True)
        made_up_photograph(position).save(place / f"{position:04}.jpg", quality=90)
        on_progress(position + 1)
