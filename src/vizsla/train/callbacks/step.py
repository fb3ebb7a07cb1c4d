"""Change how the steps of one fit are taken: accumulated batches, clipped gradients, growing images, mixed images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vizsla.augment.batch_augmentation import Draws
from vizsla.augment.mix import MixedBatch, cut_mix, mix_up
from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback
from vizsla.train.losses import per_image
from vizsla.types import Size, as_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.train.callbacks.base import Fit, FitSettings
    from vizsla.types import Batch


class GradientAccumulation(Callback):
    """Adds up gradients until enough images were seen, then takes one step; the rest of an epoch is a step.

    Args:
        n_acc: Images of a step; rounded up to whole batches.
    """

    def __init__(self, n_acc: int = 32) -> None:
        if n_acc < 1:
            raise ConfigError(f"n_acc, a number of images, must be at least 1. Received: {n_acc!r}")
        self.n_acc = n_acc

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Set it for this fit."""
        return replace(settings, accumulate=-(-self.n_acc // fit.trainer.dls.train.bs))


class GradientClip(Callback):
    """Scales gradients down to a maximum norm.

    Args:
        max_norm: Largest norm of all gradients together.
        norm_type: Only 2 is accepted.
    """

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        if not max_norm > 0 or norm_type != 2.0:
            raise ConfigError(
                f"max_norm must be positive, and norm_type must be 2. Received: max_norm={max_norm!r}, "
                f"norm_type={norm_type!r}"
            )
        self.max_norm = max_norm

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Set it for this fit."""
        del fit
        return replace(settings, clip=self.max_norm)


class ProgressiveResizing(Callback):
    """Trains on small images first and larger ones later, so most of the fit takes a fraction of the time.

    Howard, DAWNBench entry, 2018; Tan and Le, "EfficientNetV2", 2021 (arXiv 2104.00298). Validation images keep their size.

    Args:
        sizes: The image size for each of the equally long parts of the fit: pixels, or (height, width).
    """

    def __init__(self, sizes: Sequence[int | Size] = (128, 192, 224)) -> None:
        if not sizes:
            raise ConfigError("Progressive resizing needs at least one size. Received: none")
        self.sizes = tuple(as_size(size) for size in sizes)

    def configure(self, fit: Fit, settings: FitSettings) -> FitSettings:
        """Set it for this fit."""
        del fit
        return replace(settings, sizes=self.sizes)


class _Mixing(Callback):
    """Mixes each batch by ``_mix``; the loss then counts both targets of an image by the share that is visible."""

    order = 90

    def __init__(self, *, alpha: float) -> None:
        if not alpha > 0:
            raise ConfigError(
                f"alpha, which sets how strongly images are mixed, must be above 0. Received: {alpha!r}"
            )
        self.alpha = alpha

    def before_fit(self, fit: Fit) -> None:
        """Check that the loss can be computed for each image."""
        per_image(fit.trainer.loss_func)

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """Mix the batch."""
        draws = Draws(
            seed=fit.trainer.dls.seed,
            epoch=fit.position + fit.epoch,
            rows=batch.rows,
            images=batch.images,
        )
        mixed = self._mix(batch, draws=draws)
        return replace(
            batch, images=mixed.images, partner_targets=mixed.partner_targets, shares=mixed.shares
        )

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        raise NotImplementedError


class MixUp(_Mixing):
    """Blends each image with another one of its batch (Zhang et al., 2017, arXiv 1710.09412).

    Args:
        alpha: Shares follow Beta(alpha, alpha); the larger part is the image itself.
    """

    def __init__(self, alpha: float = 0.4) -> None:
        super().__init__(alpha=alpha)

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        return mix_up(batch.images, batch.targets, draws=draws, alpha=self.alpha)


class CutMix(_Mixing):
    """Pastes a box of another image of the batch into each (Yun et al., 2019, arXiv 1905.04899).

    Args:
        alpha: The share of the area that stays follows Beta(alpha, alpha) before the box is cut off at the edges.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        return cut_mix(batch.images, batch.targets, draws=draws, alpha=self.alpha)
