"""An RGB picture of any size in, a square of it out: scaled by its smaller side, with a border, cut anywhere or in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.data.images.sizing import RandomCrop, Resize, cut_or_padded

if TYPE_CHECKING:
    from PIL import Image

    from vizsla.data.images.sizing import PadMode
    from vizsla.types import Size


@dataclass(frozen=True, slots=True, init=False)
class ScaledCrop(RandomCrop):
    """Scales the smaller side of each picture, adds a border, and cuts out a square; the middle in validation.

    Args:
        side: Pixels of the square.
        short_side: What the smaller side is scaled to, at least ``side``.
        pad: Pixels of border on all sides, in training.
        pad_mode: What the border is, see ``Resize``.
        centred_only: Cut out the middle in training too.
    """

    short_side: int
    pad: int
    pad_mode: PadMode
    centred_only: bool

    def __init__(
        self, side: int, *, short_side: int, pad: int, pad_mode: PadMode, centred_only: bool
    ) -> None:
        RandomCrop.__init__(self, side)
        object.__setattr__(self, "short_side", short_side)
        object.__setattr__(self, "pad", pad)
        object.__setattr__(self, "pad_mode", pad_mode)
        object.__setattr__(self, "centred_only", centred_only)

    def cover(self, *, training: bool) -> Size | None:
        """Return the square of the smaller side.

        Args:
            training: Of no matter.
        """
        del training
        return self.short_side, self.short_side

    def centred(self, picture: Image.Image) -> Image.Image:
        """Return the middle of the scaled picture.

        Args:
            picture: RGB, any size.
        """
        scaled = Resize(self.short_side).centred(picture)
        start = -(-(self.short_side - self.size[0]) // 2)
        end = start + self.size[0]
        return scaled if not start else scaled.crop((start, start, end, end))

    def strip(self, picture: Image.Image) -> Image.Image:
        """Return the whole scaled picture with its border, or the middle where nothing else is cut out.

        Args:
            picture: RGB, any size.
        """
        if self.centred_only:
            return self.centred(picture)
        scaled = Resize(self.short_side).strip(picture)
        box = (-self.pad, -self.pad, scaled.width + self.pad, scaled.height + self.pad)
        return cut_or_padded(scaled, box, pad_mode=self.pad_mode) if self.pad else scaled
