"""Metrics for a learner: plain functions (``accuracy``), and classes with settings (``F1Score(average="macro")``).

A learner calls a metric once per epoch with the outputs and targets of the whole split, never batch by batch, so batches of
different sizes cannot bias it. Each computes what the scikit-learn function of the same ``__name__`` computes;
``evaluate/statistics.py`` has the arithmetic. ``average="auto"`` scores the second of two classes, and the mean over classes
where there are more: a metric made for two classes that fails on three is a common stumble.

Every metric raises ``ConfigError`` where outputs and targets do not fit together, or a setting is not possible.

Shapes: N images, C classes or labels, K numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import statistics as stats
from vizsla.train.losses import shaped_like

if TYPE_CHECKING:
    from collections.abc import Callable

    from vizsla.evaluate.statistics import Formula, Ranked, Tallies

Average = Literal["auto", "binary", "macro", "micro", "weighted"]
"""``"binary"``: the class ``pos_label`` of two; ``"macro"``: the mean over classes; ``"weighted"``: that mean, weighted by the
number of images of each class; ``"micro"``: all decisions together; ``"auto"``: binary for two classes, macro for more."""

LabelAverage = Literal["macro", "micro", "weighted", "samples"]
"""As ``Average``, over labels; ``"samples"``: each image is scored by itself, then their mean is taken."""

# The three kinds of metrics with settings, by ``__name__``. Each serves one class per image (settings ``axis``, ...) and any
# number of labels (``thresh``, ...).
_TALLIED: dict[str, Formula] = {
    "f1_score": stats.f_beta,
    "precision_score": stats.precision,
    "recall_score": stats.recall,
    "jaccard_score": stats.jaccard,
}
"""A score of each class, which is then averaged."""

_OF_DECISIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "hamming_loss": lambda targets, predicted, _: (targets != predicted).double().mean(),
    "matthews_corrcoef": lambda targets, predicted, num_classes: stats.matthews_correlation(
        stats.count_classes(targets, predicted, num_classes=num_classes)
    )[0],
}
"""One score of all decisions: from targets and predictions, int64 ``(N,)``, and C."""

_RANKINGS = {"roc_auc_score": stats.roc_auc, "average_precision_score": stats.average_precision}
"""How well the scores rank the images."""


def as_metrics(
    metrics: Callable[..., Tensor | float] | Sequence[Callable[..., Tensor | float]] | None,
) -> tuple[Callable[..., Tensor | float], ...]:
    """Return metrics as a tuple; a class of metrics becomes one of its kind.

    Raises:
        ConfigError: Something in it is a name, a class that needs settings, or cannot be called.
    """
    given: tuple[Any, ...] = () if metrics is None else (metrics,)
    if isinstance(metrics, Iterable) and not isinstance(metrics, str):
        given = tuple(metrics)
    return tuple(map(_as_metric, given))


def _as_metric(given: object) -> Callable[..., Tensor | float]:
    metric: Any = given
    cure = ""
    if isinstance(metric, type):
        try:
            metric = metric()
        except TypeError:
            cure = f" Create an instance: metrics={metric.__name__}(...)."
    if isinstance(metric, str):
        cure = f" Write the name without quotes: metrics={metric}."
    if isinstance(metric, type) or not callable(metric):
        raise ConfigError(
            f"A metric is a function of outputs and targets, such as accuracy or F1Score(). Received: {metric!r:.80}.{cure}"
        )
    return cast("Callable[..., Tensor | float]", metric)


class Metric:
    """A metric in fastai's form, to inherit from: ``accumulate(learn)`` looks at ``learn.pred`` and ``learn.y``.

    A learner shows it the outputs ``(N, C)`` and targets of the whole split in one call.
    """

    def reset(self) -> None:
        """Forget what was accumulated."""

    def accumulate(self, learn: Any) -> None:
        """Look at ``learn.pred``, and at ``learn.y`` or ``learn.yb``, a tuple with the targets."""
        raise NotImplementedError

    @property
    def value(self) -> Any:
        """The result."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Title of its column."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__.removesuffix("Metric"))
        return words.lower()

    def __call__(self, inp: Tensor, targ: Tensor) -> Any:
        """Return the value for outputs and targets."""
        self.reset()
        self.accumulate(SimpleNamespace(pred=inp, y=targ, yb=(targ,), to_detach=Tensor.detach))
        return self.value


