"""Loss functions: what training descends, with the activation and the decision that belong to each.

``per_image`` gives any loss without its mean, which mixing two losses, listing the worst images and weighting them need.
Nothing here reads a value, so nothing waits for the device. Losses are computed in the dtype of the outputs.

Shapes: B images, C classes, K numbers.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.evaluate.thresholds import as_thresholds
from vizsla.text import joined
from vizsla.types import DECISION_THRESHOLD, UNLABELLED, check_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.data.loading.dataloaders import DataLoaders
    from vizsla.types import ImageTable, Task

Reduction = Literal["mean", "sum", "none"]
"""``"mean"``, ``"sum"``, or ``"none"`` for one loss per target."""

LossFunction = Callable[[Tensor, Tensor], Tensor]


def shaped_like(targ: Tensor, inp: Tensor) -> Tensor:
    """Return the targets in the shape and dtype of the outputs: ``(B,)`` fits ``(B, 1)``."""
    if targ.numel() != inp.numel():
        raise ConfigError(
            "Outputs and targets must have the same size. Received: outputs of shape "
            f"{tuple(inp.shape)} and targets of shape {tuple(targ.shape)}"
        )
    return targ.reshape(inp.shape).to(inp.dtype)


def _shown(self: nn.Module) -> str:
    """Return what notebooks print for a loss: torch's name for it."""
    name = type(self).__name__
    return (
        f"FlattenedLoss of {name.removesuffix('Flat')}()" if name.endswith("Flat") else f"{name}()"
    )


def _beside(weight: Tensor | None, outputs: Tensor) -> Tensor | None:
    """Return class weights on the device and in the dtype of the outputs."""
    return None if weight is None else weight.to(device=outputs.device, dtype=outputs.dtype)


