"""A folder and a number in, so many made-up photographs of two classes in it out: for a bench without pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from vizsla.seeding import generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEIGHT, WIDTH = 375, 500
"""Of most pictures on photo pages; JPEGs of them take 40 to 60 kB."""
NUM_CLASSES = 2


def make_photographs(
    folder: Path, *, number: int, on_progress: Callable[[int], None] | None = None
) -> None:
    """Fill a folder with JPEGs, a sub-folder for each of two classes.

    They are noise with the 1/f amplitude spectrum of natural pictures (Field, "Relations between the statistics of natural
    images", 1987), grey with a little colour: decoders work on them as long as on photographs.

    Args:
        folder: Is there.
        number: Of pictures.
        on_progress: Called after each with the number so far.
    """
    rows, columns = torch.fft.fftfreq(HEIGHT) * HEIGHT, torch.fft.rfftfreq(WIDTH) * WIDTH
    amplitude = 1 / torch.hypot(rows[:, None], columns[None]).clamp(min=1)
    for position in range(number):
        place = folder / f"class {position % NUM_CLASSES}"
        place.mkdir(exist_ok=True)
        chance = generator(0, f"photograph {position}")
        angles = 2 * torch.pi * torch.rand((4, *amplitude.shape), generator=chance)
        values = torch.fft.irfft2(
            torch.polar(amplitude.expand(4, -1, -1), angles), s=(HEIGHT, WIDTH)
        )
        light, *tints = values / values.std(dim=(1, 2), keepdim=True)
        pixels = torch.stack([122 + 55 * light + 14 * tint for tint in tints], dim=-1)
        picture = Image.fromarray(pixels.clamp(0, 255).byte().numpy())
        picture.save(place / f"{position:04}.jpg", quality=90)
        if on_progress is not None:
            on_progress(position + 1)