def unique_names(metrics: Iterable[Callable[..., object]]) -> tuple[str, ...]:
    """Return a different name for each metric, for tables and histories: its ``name``, if it was given one, or its ``__name__``.

    A metric that is there before gets its own settings added (``f1_score_micro`` beside ``f1_score``), or else a number.
    """
    names: list[str] = []
    first: dict[str, tuple[Any, dict[str, Any]]] = {}
    for metric in metrics:
        inner: Any = getattr(metric, "func", metric)  # a partial has no name of its own
        own = getattr(metric, "name", None)
        base = own if isinstance(own, str) else getattr(inner, "__name__", type(inner).__name__)
        settings = getattr(metric, "keywords", None) or {**getattr(metric, "__dict__", {})}
        kind = inner if isinstance(metric, partial) else type(metric)
        first_kind, others = first.setdefault(base, (kind, settings))
        differing = [
            str(value)
            for setting, value in settings.items()
            if isinstance(value, str | int | float) and others.get(setting) != value
        ]
        name, number = base, 1
        if name in names and differing and kind == first_kind:
            name = "_".join([base, *differing])
        stem = name
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return tuple(names)


# --- without settings ---


def accuracy(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return the share of images whose highest score is that of their class, a float32 scalar.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.
    """
    predicted = inp.argmax(dim=axis)
    return (predicted == _one_each(targ, predicted)).float().mean()


def error_rate(inp: Tensor, targ: Tensor, axis: int = -1) -> Tensor:
    """Return ``1 - accuracy``.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        axis: Where the classes are.
    """
    return 1 - accuracy(inp, targ, axis=axis)


def top_k_accuracy(inp: Tensor, targ: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """Return the share of images whose class is among the k highest scores; of equal scores the first comes first.

    Args:
        inp: Logits or probabilities ``(N, C)``.
        targ: int64 ``(N,)``.
        k: 1 to C.
        axis: Where the classes are.
    """
    scores_NC = inp.movedim(axis, -1).reshape(-1, inp.shape[axis])
    num_classes = scores_NC.shape[1]
    if not 1 <= k <= num_classes:
        raise ConfigError(
            f"top_k_accuracy needs k from 1 to the number of classes, {num_classes}. Received: k={k}. Pass for "
            "example functools.partial(top_k_accuracy, k=2)."
        )
    targets_N = _one_each(targ, scores_NC[:, 0]).long()
    return (stats.places_of(scores_NC, targets_N) < k).float().mean()


def accuracy_multi(inp: Tensor, targ: Tensor, thresh: float = 0.5, sigmoid: bool = True) -> Tensor:
    """Return the share of right decisions, one for each image and label.

    Args:
        inp: Logits ``(N, C)``, or probabilities.
        targ: ``(N, C)`` of 0 and 1.
        thresh: A label is predicted where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where ``inp`` holds probabilities.
    """
    probabilities = inp.sigmoid() if sigmoid else inp
    return ((probabilities > thresh) == shaped_like(targ, inp).bool()).float().mean()


def mse(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the mean squared difference of outputs and targets.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.
    """
    return (inp - shaped_like(targ, inp)).square().mean()


def rmse(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the root of the mean squared difference of outputs and targets.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.
    """
    return mse(inp, targ).sqrt()


def mae(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the mean absolute difference of outputs and targets.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.
    """
    return (inp - shaped_like(targ, inp)).abs().mean()


def r2_score(inp: Tensor, targ: Tensor) -> Tensor:
    """Return the share of the targets' variance that the outputs explain: 1 is perfect, 0 as good as their mean.

    Several numbers are scored one by one and averaged; NaN where no target varies.

    Args:
        inp: Outputs ``(N, K)``.
        targ: ``(N, K)``, or ``(N,)`` for one number.
    """
    targets = shaped_like(targ, inp).detach().cpu().double().reshape(len(inp), -1)
    errors = inp.detach().cpu().double().reshape(len(inp), -1) - targets
    once = torch.ones((len(inp), 1), dtype=torch.float64)
    return stats.explained_variance(errors, targets, counts=once)[0]


def _one_each(targ: Tensor, predicted: Tensor) -> Tensor:
    """Return the targets in the shape of the predictions: ``(N, 1)`` fits ``(N,)``."""
    if targ.numel() != predicted.numel():
        raise ConfigError(
            f"This metric needs one target for each of {predicted.numel()} images. Received: targets of shape "
            f"{tuple(targ.shape)}. For several labels per image use accuracy_multi or the metrics ending in Multi."
        )
    return targ.reshape(predicted.shape)


def _check(metric: object) -> None:
    """Check the settings of a metric; one that is annotated as a ``Literal`` has to be one of its words."""
    hints = get_type_hints(type(metric))
    for name, value in vars(metric).items():
        if isinstance(value, Tensor) and name != "labels":
            made = type(metric).__name__
            raise ConfigError(
                f"{made} must be created before it is called: write metrics={made}(), with brackets. Received: a "
                f"tensor of shape {tuple(value.shape)} in place of a setting"
            )
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else (value,)
        if value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(map(str, choices))}. Received: {value!r:.80}"
            )
        if name == "beta" and not (isinstance(value, int | float) and value >= 0):
            raise ConfigError(f"beta must be a number of at least 0. Received: beta={value!r}")


