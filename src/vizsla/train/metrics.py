"""Outputs and targets of a whole split in, one number out: the metrics that a notebook passes to a learner by name.

The learner calls a metric once for each epoch with everything, never batch by batch, so batches of unequal size count
right. ``train/score_metrics.py`` has those that need settings (``F1Score()``), ``train/label_metrics.py`` those for
several labels per picture.

Shapes: N pictures, C classes, K numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.errors import ConfigError
from vizsla.evaluate import counts as formulas
from vizsla.evaluate.regression import explained_variance
from vizsla.train.loss_shapes import shaped_like

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return the share of pictures whose highest score is at their class.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.

    Returns:
        float32 scalar, 0 to 1.

    Raises:
        ConfigError: There is not one target for each picture.
    """
    predicted = inp.argmax(dim=axis)
    return (predicted == one_each(targ, predicted)).float().mean()


def error_rate(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return the share of pictures whose highest score is not at their class: ``1 - accuracy``.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.

    Returns:
        float32 scalar, 0 to 1.

    Raises:
        ConfigError: There is not one target for each picture.
    """
    return 1 - accuracy(inp, targ, axis=axis)


def top_k_accuracy(inp: Tensor, targ: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """Return the share of pictures whose class is among the k highest scores; of equal scores the first comes first.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        k: 1 to C.
        axis: Where the classes are.

    Returns:
        float32 scalar, 0 to 1.

    Raises:
        ConfigError: ``k`` is not within 1 to C, or there is not one target for each picture.
    """
    scores_NC = inp.movedim(axis, -1).reshape(-1, inp.shape[axis])
    num_classes = scores_NC.shape[1]
    if not 1 <= k <= num_classes:
        raise ConfigError(
            f"top_k_accuracy needs k in 1..{num_classes}, as there are {num_classes} classes. Received: k={k}. "
            "Pass for example functools.partial(top_k_accuracy, k=2)."
        )
    targets_N = one_each(targ, scores_NC[:, 0]).long()
    return (formulas.places_of(scores_NC, targets_N) < k).float().mean()


def accuracy_multi(
    inp: Tensor,
    targ: Tensor,
    thresh: float = 0.5,
    sigmoid: bool = True,
) -> Tensor:
    """Return the share of decisions, one for each picture and label, that are right.

    Args:
        inp: Logits ``(N, C)``, or probabilities.
        targ: ``(N, C)`` of 0 and 1.
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where ``inp`` holds probabilities.

    Returns:
        float32 scalar, 0 to 1.

    Raises:
        ConfigError: Outputs and targets differ in size.
    """
    probabilities = inp.sigmoid() if sigmoid else inp
    return ((probabilities > thresh) == shaped_like(targ, inp).bool()).float().mean()


def mse(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the mean squared difference.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.

    Raises:
        ConfigError: Outputs and targets differ in size.
    """
    return (inp - shaped_like(targ, inp)).square().mean()


def rmse(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the root of the mean squared difference.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.

    Raises:
        ConfigError: Outputs and targets differ in size.
    """
    return mse(inp, targ).sqrt()


def mae(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the mean absolute difference.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.

    Raises:
        ConfigError: Outputs and targets differ in size.
    """
    return (inp - shaped_like(targ, inp)).abs().mean()


def r2_score(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the share of the targets' variance that the outputs explain: 1 is perfect, 0 as good as their mean.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number; several numbers are scored one by one and averaged.

    Returns:
        float64 scalar; NaN where no target varies.

    Raises:
        ConfigError: Outputs and targets differ in size.
    """
    targets = shaped_like(targ, inp).detach().cpu().double().reshape(len(inp), -1)
    errors = inp.detach().cpu().double().reshape(len(inp), -1) - targets
    once = torch.ones((len(inp), 1), dtype=torch.float64)
    return explained_variance(errors, targets, counts=once)[0]


def one_each(targ: Tensor, predicted: Tensor) -> Tensor:
    """Return the targets in the shape of what is predicted: ``(N, 1)`` fits ``(N,)``.

    Raises:
        ConfigError: There is not one target for each prediction. Compared as they are, ``(N, 1)`` and ``(N,)`` would
            make N times N pairs.
    """
    if targ.numel() != predicted.numel():
        raise ConfigError(
            f"This metric needs one target for each of {predicted.numel()} pictures. Received: targets of shape "
            f"{tuple(targ.shape)}. For several labels per picture use accuracy_multi or the metrics ending in Multi."
        )
    return targ.reshape(predicted.shape)
