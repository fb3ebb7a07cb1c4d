"""What lesson one lets happen to pictures, as values: how they are scaled, turned, mirrored and cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from vizsla.classic.lighting import RandomLighting

if TYPE_CHECKING:
    from vizsla.augment.options import PadMode

REFLECT: PadMode = "reflection"
REPLICATE: PadMode = "border"
CONSTANT: PadMode = "zeros"


class CropType(IntEnum):
    """How a square is taken out of a picture."""

    RANDOM = 1
    CENTER = 2
    NO = 3
    GOOGLENET = 4


class TfmType(IntEnum):
    """What a transform does to the target; only NO is there for classification."""

    NO = 1
    PIXEL = 2
    COORD = 3
    CLASS = 4


@dataclass(frozen=True)
class Scale:
    """Bring the smaller side to ``sz`` pixels.

    Args:
        sz: Pixels.
    """

    sz: int


@dataclass(frozen=True)
class RandomScale:
    """Bring the smaller side to between ``sz`` and ``max_zoom * sz`` pixels.

    Args:
        sz: Pixels.
        max_zoom: Largest factor, or (smallest, largest).
        p: Probability; otherwise the factor is 1.
    """

    sz: int
    max_zoom: float | tuple[float, float]
    p: float = 0.75

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest factor."""
        if isinstance(self.max_zoom, Sequence):
            low, high = self.max_zoom
            return float(low), float(high)
        return 1.0, float(self.max_zoom)


@dataclass(frozen=True)
class RandomRotate:
    """Turn about the middle by up to ``deg`` degrees either way.

    Args:
        deg: Largest angle.
        p: Probability.
        mode: What is seen outside of the picture: ``REFLECT``, ``REPLICATE`` or ``CONSTANT``.
        tfm_y: ``TfmType.NO``.
    """

    deg: float
    p: float = 0.75
    mode: PadMode | int = REFLECT
    tfm_y: TfmType = TfmType.NO


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right.

    Args:
        tfm_y: ``TfmType.NO``.
        p: Probability.
    """

    tfm_y: TfmType = TfmType.NO
    p: float = 0.5


@dataclass(frozen=True)
class RandomDihedral:
    """Turn by a multiple of 90 degrees and mirror half of the pictures.

    Args:
        tfm_y: ``TfmType.NO``.
    """

    tfm_y: TfmType = TfmType.NO


ScaleTransform = Scale | RandomScale

transforms_basic = [RandomRotate(10), RandomLighting(0.05, 0.05)]
transforms_side_on = [*transforms_basic, RandomFlip()]
transforms_top_down = [*transforms_basic, RandomDihedral()]