# --- one class per image ---
# Dataclasses of metrics are not frozen: notebooks give them names of their own, ``metric.name = "F1 (macro)"``.


def _score_of_classes(metric: _ClassAverage | FBeta, inp: Tensor, targ: Tensor) -> Tensor:
    """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
    targets, predicted, num_classes = _classes_of(inp, targ, axis=metric.axis)
    average = metric.average
    if average == "auto":
        average = "macro" if num_classes > 2 else "binary"
    chosen = metric.labels if average != "binary" else [metric.pos_label]
    _check_positions(chosen, num_classes, what="labels and pos_label are positions of classes")
    if average == "binary" and num_classes > 2:
        raise ConfigError(
            f'average="binary" scores one of two classes. Received: outputs of {num_classes} classes. '
            'Choose "macro", "micro" or "weighted", or leave average out.'
        )
    tallies = stats.count_classes(targets, predicted, num_classes=num_classes)
    return _averaged(
        metric,
        tallies.only(
            tallies.seen[:, 0] if chosen is None else torch.tensor(list(chosen), dtype=torch.int64)
        ),
        average=average,
    )


@dataclass(unsafe_hash=True)
class _ClassAverage:
    """A score of each class, averaged.

    Args:
        axis: Where the classes are in the outputs.
        labels: Classes to average over; None means those that occur among targets or predictions.
        pos_label: The class that ``"binary"`` scores.
        average: See ``Average``.
    """

    __name__ = ""
    __call__ = _score_of_classes
    __post_init__ = _check
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"


class F1Score(_ClassAverage):
    """The harmonic mean of precision and recall.

    Examples:
        >>> import torch
        >>> metric = F1Score()
        >>> outputs = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> f"{metric(outputs, torch.tensor([0, 1, 0])):.4f}"
        '0.6667'
    """

    __name__ = "f1_score"


class Precision(_ClassAverage):
    """Of the images predicted as a class, the share that belong to it; 0 for a class that is never predicted."""

    __name__ = "precision_score"


class Recall(_ClassAverage):
    """Of the images of a class, the share predicted as that class; 0 for a class that does not occur."""

    __name__ = "recall_score"


class Jaccard(_ClassAverage):
    """Correct predictions of a class, divided by the images that belong to it or are predicted as it."""

    __name__ = "jaccard_score"


@dataclass(unsafe_hash=True)
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
    __call__ = _score_of_classes
    __post_init__ = _check
    beta: float
    axis: int = -1
    labels: Sequence[int] | None = None
    pos_label: int = 1
    average: Average = "auto"


@dataclass(unsafe_hash=True)
class BalancedAccuracy:
    """The mean recall of the classes that occur among the targets.

    Args:
        axis: Where the classes are in the outputs.
        adjusted: Scale so that chance scores 0 and perfect predictions 1.
    """

    __name__ = "balanced_accuracy_score"
    __post_init__ = _check
    axis: int = -1
    adjusted: bool = False

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        targets, predicted, num_classes = _classes_of(inp, targ, axis=self.axis)
        tallies = stats.count_classes(targets, predicted, num_classes=num_classes)
        score = stats.balanced_accuracy(tallies)[0]
        if not self.adjusted:
            return score
        chance = 1 / (tallies.supports > 0).sum()
        return (score - chance) / (1 - chance)


@dataclass(unsafe_hash=True)
class CohenKappa:
    """How much better than chance targets and predictions agree: 1 is perfect, 0 chance, NaN for a single class.

    Args:
        axis: Where the classes are in the outputs.
        weights: None counts every mistake the same; ``"linear"`` and ``"quadratic"`` by how far apart the classes are,
            which makes sense if they are ordered.
    """

    __name__ = "cohen_kappa_score"
    __post_init__ = _check
    axis: int = -1
    weights: Literal[None, "linear", "quadratic"] = None

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        targets, predicted, num_classes = _classes_of(inp, targ, axis=self.axis)
        cells = torch.bincount(targets * num_classes + predicted, minlength=num_classes**2)
        return stats.cohen_kappa(cells.view(num_classes, num_classes), weights=self.weights)


@dataclass(unsafe_hash=True)
class _ClassDecisions:
    """A score of all decisions together.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = ""
    __post_init__ = _check
    axis: int = -1

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of logits or probabilities ``(N, C)`` and int64 targets ``(N,)``."""
        return _OF_DECISIONS[self.__name__](*_classes_of(inp, targ, axis=self.axis))


class MatthewsCorrCoef(_ClassDecisions):
    """The correlation of targets and predictions, -1 to 1; 0 where one of them is always the same."""

    __name__ = "matthews_corrcoef"


class HammingLoss(_ClassDecisions):
    """The share of images predicted wrongly."""

    __name__ = "hamming_loss"


@dataclass(unsafe_hash=True)
class RocAuc:
    """The area under the ROC curve, averaged over classes: how often an image of the class scores higher than one that is not.

    Args:
        axis: Where the classes are in the outputs.
        average: ``"macro"`` is the mean, ``"weighted"`` weighs by numbers of images.
        multi_class: ``"ovr"`` ranks each class against all others; ``"ovo"`` takes two classes at a time (D. Hand, R. Till,
            "A simple generalisation of the area under the ROC curve for multiple class classification problems", 2001).
    """

    __name__ = "roc_auc_score"
    __post_init__ = _check
    axis: int = -1
    average: Literal["macro", "weighted"] = "macro"
    multi_class: Literal["ovr", "ovo"] = "ovr"

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the area, float64, of logits ``(N, C)`` and int64 targets ``(N,)``."""
        targets_N, _, num_classes = _classes_of(inp, targ, axis=self.axis)
        # Log-probabilities rank as probabilities do, and do not run together near 1.
        logits_NC = inp.detach().cpu().movedim(self.axis, -1).reshape(-1, num_classes)
        offsets_N = logits_NC.double().logsumexp(dim=1)
        supports_C = torch.bincount(targets_N, minlength=num_classes).double()
        if self.multi_class == "ovo":
            scores_NC = (logits_NC - offsets_N[:, None]).float()
            return _one_against_one(scores_NC, targets_N, supports_C, average=self.average)
        found = stats.mean_over_classes(
            stats.roc_auc,
            logits_NC,
            positive=lambda index: targets_N == index,
            offsets=offsets_N,
            weights=supports_C if self.average == "weighted" else None,
        )
        return _value(found)


