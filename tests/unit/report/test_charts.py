"""Charts: everything drawn lies inside and in the right order; ticks are round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vizsla import Predictions
from vizsla.evaluate import HistoryPoint, measure
from vizsla.evaluate.metrics import Metric
from vizsla.report import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    accuracy_scale,
    calibration_of,
    learning_curves,
    nice_values,
)
from vizsla.text import percent_text


def accuracy_of(value: float, low: float, high: float) -> Metric:
    return Metric(name="accuracy", value=value, low=low, high=high, num_pictures=100)


def points(
    *figures: tuple[float | None, float | None, float | None], stage: str = "head"
) -> tuple[HistoryPoint, ...]:
    return tuple(
        HistoryPoint(stage=stage, epoch=epoch, train_loss=train, valid_loss=valid, accuracy=right)
        for epoch, (train, valid, right) in enumerate(figures)
    )


def test_ticks_are_round():
    for low, high, count, values in (
        (0.0, 1.0, 5, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.82, 0.93, 5, (0.825, 0.85, 0.875, 0.9, 0.925)),
        (3.0, 11.0, 4, (4.0, 6.0, 8.0, 10.0)),
        (-30.0, 120.0, 3, (0.0, 50.0, 100.0)),
    ):
        assert nice_values(low, high, count=count) == pytest.approx(values)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(1, 10))
def test_ticks_lie_inside_and_are_never_too_many(low: float, span: float, count: int):
    high = low + span
    values = nice_values(low, high, count=count)
    assert len(values) <= count + 1
    assert all(low - 1e-6 * span <= value <= high + 1e-6 * span for value in values)


@given(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted),
    st.lists(st.floats(0, 1), max_size=4),
)
def test_the_scale_keeps_order_and_bounds(values: list[float], others: list[float]):
    low, value, high = values
    references = [(str(number), other) for number, other in enumerate(others)]
    scale = accuracy_scale(accuracy_of(value, low, high), references=references)
    assert 0 <= scale.low <= scale.place <= scale.high <= 100
    assert all(0 <= reference.place <= 100 for reference in scale.references)
    assert all(-0.001 <= tick.place <= 100.001 for tick in scale.ticks)
    assert len(scale.ticks) >= 1


def test_references_say_where_they_lie_to_the_interval():
    references = (("SVM", 0.8244), ("CNN", 0.8842), ("human", 0.99))
    scale = accuracy_scale(accuracy_of(0.874, 0.846, 0.898), references=references)
    assert [(reference.value, reference.verdict) for reference in scale.references] == [
        ("82.44\u202f%", "below this run's interval"),
        ("88.42\u202f%", "within this run's interval: too close to call"),
        ("99.00\u202f%", "above this run's interval"),
    ]
    assert [tick.text for tick in scale.ticks] == [f"{n}\u202f%" for n in (85, 90, 95, 100)]


def test_curves_go_down_when_the_loss_does():
    loss, accuracy = learning_curves(points((2.0, 1.5, 0.5), (1.0, 1.0, 0.75), (0.5, 0.75, 1.0)))
    assert (loss.title, accuracy.title) == ("Loss", "Validation accuracy, %")
    assert [line.name for line in loss.lines] == ["train", "valid"]
    heights = [y for _, y in loss.lines[0].dots]
    assert heights == sorted(heights)  # SVG counts downwards
    assert [tick.text for tick in accuracy.y_ticks] == ["60", "80", "100"]
    assert [tick.text for tick in accuracy.x_ticks] == ["1", "2", "3"]


def test_fits_of_the_head_and_epochs_after_them_have_axes_of_their_own():
    figures = points(*[(0.8, 0.9, 0.5)] * 3)
    fits = [replace(point, num_pictures=50 * 2**point.epoch) for point in figures]
    panels = learning_curves((*fits, *points(*[(0.5, 0.6, 0.7)] * 4, stage="end to end")))
    assert [panel.title for panel in panels] == ["Loss", "Validation accuracy, %"] * 2
    axes = [[tick.text for tick in panel.x_ticks] for panel in panels[::2]]
    assert axes == [["50", "100", "200"], ["0", "1", "2", "3", "4"]]
    assert "images" in panels[0].x_label
    assert "epoch" in panels[2].x_label
    assert len(panels[2].lines[0].dots) == 4  # the training loss of the head is another one
    assert len(panels[2].lines[1].dots) == 5


def test_a_missing_or_infinite_figure_leaves_a_gap():
    history = points(
        (1.0, None, None), (float("nan"), None, None), (0.5, None, None), (0.4, None, None)
    )
    (loss,) = learning_curves(history)
    (line,) = loss.lines
    assert len(line.pieces) == 1
    assert len(line.pieces[0].split()) == 2
    assert len(line.dots) == 3


def test_what_was_not_measured_twice_is_not_drawn():
    for history in ((), points((1.0, 1.0, 0.5)), points((None, None, None)) * 3):
        assert learning_curves(history) == ()


def test_a_constant_accuracy_is_drawn_between_0_and_100():
    for share in (0.0, 0.5, 1.0):
        (accuracy,) = learning_curves(points((None, None, share), (None, None, share)))
        heights = {y for _, y in accuracy.lines[0].dots}
        assert len(heights) == 1
        assert 0 < heights.pop() < PANEL_HEIGHT
        ticks = [float(tick.text) for tick in accuracy.y_ticks]
        assert len(ticks) > 1
        assert 0 <= min(ticks) <= 100 * share <= max(ticks) <= 100


def test_stages_are_marked_and_named_where_there_is_room():
    long = points(*[(1.0, 1.0, 0.5), (0.5, 0.6, 0.6)] * 5, stage="whole network")
    (loss, _) = learning_curves((*points((None, 0.9, 0.4), stage="features"), *long))
    assert [stage.text for stage in loss.stages] == ["", "whole network"]
    assert loss.stages[0].place < loss.lines[1].dots[0][0] < loss.stages[1].place


def test_a_long_history_has_lines_without_dots_and_few_ticks():
    history = points(*[(1 / (epoch + 1), None, None) for epoch in range(300)])
    (loss,) = learning_curves(history)
    assert loss.lines[0].dots == ()
    assert len(loss.x_ticks) <= 8
    for place in loss.lines[0].pieces[0].split():
        x, y = map(float, place.split(","))
        assert 0 < x < PANEL_WIDTH
        assert 0 < y < PANEL_HEIGHT


@pytest.fixture
def predictions(from_logits: Callable[..., Predictions]) -> Callable[..., Predictions]:
    """Return a function for images that all have the same confidence; the first ``num_right`` are right."""

    def make(confidence: float, *, num_right: int, number: int) -> Predictions:
        logit = math.log(confidence / (1 - confidence))
        targets = [0] * num_right + [1] * (number - num_right)
        return from_logits([[logit, 0.0]] * number, targets)

    return make


def test_a_bin_stands_at_confidence_and_accuracy(predictions: Callable[..., Predictions]):
    found = calibration_of(predictions(0.9, num_right=75, number=100))
    assert found is not None
    (point,) = found.points
    assert (point.x, point.y) == (pytest.approx(44 + 264 * 0.9), pytest.approx(284 - 264 * 0.75))
    assert point.low > point.y > point.high
    assert point.hint == "stated 90.0\u202f%, right 75.0\u202f% of 100"


def test_a_temperature_lowers_overconfidence(predictions: Callable[..., Predictions]):
    found = calibration_of(predictions(0.98, num_right=75, number=100), kept=1.5)
    assert found is not None
    assert found.verdict.endswith("it is surer than it should be.")
    assert found.before == "23.0\u202f%"
    assert float(found.temperature) > 2
    assert float(found.after.split("\u202f")[0].strip("< ")) < 10
    assert found.kept == "1.50"
    shy = calibration_of(predictions(0.6, num_right=95, number=100))
    assert shy is not None
    assert shy.verdict.endswith("it is less sure than it could be.")


def test_the_error_is_the_metric_of_that_name(from_logits: Callable[..., Predictions]):
    draws = torch.Generator().manual_seed(1)
    targets = torch.arange(80) % 4
    logits = torch.randn(80, 4, generator=draws) + 2 * torch.eye(4)[targets]
    found = calibration_of(shown := from_logits(logits, targets))
    assert found is not None
    assert found.before == percent_text(measure(shown, "expected_calibration_error").value)
    assert found.kept == ""


def test_few_images_have_a_plot_and_no_temperature(predictions: Callable[..., Predictions]):
    found = calibration_of(predictions(0.9, num_right=3, number=4))
    assert found is not None
    assert (found.before, found.after, found.temperature) == ("", "", "")
    assert len(found.points) == 1
    assert found.verdict.endswith("which chance alone can explain.")
