"""Predictions in, what can be measured out: the targets and outputs of the pictures whose label is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions
    from vizsla.types import Task

_METRICS_OF = {
    "category": "vizsla.evaluate.metrics",
    "multi_category": "vizsla.evaluate.multi_label",
    "regression": "vizsla.evaluate.regression",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labelled:
    """The pictures of some predictions whose label is known, N of them, at least one.

    Attributes:
        logits: float32 ``(N, C)``.
        targets: As the predictions have them, without those that are not known.
        predicted: Likewise.
    """

    logits: Tensor
    targets: Tensor
    predicted: Tensor


def labelled_part(predictions: Predictions, *, task: Task) -> Labelled:
    """Return the part of the predictions that has labels.

    Args:
        predictions: Any.
        task: What the caller measures.

    Raises:
        ConfigError: The predictions are of another task.
        DataError: No picture has a label.
    """
    if predictions.task != task:
        raise ConfigError(
            f"This metric measures predictions of the task {task!r}. Received: predictions of the task "
            f"{predictions.task!r}. The metrics for those are in {_METRICS_OF[predictions.task]}; "
            "vizsla.evaluate.metrics.summarise chooses by itself."
        )
    labelled = predictions.labelled
    if not labelled.any():
        raise DataError(
            f"None of the {len(predictions.paths)} pictures has a label, so nothing can be measured. "
            "Give pictures whose labels are known, for example the validation split."
        )
    if labelled.all():
        return Labelled(
            logits=predictions.logits, targets=predictions.targets, predicted=predictions.predicted
        )
    return Labelled(
        logits=predictions.logits[labelled],
        targets=predictions.targets[labelled],
        predicted=predictions.predicted[labelled],
    )


def undefined(name: str, *, why: str) -> DataError:
    """Return the error for a metric that these pictures do not define.

    Args:
        name: Of the metric.
        why: What the pictures lack, as it ends "... is not defined for these pictures: ".
    """
    return DataError(
        f"{name} is not defined for these pictures: {why}. Measure more pictures, or another metric."
    )