@dataclass(unsafe_hash=True)
class _SecondOfTwo:
    """A ranking by the log odds of the second of two classes.

    Args:
        axis: Where the classes are in the outputs.
    """

    __name__ = ""
    __post_init__ = _check
    axis: int = -1

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the metric, float64, of logits ``(N, 2)`` and int64 targets ``(N,)``."""
        if inp.shape[self.axis] != 2:
            raise ConfigError(
                f"{type(self).__name__} needs outputs of two classes. Received: outputs of shape {tuple(inp.shape)}. "
                "RocAuc takes any number of classes, APScoreMulti labels."
            )
        targets_N, _, _ = _classes_of(inp, targ, axis=self.axis)
        logits_N2 = inp.detach().cpu().double().movedim(self.axis, -1).reshape(-1, 2)
        return _value(_RANKINGS[self.__name__](logits_N2[:, 1] - logits_N2[:, 0], targets_N == 1))


class RocAucBinary(_SecondOfTwo):
    """The area under the ROC curve of the second of two classes."""

    __name__ = "roc_auc_score"


class APScoreBinary(_SecondOfTwo):
    """The average precision of the second of two classes."""

    __name__ = "average_precision_score"


# --- any number of labels per image ---


def _score_of_labels(metric: _LabelAverage | FBetaMulti, inp: Tensor, targ: Tensor) -> Tensor:
    """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
    truth_NC, given_NC = _decisions(inp, targ, thresh=metric.thresh, sigmoid=metric.sigmoid)
    _check_positions(metric.labels, truth_NC.shape[1], what="labels are positions of labels")
    if metric.labels is not None:
        chosen = list(metric.labels)
        truth_NC, given_NC = truth_NC[:, chosen], given_NC[:, chosen]
    # The scores of images are those of labels, with the two axes exchanged.
    if metric.average == "samples":
        truth_NC, given_NC = truth_NC.T, given_NC.T
    return _averaged(metric, stats.count_labels(truth_NC, given_NC), average=metric.average)