def _as_weights(weight: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return class weights as a tensor; a list and an array of numpy do too."""
    return None if weight is None else torch.as_tensor(weight)


def check_weights(loss_func: LossFunction, *, classes: Sequence[str]) -> None:
    """Check the class weights of a loss, ours or torch's, against the classes of the data.

    Raises:
        ConfigError: There is not one for each class, or one is negative or no number.
    """
    given = (
        loss_func.keywords
        if isinstance(loss_func, partial)
        else vars(loss_func).get("_buffers", {})
    )
    for name in ("weight", "pos_weight"):
        weight = given.get(name)
        if weight is None:
            continue
        num_weights, is_single = weight.shape[-1:].numel(), weight.numel() == 1
        broadcasts = name == "pos_weight" or isinstance(
            loss_func, BCEWithLogitsLossFlat | nn.BCEWithLogitsLoss
        )
        if num_weights != len(classes) and not (is_single and broadcasts):
            raise ConfigError(
                f"{name}= of the loss must have one number for each of {len(classes)} classes, in the order of "
                f"dls.vocab: {joined(classes, limit=5)}. Received: {num_weights}, of shape {tuple(weight.shape)}"
            )
        if not (weight >= 0).all() or not weight.isfinite().all():
            raise ConfigError(
                f"{name}= of the loss must be finite numbers of at least 0. Received: {weight.tolist()!r:.200}"
            )


def _checked(reduction: str) -> Reduction:
    for known in get_args(Reduction):
        if reduction == known:
            return known
    raise ConfigError(
        f"reduction must be one of {', '.join(get_args(Reduction))}. Received: {reduction!r}"
    )


class _SoftmaxLoss(nn.Module):
    """A loss for one class per image: cross-entropy, or what a subclass makes of it."""

    weight: Tensor | None
    ignore_index = -100
    eps = 0.0
    __repr__ = _shown

    def __init__(
        self, axis: int, weight: Tensor | Sequence[float] | None, reduction: Reduction
    ) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("weight", _as_weights(weight))
        self.reduction: Reduction = _checked(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and whole-number targets ``(B,)``; further axes may follow both."""
        logits_MC = inp.movedim(self.axis, -1).reshape(-1, inp.shape[self.axis])
        if targ.numel() != len(logits_MC) or targ.is_floating_point():
            raise ConfigError(
                f"This loss takes one whole number, the position of the class, for each of {len(logits_MC)} outputs with "
                f"{logits_MC.shape[1]} classes. Received: outputs of shape {tuple(inp.shape)} and targets {targ.dtype} of "
                f"shape {tuple(targ.shape)}. For several labels per image use BCEWithLogitsLossFlat."
            )
        return self._loss(logits_MC, targ.reshape(-1).long(), _beside(self.weight, logits_MC))

    def _loss(self, logits_MC: Tensor, targets_M: Tensor, weight: Tensor | None) -> Tensor:
        return F.cross_entropy(
            logits_MC,
            targets_M,
            weight=weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.eps,
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: softmax over the classes."""
        return logits.softmax(dim=self.axis)

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the class with the largest probability (or logit), int64."""
        return probabilities.argmax(dim=self.axis)


class CrossEntropyLossFlat(_SoftmaxLoss):
    """Cross-entropy: minus the logarithm of the probability, by softmax, of the right class.

    Args:
        axis: Where the classes are in the outputs.
        weight: Weight of the images of each class, ``(C,)`` or a list; None is equal weights. The mean is the weighted mean.
            ``balanced_class_weights`` makes such weights. A learner moves them to its device.
        ignore_index: Images with this target do not count.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per target, flat.

    Raises:
        ConfigError: ``reduction`` is not one of the three; in the call, outputs and targets do not fit together.

    Examples:
        >>> import torch
        >>> loss = CrossEntropyLossFlat()
        >>> f"{loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])):.4f}"
        '0.6931'
    """

    def __init__(
        self,
        axis: int = -1,
        weight: Tensor | Sequence[float] | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(axis, weight, reduction)
        self.ignore_index = ignore_index


class LabelSmoothingCrossEntropy(_SoftmaxLoss):
    """Cross-entropy against smoothed targets: a share ``eps`` spread evenly over all classes, the rest on the right one.

    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7: eps times the mean
    over classes of minus log p, plus (1 - eps) times the cross-entropy.

    Args:
        eps: 0 to 1.
        weight: As for ``torch.nn.CrossEntropyLoss``.
        reduction: As for ``CrossEntropyLossFlat``.
        axis: Where the classes are in the outputs.
    """

    def __init__(
        self,
        eps: float = 0.1,
        weight: Tensor | Sequence[float] | None = None,
        reduction: Reduction = "mean",
        axis: int = -1,
    ) -> None:
        super().__init__(axis, weight, reduction)
        if not 0 <= eps <= 1:
            raise ConfigError(
                f"eps, the share of smoothing, must be from 0 to 1. Received: eps={eps!r}"
            )
        self.eps = eps


class FocalLossFlat(_SoftmaxLoss):
    """Cross-entropy times ``(1 - p) ** gamma``, p being the probability of the right class: easy images count less.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 5. With ``gamma=0`` it is the cross-entropy.

    Args:
        gamma: How much less, 0 or more.
        axis: Where the classes are in the outputs.
        weight: As for ``CrossEntropyLossFlat``.
        reduction: As for ``CrossEntropyLossFlat``.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        axis: int = -1,
        weight: Tensor | Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(axis, weight, reduction)
        if not gamma >= 0:
            raise ConfigError(f"gamma must be 0 or more. Received: gamma={gamma!r}")
        self.gamma = gamma

    def _loss(self, logits_MC: Tensor, targets_M: Tensor, weight: Tensor | None) -> Tensor:
        plain_M = F.cross_entropy(logits_MC, targets_M, reduction="none")
        # 1 - exp(-x) would lose the small x of images that are nearly certain.
        losses_M = (-torch.expm1(-plain_M)) ** self.gamma * plain_M
        shares_M = torch.ones_like(plain_M) if weight is None else weight[targets_M]
        if self.reduction == "mean":
            return (losses_M * shares_M).sum() / shares_M.sum()
        return (losses_M * shares_M).sum() if self.reduction == "sum" else losses_M * shares_M


class BCEWithLogitsLossFlat(nn.Module):
    """Binary cross-entropy of each class by itself, for images with any number of labels.

    Args:
        thresh: A label is predicted where its probability is above this: one number, or one for each class.
        weight: How much each class counts, ``(C,)``, or None.
        pos_weight: How much more its presence counts than its absence, ``(C,)``, or None.
        reduction: ``"mean"`` over images and classes, ``"sum"``, or ``"none"`` for the shape of the outputs.
    """

    weight: Tensor | None
    pos_weight: Tensor | None
    __repr__ = _shown

    def __init__(
        self,
        thresh: float | Sequence[float] = 0.5,
        weight: Tensor | Sequence[float] | None = None,
        pos_weight: Tensor | Sequence[float] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.thresh = thresh
        self.register_buffer("weight", _as_weights(weight))
        self.register_buffer("pos_weight", _as_weights(pos_weight))
        self.reduction: Reduction = _checked(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, C)`` and targets ``(B, C)`` of 0 and 1, of any dtype."""
        return F.binary_cross_entropy_with_logits(
            inp,
            shaped_like(targ, inp),
            weight=_beside(self.weight, inp),
            pos_weight=_beside(self.pos_weight, inp),
            reduction=self.reduction,
        )

    def activation(self, logits: Tensor) -> Tensor:
        """Return the probabilities: the sigmoid of each output."""
        return logits.sigmoid()

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return which labels are predicted, bool: probabilities (not logits) above the threshold."""
        return probabilities > torch.as_tensor(self.thresh).to(probabilities)


class _NumberLoss(nn.Module):
    """A loss for numbers: outputs ``(B, K)`` and targets ``(B, K)``, or ``(B,)`` for one number.

    Args:
        reduction: ``"mean"`` over images and numbers, ``"sum"``, or ``"none"`` for the shape of the outputs.
    """

    formula: ClassVar[Callable[..., Tensor]]
    __repr__ = _shown

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction: Reduction = _checked(reduction)

    def forward(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the loss of outputs ``(B, K)`` and targets of the same size."""
        return type(self).formula(inp, shaped_like(targ, inp), reduction=self.reduction)

    def activation(self, logits: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return logits

    def decodes(self, probabilities: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return probabilities


class MSELossFlat(_NumberLoss):
    """Mean squared difference between outputs and targets, for numbers."""

    formula = staticmethod(F.mse_loss)


class L1LossFlat(_NumberLoss):
    """Mean absolute difference between outputs and targets, for numbers."""

    formula = staticmethod(F.l1_loss)


def default_loss(task: Task) -> nn.Module:
    """Return the loss that a task is trained with unless another is given."""
    check_task(task)
    losses = {
        "category": CrossEntropyLossFlat,
        "multi_category": BCEWithLogitsLossFlat,
        "regression": MSELossFlat,
    }
    return losses[task]()


def loss_for(dls: DataLoaders) -> nn.Module:
    """Return the default loss for loaders, with the weights of classes where ``dls.balance`` asks for them."""
    if dls.balance == "weights":
        return CrossEntropyLossFlat(weight=balanced_class_weights(dls))
    return default_loss(dls.table.task)


def thresholds_of(loss_func: LossFunction, *, table: ImageTable) -> tuple[float, ...] | None:
    """Return the thresholds that a loss has for several labels, its ``thresh``; None for 0.5, and for the other tasks.

    Raises:
        ConfigError: They are no probabilities, or not one for each class.
    """
    if table.task != "multi_category":
        return None
    given = getattr(loss_func, "thresh", DECISION_THRESHOLD)
    return as_thresholds(given, vocab=table.vocab, task=table.task)


def per_image(loss_func: LossFunction) -> LossFunction:
    """Return the same loss without the mean over images: a function that returns one loss per image, ``(B,)``.

    ``loss_func``, a function with an argument ``reduction`` (``F.cross_entropy``, a partial of it) or an object with such an
    attribute (all losses of this module and of torch), stays as it is. Class weights multiply each loss; nothing is divided by their
    sum.

    Examples:
        >>> import torch
        >>> loss = per_image(F.cross_entropy)
        >>> [round(value, 4) for value in loss(torch.zeros(2, 4), torch.tensor([0, 3])).tolist()]
        [1.3863, 1.3863]
    """
    if isinstance(getattr(loss_func, "reduction", None), str):
        whole = copy.copy(loss_func)  # it shares the weights, so they move between devices together
        whole.reduction = "none"  # pyright: ignore[reportFunctionMemberAccess]  (it has the attribute)
    elif _takes_reduction(loss_func):
        whole = partial(loss_func, reduction="none")  # pyright: ignore[reportCallIssue]
    else:
        raise _mean_only(loss_func)

    def losses(logits: Tensor, targets: Tensor) -> Tensor:
        each = whole(logits, targets)
        if each.ndim == 0 or each.numel() % len(logits):
            raise _mean_only(loss_func)
        return each.reshape(len(logits), -1).mean(dim=1)

    return losses


def _takes_reduction(loss_func: LossFunction) -> bool:
    try:
        return "reduction" in inspect.signature(loss_func).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False


def _mean_only(loss_func: LossFunction) -> ConfigError:
    """Return the error for a loss that gives one number and nothing else."""
    name = getattr(loss_func, "__name__", repr(loss_func))
    return ConfigError(
        f"The loss {name} cannot return one loss per image, which mixed images and the list of worst images need. "
        'Give it an argument or attribute "reduction" that returns one loss per image when it is "none", as '
        "torch.nn.functional.cross_entropy has, or use a loss of vizsla.train.losses."
    )


def activation_of(loss_func: LossFunction) -> Callable[[Tensor], Tensor]:
    """Return what turns outputs into what people read: the loss's own ``activation``, or that of a loss of torch.

    Nothing is known of other losses, whose outputs stay as they are.
    """
    own: Callable[[Tensor], Tensor] | None = getattr(loss_func, "activation", None)
    if callable(own):
        return own
    while isinstance(loss_func, partial):
        loss_func = loss_func.func
    known: tuple[tuple[object, type[nn.Module], Callable[[Tensor], Tensor]], ...] = (
        (F.cross_entropy, nn.CrossEntropyLoss, partial(torch.softmax, dim=-1)),
        (F.nll_loss, nn.NLLLoss, torch.exp),
        (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss, torch.sigmoid),
    )
    for function, kind, activation in known:
        if loss_func is function or isinstance(loss_func, kind):
            return activation
    return nn.Identity()


def balanced_class_weights(targets: Tensor | DataLoaders, num_classes: int | None = None) -> Tensor:
    """Return the inverse frequency of each class, float32 ``(C,)``, scaled so that the mean over the images is 1.

    Each class then contributes equally to the loss, and the loss keeps its scale, so the learning rate needs no change (G.
    King, L.
    Zeng, "Logistic regression in rare events data", Political Analysis 2001; scikit-learn's ``class_weight="balanced"``). A class
    that does not occur gets 1.

    Args:
        targets: The loaders; or int64 ``(N,)``, of the training images, of which ``UNLABELLED`` ones are left out.
        num_classes: C; follows from loaders.

    Raises:
        ConfigError: A target is not a class, or none is known.

    Examples:
        >>> import torch
        >>> balanced_class_weights(torch.tensor([0, 0, 0, 1]), 2)
        tensor([0.6667, 2.0000])
    """
    if not isinstance(targets, Tensor):
        targets, num_classes = targets.table.targets[targets.train.rows], targets.c
    if num_classes is None:
        raise ConfigError(
            "The number of classes is not known from targets alone. Give num_classes."
        )
    if targets.ndim != 1 or targets.is_floating_point():
        raise ConfigError(
            "Class weights need one whole number for each image, the position of its class. "
            f"Received: targets {targets.dtype} of shape {tuple(targets.shape)}"
        )
    known = targets[targets != UNLABELLED].cpu().long()
    if len(known) == 0 or int(known.min()) < 0 or int(known.max()) >= num_classes:
        raise ConfigError(
            f"Class weights need at least one target, and targets from 0 to {num_classes - 1}. Received: "
            f"{sorted(set(known.tolist()))!r:.200}"
        )
    counts = torch.bincount(known, minlength=num_classes).double()
    occurs = counts > 0
    weights = len(known) / (int(occurs.sum()) * counts.where(occurs, 1))
    return weights.where(occurs, 1).float()
