"""Outputs and targets in, one number to descend out: the losses of a notebook, and what belongs to a loss of any origin.

A loss here also knows what its outputs say (``activation``, such as softmax) and which answer they give (``decodes``).
``per_picture`` gives any loss without its mean, which mixing two losses, listing the worst pictures and weighing them need.

Shapes: B pictures, C classes, K numbers. Losses are computed in the dtype of the outputs.

What a loss receives in, the same in shapes that torch's losses take out, or an error that says what does not fit.

Nothing here reads a value, so nothing waits for the device.

Training targets in, weights that let each class count the same in the loss out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.types import UNLABELLED, check_task

if TYPE_CHECKING:
    from vizsla.types import Task

Reduction = Literal["mean", "sum", "none"]


def checked_reduction(reduction: str) -> Reduction:
    """Return the reduction.

    Raises:
        ConfigError: It is none of "mean", "sum" and "none".
    """
    for known in get_args(Reduction):
        if reduction == known:
            return known
    raise ConfigError(
        f"reduction is one of {', '.join(get_args(Reduction))}. Received: {reduction!r}"
    )


def flat_classes(inp: Tensor, targ: Tensor, *, axis: int) -> tuple[Tensor, Tensor]:
    """Return outputs ``(M, C)`` and targets int64 ``(M,)``, whatever axes they had.

    Args:
        inp: Float; the classes lie along ``axis``.
        targ: Whole numbers of any width, one for each place that is left without the classes.
        axis: Where the classes are.

    Raises:
        ConfigError: Their sizes do not fit, or the targets are not whole numbers.
    """
    flat = inp.movedim(axis, -1).reshape(-1, inp.shape[axis])
    if targ.numel() != len(flat) or targ.is_floating_point():
        raise ConfigError(
            f"This loss takes one whole number, the position of the class, for each of {len(flat)} outputs with "
            f"{flat.shape[1]} classes. Received: outputs of shape {tuple(inp.shape)} and targets {targ.dtype} of shape "
            f"{tuple(targ.shape)}. For several labels per picture use BCEWithLogitsLossFlat."
        )
    return flat, targ.reshape(-1).long()


def shaped_like(targ: Tensor, inp: Tensor) -> Tensor:
    """Return the targets in the shape and dtype of the outputs: ``(B,)`` fits ``(B, 1)``.

    Raises:
        ConfigError: They differ in size.
    """
    if targ.numel() != inp.numel():
        raise ConfigError(
            "This loss takes as many targets as outputs. Received: outputs of shape "
            f"{tuple(inp.shape)} and targets of shape {tuple(targ.shape)}"
        )
    return targ.reshape(inp.shape).to(inp.dtype)


def beside(weight: Tensor | None, outputs: Tensor) -> Tensor | None:
    """Return class weights on the device and in the dtype of the outputs."""
    return None if weight is None else weight.to(device=outputs.device, dtype=outputs.dtype)


def takes_reduction(loss_func: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Return whether a loss can be called with an argument ``reduction``."""
    try:
        return "reduction" in inspect.signature(loss_func).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False


def has_a_mean_only(loss_func: Callable[[Tensor, Tensor], Tensor]) -> ConfigError:
    """Return the error for a loss that gives one number and nothing else."""
    name = getattr(loss_func, "__name__", repr(loss_func))
    return ConfigError(
        f"The loss {name} cannot be had for each picture by itself, which is needed here (mixed pictures, or losses of "
        'pictures). Give it an argument or attribute "reduction" that returns one loss per picture when it is "none", as '
        "torch.nn.functional.cross_entropy has it, or use a loss of vizsla.train.losses."
    )


LossFunction = Callable[[Tensor, Tensor], Tensor]


