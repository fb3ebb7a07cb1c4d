"""Predictions in, numbers with 95 % intervals out, for pictures of one class each; pictures without a label are left out.

``evaluate/intervals.py`` says where the intervals come from. ``evaluate/multi_label.py`` and ``evaluate/regression.py``
measure the other two tasks; ``summarise`` and ``per_class`` here choose by the predictions' task.

Shapes: N labelled pictures, C classes, R resamples.

Predictions in, the table of precision, recall and F1 per class out, as text in the layout of scikit-learn's report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizsla.errors import ConfigError
from vizsla.evaluate import multi_label, regression
from vizsla.evaluate import statistics as formulas
from vizsla.evaluate.labelled import labelled_part, undefined
from vizsla.evaluate.statistics import (
    Measure,
    Metric,
    Ranked,
    bootstrap,
    influence_metric,
    mean_over_classes,
    share_metric,
    wilson_interval,
)
from vizsla.evaluate.statistics import (
    roc_auc as roc_auc_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.predictions import Predictions

NUM_CALIBRATION_BINS = 15
_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How well one class is found; a share of nothing is 0.

    Attributes:
        name: The class.
        support: Pictures that have this label.
        num_predicted: Pictures that were predicted to be of this class.
        precision: Share of the predicted ones that have the label.
        precision_interval: Wilson's 95 % interval of it; (0, 1) where nothing was predicted.
        recall: Share of the labelled ones that were found.
        recall_interval: Wilson's 95 % interval of it; (0, 1) where there are none.
        f1: Harmonic mean of precision and recall.
    """

    name: str
    support: int
    num_predicted: int
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    f1: float


def summarise(predictions: Predictions, *, seed: int = 0) -> tuple[Metric, ...]:
    """Return the metrics that say most about predictions of this task; one set of resamples serves all of them.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Returns:
        One class each: accuracy, error rate, top-5 accuracy (above five classes), balanced accuracy, macro F1 and
        precision, ROC-AUC, log loss, Brier score, calibration error; macro recall is left to its own function, as it is
        the balanced accuracy wherever each class occurs. Several labels, and numbers: see ``multi_label.summarise_labels``
        and ``regression.summarise_numbers``. What these pictures do not define, such as the ROC-AUC of a single class, is
        left out.

    Raises:
        DataError: No picture has a label.
    """
    if predictions.task == "multi_category":
        return multi_label.summarise_labels(predictions, seed=seed)
    if predictions.task == "regression":
        return regression.summarise_numbers(predictions, seed=seed)
    metrics = [accuracy(predictions), error_rate(predictions)]
    if len(predictions.vocab) > 5:
        metrics.append(top_k_accuracy(predictions))
    resampled = _resampled(predictions, seed=seed)
    metrics += [resampled[name] for name in ("balanced_accuracy", "macro_f1", "macro_precision")]
    ranked = _ranked(predictions)
    if ranked is not None:
        metrics.append(influence_metric("roc_auc", value=ranked.value, influence=ranked.influence))
    names = ("log_loss", "brier", "expected_calibration_error")
    return (*metrics, *(resampled[name] for name in names))


def accuracy(predictions: Predictions) -> Metric:
    """Return the share of labelled pictures that were predicted correctly, with Wilson's interval.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    known = labelled_part(predictions, task="category")
    right = int((known.targets == known.predicted).sum())
    return share_metric("accuracy", successes=right, trials=len(known.targets))


def error_rate(predictions: Predictions) -> Metric:
    """Return the share of labelled pictures that were predicted wrongly, with Wilson's interval.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    known = labelled_part(predictions, task="category")
    wrong = int((known.targets != known.predicted).sum())
    return share_metric("error_rate", successes=wrong, trials=len(known.targets))


