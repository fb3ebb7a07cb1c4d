"""The table of metrics: what each is called, what it says, and where its interval comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.text import number_range, number_text, percent_range, percent_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.metrics import Metric

NOT_KNOWN = "not known"

# Shown in percent: the title and what it says.
_SHARES = {
    "accuracy": ("Accuracy", "Share of images whose class was found."),
    "error_rate": ("Error rate", "Share of images whose class was missed."),
    "top_5_accuracy": ("Top-5 accuracy", "Share of images whose class is among the five likeliest."),
    "balanced_accuracy": ("Balanced accuracy", "Mean recall of the classes; each class counts the same."),
    "macro_precision": ("Macro precision", "Mean precision of the classes; each class counts the same."),
    "expected_calibration_error": (
        "Calibration error", "Mean gap between stated probability and actual share of right answers."
    ),
    "exact_match": ("Exact match", "Share of images of which all labels were found and no other."),
    "accuracy_multi": ("Accuracy of decisions", "Share of right decisions, one for each image and label."),
    "hamming_loss": ("Hamming loss", "Share of wrong decisions, one for each image and label."),
}  # fmt: skip
_NUMBERS = {
    "macro_f1": ("Macro F1", "Mean F1 of the classes; 1 is perfect."),
    "roc_auc": (
        "ROC AUC", "Chance that an image of a class ranks above one of another; 0.5 is guessing, 1 perfect."
    ),
    "log_loss": ("Log loss", "Mean surprise at the right answer, in nats; 0 is perfect."),
    "brier": ("Brier score", "Squared distance of probabilities from the truth; 0 is perfect, 2 the worst."),
    "micro_f1": ("Micro F1", "F1 of all decisions together; frequent labels count more. 1 is perfect."),
    "mean_average_precision": (
        "Mean average precision", "Mean over the labels of the precision at each image that has the label; 1 is perfect."
    ),
    "mae": ("Mean absolute error", "Mean distance of the answers from the numbers."),
    "rmse": ("Root mean squared error", "As the mean absolute error, with large errors counting more."),
    "r2": ("R\u00b2", "Share of the spread of the numbers that the answers explain; 1 is perfect."),
}  # fmt: skip
_WILSON = frozenset({"accuracy", "error_rate", "top_5_accuracy", "exact_match"})
_INFLUENCE = frozenset({"roc_auc", "mean_average_precision"})


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """A metric in words."""

    title: str
    description: str
    value: str
    interval: str


def metric_row(metric: Metric) -> MetricRow:
    """Put a metric into words; a name that is not one of ours is shown as it is."""
    unknown = (metric.name.replace("_", " ").capitalize(), "")
    title, description = (_SHARES | _NUMBERS).get(metric.name, unknown)
    if metric.name in _SHARES:
        value, interval = percent_text(metric.value), percent_range(metric.low, metric.high)
    else:
        value, interval = number_text(metric.value), number_range(metric.low, metric.high)
    # When all resamples agree they say nothing; an interval without width would say "certain".
    if metric.low == metric.high:
        interval = NOT_KNOWN
    return MetricRow(title=title, description=description, value=value, interval=interval)


def interval_methods(metrics: Sequence[Metric]) -> str:
    """Return where the intervals of these metrics come from, in words that end a sentence, without its full stop."""
    named = {
        "Wilson\u2019s interval for shares of images": _WILSON,
        "DeLong\u2019s method for ROC AUC and average precision": _INFLUENCE,
    }
    parts = [text for text, names in named.items() if any(each.name in names for each in metrics)]
    if any(each.name not in _WILSON | _INFLUENCE for each in metrics):
        parts.append("1,000 resamples of the images" + (" for the others" if parts else ""))
    return ", ".join(parts)
