"""A model and its optimiser in, a copy of all that training changes out, and back again, bit for bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The state of a model and of its optimiser, in memory.

    Attributes:
        weights: Parameters and buffers, by name.
        trainable: Which parameters train.
        training: Which modules are in training mode.
        optimiser: Its state; None if there was no optimiser.
    """

    weights: dict[str, Tensor]
    trainable: dict[str, bool]
    training: dict[str, bool]
    optimiser: dict[str, Any] | None

    @classmethod
    def of(cls, model: nn.Module, optimiser: torch.optim.Optimizer | None) -> Snapshot:
        """Take a snapshot."""
        return cls(
            weights={
                name: value.detach().clone()
                for name, value in model.state_dict(keep_vars=True).items()
            },
            trainable={name: weight.requires_grad for name, weight in model.named_parameters()},
            training={name: part.training for name, part in model.named_modules()},
            optimiser=None if optimiser is None else copy.deepcopy(optimiser.state_dict()),
        )

    def restore(self, model: nn.Module, optimiser: torch.optim.Optimizer | None) -> None:
        """Put everything back; gradients are gone afterwards.

        Args:
            model: The one the snapshot was taken of.
            optimiser: The one it was taken of, or None if there was none.
        """
        model.load_state_dict(self.weights)
        for name, weight in model.named_parameters():
            weight.requires_grad_(self.trainable[name])
            weight.grad = None
        for name, part in model.named_modules():
            part.training = self.training[name]
        if optimiser is not None and self.optimiser is not None:
            optimiser.load_state_dict(copy.deepcopy(self.optimiser))