def top_k_accuracy(predictions: Predictions, *, k: int = 5) -> Metric:
    """Return the share of labelled pictures whose class is among the k most likely, with Wilson's interval.

    Args:
        predictions: At least one picture with a label.
        k: 1 to C. Of equally likely classes the first come first, so 1 gives the accuracy.

    Returns:
        Named ``top_5_accuracy`` for k = 5.

    Raises:
        DataError: No picture has a label.
        ConfigError: ``k`` is not within 1 to C, or the predictions are not of one class per picture.
    """
    known = labelled_part(predictions, task="category")
    num_classes = len(predictions.vocab)
    if not 1 <= k <= num_classes:
        raise ConfigError(
            f"k must lie in 1..{num_classes}, as there are {num_classes} classes. Received: k={k}"
        )
    at_once = max(1, _VALUES_AT_ONCE // num_classes)
    found = 0
    parts = zip(known.logits.split(at_once), known.targets.split(at_once), strict=True)
    for logits_BC, targets_B in parts:
        found += int((formulas.places_of(logits_BC, targets_B) < k).sum())
    return share_metric(f"top_{k}_accuracy", successes=found, trials=len(known.targets))


def balanced_accuracy(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean recall of the classes that occur among the labels; each class counts the same.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["balanced_accuracy"]


def macro_f1(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean F1 of the classes that occur among labels or predictions; F1 is 0 where nothing is right.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["macro_f1"]


def macro_precision(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean precision of the classes that occur among labels or predictions; 0 for one never predicted.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["macro_precision"]


def macro_recall(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean recall of the classes that occur among labels or predictions; 0 for one that is only predicted.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["macro_recall"]


def roc_auc(predictions: Predictions) -> Metric:
    """Return the area under the ROC curve of each class against the others, averaged over the classes that occur.

    It is the probability that a picture of the class gets a higher probability for it than one of another class. The
    interval is that of DeLong, DeLong and Clarke-Pearson (Biometrics 1988), on the log odds.

    Raises:
        DataError: No picture has a label, or all have the same.
        ConfigError: The predictions are not of one class per picture.
    """
    ranked = _ranked(predictions)
    if ranked is None:
        raise undefined("roc_auc", why="their labels are all the same, so there is nothing to rank")
    return influence_metric("roc_auc", value=ranked.value, influence=ranked.influence)


def log_loss(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean cross-entropy in nats: minus the logarithm of the probability given to the right class.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["log_loss"]


def brier(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean squared distance between probabilities and truth, summed over classes: 0 (perfect) to 2.

    This is the original form (Brier, "Verification of forecasts expressed in terms of probability", 1950); for two
    classes it is twice the number that counts one class only.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["brier"]


def expected_calibration_error(predictions: Predictions, *, seed: int = 0) -> Metric:
    """Return the mean gap between confidence and accuracy over 15 equal bins of confidence.

    Guo, Pleiss, Sun, Weinberger: "On calibration of modern neural networks", ICML 2017, eq. 3. A resample gives a larger
    gap than the pictures themselves, on the whole, so its interval reaches further up than down.

    Args:
        predictions: At least one picture with a label.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class per picture.
    """
    return _resampled(predictions, seed=seed)["expected_calibration_error"]


def per_class(predictions: Predictions) -> tuple[ClassScore, ...]:
    """Return precision, recall, F1 and support of each class, in the order of the vocabulary.

    Args:
        predictions: Of one class per picture, or of several labels; then each label is scored by itself.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are numbers.
    """
    if predictions.task == "multi_category":
        known = labelled_part(predictions, task="multi_category")
        tallies = formulas.count_labels(known.targets.bool(), known.predicted)
    else:
        known = labelled_part(predictions, task="category")
        tallies = formulas.count_classes(
            known.targets, known.predicted, num_classes=len(predictions.vocab)
        )
    columns = (tallies.hits, tallies.supports, tallies.predicted)
    counts = zip(
        predictions.vocab, *(column[:, 0].long().tolist() for column in columns), strict=True
    )
    return tuple(
        ClassScore(
            name=name,
            support=support,
            num_predicted=num_predicted,
            precision=hits / max(num_predicted, 1),
            precision_interval=wilson_interval(hits, num_predicted),
            recall=hits / max(support, 1),
            recall_interval=wilson_interval(hits, support),
            f1=2 * hits / max(support + num_predicted, 1),
        )
        for name, hits, support, num_predicted in counts
    )


def _ranked(predictions: Predictions) -> Ranked | None:
    known = labelled_part(predictions, task="category")
    at_once = max(1, _VALUES_AT_ONCE // len(predictions.vocab))
    # Log-probabilities rank as probabilities do, and do not run together near 1.
    offsets_N = torch.cat([part.double().logsumexp(1) for part in known.logits.split(at_once)])
    return mean_over_classes(
        roc_auc_of,
        known.logits,
        positive=lambda index: known.targets == index,
        offsets=offsets_N,
    )


def _resampled(predictions: Predictions, *, seed: int) -> dict[str, Metric]:
    num_classes = len(predictions.vocab)
    return bootstrap(
        _measure(predictions),
        num_pictures=int(predictions.labelled.sum()),
        num_values=num_classes,
        seed=seed,
    )


def _measure(predictions: Predictions) -> Measure:
    known = labelled_part(predictions, task="category")
    targets_N, num_classes = known.targets, len(predictions.vocab)
    losses_N, squares_N, confidence_N = _per_picture(known.logits, targets_N)
    gaps_N1 = (confidence_N - (known.predicted == targets_N).double())[:, None]
    # Bins are (0, 1/15], (1/15, 2/15], ...
    bins_N = (confidence_N * NUM_CALIBRATION_BINS).ceil().long().clamp(min=1) - 1

    def measure(counts: Tensor) -> dict[str, Tensor]:
        tallies = formulas.count_classes(
            targets_N, known.predicted, num_classes=num_classes, counts=counts
        )
        num_drawn = len(targets_N)
        gaps_BR = formulas.sums_by(counts * gaps_N1, groups=bins_N, num_groups=NUM_CALIBRATION_BINS)
        seen = tallies.seen
        return {
            "balanced_accuracy": formulas.balanced_accuracy(tallies),
            "macro_f1": formulas.mean_of_seen(formulas.f_beta(tallies), seen=seen),
            "macro_precision": formulas.mean_of_seen(formulas.precision(tallies), seen=seen),
            "macro_recall": formulas.mean_of_seen(formulas.recall(tallies), seen=seen),
            "log_loss": losses_N @ counts / num_drawn,
            "brier": squares_N @ counts / num_drawn,
            "expected_calibration_error": gaps_BR.abs().sum(0) / num_drawn,
        }

    return measure


def _per_picture(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cross-entropy, squared distance from the truth, and confidence of each picture, float64 ``(N,)`` each."""
    at_once = max(1, _VALUES_AT_ONCE // logits.shape[1])
    losses: list[Tensor] = []
    squares: list[Tensor] = []
    confidences: list[Tensor] = []
    for logits_BC, targets_B in zip(logits.split(at_once), targets.split(at_once), strict=True):
        log_probabilities_BC = logits_BC.double().log_softmax(dim=1)
        loss_B = -log_probabilities_BC.gather(1, targets_B[:, None])[:, 0]
        probabilities_BC = log_probabilities_BC.exp_()
        losses.append(loss_B)
        # |p - truth|^2, multiplied out; rounding may leave -1e-17 for a perfect prediction.
        square_B = probabilities_BC.square().sum(1) - 2 * (-loss_B).exp() + 1
        squares.append(square_B.clamp(min=0))
        confidences.append(probabilities_BC.amax(1))
    return torch.cat(losses), torch.cat(squares), torch.cat(confidences)


_COLUMNS = ("precision", "recall", "f1-score", "support")
_WIDTH = 9


def classification_report(predictions: Predictions, *, digits: int = 2) -> str:
    """Return precision, recall, F1 and support of each class, the accuracy, and means over classes.

    Args:
        predictions: At least one picture with a label.
        digits: After the decimal point.

    Returns:
        Lines of text; ``macro avg`` counts every class alike, ``weighted avg`` every picture.

    Raises:
        DataError: No picture has a label.
        ConfigError: The predictions are not of one class each.
    """
    scores = per_class(predictions)
    total = sum(score.support for score in scores)
    known = predictions.labelled
    accuracy = float(predictions.correct[known].double().mean())
    width = max(len("weighted avg"), *(len(score.name) for score in scores))

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:>{width}} " + "".join(f" {cell:>{_WIDTH}}" for cell in cells)

    def numbers(values: Sequence[float], support: int) -> list[str]:
        return [*(f"{value:.{digits}f}" for value in values), str(support)]

    lines = [line("", _COLUMNS), ""]
    for score in scores:
        values = (score.precision, score.recall, score.f1)
        lines.append(line(score.name, numbers(values, score.support)))
    lines += ["", line("accuracy", ["", "", *numbers([accuracy], total)])]
    equal = [1 / len(scores)] * len(scores)
    by_support = [score.support / max(total, 1) for score in scores]
    for name, weights in (("macro avg", equal), ("weighted avg", by_support)):
        lines.append(line(name, numbers(_means(scores, weights), total)))
    return "\n".join(lines) + "\n"


def _means(scores: Sequence[ClassScore], weights: Sequence[float]) -> list[float]:
    rows = [(score.precision, score.recall, score.f1) for score in scores]
    columns = zip(*rows, strict=True)
    return [sum(w * value for w, value in zip(weights, column, strict=True)) for column in columns]
