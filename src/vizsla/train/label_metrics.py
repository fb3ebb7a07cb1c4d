"""Metrics with settings, for pictures with any number of labels: ``F1ScoreMulti()`` and kin.

They are called like the functions of ``train/metrics.py`` and compute what the scikit-learn functions compute that they
are named after. As there, a label that neither occurs nor is predicted scores 0 and counts in the mean.

Shapes: N pictures, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from vizsla.errors import ConfigError
from vizsla.evaluate import counts as formulas
from vizsla.train.loss_shapes import shaped_like
from vizsla.train.score_metrics import average_of, check_beta, check_made, check_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vizsla.evaluate.counts import Formula

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
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged(self, inp, targ, formula=formulas.f_beta)


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
        _check_settings(self)
        check_beta(self.beta)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged(self, inp, targ, formula=partial(formulas.f_beta, beta=self.beta))


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
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged(self, inp, targ, formula=formulas.precision)


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
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged(self, inp, targ, formula=formulas.recall)


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
        _check_settings(self)

    def __call__(self, inp: Tensor, targ: Tensor) -> Tensor:
        """Return the score, float64, of outputs ``(N, C)`` and targets ``(N, C)`` of 0 and 1."""
        return _averaged(self, inp, targ, formula=formulas.jaccard)


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


def _averaged(
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


def _check_settings(
    metric: F1ScoreMulti | FBetaMulti | PrecisionMulti | RecallMulti | JaccardMulti,
) -> None:
    # The second setting: where a class is called like a metric, it is the targets.
    check_made(metric, metric.thresh if isinstance(metric, FBetaMulti) else metric.sigmoid)
    check_word("average", metric.average, known=get_args(LabelAverage))
