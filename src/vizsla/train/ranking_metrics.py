"""Metrics of how well outputs rank pictures, with settings: ``RocAuc()`` and kin are called like the functions of ``metrics.py``.

They compute what the scikit-learn functions compute that they are named after, and leave out classes for which the metric
is not defined; NaN where it is for none.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import ranking
from vizsla.evaluate.ranking import mean_over_classes
from vizsla.train.loss_shapes import shaped_like
from vizsla.train.score_metrics import check_made, check_word, classes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.evaluate.ranking import Ranked


@dataclass(frozen=True, slots=True)
class RocAuc:
    """The area under the ROC curve, averaged over classes: how often the right picture of two ranks higher.

    Args:
        axis: Where the classes are in the outputs.
        average: ``"macro"`` is the mean, ``"weighted"`` weighs by numbers of pictures.
        multi_class: ``"ovr"`` ranks each class against all others; ``"ovo"`` takes two classes at a time (D. Hand, R. Till,
            "A simple generalisation of the area under the ROC curve for multiple class classification problems", 2001).
    """

    __name__ = "roc_auc_score"
    axis: int = -1
    average: Literal["macro", "weighted"] = "macro"
    multi_class: Literal["ovr", "ovo"] = "ovr"

    def __post_init__(self) -> None:
        check_made(self, self.axis)
        check_word("average", self.average, known=("macro", "weighted"))
        check_word("multi_class", self.multi_class, known=("ovr", "ovo"))

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the area, float64, of logits ``(N, C)`` and int64 targets ``(N,)``."""
        targets_N, _, num_classes = classes_of(inp, targ, axis=self.axis)
        # Log-probabilities rank as probabilities do, and do not run together near 1.
        logits_NC = inp.detach().cpu().movedim(self.axis, -1).reshape(-1, num_classes)
        offsets_N = logits_NC.double().logsumexp(dim=1)
        supports_C = torch.bincount(targets_N, minlength=num_classes).double()
        if self.multi_class == "ovo":
            scores_NC = (logits_NC - offsets_N[:, None]).float()
            return _one_against_one(scores_NC, targets_N, supports_C, average=self.average)
        found = mean_over_classes(
            ranking.roc_auc,
            logits_NC,
            positive=lambda index: targets_N == index,
            offsets=offsets_N,
            weights=supports_C if self.average == "weighted" else None,
        )
        return _value(found)


@dataclass(frozen=True, slots=True)
class RocAucBinary:
    """The area under the ROC curve of the second of two classes.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = "roc_auc_score"
    axis: int = -1

    def __post_init__(self) -> None:
        check_made(self, self.axis)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the area, float64, of logits ``(N, 2)`` and int64 targets ``(N,)``."""
        return _value(ranking.roc_auc(*_second_of_two(self, inp, targ, axis=self.axis)))


@dataclass(frozen=True, slots=True)
class APScoreBinary:
    """The average precision of the second of two classes.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = "average_precision_score"
    axis: int = -1

    def __post_init__(self) -> None:
        check_made(self, self.axis)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the average precision, float64, of logits ``(N, 2)`` and int64 targets ``(N,)``."""
        return _value(ranking.average_precision(*_second_of_two(self, inp, targ, axis=self.axis)))


@dataclass(frozen=True, slots=True)
class RocAucMulti:
    """The area under the ROC curve of each label of pictures with any number of labels.

    Args:
        sigmoid: Whether the outputs are logits; it makes no difference to ranks within a label.
        average: ``"macro"`` is the mean, ``"weighted"`` weighs by numbers of pictures, ``"micro"`` ranks all decisions
            together.
    """

    __name__ = "roc_auc_score"
    sigmoid: bool = True
    average: Literal["macro", "micro", "weighted"] = "macro"

    def __post_init__(self) -> None:
        check_made(self, self.average)
        check_word("average", self.average, known=("macro", "micro", "weighted"))

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the area, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _of_labels(ranking.roc_auc, inp, targ, average=self.average)


@dataclass(frozen=True, slots=True)
class APScoreMulti:
    """The average precision of each label of pictures with any number of labels; their mean is known as mAP.

    Args:
        sigmoid: Whether the outputs are logits; it makes no difference to ranks within a label.
        average: ``"macro"`` is the mean, ``"weighted"`` weighs by numbers of pictures, ``"micro"`` ranks all decisions
            together.
    """

    __name__ = "average_precision_score"
    sigmoid: bool = True
    average: Literal["macro", "micro", "weighted"] = "macro"

    def __post_init__(self) -> None:
        check_made(self, self.average)
        check_word("average", self.average, known=("macro", "micro", "weighted"))

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the average precision, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _of_labels(ranking.average_precision, inp, targ, average=self.average)


def _one_against_one(scores: Tensor, targets: Tensor, supports: Tensor, *, average: str) -> Tensor:
    present = supports.nonzero()[:, 0].tolist()
    areas: list[float] = []
    shares: list[float] = []
    for place, first in enumerate(present):
        for second in present[place + 1 :]:
            either = (targets == first) | (targets == second)
            pair = [
                ranking.roc_auc(scores[either, index], targets[either] == index)
                for index in (first, second)
            ]
            areas.append(sum(found.value for found in pair if found is not None) / 2)
            shares.append(float(supports[first] + supports[second]))
    weights = torch.tensor(shares, dtype=torch.float64)
    weights = weights if average == "weighted" else torch.ones_like(weights)
    return (torch.tensor(areas, dtype=torch.float64) * weights).sum() / weights.sum()


def _second_of_two(
    metric: object, inp: Tensor, targ: Tensor, *, axis: int
) -> tuple[Tensor, Tensor]:
    """Return the log odds of the second class, float64 ``(N,)``, and bool ``(N,)``, whether it is the target."""
    if inp.shape[axis] != 2:
        raise ConfigError(
            f"{type(metric).__name__} needs outputs of two classes. Received: outputs of shape {tuple(inp.shape)}. "
            "RocAuc takes any number of classes, APScoreMulti labels."
        )
    targets, _, _ = classes_of(inp, targ, axis=axis)
    first, second = inp.detach().cpu().double().movedim(axis, -1).reshape(-1, 2).unbind(1)
    return second - first, targets == 1


def _of_labels(
    metric: Callable[[Tensor, Tensor], Ranked | None], inp: Tensor, targ: Tensor, *, average: str
) -> Tensor:
    scores_NC = inp.detach().cpu()
    truth_NC = shaped_like(targ.detach().cpu(), scores_NC).bool()
    if average == "micro":
        return _value(metric(scores_NC.flatten(), truth_NC.flatten()))
    found = mean_over_classes(
        metric,
        scores_NC,
        positive=lambda index: truth_NC[:, index],
        weights=truth_NC.double().sum(0) if average == "weighted" else None,
    )
    return _value(found)


def _value(found: Ranked | None) -> Tensor:
    return torch.tensor(torch.nan if found is None else found.value, dtype=torch.float64)
