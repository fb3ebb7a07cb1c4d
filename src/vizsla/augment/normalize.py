"""Normalize: subtract a mean from each channel and divide by a spread. In a list of transforms it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from vizsla.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


class FirstBatch(Protocol):
    """Something that returns a batch, images first, such as a loader."""

    def one_batch(self) -> tuple[Tensor, ...]:
        """Return the images, float ``(B, C, H, W)``, and what else belongs to them."""
        ...


@dataclass(frozen=True, slots=True)
class Normalize:
    """Subtract a mean from each channel and divide by a spread.

    In a list of batch transforms it is accepted and changes nothing: images are 0-1 until they enter the network, and the
    classifier normalises them once, with the statistics that belong to its weights (``Classifier.preprocessing``). So a
    list written for fastai works, nothing is normalised twice, and statistics of another network do no harm. Called on
    images, or in a ``Pipeline``, it acts.

    Args:
        mean: Per channel; ``None``: unknown, which is enough in a list of batch transforms. ``set_up`` measures it.
        std: Per channel, above 0; given together with ``mean``.
        axes: Axes that share a mean; only (0, 2, 3), all but the channel, is meaningful for batches of images.

    Examples:
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
    def from_stats(
        cls,
        mean: Sequence[float],
        std: Sequence[float],
        dim: int = 1,  # noqa: ARG003
        ndim: int = 4,  # noqa: ARG003
        cuda: bool = True,  # noqa: ARG003
    ) -> Normalize:
        """Return a ``Normalize`` with known statistics, one mean and one std per channel, for example those of ImageNet.

        ``dim``, ``ndim`` and ``cuda`` change nothing: channels come first, and statistics go to where the images are.
        """
        return cls(tuple(mean), tuple(std))

    def set_up(self, loader: FirstBatch) -> Normalize:
        """Return a ``Normalize`` with statistics: its own, or those of one batch of a loader if it has none.

        Examples:
            >>> normalised = Normalize().set_up(dls.train)(images)
        """
        if self.mean is not None:
            return self
        return Normalize.of(loader.one_batch()[0].as_subclass(Tensor))

    @classmethod
    def of(cls, images: Tensor) -> Normalize:
        """Return a ``Normalize`` with the statistics of some images, float ``(B, C, H, W)``.

        1e-7 is added to the spread, so that it is above 0 for images of one colour.
        """
        exact = images.float()
        std = exact.std(dim=(0, 2, 3)) + 1e-7
        return cls(tuple(exact.mean(dim=(0, 2, 3)).tolist()), tuple(std.tolist()))

    def __call__(self, images: Tensor) -> Tensor:
        """Return normalised images, float ``(..., C, H, W)``.

        Raises:
            ConfigError: There are no statistics.
        """
        mean, std = self._statistics(images)
        return (images - mean) / std

    def decode(self, images: Tensor) -> Tensor:
        """Return what the images were before they were normalised; the inverse of a call."""
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
