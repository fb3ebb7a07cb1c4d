"""Metrics with settings, for pictures of one class each: ``F1Score()`` and kin are called like the functions of ``metrics.py``.

They compute what the scikit-learn functions compute that they are named after; ``evaluate/counts.py`` and
``evaluate/ranking.py`` have the arithmetic. ``average="auto"`` scores the second of two classes, and the mean of the
classes where there are more: that a metric made for two classes fails on three was a common stumble.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import counts as formulas
from vizsla.train.metrics import one_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.counts import Formula, Tallies

Average = Literal["auto", "binary", "macro", "micro", "weighted"]
"""``"binary"``: the class ``pos_label`` of two; ``"macro"``: the mean of the classes; ``"weighted"``: by their numbers of
pictures; ``"micro"``: of all decisions together; ``"auto"``: binary for two classes, macro for more."""


@dataclass(frozen=True, slots=True)
class F1Score:
    """The harmonic mean of precision and recall.

    Args:
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.

    Example:
        >>> import torch
        >>> metric = F1Score()
        >>> outputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> f"{metric(outputs, torch.tensor([0, 1, 0])):.4f}"
        '0.6667'
    """

    __name__ = "f1_score"
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"

    def __post_init__(self) -> None:
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _averaged(self, inp, targ, formula=formulas.f_beta)


@dataclass(frozen=True, slots=True)
class FBeta:
    """The harmonic mean of precision and recall, with recall counting ``beta ** 2`` times.

    Args:
        beta: Above 1 favours recall, below 1 precision.
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.
    """

    __name__ = "fbeta_score"
    beta: float
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"

    def __post_init__(self) -> None:
        _check_settings(self)
        check_beta(self.beta)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _averaged(self, inp, targ, formula=partial(formulas.f_beta, beta=self.beta))


@dataclass(frozen=True, slots=True)
class Precision:
    """The share of pictures predicted to be of a class that are of it; 0 for one that is never predicted.

    Args:
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.
    """

    __name__ = "precision_score"
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"

    def __post_init__(self) -> None:
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _averaged(self, inp, targ, formula=formulas.precision)


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of pictures of a class that are predicted to be of it; 0 for one that does not occur.

    Args:
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.
    """

    __name__ = "recall_score"
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"

    def __post_init__(self) -> None:
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _averaged(self, inp, targ, formula=formulas.recall)


@dataclass(frozen=True, slots=True)
class Jaccard:
    """Pictures of a class that were found, over those that are of it or predicted to be.

    Args:
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.
    """

    __name__ = "jaccard_score"
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"

    def __post_init__(self) -> None:
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _averaged(self, inp, targ, formula=formulas.jaccard)


@dataclass(frozen=True, slots=True)
class BalancedAccuracy:
    """The mean recall of the classes that occur among the targets.

    Args:
        axis: Where the classes are in the outputs.
        adjusted: Scale so that chance scores 0 and perfection 1.
    """

    __name__ = "balanced_accuracy_score"
    axis: int = -1
    adjusted: bool = False

    def __post_init__(self) -> None:
        check_made(self, self.axis)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        tallies = _tallies(inp, targ, axis=self.axis)
        score = formulas.balanced_accuracy(tallies)[0]
        if not self.adjusted:
            return score
        chance = 1 / (tallies.supports > 0).sum()
        return (score - chance) / (1 - chance)


@dataclass(frozen=True, slots=True)
class CohenKappa:
    """How much better than by chance targets and predictions agree: 1 is perfect, 0 chance, NaN for a single class.

    Args:
        axis: Where the classes are in the outputs.
        weights: None counts every mistake the same; ``"linear"`` and ``"quadratic"`` by how far apart the classes are,
            which means something if they are steps of a scale.
    """

    __name__ = "cohen_kappa_score"
    axis: int = -1
    weights: Literal["linear", "quadratic"] | None = None

    def __post_init__(self) -> None:
        check_made(self, self.axis)
        if self.weights not in (None, "linear", "quadratic"):
            raise ConfigError(
                f'weights is None, "linear" or "quadratic". Received: {self.weights!r}'
            )

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        targets, predicted, num_classes = classes_of(inp, targ, axis=self.axis)
        cells = torch.bincount(targets * num_classes + predicted, minlength=num_classes**2)
        confusion = cells.view(num_classes, num_classes)
        return formulas.cohen_kappa(confusion, weights=self.weights)


