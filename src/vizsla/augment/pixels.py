"""Numbers that a person chooses come in, validated descriptions of what happens to pixel values go out; nothing is drawn here.

``Brightness``, ``Contrast`` and ``Saturation`` act on logits and become one step; ``Hue`` turns the colour circle and is a
step of its own after that one; ``RandomErasing`` covers blocks with noise when everything else is done. ``Normalize`` is not
augmentation: see there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from vizsla.augment.acting import Acting
from vizsla.augment.options import Draw, check_range, store_draws
from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


class FirstBatch(Protocol):
    """What gives a batch of pictures, such as a loader."""

    def one_batch(self) -> tuple[Tensor, ...]:
        """Return the pictures, float ``(B, C, H, W)``, and what else belongs to them."""
        ...


@dataclass(frozen=True, slots=True)
class Brightness(Acting):
    """Add to the logits of the pixels.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per picture, that it acts.
        draw: Fixed: where mid-grey goes, 0-1, 0.5 changes nothing; or one per picture; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        _check_strength(self, "max_lighting", self.max_lighting)


@dataclass(frozen=True, slots=True)
class Contrast(Acting):
    """Multiply the logits of the pixels.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per picture, that it acts.
        draw: Fixed factor, 1 changes nothing; or one per picture; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        _check_strength(self, "max_lighting", self.max_lighting)


@dataclass(frozen=True, slots=True)
class Saturation(Acting):
    """Move the logits of the pixels away from their grey.

    Args:
        max_lighting: Strength, 0-1.
        p: Probability, per picture, that it acts.
        draw: Fixed factor, 1 changes nothing, 0 leaves grey; or one per picture; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    max_lighting: float = 0.2
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        _check_strength(self, "max_lighting", self.max_lighting)


@dataclass(frozen=True, slots=True)
class Hue(Acting):
    """Turn the colour circle: red becomes a little yellower or pinker, greys stay.

    Args:
        max_hue: Strength, 0-1: the shift, a share of the circle, is c - 1 with log c uniform from log(1 - max_hue) to
            -log(1 - max_hue); 0.1 means -0.1 to 0.11.
        p: Probability, per picture, that it acts.
        draw: Fixed shift as a share of the circle, 0 (or 1) changes nothing; or one per picture; ``None``: random.
        batch: Draw once for a whole batch (for its first row) instead of once per picture.
    """

    max_hue: float = 0.1
    p: float = 0.75
    draw: Draw = None
    batch: bool = False

    def __post_init__(self) -> None:
        _check_strength(self, "max_hue", self.max_hue)


@dataclass(frozen=True, slots=True)
class RandomErasing(Acting):
    """Cover blocks of each picture with noise, after everything else (Zhong et al., "Random Erasing Data Augmentation", 2017).

    Each picture has its own blocks. The noise looks to the network like normally distributed numbers: it has the mean
    and the spread of ``Normalize`` where one stands in the list, else of ImageNet, and is kept within 0-1.

    Args:
        p: Probability, per picture, that it acts.
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
        check_range(self, "p", self.p, low=0, high=1)
        check_range(self, "sl", self.sl, low=0, high=self.sh)
        check_range(self, "sh", self.sh, low=self.sl, high=1)
        check_range(self, "min_aspect", self.min_aspect, low=0.01, high=1)
        check_range(self, "max_count", self.max_count, low=1, high=100)


@dataclass(frozen=True, slots=True)
class Normalize:
    """Subtract a mean from each channel and divide by a spread.

    In a list of batch transforms it is accepted and changes nothing: pictures are 0-1 until they enter the network, and the
    classifier normalises them once, with the statistics that belong to its weights (``Classifier.preprocessing``). So a
    list written for fastai works, nothing is normalised twice, and statistics of another network do no harm. Called on
    pictures, or in a ``Pipeline``, it acts.

    Args:
        mean: Per channel; ``None``: not stated, which is enough in a list of batch transforms. ``set_up`` measures it.
        std: Per channel, above 0; given together with ``mean``.
        axes: Axes that share a mean; only (0, 2, 3), all but the channel, is meaningful for batches of pictures.

    Example:
        >>> normalised = Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(images)
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    axes: tuple[int, ...] = (0, 2, 3)

    def __post_init__(self) -> None:
        for name in ("mean", "std", "axes"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        if self.axes != (0, 2, 3):
            raise ConfigError(
                f"Normalize(axes=...) must be (0, 2, 3): one mean per channel. Received: {self.axes!r}"
            )
        mean, std = self.mean, self.std
        if (mean is None) != (std is None) or len(mean or ()) != len(std or ()):
            raise ConfigError(
                "Normalize needs mean and std, one number per channel in each, or neither. "
                f"Received: mean={mean!r}, std={std!r}"
            )
        if std is not None and min(std) <= 0:
            raise ConfigError(f"Normalize(std=...) must be above 0. Received: {std!r}")

    @classmethod
    def from_stats(cls, mean: Sequence[float], std: Sequence[float]) -> Normalize:
        """Return it with statistics, for example those of ImageNet.

        Args:
            mean: Per channel.
            std: Per channel.
        """
        return cls(tuple(mean), tuple(std))

    def set_up(self, loader: FirstBatch) -> Normalize:
        """Return it with statistics: its own, or those of one batch where it has none.

        Args:
            loader: Gives pictures, float ``(B, C, H, W)``, for example ``dls.train``.

        Example:
            >>> normalised = Normalize().set_up(dls.train)(images)
        """
        return (
            self
            if self.mean is not None
            else Normalize.of(loader.one_batch()[0].as_subclass(Tensor))
        )

    @classmethod
    def of(cls, images: Tensor) -> Normalize:
        """Return it with the statistics of some pictures; 1e-7 is added to the spread, so that pictures of one colour have one.

        Args:
            images: float ``(B, C, H, W)``.
        """
        exact = images.float()
        std = exact.std(dim=(0, 2, 3)) + 1e-7
        return cls(tuple(exact.mean(dim=(0, 2, 3)).tolist()), tuple(std.tolist()))

    def __call__(self, images: Tensor) -> Tensor:
        """Return normalised pictures.

        Args:
            images: float ``(..., C, H, W)``.

        Raises:
            ConfigError: There are no statistics.
        """
        mean, std = self._statistics(images)
        return (images - mean) / std

    def decode(self, images: Tensor) -> Tensor:
        """Return what the pictures were before they were normalised.

        Args:
            images: float ``(..., C, H, W)``.

        Raises:
            ConfigError: There are no statistics.
        """
        mean, std = self._statistics(images)
        return images * std + mean

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.std is None:
            raise ConfigError(
                "Normalize() was called without statistics. Use Normalize.from_stats(mean, std), one number per channel, or "
                "measure them on a batch with Normalize().set_up(dls.train)."
            )
        mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return mean, std


def _check_strength(
    transform: Brightness | Contrast | Saturation | Hue, name: str, strength: float
) -> None:
    check_range(transform, "p", transform.p, low=0, high=1)
    check_range(transform, name, strength, low=0, high=0.99)
    store_draws(transform)
