"""Predictions in, how far their probabilities can be trusted out: a reliability plot, and what one temperature would mend.

Bins of confidence against the share of right answers: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks",
ICML 2017. The temperature and the error with it are those of ``export/calibration.py``, cross-fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vizsla.evaluate.calibration import NUM_CALIBRATION_BINS, calibrate
from vizsla.evaluate.statistics import wilson_interval
from vizsla.text import percent_text

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.evaluate.predictions import Predictions

SIDE = 320.0
_LEFT, _BOTTOM, _LENGTH = 44.0, 284.0, 264.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityPoint:
    """A bin of confidence: where it stands in the plot, and what it holds, in words."""

    x: float
    y: float
    low: float
    high: float
    radius: float
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The plot and its numbers in words.

    Attributes:
        points: Bins that hold pictures, in a square of 320 units.
        before: Calibration error of the probabilities as they are; empty where pictures are too few, as are the next two.
        after: The same after the logits were divided by the temperature, cross-fitted.
        temperature: What logits would be divided by, fitted on all pictures; 1 where that does not help.
        kept: The temperature in the model file; empty where it is not known.
        verdict: What it comes to.
    """

    points: tuple[ReliabilityPoint, ...]
    before: str
    after: str
    temperature: str
    kept: str
    verdict: str


def calibration_of(predictions: Predictions, *, kept: float | None = None) -> Calibration | None:
    """Return what the page shows of calibration.

    Args:
        predictions: One class per picture; None is returned for other tasks and without labels.
        kept: The temperature in the model file, if there is one.
    """
    if predictions.task != "category" or not predictions.labelled.any():
        return None
    known = predictions.labelled
    logits, targets = predictions.logits[known].double(), predictions.targets[known]
    fitted = calibrate(predictions)
    return Calibration(
        points=_points(logits, targets),
        before="" if fitted is None else percent_text(fitted.error_before),
        after="" if fitted is None else percent_text(fitted.error_after),
        temperature="" if fitted is None else f"{fitted.temperature:.2f}",
        kept="" if kept is None else f"{kept:.2f}",
        verdict=_lean(logits, targets),
    )


def _points(logits: Tensor, targets: Tensor) -> tuple[ReliabilityPoint, ...]:
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    # Bins are (0, 1/15], (1/15, 2/15], ..., as in the calibration error.
    bins = (confidence * NUM_CALIBRATION_BINS).ceil().long().clamp(min=1) - 1
    hits = predicted == targets
    points: list[ReliabilityPoint] = []
    for index in bins.unique().tolist():
        inside = bins == index
        number, right = int(inside.sum()), int(hits[inside].sum())
        low, high = wilson_interval(right, number)
        mean = float(confidence[inside].mean())
        points.append(
            ReliabilityPoint(
                x=round(_LEFT + _LENGTH * mean, 2),
                y=_place(right / number),
                low=_place(low),
                high=_place(high),
                radius=round(2.5 + 5.5 * math.sqrt(number / len(targets)), 2),
                hint=f"stated {percent_text(mean)}, right {percent_text(right / number)} of {number:,}",
            )
        )
    return tuple(points)


def _place(share: float) -> float:
    return round(_BOTTOM - _LENGTH * share, 2)


def _lean(logits: Tensor, targets: Tensor) -> str:
    """Say whether the probabilities are too high or too low on the whole, where chance does not explain it."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    right = int((predicted == targets).sum())
    low, high = wilson_interval(right, len(targets))
    mean, share = float(confidence.mean()), right / len(targets)
    stated = f"On average the network states {percent_text(mean)} and {percent_text(share)} of its answers are right"
    if mean > high:
        return f"{stated}: it is surer than it should be."
    if mean < low:
        return f"{stated}: it is less sure than it could be."
    return f"{stated}, which chance alone can explain."
