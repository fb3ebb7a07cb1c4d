"""Positions and tick texts of the report's charts: accuracy scale, learning curves, reliability.

Colours and fonts stay in the style sheet, so the charts follow light, dark and print like the rest of the page.

Bins of confidence against the share of right answers: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks",
ICML 2017. The temperature and the error with it are those of ``evaluate/calibration.py``, cross-fitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vizsla.evaluate.calibration import calibrate, reliability
from vizsla.evaluate.statistics import wilson_interval
from vizsla.text import percent_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vizsla.evaluate.metrics import Metric
    from vizsla.evaluate.predictions import HistoryPoint, Predictions

PANEL_WIDTH, PANEL_HEIGHT = 400.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 390.0, 26.0, 204.0
_LETTER_WIDTH = 6.6
_STEPS = (1.0, 2.0, 2.5, 5.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    place: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A published number beside this run's accuracy; ``place`` is in percent of the width of the scale."""

    name: str
    value: str
    place: float
    verdict: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyScale:
    """This run's interval and the references on one line; places are in percent of its width."""

    place: float
    low: float
    high: float
    references: tuple[Reference, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve of a panel: connected points as SVG writes them, and where its dots are."""

    name: str
    pieces: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One chart over training images or epochs; places are in the units of a 400 by 250 view box.

    Attributes:
        title: What is drawn.
        lines: Its curves.
        x_ticks: Numbers of images, or of epochs.
        y_ticks: Values.
        x_label: What the ticks below count.
        stages: Where a stage begins and its name, empty where there is no room for it.
    """

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    stages: tuple[Tick, ...]


def nice_step(span: float, *, count: int) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that divides ``span`` into at most ``count`` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    enough = (1 - 1e-9) * span / count
    return next((step * power for step in _STEPS if step * power >= enough), 10 * power)


def nice_values(low: float, high: float, *, count: int) -> tuple[float, ...]:
    """Return the round numbers from ``low`` to ``high`` (``low < high``), at most ``count + 1`` of them."""
    step = nice_step(high - low, count=count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(number * step for number in range(first, last + 1))


def accuracy_scale(metric: Metric, *, references: Sequence[tuple[str, float]]) -> AccuracyScale:
    """Lay an accuracy, its interval and published numbers out on one scale."""
    values = (metric.low, metric.high, *(value for _, value in references))
    margin = max(0.01, 0.12 * (max(values) - min(values)))
    start, end = max(0.0, min(values) - margin), min(1.0, max(values) + margin)

    def place(value: float) -> float:
        return round(100 * (value - start) / (end - start), 3)

    ticks = nice_values(start, end, count=5)
    decimals = _decimals(100 * nice_step(end - start, count=5))
    of_share = 1 if all(value == round(value, 3) for _, value in references) else 2
    return AccuracyScale(
        place=place(metric.value),
        low=place(metric.low),
        high=place(metric.high),
        references=tuple(
            Reference(
                name=name,
                value=percent_text(value, decimals=of_share),
                place=place(value),
                verdict=_verdict(metric, value=value),
            )
            for name, value in references
        ),
        ticks=tuple(
            Tick(place=place(value), text=f"{100 * value:.{decimals}f}\u202f%") for value in ticks
        ),
    )


def learning_curves(history: Sequence[HistoryPoint]) -> tuple[Panel, ...]:
    """Return panels of the losses and the accuracy, leaving out what was not measured twice.

    The fits of the head on more and more images have panels of their own; epochs after them begin at 0 with the last fit.
    """
    fits = [point for point in history if point.num_pictures is not None]
    epochs = [point for point in history if point.num_pictures is None]
    over_images = _panels(
        fits, [f"{point.num_pictures:,}" for point in fits], x_label="training images used"
    )
    if not epochs:
        return over_images
    numbers = range(0 if fits else 1, len(epochs) + 1)
    step = max(1, math.ceil(nice_step(len(epochs), count=8)))
    x_label = "epoch (0: the head on frozen features)" if fits else "epoch"
    ticks = [str(number) if number % step == 0 else "" for number in numbers]
    # The head's training loss leaves each image out, that of epochs does not.
    start = [replace(point, train_loss=None) for point in fits[-1:]]
    return (*over_images, *_panels([*start, *epochs], ticks, x_label=x_label))


def _panels(
    history: Sequence[HistoryPoint], ticks: Sequence[str], *, x_label: str
) -> tuple[Panel, ...]:
    """Return a panel of the losses and one of the accuracy; ``ticks`` says what stands below each point, if anything."""
    panels = (
        _panel(
            history,
            ticks,
            x_label=x_label,
            title="Loss",
            series={
                "train": [point.train_loss for point in history],
                "valid": [point.valid_loss for point in history],
            },
            unit=1.0,
            largest=math.inf,
        ),
        _panel(
            history,
            ticks,
            x_label=x_label,
            title="Validation accuracy, %",
            series={"accuracy": [point.accuracy for point in history]},
            unit=100.0,
            largest=100.0,
        ),
    )
    return tuple(panel for panel in panels if panel is not None)


def _panel(
    history: Sequence[HistoryPoint],
    ticks: Sequence[str],
    *,
    x_label: str,
    title: str,
    series: dict[str, list[float | None]],
    unit: float,
    largest: float,
) -> Panel | None:
    measured = {
        name: [
            (index, value * unit)
            for index, value in enumerate(values)
            if value is not None and math.isfinite(value)
        ]
        for name, values in series.items()
    }
    values = [value for points in measured.values() for _, value in points]
    if max(map(len, measured.values())) < 2:
        return None
    margin = 0.06 * (max(values) - min(values)) or max(0.05 * abs(values[0]), 0.01)
    low, high = max(0.0, min(values) - margin), min(largest, max(values) + margin)

    def x_place(index: int) -> float:
        return round(_LEFT + 10 + (_RIGHT - _LEFT - 20) * index / max(len(history) - 1, 1), 2)

    def y_place(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 2)

    decimals = _decimals(nice_step(high - low, count=5))
    return Panel(
        title=title,
        lines=tuple(
            _line(name, [(index, x_place(index), y_place(value)) for index, value in points])
            for name, points in measured.items()
            if points
        ),
        x_ticks=tuple(
            Tick(place=x_place(index), text=text) for index, text in enumerate(ticks) if text
        ),
        y_ticks=tuple(
            Tick(place=y_place(value), text=f"{value:.{decimals}f}")
            for value in nice_values(low, high, count=5)
        ),
        x_label=x_label,
        stages=_stages([point.stage for point in history], x_places=x_place),
    )


def _line(name: str, points: Sequence[tuple[int, float, float]]) -> Line:
    """Connect the points of neighbouring epochs. ``points`` are (epoch index, x, y)."""
    pieces: list[list[tuple[float, float]]] = []
    before = None
    for index, x, y in points:
        if before is None or index != before + 1:
            pieces.append([])
        pieces[-1].append((x, y))
        before = index
    dots = [(x, y) for _, x, y in points]
    if len(dots) > 40:  # a dot for each would hide the line; only lonely points need one
        dots = [piece[0] for piece in pieces if len(piece) == 1]
    return Line(
        name=name,
        pieces=tuple(" ".join(f"{x},{y}" for x, y in piece) for piece in pieces if len(piece) > 1),
        dots=tuple(dots),
    )


def _stages(names: Sequence[str], *, x_places: Callable[[int], float]) -> tuple[Tick, ...]:
    """Return where each stage begins, half a step before its first epoch, with its name where that fits."""
    starts = [
        index for index in range(len(names)) if index == 0 or names[index] != names[index - 1]
    ]
    if len(starts) < 2:
        return ()
    places = [_LEFT, *(round((x_places(i - 1) + x_places(i)) / 2, 2) for i in starts[1:]), _RIGHT]
    return tuple(
        Tick(
            place=place,
            text=names[index] if len(names[index]) * _LETTER_WIDTH + 8 < end - place else "",
        )
        for index, place, end in zip(starts, places[:-1], places[1:], strict=True)
    )


def _verdict(metric: Metric, *, value: float) -> str:
    if value < metric.low:
        return "below this run's interval"
    if value > metric.high:
        return "above this run's interval"
    return "within this run's interval: too close to call"


def _decimals(step: float) -> int:
    """Return how many digits a multiple of ``step`` needs after the point, at most 6."""
    exact = (digits for digits in range(6) if abs(round(step, digits) - step) < 1e-9 * step)
    return next(exact, 6)


_SQUARE_LEFT, _SQUARE_BOTTOM, _SQUARE_LENGTH = 44.0, 284.0, 264.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityPoint:
    """A bin of confidence: where it is in the plot, and what it holds, in words."""

    x: float
    y: float
    low: float
    high: float
    radius: float
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationPlot:
    """The plot and its numbers in words.

    Attributes:
        points: Bins that hold images, in a square of 320 units.
        before: Calibration error of the plain probabilities; this and the next two are empty where images are too few.
        after: The same after the logits were divided by the temperature, cross-fitted.
        temperature: What logits would be divided by, fitted on all images; 1 where none helps.
        kept: The temperature in the model file; empty where it is not known.
        verdict: What that means, in a sentence.
    """

    points: tuple[ReliabilityPoint, ...]
    before: str
    after: str
    temperature: str
    kept: str
    verdict: str


def calibration_of(
    predictions: Predictions, *, kept: float | None = None
) -> CalibrationPlot | None:
    """Return what the page shows of calibration; None unless images have one class each and some have a label.

    ``kept`` is the temperature in the model file, if there is one.
    """
    if predictions.task != "category" or not predictions.labelled.any():
        return None
    known = predictions.labelled
    logits, targets = predictions.logits[known].double(), predictions.targets[known]
    fitted = calibrate(predictions)
    return CalibrationPlot(
        points=_points(predictions),
        before="" if fitted is None else percent_text(fitted.error_before),
        after="" if fitted is None else percent_text(fitted.error_after),
        temperature="" if fitted is None else f"{fitted.temperature:.2f}",
        kept="" if kept is None else f"{kept:.2f}",
        verdict=_lean(logits, targets),
    )


def _points(predictions: Predictions) -> tuple[ReliabilityPoint, ...]:
    total = int(predictions.labelled.sum())
    return tuple(
        ReliabilityPoint(
            x=round(_SQUARE_LEFT + _SQUARE_LENGTH * one.stated, 2),
            y=_place(one.share_right),
            low=_place(one.low),
            high=_place(one.high),
            radius=round(2.5 + 5.5 * math.sqrt(one.num_answers / total), 2),
            hint=f"stated {percent_text(one.stated)}, right {percent_text(one.share_right)} of {one.num_answers:,}",
        )
        for one in reliability(predictions)
    )


def _place(share: float) -> float:
    return round(_SQUARE_BOTTOM - _SQUARE_LENGTH * share, 2)


def _lean(logits: Tensor, targets: Tensor) -> str:
    """Say whether the probabilities are too high or too low overall, beyond what chance explains."""
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
