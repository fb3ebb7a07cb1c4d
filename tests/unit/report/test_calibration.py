"""Calibration: the plot's bins and what is said of them."""

from __future__ import annotations

import pytest
import torch

from vizsla.evaluate.metrics import measure
from vizsla.evaluate.predictions import Predictions
from vizsla.report.calibration import calibration_of
from vizsla.text import percent_text


def predictions(confidence: float, *, num_right: int, number: int) -> Predictions:
    """Return pictures that are all stated with the same confidence, so many of which are right."""
    logit = torch.logit(torch.tensor(confidence))
    targets = torch.zeros(number, dtype=torch.int64)
    targets[num_right:] = 1
    return Predictions(
        rows=torch.arange(number),
        paths=tuple(f"{place}.jpg" for place in range(number)),
        logits=torch.stack([logit.expand(number), torch.zeros(number)], dim=1),
        targets=targets,
        vocab=("a", "b"),
    )


def test_a_bin_stands_where_its_confidence_and_accuracy_are():
    found = calibration_of(predictions(0.9, num_right=75, number=100))
    assert found is not None
    (point,) = found.points
    assert (point.x, point.y) == (pytest.approx(44 + 264 * 0.9), pytest.approx(284 - 264 * 0.75))
    assert point.low > point.y > point.high
    assert point.hint == "stated 90.0\u202f%, right 75.0\u202f% of 100"


def test_sureness_beyond_chance_is_told_and_a_temperature_mends_it():
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


def test_the_error_is_the_metric_of_that_name():
    draws = torch.Generator().manual_seed(1)
    targets = torch.arange(80) % 4
    shown = Predictions(
        rows=torch.arange(80),
        paths=tuple(str(place) for place in range(80)),
        logits=torch.randn(80, 4, generator=draws) + 2 * torch.eye(4)[targets],
        targets=targets,
        vocab=tuple("abcd"),
    )
    found = calibration_of(shown)
    assert found is not None
    assert found.before == percent_text(measure(shown, "expected_calibration_error").value)
    assert found.kept == ""


def test_few_pictures_have_a_plot_and_no_temperature():
    found = calibration_of(predictions(0.9, num_right=3, number=4))
    assert found is not None
    assert (found.before, found.after, found.temperature) == ("", "", "")
    assert len(found.points) == 1
    assert found.verdict.endswith("which chance alone can explain.")