@dataclass(unsafe_hash=True)
class _LabelAverage:
    """A score of each label, averaged. A label that neither occurs nor is predicted scores 0 and counts in the mean.

    Args:
        thresh: A label is predicted where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = ""
    __call__ = _score_of_labels
    __post_init__ = _check
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"


class F1ScoreMulti(_LabelAverage):
    """The harmonic mean of precision and recall."""

    __name__ = "f1_score"


class PrecisionMulti(_LabelAverage):
    """The share of predicted labels that are right; 0 where none is predicted."""

    __name__ = "precision_score"


class RecallMulti(_LabelAverage):
    """The share of true labels that are predicted; 0 where there is none."""

    __name__ = "recall_score"


class JaccardMulti(_LabelAverage):
    """Correctly predicted labels, divided by those that are true or predicted (intersection over union)."""

    __name__ = "jaccard_score"


@dataclass(unsafe_hash=True)
class FBetaMulti:
    """The harmonic mean of precision and recall, with recall counting ``beta ** 2`` times.

    Args:
        beta: Above 1 favours recall, below 1 precision.
        thresh: A label is predicted where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "fbeta_score"
    __call__ = _score_of_labels
    __post_init__ = _check
    beta: float
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"


@dataclass(unsafe_hash=True)
class _LabelDecisions:
    """A score of all decisions together, one for each image and label.

    Args:
        thresh: A label is predicted where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
    """

    __name__ = ""
    __post_init__ = _check
    thresh: float = 0.5
    sigmoid: bool = True

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        truth_NC, given_NC = _decisions(inp, targ, thresh=self.thresh, sigmoid=self.sigmoid)
        return _OF_DECISIONS[self.__name__](truth_NC.flatten().long(), given_NC.flatten().long(), 2)


class HammingLossMulti(_LabelDecisions):
    """The share of decisions that are wrong."""

    __name__ = "hamming_loss"


class MatthewsCorrCoefMulti(_LabelDecisions):
    """The correlation of true and predicted labels over all decisions, -1 to 1; 0 where one of them is always the same."""

    __name__ = "matthews_corrcoef"


