"""Training targets in, weights that let each class count the same in the loss out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.errors import ConfigError
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from torch import Tensor


def balanced_class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Return the inverse frequency of each class, scaled so that the mean over the pictures is 1.

    With these weights each class has the same part in the loss, and the loss keeps its size, so the learning rate needs no
    change (G. King, L. Zeng, "Logistic regression in rare events data", Political Analysis 2001; scikit-learn's
    ``class_weight="balanced"``).

    Args:
        targets: int64 ``(N,)``, those of the training pictures; ``UNLABELLED`` ones are left out.
        num_classes: C.

    Returns:
        float32 ``(C,)``; 1 for a class that does not occur.

    Raises:
        ConfigError: A target is not a class, or none is known.

    Example:
        >>> import torch
        >>> balanced_class_weights(torch.tensor([0, 0, 0, 1]), 2)
        tensor([0.6667, 2.0000])
    """
    if targets.ndim != 1 or targets.is_floating_point():
        raise ConfigError(
            "Class weights need one whole number for each picture, the position of its class. "
            f"Received: targets {targets.dtype} of shape {tuple(targets.shape)}"
        )
    known = targets[targets != UNLABELLED].cpu().long()
    if len(known) == 0 or int(known.min()) < 0 or int(known.max()) >= num_classes:
        raise ConfigError(
            f"Class weights need at least one target, and targets in 0..{num_classes - 1}. "
            f"Received: {sorted(set(known.tolist()))!r:.200}"
        )
    counts = torch.bincount(known, minlength=num_classes).double()
    occurs = counts > 0
    weights = len(known) / (int(occurs.sum()) * counts.where(occurs, 1))
    return weights.where(occurs, 1).float()
