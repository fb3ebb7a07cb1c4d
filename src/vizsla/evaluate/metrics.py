"""Metrics of predictions, each with its 95 % interval; images without a label are left out.

``summarise`` gives the metrics that say most about a task, ``measure`` one metric by name, ``per_class`` precision and recall
of each class. ``statistics.py`` has the formulas and says where the intervals come from. A new metric is one line in ``_METRICS``.

Shapes: N labelled images, C classes (or K numbers), R resamples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate import statistics as stats
from vizsla.evaluate.calibration import calibration_error
from vizsla.evaluate.statistics import Measure, Metric, Ranked, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vizsla.evaluate.predictions import Predictions
    from vizsla.types import Task

_TOP_K = re.compile(r"top_(\d+)_accuracy")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How well one class is found; a share of nothing is 0.

    Attributes:
        name: The class.
        support: Images that have this label.
        num_predicted: Images that were predicted to be of this class.
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
    """Return the metrics that say most about predictions of this task: those marked with * in ``measure``, in that order.

    What these images do not define, such as the ROC-AUC of a single class, is left out; so is the top-5 accuracy of at most
    five classes. One set of resamples, drawn by ``seed``, serves all metrics.

    Raises:
        DataError: No image has a label.
    """
    known = _labelled(predictions)
    resampled = _resample(known, seed=seed)
    found: list[Metric] = []
    for name in _METRICS[predictions.task]:
        if name in _NOT_IN_SUMMARY or (name == "top_5_accuracy" and len(known.vocab) <= 5):
            continue
        metric = resampled.get(name) or _computed(name, known)
        if metric is not None:
            found.append(metric)
    return tuple(found)


def measure(predictions: Predictions, name: str, *, seed: int = 0) -> Metric:
    """Return one metric.

    One class per image:

    - ``accuracy`` *, ``error_rate`` *: share of the images that were predicted right or wrong (Wilson's interval).
    - ``top_5_accuracy`` *, or any other number up to C: share of the images whose class is among the likeliest; of equally
      likely classes the first come first (Wilson's interval).
    - ``balanced_accuracy`` *: mean recall of the classes that occur among the labels.
    - ``macro_f1`` *, ``macro_precision`` *, ``macro_recall``: means over the classes that occur among labels or predictions,
      0 for a class of which nothing is right. The recall is the balanced accuracy wherever each class occurs.
    - ``roc_auc`` *: the probability that an image of a class gets a higher probability for it than one of another class,
      averaged over the classes that occur. Interval of DeLong, DeLong and Clarke-Pearson (Biometrics 1988), on the log odds.
    - ``log_loss`` *: mean cross-entropy in nats.
    - ``brier`` *: mean squared distance between probabilities and truth, summed over classes: 0 (perfect) to 2. The original
      form (Brier 1950); for two classes it is twice the number that counts one class only.
    - ``expected_calibration_error`` *: mean gap between confidence and accuracy over 15 equal bins of confidence (Guo et al.,
      ICML 2017, eq. 3). Resamples give a larger gap than the images themselves, so its interval reaches further up than down.

    Several labels per image:

    - ``exact_match`` *: share of the images of which exactly the right labels were predicted (Wilson's interval).
    - ``accuracy_multi`` *, ``hamming_loss`` *: share of the decisions, one per image and label, that are right or wrong.
    - ``macro_f1`` *, ``micro_f1`` *: the mean over labels that occur, and of all decisions together.
    - ``mean_average_precision`` *: the mean over labels of the precision among all images that score at least as high as
      each image with the label ("mAP").
    - ``roc_auc`` *: averaged over the labels that some images have and some have not.
    - ``log_loss`` *: mean binary cross-entropy of all decisions, in nats.

    Numbers, averaged over the K of an image, whose units should be alike: ``mae`` *, ``rmse`` *, and ``r2`` *, the share of
    the targets' variance that the predictions explain: 1 is perfect, 0 as good as their mean.

    Unless noted, the interval comes from 1,000 resamples of the images, drawn by ``seed``.

    Raises:
        ConfigError: There is no metric of that name for the task.
        DataError: No image has a label, or these images do not define the metric.
    """
    task = predictions.task
    top = _TOP_K.fullmatch(name) if task == "category" else None
    if top is None and name not in _METRICS[task]:
        tasks = [other for other, names in _METRICS.items() if name in names]
        known_names = ", ".join(sorted(_METRICS[task]))
        raise ConfigError(
            f"There is no metric {name!r} for predictions of the task {task!r}"
            + (f"; it is for {' and '.join(map(repr, tasks))}" if tasks else "")
            + f". Choose one of {known_names}."
        )
    known = _labelled(predictions)
    num_classes = len(known.vocab)
    if top is not None and not 1 <= int(top[1]) <= num_classes:
        raise ConfigError(
            f"k must be from 1 to the number of classes, {num_classes}. Received: k={top[1]}"
        )
    resampled = None if top or _METRICS[task][name] else _resample(known, seed=seed).get(name)
    metric = resampled or _computed(name, known)
    if metric is None:
        raise DataError(
            f"{name} is not defined for these images: {_UNDEFINED[task, name]}. Evaluate more "
            "images, or choose another metric."
        )
    return metric


def imbalance_lines(predictions: Predictions, metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Return what accuracy hides where classes are unequal (``statistics.are_unequal``), in sentences; nothing where they are not.

    The balanced accuracy with its interval and the reason to look at it, then the three classes that are found least.
    """
    balanced = next((one for one in metrics if one.name == "balanced_accuracy"), None)
    if balanced is None or predictions.task != "category":
        return ()
    scores = [score for score in per_class(predictions) if score.support]
    supports = torch.tensor([score.support for score in scores])
    if not stats.are_unequal(supports):
        return ()
    most, fewest = scores[int(supports.argmax())], scores[int(supports.argmin())]
    times, share = most.support / fewest.support, most.support / int(supports.sum())
    least = sorted(scores, key=lambda score: score.recall)[:3]
    found = ", ".join(
        f"{score.name} {score.recall:.1%} of {score.support:,} images" for score in least
    )
    return (
        f"Balanced accuracy {balanced.value:.2%}, 95 % interval {balanced.low:.2%} to {balanced.high:.2%}: {most.name} has "
        f"{times:.3g} times as many images as {fewest.name}, and always answering {most.name} would be right for {share:.1%}.",
        f"Lowest recall: {found}.",
    )


def per_class(predictions: Predictions) -> tuple[ClassScore, ...]:
    """Return precision, recall, F1 and support of each class, in the order of the vocabulary."""
    if predictions.task == "regression":
        raise ConfigError("Predictions of numbers have no classes to score. Use summarise.")
    known = _labelled(predictions)
    counts = (tally[:, 0].long().tolist() for tally in _tallies(known, known.predicted))
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
        for name, hits, support, num_predicted in zip(predictions.vocab, *counts, strict=True)
    )


def _labelled(predictions: Predictions) -> Predictions:
    """Return the predictions of images whose label is known, at least one."""
    labelled = predictions.labelled
    if not labelled.any():
        raise DataError(
            f"None of the {len(predictions.paths)} images has a label, so nothing can be measured. "
            "Give images whose labels are known, for example the validation split."
        )
    return predictions if labelled.all() else predictions.take(labelled)


def _tallies(known: Predictions, predicted: Tensor, counts: Tensor | None = None) -> stats.Tallies:
    if known.task == "category":
        return stats.count_classes(
            known.targets, predicted, num_classes=len(known.vocab), counts=counts
        )
    return stats.count_labels(known.targets.bool(), predicted, counts=counts)


# --- metrics that are a share of the images or of their ranks, with intervals of their own ---


def _computed(name: str, known: Predictions) -> Metric | None:
    """Return the metric, None where these images do not define it."""
    top, compute = _TOP_K.fullmatch(name), _METRICS[known.task].get(name)
    found = _in_top(known, int(top[1])) if top else compute(known) if compute else None
    if isinstance(found, Ranked):
        return stats.influence_metric(name, value=found.value, influence=found.influence)
    if found is None:
        return None
    return stats.share_metric(name, successes=int(found.sum()), trials=len(found))


def _in_top(known: Predictions, k: int) -> Tensor:
    """Return bool ``(N,)``: the class is among the k likeliest."""
    parts = stats.in_parts(known.logits, known.targets)
    return torch.cat([stats.places_of(logits, targets) < k for logits, targets in parts])


def _class_auc(known: Predictions) -> Ranked | None:
    # Log-probabilities rank as probabilities do, and do not run together near 1.
    offsets_N = torch.cat([part.double().logsumexp(1) for (part,) in stats.in_parts(known.logits)])
    return stats.mean_over_classes(
        stats.roc_auc,
        known.logits,
        positive=lambda index: known.targets == index,
        offsets=offsets_N,
    )


def _over_labels(
    formula: Callable[[Tensor, Tensor], Ranked | None],
) -> Callable[[Predictions], Ranked | None]:
    return lambda known: stats.mean_over_classes(
        formula, known.logits, positive=lambda index: known.targets[:, index].bool()
    )


# --- metrics whose interval comes from resamples of the images ---


def _resample(known: Predictions, *, seed: int) -> dict[str, Metric]:
    return stats.bootstrap(
        _RESAMPLED[known.task](known),
        num_images=len(known.targets),
        num_values=1 if known.task == "regression" else len(known.vocab),
        seed=seed,
    )


def _measure_classes(known: Predictions) -> Measure:
    losses_N, squares_N, confidence_N = _per_image(known)
    predicted_N, num_images = known.predicted, len(known.targets)
    right_N = predicted_N == known.targets

    def measured(counts: Tensor) -> dict[str, Tensor]:
        tallies = _tallies(known, predicted_N, counts)
        seen = tallies.seen
        return {
            "balanced_accuracy": stats.balanced_accuracy(tallies),
            "macro_f1": stats.mean_of_seen(stats.f_beta(tallies), seen=seen),
            "macro_precision": stats.mean_of_seen(stats.precision(tallies), seen=seen),
            "macro_recall": stats.mean_of_seen(stats.recall(tallies), seen=seen),
            "log_loss": losses_N @ counts / num_images,
            "brier": squares_N @ counts / num_images,
            "expected_calibration_error": calibration_error(
                confidence_N, right_N, counts_NR=counts
            ),
        }

    return measured


def _per_image(known: Predictions) -> tuple[Tensor, Tensor, Tensor]:
    """Return cross-entropy, squared distance from the truth, and confidence of each image, float64 ``(N,)`` each."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for logits_BC, targets_B in stats.in_parts(known.logits, known.targets):
        log_probabilities_BC = logits_BC.double().log_softmax(dim=1)
        loss_B = -log_probabilities_BC.gather(1, targets_B[:, None])[:, 0]
        probabilities_BC = log_probabilities_BC.exp_()
        # |p - truth|^2, multiplied out; rounding may leave -1e-17 for a perfect prediction.
        square_B = probabilities_BC.square().sum(1) - 2 * (-loss_B).exp() + 1
        found.append((loss_B, square_B.clamp(min=0), probabilities_BC.amax(1)))
    losses, squares, confidences = map(torch.cat, zip(*found, strict=True))
    return losses, squares, confidences


def _measure_labels(known: Predictions) -> Measure:
    predicted_NC, num_images = known.predicted, len(known.targets)
    wrong_N = (known.targets.bool() != predicted_NC).double().mean(dim=1)
    losses_N = torch.cat(
        [
            F.binary_cross_entropy_with_logits(
                logits_BC.double(), targets_BC.double(), reduction="none"
            ).mean(dim=1)
            for logits_BC, targets_BC in stats.in_parts(known.logits, known.targets)
        ]
    )

    def measured(counts: Tensor) -> dict[str, Tensor]:
        tallies = _tallies(known, predicted_NC, counts)
        hamming = wrong_N @ counts / num_images
        together = tallies.total()
        return {
            "accuracy_multi": 1 - hamming,
            "hamming_loss": hamming,
            "macro_f1": stats.mean_of_seen(stats.f_beta(tallies), seen=tallies.seen),
            "micro_f1": stats.mean_of_seen(stats.f_beta(together), seen=together.seen),
            "log_loss": losses_N @ counts / num_images,
        }

    return measured


def _measure_numbers(known: Predictions) -> Measure:
    targets_NK = known.targets.double()
    errors_NK = known.logits.double() - targets_NK
    sizes_N, squares_N = errors_NK.abs().mean(dim=1), errors_NK.square().mean(dim=1)
    num_images = len(targets_NK)

    def measured(counts: Tensor) -> dict[str, Tensor]:
        return {
            "mae": sizes_N @ counts / num_images,
            "rmse": torch.sqrt(squares_N @ counts / num_images),
            "r2": stats.explained_variance(errors_NK, targets_NK, counts=counts),
        }

    return measured


_RESAMPLED: dict[Task, Callable[[Predictions], Measure]] = {
    "category": _measure_classes,
    "multi_category": _measure_labels,
    "regression": _measure_numbers,
}
_METRICS: dict[Task, dict[str, Callable[[Predictions], Tensor | Ranked | None] | None]] = {
    "category": {
        "accuracy": lambda known: known.correct,
        "error_rate": lambda known: ~known.correct,
        "top_5_accuracy": lambda known: _in_top(known, 5),
        "balanced_accuracy": None,
        "macro_f1": None,
        "macro_precision": None,
        "macro_recall": None,
        "roc_auc": _class_auc,
        "log_loss": None,
        "brier": None,
        "expected_calibration_error": None,
    },
    "multi_category": {
        "exact_match": lambda known: known.correct,
        "accuracy_multi": None,
        "hamming_loss": None,
        "macro_f1": None,
        "micro_f1": None,
        "mean_average_precision": _over_labels(stats.average_precision),
        "roc_auc": _over_labels(stats.roc_auc),
        "log_loss": None,
    },
    "regression": {"mae": None, "rmse": None, "r2": None},
}
"""Name -> bool ``(N,)`` whose share is the metric, or a metric of ranks; None where ``_RESAMPLED`` computes it."""

_NOT_IN_SUMMARY = ("macro_recall",)
_NO_LABELS = "they have no labels, and none were predicted"
_NO_RANKS = "for ranking, a label must be present on some of them and missing on others"
_UNDEFINED = {
    ("category", "roc_auc"): "their labels are all the same, so there is nothing to rank",
    ("multi_category", "macro_f1"): _NO_LABELS,
    ("multi_category", "micro_f1"): _NO_LABELS,
    ("multi_category", "mean_average_precision"): _NO_RANKS,
    ("multi_category", "roc_auc"): _NO_RANKS,
    ("regression", "r2"): "their targets do not vary",
}


# --- as a text ---


def classification_report(predictions: Predictions, *, digits: int = 2) -> str:
    """Return lines of text: precision, recall, F1 and support of each class, the accuracy, and means over classes.

    ``macro avg`` counts every class alike, ``weighted avg`` every image.
    """
    scores = per_class(predictions)
    total = sum(score.support for score in scores)
    known = predictions.labelled
    accuracy = float(predictions.correct[known].double().mean())
    width = max(len("weighted avg"), *(len(score.name) for score in scores))

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:>{width}} " + "".join(f" {cell:>9}" for cell in cells)

    def numbers(values: Sequence[float], support: int) -> list[str]:
        return [*(f"{value:.{digits}f}" for value in values), str(support)]

    rows = [(score.precision, score.recall, score.f1) for score in scores]
    lines = [line("", ("precision", "recall", "f1-score", "support")), ""]
    for score, values in zip(scores, rows, strict=True):
        lines.append(line(score.name, numbers(values, score.support)))
    lines += ["", line("accuracy", ["", "", *numbers([accuracy], total)])]
    equal = [1 / len(scores)] * len(scores)
    by_support = [score.support / max(total, 1) for score in scores]
    for name, weights in (("macro avg", equal), ("weighted avg", by_support)):
        means = [
            sum(weight * value for weight, value in zip(weights, column, strict=True))
            for column in zip(*rows, strict=True)
        ]
        lines.append(line(name, numbers(means, total)))
    return "\n".join(lines) + "\n"
