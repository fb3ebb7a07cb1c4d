"""Batches in, batches whose pictures each hold part of another one out: MixUp and CutMix in training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vizsla.augment.mix import MixedBatch, cut_mix, mix_up
from vizsla.augment.sample import Draws
from vizsla.errors import ConfigError
from vizsla.train.callbacks.base import Callback
from vizsla.train.losses import per_picture

if TYPE_CHECKING:
    from vizsla.train.callbacks.base import Fit
    from vizsla.types import Batch


class _Mixing(Callback):
    """Mixes each batch by ``_mix``; the loop then counts both targets of a picture as much as there is to see of them."""

    order = 90

    def __init__(self, *, alpha: float) -> None:
        if not alpha > 0:
            raise ConfigError(f"The alpha of a mixture must be above 0. Received: {alpha!r}")
        self.alpha = alpha

    def before_fit(self, fit: Fit) -> None:
        """Find out now whether the loss can be had for each picture."""
        per_picture(fit.trainer.loss_func)

    def before_step(self, fit: Fit, batch: Batch) -> Batch:
        """Mix."""
        draws = Draws(
            seed=fit.trainer.dls.seed,
            epoch=fit.position + fit.epoch,
            rows=batch.rows,
            images=batch.images,
        )
        mixed = self._mix(batch, draws=draws)
        return replace(
            batch,
            images=mixed.images,
            partner_targets=mixed.partner_targets,
            shares=mixed.shares,
        )

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        raise NotImplementedError


class MixUp(_Mixing):
    """Blends each picture with another one of its batch (Zhang et al., 2017, arXiv 1710.09412).

    Args:
        alpha: Shares are Beta(alpha, alpha), and the larger part stays.
    """

    def __init__(self, alpha: float = 0.4) -> None:
        super().__init__(alpha=alpha)

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        return mix_up(batch.images, batch.targets, draws=draws, alpha=self.alpha)


class CutMix(_Mixing):
    """Pastes a box of another picture of the batch into each (Yun et al., 2019, arXiv 1905.04899).

    Args:
        alpha: The share of the area that stays is Beta(alpha, alpha) before the box is cut off at the edges.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)

    def _mix(self, batch: Batch, *, draws: Draws) -> MixedBatch:
        return cut_mix(batch.images, batch.targets, draws=draws, alpha=self.alpha)