class CrossEntropyLossFlat(nn.Module):
    """Cross-entropy: minus the logarithm of the probability, by softmax, of the right class.

    Args:
        axis: Where the classes are in the outputs.
        weight: How much pictures of each class count, ``(C,)``, or None for all the same; the mean is the weighted one.
            ``balanced_class_weights`` makes such weights. A learner moves them to its device.
        ignore_index: Pictures with this target do not count.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per target, flat.

    Raises:
        ConfigError: ``reduction`` is none of the three; in the call, outputs and targets do not fit together.

    Examples:
        >>> import torch
        >>> loss = CrossEntropyLossFlat()
        >>> f"{loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])):.4f}"
        '0.6931'
    """

    weight: Tensor | None

    def __init__(
        self,
        axis: int = -1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and whole-number targets ``(B,)``; further axes may follow both."""
        flat, targets = flat_classes(inp, targ, axis=self.axis)
        return F.cross_entropy(
            flat,
            targets,
            weight=beside(self.weight, flat),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: softmax over the classes."""
        return logits.softmax(dim=self.axis)

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the class with the largest probability (or logit), int64."""
        return probabilities.argmax(dim=self.axis)

    def __repr__(self) -> str:
        return "FlattenedLoss of CrossEntropyLoss()"


class LabelSmoothingCrossEntropy(nn.Module):
    """Cross-entropy against targets that give a share ``eps`` to all classes alike, and the rest to the right one.

    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7: eps times the mean
    over classes of minus log p, plus (1 - eps) times the cross-entropy.

    Args:
        eps: Share for all classes, 0 to 1.
        weight: How much each class counts, ``(C,)``, or None; as in ``torch.nn.CrossEntropyLoss``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        axis: Where the classes are in the outputs.

    Raises:
        ConfigError: As :class:`CrossEntropyLossFlat`; ``eps`` does not lie in 0 to 1.
    """

    weight: Tensor | None

    def __init__(
        self,
        eps: float = 0.1,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
        axis: int = -1,
    ) -> None:
        super().__init__()
        if not 0 <= eps <= 1:
            raise ConfigError(f"eps is the share of smoothing, 0 to 1. Received: eps={eps!r}")
        self.eps = eps
        self.register_buffer("weight", weight)
        self.reduction: Reduction = checked_reduction(reduction)
        self.axis = axis

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and whole-number targets ``(B,)``; further axes may follow both."""
        flat, targets = flat_classes(inp, targ, axis=self.axis)
        return F.cross_entropy(
            flat,
            targets,
            weight=beside(self.weight, flat),
            reduction=self.reduction,
            label_smoothing=self.eps,
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: softmax over the classes."""
        return logits.softmax(dim=self.axis)

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the class with the largest probability (or logit), int64."""
        return probabilities.argmax(dim=self.axis)


class FocalLossFlat(nn.Module):
    """Cross-entropy times ``(1 - p) ** gamma``, p being the probability of the right class: easy pictures count less.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 5. With ``gamma=0`` it is the cross-entropy.

    Args:
        gamma: How much less, 0 or more.
        axis: Where the classes are in the outputs.
        weight: How much pictures of each class count, ``(C,)``, or None; the mean is the weighted one.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per target, flat.

    Raises:
        ConfigError: As :class:`CrossEntropyLossFlat`; ``gamma`` is negative.
    """

    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        axis: int = -1,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ConfigError(f"gamma must be 0 or more. Received: gamma={gamma!r}")
        self.gamma = gamma
        self.axis = axis
        self.register_buffer("weight", weight)
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and whole-number targets ``(B,)``; further axes may follow both."""
        flat, targets = flat_classes(inp, targ, axis=self.axis)
        plain = F.cross_entropy(flat, targets, reduction="none")
        # 1 - exp(-x) would lose the small x of pictures that are nearly certain.
        losses = (-torch.expm1(-plain)) ** self.gamma * plain
        weight = beside(self.weight, flat)
        shares = torch.ones_like(plain) if weight is None else weight[targets]
        if self.reduction == "mean":
            return (losses * shares).sum() / shares.sum()
        return (losses * shares).sum() if self.reduction == "sum" else losses * shares

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: softmax over the classes."""
        return logits.softmax(dim=self.axis)

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the class with the largest probability (or logit), int64."""
        return probabilities.argmax(dim=self.axis)

    def __repr__(self) -> str:
        return "FlattenedLoss of FocalLoss()"


class BCEWithLogitsLossFlat(nn.Module):
    """Binary cross-entropy of each class by itself, for pictures with any number of labels.

    Args:
        thresh: A label is given where its probability is above this.
        weight: How much each class counts, ``(C,)``, or None.
        pos_weight: How much more its presence counts than its absence, ``(C,)``, or None.
        reduction: ``"mean"`` over pictures and classes, ``"sum"``, or ``"none"`` for the shape of the outputs.

    Raises:
        ConfigError: ``reduction`` is none of the three; in the call, outputs and targets differ in size.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        thresh: float = 0.5,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.thresh = thresh
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and targets ``(B, C)`` of 0 and 1, of any dtype."""
        return F.binary_cross_entropy_with_logits(
            inp,
            shaped_like(targ, inp),
            weight=beside(self.weight, inp),
            pos_weight=beside(self.pos_weight, inp),
            reduction=self.reduction,
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: the sigmoid of each output."""
        return logits.sigmoid()

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return which labels are given, bool: probabilities (not logits) above the threshold."""
        return probabilities > self.thresh

    def __repr__(self) -> str:
        return "FlattenedLoss of BCEWithLogitsLoss()"


class MSELossFlat(nn.Module):
    """Mean squared difference between outputs and targets, for numbers.

    Args:
        reduction: ``"mean"`` over pictures and numbers, ``"sum"``, or ``"none"`` for the shape of the outputs.

    Raises:
        ConfigError: ``reduction`` is none of the three; in the call, outputs and targets differ in size.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, K)`` and targets ``(B, K)``, or ``(B,)`` for one number."""
        return F.mse_loss(inp, shaped_like(targ, inp), reduction=self.reduction)

    def activation(self, logits: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return logits

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return probabilities

    def __repr__(self) -> str:
        return "FlattenedLoss of MSELoss()"


class L1LossFlat(nn.Module):
    """Mean absolute difference between outputs and targets, for numbers.

    Args:
        reduction: ``"mean"`` over pictures and numbers, ``"sum"``, or ``"none"`` for the shape of the outputs.

    Raises:
        ConfigError: ``reduction`` is none of the three; in the call, outputs and targets differ in size.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = checked_reduction(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, K)`` and targets ``(B, K)``, or ``(B,)`` for one number."""
        return F.l1_loss(inp, shaped_like(targ, inp), reduction=self.reduction)

    def activation(self, logits: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return logits

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return probabilities

    def __repr__(self) -> str:
        return "FlattenedLoss of L1Loss()"


def default_loss(task: Task) -> nn.Module:
    """Return the loss that a task is trained with unless another is given.

    Args:
        task: What is predicted.

    Returns:
        Cross-entropy for ``"category"``, binary cross-entropy for ``"multi_category"``, mean squared error for
        ``"regression"``.

    Raises:
        ConfigError: ``task`` is none of these.
    """
    check_task(task)
    losses = {
        "category": CrossEntropyLossFlat,
        "multi_category": BCEWithLogitsLossFlat,
        "regression": MSELossFlat,
    }
    return losses[task]()


def per_picture(loss_func: LossFunction) -> LossFunction:
    """Return the same loss without the mean over pictures; ``loss_func`` itself stays as it is.

    Args:
        loss_func: A function with an argument ``reduction`` (``F.cross_entropy``, a partial of it) or an object with such
            an attribute (all losses of this module and of torch).

    Returns:
        Function of outputs ``(B, ...)`` and targets that returns ``(B,)``: the mean over what belongs to one picture. With
        class weights each loss is multiplied by its weight and not divided by their sum. It raises ConfigError where the
        loss still returns one number.

    Raises:
        ConfigError: The loss has neither.

    Examples:
        >>> import torch
        >>> loss = per_picture(F.cross_entropy)
        >>> [round(value, 4) for value in loss(torch.zeros(2, 4), torch.tensor([0, 3])).tolist()]
        [1.3863, 1.3863]
    """
    if isinstance(getattr(loss_func, "reduction", None), str):
        whole = copy.copy(loss_func)  # it shares the weights, so they move between devices together
        whole.reduction = "none"  # pyright: ignore[reportFunctionMemberAccess]  (it has the attribute)
    elif takes_reduction(loss_func):
        whole = partial(loss_func, reduction="none")  # pyright: ignore[reportCallIssue]
    else:
        raise has_a_mean_only(loss_func)

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        each = whole(logits, targets)
        if each.ndim == 0 or each.numel() % len(logits):
            raise has_a_mean_only(loss_func)
        return each.reshape(len(logits), -1).mean(dim=1)

    return losses


def activation_of(loss_func: LossFunction) -> Callable[[Tensor], Tensor]:
    """Return what turns outputs that were trained with this loss into what people read.

    Args:
        loss_func: Any loss.

    Returns:
        The loss's own ``activation`` if it has one. Softmax over the last axis for torch's cross-entropy, the sigmoid for
        its binary cross-entropy with logits, ``exp`` for its negative log-likelihood; for any other loss the outputs as
        they are, as nothing is known of them.
    """
    own: Callable[[Tensor], Tensor] | None = getattr(loss_func, "activation", None)
    if callable(own):
        return own
    while isinstance(loss_func, partial):
        loss_func = loss_func.func
    if loss_func is F.cross_entropy or isinstance(loss_func, nn.CrossEntropyLoss):
        return partial(torch.softmax, dim=-1)
    if loss_func is F.nll_loss or isinstance(loss_func, nn.NLLLoss):
        return torch.exp
    if loss_func is F.binary_cross_entropy_with_logits or isinstance(
        loss_func, nn.BCEWithLogitsLoss
    ):
        return torch.sigmoid
    return nn.Identity()


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

    Examples:
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