@dataclass(frozen=True, slots=True)
class MatthewsCorrCoef:
    """The correlation of targets and predictions, -1 to 1; 0 where one of them is always the same.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = "matthews_corrcoef"
    axis: int = -1

    def __post_init__(self) -> None:
        check_made(self, self.axis)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return formulas.matthews_correlation(_tallies(inp, targ, axis=self.axis))[0]


@dataclass(frozen=True, slots=True)
class HammingLoss:
    """The share of pictures predicted wrongly.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = "hamming_loss"
    axis: int = -1

    def __post_init__(self) -> None:
        check_made(self, self.axis)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the share, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        targets, predicted, _ = classes_of(inp, targ, axis=self.axis)
        return (targets != predicted).double().mean()


def classes_of(inp: Tensor, targ: Tensor, *, axis: int) -> tuple[Tensor, Tensor, int]:
    """Return targets and predicted classes, int64 ``(N,)`` on the CPU, and the number of classes.

    Raises:
        ConfigError: There is not one target for each picture, or a target is not one of the classes.
    """
    num_classes = inp.shape[axis]
    predicted = inp.detach().argmax(dim=axis).flatten().cpu()
    targets = one_each(targ.detach().cpu(), predicted).long()
    if ((targets < 0) | (targets >= num_classes)).any():
        raise ConfigError(
            f"Targets must lie in 0..{num_classes - 1}, as the outputs have {num_classes} classes. "
            f"Received: targets from {int(targets.min())} to {int(targets.max())}"
        )
    return targets, predicted, num_classes


def check_beta(beta: object) -> None:
    """Raise an error unless beta is a number of at least 0.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(beta, int | float) or not beta >= 0:
        raise ConfigError(f"beta must be a number of at least 0. Received: beta={beta!r}")


def _tallies(inp: Tensor, targ: Tensor, *, axis: int) -> Tallies:
    targets, predicted, num_classes = classes_of(inp, targ, axis=axis)
    return formulas.count_classes(targets, predicted, num_classes=num_classes)


def _averaged(
    metric: F1Score | FBeta | Precision | Recall | Jaccard,
    inp: Tensor,
    targ: Tensor,
    *,
    formula: Formula,
) -> Tensor:
    tallies = _tallies(inp, targ, axis=metric.axis)
    num_classes, average = len(tallies.hits), metric.average
    if average == "auto":
        average = "macro" if num_classes > 2 else "binary"
    chosen = metric.labels if average != "binary" else [metric.pos_label]
    if chosen is not None and any(not 0 <= label < num_classes for label in chosen):
        raise ConfigError(
            f"labels and pos_label are positions of classes, 0..{num_classes - 1}. Received: {list(chosen)!r}"
        )
    if average == "binary" and num_classes > 2:
        raise ConfigError(
            f'average="binary" scores one of two classes. Received: outputs of {num_classes} classes. '
            'Choose "macro", "micro" or "weighted", or leave average out.'
        )
    part = tallies.only(
        tallies.seen[:, 0] if chosen is None else torch.tensor(list(chosen), dtype=torch.int64)
    )
    return average_of(formula, part, average=average)


def average_of(formula: Formula, tallies: Tallies, *, average: str) -> Tensor:
    """Return the score of some classes as one number, float64 scalar.

    Args:
        formula: Scores each class.
        tallies: Of these classes, one weighting.
        average: ``"micro"`` scores all decisions together; ``"weighted"`` weighs classes by their pictures; else their mean.
    """
    if average == "micro":
        return formula(tallies.total())[0, 0]
    scores = formula(tallies)[:, 0]
    if average != "weighted":
        return scores.mean()
    supports = tallies.supports[:, 0]
    return (scores * supports).sum() / supports.sum().clamp(min=1)


def check_made(metric: object, setting: object) -> None:
    """Raise an error for a metric that was called before it was made: ``metrics=F1Score`` in place of ``F1Score()``.

    Args:
        metric: The metric.
        setting: One of its settings; then it is the targets of the pictures.

    Raises:
        ConfigError: The setting is a tensor.
    """
    if isinstance(setting, Tensor):
        name = type(metric).__name__
        raise ConfigError(
            f"{name} is made first and then called. Write metrics={name}(), with brackets. "
            f"Received: a tensor of shape {tuple(setting.shape)} in place of a setting"
        )


def check_word(argument: str, word: str, *, known: Sequence[str]) -> None:
    """Raise an error for a word that an argument does not know.

    Raises:
        ConfigError: ``word`` is none of ``known``.
    """
    if word not in known:
        raise ConfigError(f"{argument} is one of {', '.join(known)}. Received: {word!r:.80}")


def _check_settings(metric: F1Score | FBeta | Precision | Recall | Jaccard) -> None:
    check_made(metric, metric.axis)
    check_word("average", metric.average, known=get_args(Average))
