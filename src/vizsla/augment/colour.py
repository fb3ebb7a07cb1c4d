"""Brightness, Contrast, Saturation, Hue: each with its options, its random draw and its part of the one colour step.

The first three act on logits; ``Hue`` turns the colour circle after that, wherever it stands in a list. A new colour
transform is one class here, and its line in the list of public names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from vizsla.augment.batch_augmentation import ColourTransform, Draw, check_options
from vizsla.augment.kernels import GREY_WEIGHTS, ColourStep

if TYPE_CHECKING:
    from torch import Tensor

_STRENGTHS = (0, 0.99)


@dataclass(frozen=True, slots=True)
class Brightness(ColourTransform):
    """Add to the logits of the pixels.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per image, that it acts.
        draw: Fixed: where mid-grey goes, 0-1, 0.5 changes nothing; or one per image; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per image.
    """

    neutral: ClassVar[float] = 0.5

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        check_options(self, max_lighting=_STRENGTHS)

    def strength(self, uniform: Tensor) -> Tensor:
        """Return where mid-grey goes."""
        low, high = 0.5 * (1 - self.max_lighting), 0.5 * (1 + self.max_lighting)
        return low + (high - low) * uniform

    def follow(self, step: ColourStep, values: Tensor) -> ColourStep:
        """Return the step followed by this transform."""
        return replace(step, offset=step.offset + (values / (1 - values)).log())


@dataclass(frozen=True, slots=True)
class Contrast(ColourTransform):
    """Multiply the logits of the pixels.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per image, that it acts.
        draw: Fixed factor, 1 changes nothing; or one per image; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per image.
    """

    neutral: ClassVar[float] = 1

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        check_options(self, max_lighting=_STRENGTHS)

    def strength(self, uniform: Tensor) -> Tensor:
        """Return factors."""
        return _factor(uniform, self.max_lighting)

    def follow(self, step: ColourStep, values: Tensor) -> ColourStep:
        """Return the step followed by this transform."""
        return step.scaled(values)


@dataclass(frozen=True, slots=True)
class Saturation(ColourTransform):
    """Scale the difference between the logits of the pixels and those of their grey.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per image, that it acts.
        draw: Fixed factor, 1 changes nothing, 0 leaves grey; or one per image; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per image.
    """

    neutral: ClassVar[float] = 1

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        check_options(self, max_lighting=_STRENGTHS)

    def strength(self, uniform: Tensor) -> Tensor:
        """Return factors."""
        return _factor(uniform, self.max_lighting)

    def follow(self, step: ColourStep, values: Tensor) -> ColourStep:
        """Return the step followed by this transform."""
        # grey(gain z + grey_gain grey(z) + offset), with the grey of a grey being itself times the weights' sum.
        weight = sum(GREY_WEIGHTS)
        before = 0 if step.grey_gain is None else step.grey_gain
        after = step.scaled(values)
        kept = 0 if after.grey_gain is None else after.grey_gain
        return replace(
            after,
            grey_gain=kept + (step.gain + before * weight) * (1 - values),
            offset=after.offset + step.offset * weight * (1 - values),
        )


@dataclass(frozen=True, slots=True)
class Hue(ColourTransform):
    """Rotate the colour circle: red becomes slightly yellower or pinker, greys stay. Several shifts add up.

    Args:
        max_hue: Strength, 0-1: the shift, a share of the circle, is c - 1 with log c uniform from log(1 - max_hue) to
            -log(1 - max_hue); 0.1 means -0.1 to 0.11.
        p: Probability, per image, that it acts.
        draw: Fixed shift as a share of the circle, 0 (or 1) changes nothing; or one per image; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per image.
    """

    neutral: ClassVar[float] = 0

    max_hue: float = 0.1
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        check_options(self, max_hue=_STRENGTHS)

    def strength(self, uniform: Tensor) -> Tensor:
        """Return shifts."""
        return _factor(uniform, self.max_hue) - 1

    def follow(self, step: ColourStep, values: Tensor) -> ColourStep:
        """Return the step followed by this transform."""
        return replace(step, hue=values if step.hue is None else step.hue + values)


def _factor(uniform: Tensor, strength: float) -> Tensor:
    """Return factors whose logarithm is uniform around 0: as often ten per cent more as ten per cent less."""
    limit = -math.log1p(-strength)
    return (-limit + (limit - -limit) * uniform).exp()
