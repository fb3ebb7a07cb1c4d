"""Parameter groups in, an AdamW optimiser out whose rates and momentum follow a schedule.

AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019 (arXiv 1711.05101). Frozen parameters are not
handed to it, so weight decay cannot touch them; biases and norms take no decay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.models.groups import Group, decay_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from vizsla.train.schedules import Schedule

WEIGHT_DECAY = 0.01
MOMENTUM = 0.9
SQUARED_MOMENTUM = 0.99
EPSILON = 1e-5
"""As fastai has them: a shorter memory of squares than torch's 0.999 suits runs of a few hundred steps."""


def build_adamw(
    module: nn.Module,
    groups: Sequence[Group],
    *,
    weight_decay: float = WEIGHT_DECAY,
    decay_norms_and_biases: bool = False,
) -> torch.optim.AdamW:
    """Return AdamW over the parameters that train; each of its groups knows its layer group.

    Args:
        module: Tells which parameters are norms and biases.
        groups: Layer groups, earliest first.
        weight_decay: Share of a weight that a step takes away, times the learning rate.
        decay_norms_and_biases: Decay these too.
    """
    optimiser_groups: list[dict[str, object]] = []
    for position, group in enumerate(groups):
        training = tuple(parameter for parameter in group if parameter.requires_grad)
        decayed, exempt = (
            (training, ()) if decay_norms_and_biases else decay_split(training, module=module)
        )
        for parameters, decay in ((decayed, weight_decay), (exempt, 0.0)):
            if parameters:
                optimiser_groups.append(
                    {"params": list(parameters), "weight_decay": decay, "layer_group": position}
                )
    on_cuda = all(parameter.is_cuda for group in groups for parameter in group)
    return torch.optim.AdamW(
        optimiser_groups,
        lr=0.0,
        betas=(MOMENTUM, SQUARED_MOMENTUM),
        eps=EPSILON,
        fused=on_cuda or None,
    )


def set_hyperparameters(optimiser: torch.optim.AdamW, schedule: Schedule, *, step: int) -> None:
    """Give the optimiser the rates and the momentum of a step of the schedule."""
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rates[step][group["layer_group"]]
        if schedule.momenta:
            group["betas"] = (schedule.momenta[step], group["betas"][1])
