"""Outputs and targets of a whole split in, one number out: the metrics that a notebook passes to a learner by name.

The learner calls a metric once for each epoch with everything, never batch by batch, so batches of unequal size count
right. ``train/score_metrics.py`` has those that need settings (``F1Score()``), ``train/label_metrics.py`` those for
several labels per picture.

Shapes: N pictures, C classes, K numbers.

Metrics with settings, for pictures of one class each: ``F1Score()`` and kin are called like the functions of ``metrics.py``.

They compute what the scikit-learn functions compute that they are named after; ``evaluate/counts.py`` and
``evaluate/ranking.py`` have the arithmetic. ``average="auto"`` scores the second of two classes, and the mean of the
classes where there are more: that a metric made for two classes fails on three was a common stumble.

Shapes: N pictures, C classes.

Metrics with settings, for pictures with any number of labels: ``F1ScoreMulti()`` and kin.

They are called like the functions of ``train/metrics.py`` and compute what the scikit-learn functions compute that they
are named after. As there, a label that neither occurs nor is predicted scores 0 and counts in the mean.

Shapes: N pictures, C labels.

Metrics of how well outputs rank pictures, with settings: ``RocAuc()`` and kin are called like the functions of ``metrics.py``.

They compute what the scikit-learn functions compute that they are named after, and leave out classes for which the metric
is not defined; NaN where it is for none.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import statistics as formulas
from vizsla.evaluate import statistics as ranking
from vizsla.evaluate.statistics import explained_variance, mean_over_classes
from vizsla.train.losses import shaped_like

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.evaluate.statistics import Formula, Ranked, Tallies


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

    Examples:
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


LabelAverage = Literal["macro", "micro", "weighted", "samples"]
"""``"macro"``: the mean of the labels; ``"weighted"``: by their numbers of pictures; ``"micro"``: of all decisions
together; ``"samples"``: each picture is scored by itself, then their mean."""


@dataclass(frozen=True, slots=True)
class F1ScoreMulti:
    """The harmonic mean of precision and recall.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "f1_score"
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"

    def __post_init__(self) -> None:
        _check_settings_label_metrics(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged_label_metrics(self, inp, targ, formula=formulas.f_beta)


@dataclass(frozen=True, slots=True)
class FBetaMulti:
    """The harmonic mean of precision and recall, with recall counting ``beta ** 2`` times.

    Args:
        beta: Above 1 favours recall, below 1 precision.
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "fbeta_score"
    beta: float
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"

    def __post_init__(self) -> None:
        _check_settings_label_metrics(self)
        check_beta(self.beta)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged_label_metrics(
            self, inp, targ, formula=partial(formulas.f_beta, beta=self.beta)
        )


@dataclass(frozen=True, slots=True)
class PrecisionMulti:
    """The share of given labels that are right; 0 where none is given.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "precision_score"
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"

    def __post_init__(self) -> None:
        _check_settings_label_metrics(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged_label_metrics(self, inp, targ, formula=formulas.precision)


@dataclass(frozen=True, slots=True)
class RecallMulti:
    """The share of true labels that are given; 0 where there is none.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "recall_score"
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"

    def __post_init__(self) -> None:
        _check_settings_label_metrics(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged_label_metrics(self, inp, targ, formula=formulas.recall)


@dataclass(frozen=True, slots=True)
class JaccardMulti:
    """Labels rightly given, over those that are true or given.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
        labels: Labels to average over; None means all.
        average: See ``LabelAverage``.
    """

    __name__ = "jaccard_score"
    thresh: float = 0.5
    sigmoid: bool = True
    labels: Sequence[int] | None = None
    average: LabelAverage = "macro"

    def __post_init__(self) -> None:
        _check_settings_label_metrics(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged_label_metrics(self, inp, targ, formula=formulas.jaccard)


@dataclass(frozen=True, slots=True)
class HammingLossMulti:
    """The share of decisions, one for each picture and label, that are wrong.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
    """

    __name__ = "hamming_loss"
    thresh: float = 0.5
    sigmoid: bool = True

    def __post_init__(self) -> None:
        check_made(self, self.sigmoid)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the share, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        truth, given = _decisions(inp, targ, thresh=self.thresh, sigmoid=self.sigmoid)
        return (truth != given).double().mean()


@dataclass(frozen=True, slots=True)
class MatthewsCorrCoefMulti:
    """The correlation of true and given labels over all decisions, -1 to 1; 0 where one of them is always the same.

    Args:
        thresh: A label is given where its probability is above this.
        sigmoid: Turn logits into probabilities first; False where the outputs are probabilities.
    """

    __name__ = "matthews_corrcoef"
    thresh: float = 0.5
    sigmoid: bool = True

    def __post_init__(self) -> None:
        check_made(self, self.sigmoid)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the correlation, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        decisions = _decisions(inp, targ, thresh=self.thresh, sigmoid=self.sigmoid)
        truth, given = (decision.flatten().long() for decision in decisions)
        tallies = formulas.count_classes(truth, given, num_classes=2)
        return formulas.matthews_correlation(tallies)[0]


def _decisions(inp: Tensor, targ: Tensor, *, thresh: float, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """Return which labels are true and which are given, bool ``(N, C)`` each, on the CPU."""
    outputs = inp.detach().cpu()
    truth = shaped_like(targ.detach().cpu(), outputs).bool()
    return truth, (outputs.sigmoid() if sigmoid else outputs) > thresh


def _averaged_label_metrics(
    metric: F1ScoreMulti | FBetaMulti | PrecisionMulti | RecallMulti | JaccardMulti,
    inp: Tensor,
    targ: Tensor,
    *,
    formula: Formula,
) -> Tensor:
    truth_NC, given_NC = _decisions(inp, targ, thresh=metric.thresh, sigmoid=metric.sigmoid)
    if metric.labels is not None:
        num_labels, chosen = truth_NC.shape[1], list(metric.labels)
        if any(not 0 <= label < num_labels for label in chosen):
            raise ConfigError(
                f"labels are positions of labels, 0..{num_labels - 1}. Received: {chosen!r}"
            )
        truth_NC, given_NC = truth_NC[:, chosen], given_NC[:, chosen]
    # The scores of pictures are those of labels, with the two axes exchanged.
    if metric.average == "samples":
        truth_NC, given_NC = truth_NC.T, given_NC.T
    tallies = formulas.count_labels(truth_NC, given_NC)
    return average_of(formula, tallies, average=metric.average)


def _check_settings_label_metrics(
    metric: F1ScoreMulti | FBetaMulti | PrecisionMulti | RecallMulti | JaccardMulti,
) -> None:
    # The second setting: where a class is called like a metric, it is the targets.
    check_made(metric, metric.thresh if isinstance(metric, FBetaMulti) else metric.sigmoid)
    check_word("average", metric.average, known=get_args(LabelAverage))


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
