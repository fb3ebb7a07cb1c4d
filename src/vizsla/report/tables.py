"""Tables of the report: what each metric is called and says, the headline, the classes in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.evaluate.metrics import ClassScore, Metric, per_class
from vizsla.text import number_range, number_text, percent_range, percent_text
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.predictions import Predictions

NOT_KNOWN = "not known"

# name: (title, what it says, whether it is a share 0-1 shown in percent)
_WORDS = {
    "accuracy": ("Accuracy", "Share of images whose class was found.", True),
    "error_rate": ("Error rate", "Share of images whose class was missed.", True),
    "top_5_accuracy": (
        "Top-5 accuracy",
        "Share of images whose class is among the five likeliest.",
        True,
    ),
    "balanced_accuracy": (
        "Balanced accuracy",
        "Mean recall of the classes; each class counts the same.",
        True,
    ),
    "macro_f1": ("Macro F1", "Mean F1 of the classes; 1 is perfect.", False),
    "macro_precision": (
        "Macro precision",
        "Mean precision of the classes; each class counts the same.",
        True,
    ),
    "roc_auc": (
        "ROC AUC",
        "Chance that an image of a class ranks above one of another; 0.5 is guessing, 1 perfect.",
        False,
    ),
    "log_loss": ("Log loss", "Mean surprise at the right answer, in nats; 0 is perfect.", False),
    "brier": (
        "Brier score",
        "Squared distance of probabilities from the truth; 0 is perfect, 2 the worst.",
        False,
    ),
    "expected_calibration_error": (
        "Calibration error",
        "Mean gap between stated probability and actual share of right answers.",
        True,
    ),
    "exact_match": (
        "Exact match",
        "Share of images of which all labels were found and no other.",
        True,
    ),
    "accuracy_multi": (
        "Accuracy of decisions",
        "Share of right decisions, one for each image and label.",
        True,
    ),
    "hamming_loss": (
        "Hamming loss",
        "Share of wrong decisions, one for each image and label.",
        True,
    ),
    "micro_f1": (
        "Micro F1",
        "F1 of all decisions together; frequent labels count more. 1 is perfect.",
        False,
    ),
    "mean_average_precision": (
        "Mean average precision",
        "Mean over the labels of the precision at each image that has the label; 1 is perfect.",
        False,
    ),
    "mae": ("Mean absolute error", "Mean distance of the answers from the numbers.", False),
    "rmse": (
        "Root mean squared error",
        "As the mean absolute error, with large errors counting more.",
        False,
    ),
    "r2": (
        "R\u00b2",
        "Share of the spread of the numbers that the answers explain; 1 is perfect.",
        False,
    ),
}
_WILSON = frozenset({"accuracy", "error_rate", "top_5_accuracy", "exact_match"})
_INFLUENCE = frozenset({"roc_auc", "mean_average_precision"})


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """A metric in words."""

    title: str
    description: str
    value: str
    interval: str


def metric_rows(metrics: Sequence[Metric]) -> tuple[MetricRow, ...]:
    """Put metrics into words; a name that is not one of ours is shown as it is."""
    rows: list[MetricRow] = []
    for metric in metrics:
        title, description, is_share = _WORDS.get(
            metric.name, (metric.name.replace("_", " ").capitalize(), "", False)
        )
        value, interval = (
            (percent_text(metric.value), percent_range(metric.low, metric.high))
            if is_share
            else (number_text(metric.value), number_range(metric.low, metric.high))
        )
        # When all resamples agree they say nothing; an interval without width would say "certain".
        if metric.low == metric.high:
            interval = NOT_KNOWN
        rows.append(MetricRow(title=title, description=description, value=value, interval=interval))
    return tuple(rows)


def metric_text(metric: Metric) -> tuple[str, str, str]:
    """Return title, value and interval of a metric as ``metric_rows`` writes them.

    Examples:
        >>> from vizsla.evaluate.metrics import Metric
        >>> metric_text(Metric(name="rmse", value=2.0, low=1.5, high=2.5, num_pictures=9))
        ('Root mean squared error', '2.000', '1.500\u20132.500')
    """
    (row,) = metric_rows([metric])
    return row.title, row.value, row.interval


def interval_methods(metrics: Sequence[Metric]) -> str:
    """Return where the intervals of these metrics come from, in words that end a sentence, without its full stop."""
    named = {
        "Wilson\u2019s interval for shares of images": _WILSON,
        "the pull of each image (DeLong) for measures of rank": _INFLUENCE,
    }
    parts = [text for text, names in named.items() if any(each.name in names for each in metrics)]
    if any(each.name not in _WILSON | _INFLUENCE for each in metrics):
        parts.append("1,000 resamples of the images" + (" for the others" if parts else ""))
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The accuracy in words; ``baseline`` is what answering with the most frequent class would reach."""

    accuracy: str
    interval: str
    num_correct: int
    num_pictures: int
    baseline: str
    baseline_class: str


def headline(predictions: Predictions, *, metric: Metric) -> Headline:
    """Put the accuracy and the naive baseline into words."""
    labelled = predictions.targets[predictions.targets != UNLABELLED]
    supports = torch.bincount(labelled, minlength=len(predictions.vocab))
    most_frequent = int(supports.argmax())
    return Headline(
        accuracy=percent_text(metric.value),
        interval=percent_range(metric.low, metric.high),
        num_correct=int(predictions.correct.sum()),
        num_pictures=metric.num_pictures,
        baseline=percent_text(int(supports[most_frequent]) / metric.num_pictures),
        baseline_class=predictions.vocab[most_frequent],
    )


def sorted_classes(predictions: Predictions) -> list[ClassScore]:
    """Return the scores of each class, the one that is found least first; classes without images come last."""
    return sorted(per_class(predictions), key=lambda score: (score.support == 0, score.recall))