@dataclass(unsafe_hash=True)
class _LabelRanking:
    """A ranking of the images by each label, averaged.

    Args:
        sigmoid: Whether the outputs are logits; it makes no difference to ranks within a label.
        average: ``"macro"`` is the mean, ``"weighted"`` weighs by numbers of images, ``"micro"`` ranks all decisions together.
    """

    __name__ = ""
    __post_init__ = _check
    sigmoid: bool = True
    average: Literal["macro", "micro", "weighted"] = "macro"

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the metric, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        ranking, scores_NC = _RANKINGS[self.__name__], inp.detach().cpu()
        truth_NC = shaped_like(targ.detach().cpu(), scores_NC).bool()
        if self.average == "micro":
            return _value(ranking(scores_NC.flatten(), truth_NC.flatten()))
        found = stats.mean_over_classes(
            ranking,
            scores_NC,
            positive=lambda index: truth_NC[:, index],
            weights=truth_NC.double().sum(0) if self.average == "weighted" else None,
        )
        return _value(found)


class RocAucMulti(_LabelRanking):
    """The area under the ROC curve of each label of images with any number of labels."""

    __name__ = "roc_auc_score"


class APScoreMulti(_LabelRanking):
    """The average precision of each label; the mean over labels is known as mAP."""

    __name__ = "average_precision_score"


# --- what they share ---


def _check_positions(chosen: Sequence[int] | None, num_classes: int, *, what: str) -> None:
    if chosen is not None and any(not 0 <= label < num_classes for label in chosen):
        raise ConfigError(f"{what}, from 0 to {num_classes - 1}. Received: {list(chosen)!r}")


def _classes_of(inp: Tensor, targ: Tensor, *, axis: int) -> tuple[Tensor, Tensor, int]:
    """Return targets and predicted classes, int64 ``(N,)`` on the CPU, and the number of classes."""
    num_classes = inp.shape[axis]
    predicted = inp.detach().argmax(dim=axis).flatten().cpu()
    targets = _one_each(targ.detach().cpu(), predicted).long()
    if ((targets < 0) | (targets >= num_classes)).any():
        raise ConfigError(
            f"Targets must be from 0 to {num_classes - 1}, as the outputs have {num_classes} classes. Received: "
            f"targets from {int(targets.min())} to {int(targets.max())}"
        )
    return targets, predicted, num_classes


def _decisions(inp: Tensor, targ: Tensor, *, thresh: float, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """Return which labels are true and which are predicted, bool ``(N, C)`` each, on the CPU."""
    outputs = inp.detach().cpu()
    truth = shaped_like(targ.detach().cpu(), outputs).bool()
    return truth, (outputs.sigmoid() if sigmoid else outputs) > thresh


def _averaged(
    metric: _ClassAverage | FBeta | _LabelAverage | FBetaMulti, tallies: Tallies, *, average: str
) -> Tensor:
    if isinstance(metric, FBeta | FBetaMulti):
        formula: Formula = partial(stats.f_beta, beta=metric.beta)
    else:
        formula = _TALLIED[metric.__name__]
    if average == "micro":
        return formula(tallies.total())[0, 0]
    scores = formula(tallies)[:, 0]
    if average != "weighted":
        return scores.mean()
    supports = tallies.supports[:, 0]
    return (scores * supports).sum() / supports.sum().clamp(min=1)


def _one_against_one(scores: Tensor, targets: Tensor, supports: Tensor, *, average: str) -> Tensor:
    """Return the mean over pairs of classes of the mean area of each against the other."""
    areas: list[float] = []
    shares: list[float] = []
    for pair in combinations(supports.nonzero()[:, 0].tolist(), 2):
        either = (targets == pair[0]) | (targets == pair[1])
        found = [stats.roc_auc(scores[either, one], targets[either] == one) for one in pair]
        areas.append(sum(area.value for area in found if area is not None) / 2)
        shares.append(float(supports[list(pair)].sum()) if average == "weighted" else 1.0)
    weights = torch.tensor(shares, dtype=torch.float64)
    return (torch.tensor(areas, dtype=torch.float64) * weights).sum() / weights.sum()


def _value(found: Ranked | None) -> Tensor:
    return torch.tensor(torch.nan if found is None else found.value, dtype=torch.float64)
