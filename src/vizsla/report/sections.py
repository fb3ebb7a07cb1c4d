"""Predictions, metrics and a table in; the values that the page's templates print out, already in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.evaluate.interpret import confusion_matrix, confusion_shares, most_confused
from vizsla.evaluate.metrics import ClassScore, Metric, per_class
from vizsla.report.texts import (
    duration_text,
    number_range,
    number_text,
    percent_range,
    percent_text,
)
from vizsla.report.thumbnails import Thumbnail, make_thumbnail
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vizsla.evaluate.predictions import HistoryPoint, Predictions
    from vizsla.types import PictureTable

LARGEST_MATRIX = 40
NUM_SHADES = 8
NOT_KNOWN = "not known"
_EMPTY = "\u2013"

# name: (title, what it says, whether it is a share 0-1 shown in percent)
_METRIC_WORDS = {
    "accuracy": ("Accuracy", "Share of pictures whose class was found.", True),
    "error_rate": ("Error rate", "Share of pictures whose class was missed.", True),
    "balanced_accuracy": (
        "Balanced accuracy",
        "Mean recall of the classes; each class counts the same.",
        True,
    ),
    "macro_f1": ("Macro F1", "Mean F1 of the classes; 1 is perfect.", False),
    "log_loss": (
        "Log loss",
        "Mean surprise at the right answer, in nats; 0 is perfect.",
        False,
    ),
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
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The accuracy in words; ``baseline`` is what answering with the most frequent class would reach."""

    accuracy: str
    interval: str
    num_correct: int
    num_pictures: int
    baseline: str
    baseline_class: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """A metric in words."""

    title: str
    description: str
    value: str
    interval: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRow:
    """A class's scores in words, and its recall with interval in percent, for the bar."""

    name: str
    support: int
    recall: str
    recall_interval: str
    precision: str
    f1: str
    bar: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of the confusion matrix; ``shade`` is a class of the style sheet."""

    text: str
    shade: str
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixRow:
    """A row of the confusion matrix: an actual class."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Two classes that were mixed up."""

    actual: str
    predicted: str
    count: int
    share: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A picture with what was said about it; ``verdict`` is right, wrong or empty without a label."""

    path: str
    thumbnail: Thumbnail
    label: str
    label_probability: str
    prediction: str
    probability: str
    verdict: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRow:
    """An epoch in words."""

    stage: str
    num_pictures: str
    epoch: int
    train_loss: str
    valid_loss: str
    accuracy: str
    time: str


def headline(predictions: Predictions, *, metric: Metric) -> Headline:
    """Put the accuracy and the naive baseline into words.

    Args:
        predictions: At least one labelled picture.
        metric: Their accuracy.
    """
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


def metric_rows(metrics: Sequence[Metric]) -> tuple[MetricRow, ...]:
    """Put metrics into words; a name that is not one of ours is shown as it is."""
    rows: list[MetricRow] = []
    for metric in metrics:
        title, description, is_share = _METRIC_WORDS.get(
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


def class_rows(predictions: Predictions) -> tuple[ClassRow, ...]:
    """Return a row for each class, the one that is found least first; classes without pictures come last."""

    def order(score: ClassScore) -> tuple[bool, float]:
        return score.support == 0, score.recall

    return tuple(
        ClassRow(
            name=score.name,
            support=score.support,
            recall=percent_text(score.recall) if score.support else _EMPTY,
            recall_interval=percent_range(*score.recall_interval) if score.support else "",
            precision=percent_text(score.precision) if score.num_predicted else _EMPTY,
            f1=f"{score.f1:.3f}" if score.support or score.num_predicted else _EMPTY,
            bar=(
                round(100 * score.recall_interval[0], 2),
                round(100 * score.recall_interval[1], 2),
                round(100 * score.recall, 2),
            ),
        )
        for score in sorted(per_class(predictions), key=order)
    )


def matrix_rows(predictions: Predictions) -> tuple[MatrixRow, ...]:
    """Return the confusion matrix, or nothing where it has more than 40 classes and could not be read."""
    vocab = predictions.vocab
    if len(vocab) > LARGEST_MATRIX:
        return ()
    counts: list[list[int]] = confusion_matrix(predictions).tolist()
    shares: list[list[float]] = confusion_shares(predictions).tolist()
    return tuple(
        MatrixRow(
            name=vocab[actual],
            cells=tuple(
                Cell(
                    text=str(count) if count or len(vocab) <= 10 else "",
                    shade=_shade(shares[actual][predicted], is_right=actual == predicted),
                    hint=f"{vocab[actual]} \u2192 {vocab[predicted]}" if count else "",
                )
                for predicted, count in enumerate(row)
            ),
        )
        for actual, row in enumerate(counts)
    )


def confused_pairs(predictions: Predictions, *, limit: int) -> tuple[ConfusedPair, ...]:
    """Return the most frequent confusions with their share of the label's pictures, at most ``limit``."""
    supports = confusion_matrix(predictions).sum(dim=1).tolist()
    support_of = dict(zip(predictions.vocab, supports, strict=True))
    return tuple(
        ConfusedPair(
            actual=actual,
            predicted=predicted,
            count=count,
            share=percent_text(count / support_of[actual]),
        )
        for actual, predicted, count in most_confused(predictions)[:limit]
    )


def cards(predictions: Predictions, *, table: PictureTable, positions: Tensor) -> tuple[Card, ...]:
    """Return a card with a thumbnail for each position.

    Args:
        predictions: What was said.
        table: Where the files are; looked up by the row of the prediction.
        positions: int64 positions into ``predictions``.
    """
    probabilities = predictions.logits[positions].softmax(dim=1)
    chosen: list[Card] = []
    for position, shares in zip(positions.tolist(), probabilities, strict=True):
        target, predicted = (
            int(predictions.targets[position]),
            int(predictions.logits[position].argmax()),
        )
        known = target != UNLABELLED
        chosen.append(
            Card(
                path=predictions.paths[position],
                thumbnail=make_thumbnail(table.paths[int(predictions.rows[position])]),
                label=predictions.label(position),
                label_probability=percent_text(float(shares[target])) if known else "",
                prediction=predictions.vocab[predicted],
                probability=percent_text(float(shares[predicted])),
                verdict=("right" if target == predicted else "wrong") if known else "",
            )
        )
    return tuple(chosen)


def history_rows(history: Sequence[HistoryPoint]) -> tuple[HistoryRow, ...]:
    """Put the epochs into words."""

    def loss(value: float | None) -> str:
        return _EMPTY if value is None else f"{value:.4f}"

    return tuple(
        HistoryRow(
            stage=point.stage,
            num_pictures="" if point.num_pictures is None else f"{point.num_pictures:,}",
            epoch=point.epoch,
            train_loss=loss(point.train_loss),
            valid_loss=loss(point.valid_loss),
            accuracy=_EMPTY if point.accuracy is None else percent_text(point.accuracy),
            time=duration_text(point.seconds),
        )
        for point in history
    )


def _shade(share: float, *, is_right: bool) -> str:
    """Return the style class of a cell; mistakes are few, so a square root makes small shares visible."""
    if share <= 0:
        return ""
    strength = share if is_right else share**0.5
    return f"{'right' if is_right else 'wrong'}-{max(1, round(NUM_SHADES * strength))}"
