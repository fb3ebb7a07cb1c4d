"""A network and pictures in; probabilities averaged over several augmented views of each out: test-time augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.infer.run import Precision, predict_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.data.dataloaders import DataLoader
    from vizsla.models.classifier import Classifier


def augmented_probabilities(
    classifier: Classifier,
    augmenting: DataLoader,
    *,
    order: Tensor,
    activation: Callable[[Tensor], Tensor],
    num_views: int = 4,
    precision: Precision = "fp32",
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the probabilities of every view of every picture.

    Args:
        classifier: Used in evaluation mode.
        augmenting: Loads the pictures as in training, in any order, each once.
        order: int64 ``(N,)``, the rows in the order of the result.
        activation: Makes probabilities of raw outputs ``(N, C)``.
        num_views: Augmented views of each picture.
        precision: See ``Precision``.
        on_progress: Called with the number of views done so far.

    Returns:
        float32 ``(V, N, C)`` on the CPU.

    Raises:
        ConfigError: ``num_views`` is no whole number from 1 on.
    """
    if not isinstance(num_views, int) or num_views < 1:  # pyright: ignore[reportUnnecessaryIsInstance] (from a notebook)
        raise ConfigError(f"The number of views is at least 1. Received: {num_views!r}")
    views: list[Tensor] = []
    for view in range(num_views):
        # Views are epochs of their own, far from those of training, so no view was ever trained on.
        predictions = predict_batches(
            classifier,
            augmenting.batches(epoch=FIRST_VIEW + view),
            table=augmenting.table,
            precision=precision,
        )
        place_of = {row: place for place, row in enumerate(predictions.rows.tolist())}
        places = torch.tensor([place_of[row] for row in order.tolist()], dtype=torch.int64)
        views.append(activation(predictions.logits[places]))
        if on_progress is not None:
            on_progress(view + 1)
    return torch.stack(views)


FIRST_VIEW = 1_000_000
"""Epoch number of the first view."""


def mix_with_plain(
    views: Tensor, plain: Tensor, *, beta: float | None = 0.25, use_max: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Join what was said of augmented and of plain pictures, as fastai does.

    Args:
        views: float32 ``(V, N, C)``, probabilities.
        plain: float32 ``(N, C)``.
        beta: Weight of the plain pictures, the rest is that of the mean of the views; None returns (mean of the views, plain).
        use_max: Take the largest probability of each class instead; rows then no longer sum to 1.
    """
    if use_max:
        return torch.cat([views, plain[None]]).amax(dim=0)
    mean = views.mean(dim=0)
    return (mean, plain) if beta is None else torch.lerp(mean, plain, beta)
