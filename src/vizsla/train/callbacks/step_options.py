"""How steps are taken in one fit: gathered over batches, with clipped gradients, on pictures that grow."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.augment.apply import BatchAugmentation
    from vizsla.train.callbacks.base import Fit


class GradientAccumulation(Callback):
    """Gathers gradients until so many pictures were seen, then takes one step; what is left at an epoch's end is a step too.

    Args:
        n_acc: Pictures of a step; rounded up to whole batches.
    """

    def __init__(self, n_acc: int = 32) -> None:
        if n_acc < 1:
            raise ConfigError(f"n_acc is a number of pictures, at least 1. Received: {n_acc!r}")
        self.n_acc = n_acc
        self._before: int | None = None

    def before_fit(self, fit: Fit) -> None:
        """Set it for this fit."""
        self._before = fit.trainer.accumulate
        fit.trainer.accumulate = -(-self.n_acc // fit.trainer.dls.train.bs)

    def after_fit(self, fit: Fit) -> None:
        """Put back what was there."""
        if self._before is not None:
            fit.trainer.accumulate, self._before = self._before, None


class GradientClip(Callback):
    """Scales gradients down to a largest norm.

    Args:
        max_norm: Of all gradients together.
        norm_type: 2, the only one.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        if not max_norm > 0 or norm_type != 2.0:
            raise ConfigError(
                "max_norm is positive and norm_type is 2. "
                f"Received: max_norm={max_norm!r}, norm_type={norm_type!r}"
            )
        self.max_norm = max_norm
        self._before: float | None = None
        self._is_set = False

    def before_fit(self, fit: Fit) -> None:
        """Set it for this fit."""
        self._before, self._is_set = fit.trainer.clip, True
        fit.trainer.clip = self.max_norm

    def after_fit(self, fit: Fit) -> None:
        """Put back what was there."""
        if self._is_set:
            fit.trainer.clip, self._is_set = self._before, False


class ProgressiveResizing(Callback):
    """Trains on small pictures first and on larger ones later: most of a fit then costs a fraction of the time.

    Howard, DAWNBench entry, 2018; Tan and Le, "EfficientNetV2", 2021 (arXiv 2104.00298). Validation pictures keep their size.

    Args:
        sizes: The size of each part of the fit, which are equally long: pixels, or (height, width).
    """

    def __init__(self, sizes: Sequence[int | Size] = (128, 192, 224)) -> None:
        if not sizes:
            raise ConfigError("Progressive resizing needs at least one size. Received: none")
        self.sizes = tuple(as_size(size) for size in sizes)
        self._before: BatchAugmentation | None = None

    def before_fit(self, fit: Fit) -> None:
        """Remember the size of the fit's end."""
        self._before = fit.trainer.dls.train.augmentation

    def before_epoch(self, fit: Fit) -> None:
        """Set the size of this epoch."""
        if self._before is None:
            return
        resized = copy.copy(self._before)
        resized.size = self.sizes[fit.epoch * len(self.sizes) // fit.n_epoch]
        fit.trainer.dls.train.augmentation = resized

    def after_fit(self, fit: Fit) -> None:
        """Put back what was there."""
        if self._before is not None:
            fit.trainer.dls.train.augmentation = self._before
            self._before = None
