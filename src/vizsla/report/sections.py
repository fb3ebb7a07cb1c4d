"""Predictions, metrics and a table in; the values that the page's templates print out, already in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vizsla.evaluate.metrics import ClassScore, Metric, per_class
from vizsla.text import duration_text, percent_range, percent_text
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vizsla.evaluate.predictions import HistoryPoint, Predictions

_EMPTY = "\u2013"


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
class ClassRow:
    """A class's scores in words, its recall with interval in percent, for the bar, and the numbers to sort by.

    Attributes:
        name: The class.
        support: Pictures that have the label.
        recall: In words, as are the next four.
        recall_interval: Empty where there are no pictures.
        precision: A dash where the class was never predicted.
        precision_interval: Empty there.
        f1: A dash where the class neither occurs nor is predicted.
        bar: Low end, high end and value of the recall, in percent.
        keys: Recall, precision and F1 as numbers; -1 where they are not known.
    """

    name: str
    support: int
    recall: str
    recall_interval: str
    precision: str
    precision_interval: str
    f1: str
    bar: tuple[float, float, float]
    keys: tuple[float, float, float]


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
            precision_interval=percent_range(*score.precision_interval)
            if score.num_predicted
            else "",
            f1=f"{score.f1:.3f}" if score.support or score.num_predicted else _EMPTY,
            bar=(
                round(100 * score.recall_interval[0], 2),
                round(100 * score.recall_interval[1], 2),
                round(100 * score.recall, 2),
            ),
            keys=(
                round(score.recall, 6) if score.support else -1.0,
                round(score.precision, 6) if score.num_predicted else -1.0,
                round(score.f1, 6) if score.support or score.num_predicted else -1.0,
            ),
        )
        for score in sorted(per_class(predictions), key=order)
    )


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
