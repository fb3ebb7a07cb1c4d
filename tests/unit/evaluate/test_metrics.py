"""Metrics: values against scikit-learn and recorded ones, intervals against scipy and theory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate import metrics
from vizsla.evaluate.metrics import per_class, summarise, wilson_interval
from vizsla.evaluate.predictions import Predictions
from vizsla.types import UNLABELLED

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
Maker = Callable[..., Predictions]


def values(predictions: Predictions) -> dict[str, float]:
    return {metric.name: metric.value for metric in summarise(predictions)}


@given(st.data())
def test_wilson_agrees_with_scipy(data: st.DataObject):
    trials = data.draw(st.integers(1, 5000))
    successes = data.draw(st.integers(0, trials))
    level = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    expected = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    low, high = wilson_interval(successes, trials, level=level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / trials <= high <= 1


def test_wilson_knows_nothing_without_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_wilson_refuses_impossible_counts(successes: int, trials: int, level: float):
    with pytest.raises(ConfigError, match=f"successes={successes}, trials={trials}, level={level}"):
        wilson_interval(successes, trials, level=level)


def test_values_agree_with_recorded_ones(from_logits: Maker):
    case = GOLDEN["metrics"]
    got = values(from_logits(case["logits"], case["targs"]))
    expected = case["multiclass"]
    assert got["accuracy"] == expected["accuracy"]
    assert got["error_rate"] == pytest.approx(expected["error_rate"], abs=1e-6)
    assert got["macro_f1"] == pytest.approx(expected["F1Score_macro"], abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(expected["BalancedAccuracy"], abs=1e-12)


@pytest.mark.parametrize(("num_pictures", "num_classes"), [(400, 7), (50, 2), (12, 9)])
def test_values_agree_with_scikit_learn(
    random_predictions: Maker, num_pictures: int, num_classes: int
):
    predictions = random_predictions(num_pictures=num_pictures, num_classes=num_classes)
    targets, predicted = predictions.targets.numpy(), predictions.predicted.numpy()
    probabilities = predictions.logits.double().softmax(1).numpy()
    counts = reference.confusion_matrix(targets, predicted, labels=range(num_classes))
    supports = counts.sum(1)
    recalls = np.diag(counts)[supports > 0] / supports[supports > 0]
    seen = sorted({*targets.tolist(), *predicted.tolist()})
    got = values(predictions)
    assert got["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    assert got["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert got["macro_f1"] == pytest.approx(
        reference.f1_score(targets, predicted, labels=seen, average="macro")
    )
    assert got["log_loss"] == pytest.approx(
        reference.log_loss(targets, probabilities, labels=range(num_classes))
    )
    truth = np.eye(num_classes)[targets]
    assert got["brier"] == pytest.approx(((probabilities - truth) ** 2).sum(1).mean())


def test_calibration_error_is_the_weighted_gap_of_its_bins(from_logits: Maker):
    # Confidences 0.9 0.9 (one right) and 0.6 (right): (2 * |0.9 - 0.5| + |0.6 - 1|) / 3.
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    metric = metrics.expected_calibration_error(from_logits(shares.log(), [0, 1, 0]))
    assert metric.value == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)


def test_a_perfect_and_certain_classifier_has_no_error(from_logits: Maker):
    got = values(from_logits(torch.eye(3) * 1e4, [0, 1, 2]))
    assert got == {
        "accuracy": 1.0,
        "error_rate": 0.0,
        "balanced_accuracy": 1.0,
        "macro_f1": 1.0,
        "log_loss": 0.0,
        "brier": 0.0,
        "expected_calibration_error": 0.0,
    }


def test_single_metrics_are_those_of_the_summary(random_predictions: Maker):
    predictions = random_predictions(num_pictures=60, num_classes=3)
    for metric in summarise(predictions, seed=4):
        if metric.name in {"accuracy", "error_rate"}:
            assert getattr(metrics, metric.name)(predictions) == metric
        else:
            assert getattr(metrics, metric.name)(predictions, seed=4) == metric


# 6,000 pictures are more than are resampled in one part.
@pytest.mark.parametrize("num_pictures", [500, 6000])
def test_the_interval_of_a_mean_is_what_theory_says(random_predictions: Maker, num_pictures: int):
    predictions = random_predictions(num_pictures=num_pictures, num_classes=2)
    losses = predictions.losses.double()
    half = 1.96 * losses.std().item() / num_pictures**0.5
    metric = metrics.log_loss(predictions)
    assert metric.low == pytest.approx(losses.mean().item() - half, abs=0.1 * half)
    assert metric.high == pytest.approx(losses.mean().item() + half, abs=0.1 * half)


def naive_macro_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    scores: list[float] = []
    for index in {*targets.tolist(), *predicted.tolist()}:
        hits = ((targets == index) & (predicted == index)).sum()
        scores.append(2 * hits / ((targets == index).sum() + (predicted == index).sum()))
    return float(np.mean(scores))


def test_resampled_metrics_agree_with_drawing_the_pictures_one_by_one(random_predictions: Maker):
    predictions = random_predictions(num_pictures=80, num_classes=6)
    targets, predicted = predictions.targets.numpy(), predictions.predicted.numpy()
    squares = ((predictions.probabilities.numpy() - np.eye(6)[targets]) ** 2).sum(1)
    draws = np.random.default_rng(0).integers(80, size=(1500, 80))
    naive = {
        "macro_f1": [naive_macro_f1(targets[chosen], predicted[chosen]) for chosen in draws],
        "brier": [squares[chosen].mean() for chosen in draws],
    }
    for name, resampled in naive.items():
        metric = getattr(metrics, name)(predictions)
        low, high = np.quantile(resampled, [0.025, 0.975])
        assert metric.low == pytest.approx(low, abs=0.1 * (high - low))
        assert metric.high == pytest.approx(high, abs=0.1 * (high - low))


def test_every_interval_holds_its_value_and_the_seed_repeats_it(random_predictions: Maker):
    predictions = random_predictions(num_pictures=90, num_classes=4)
    first = summarise(predictions, seed=1)
    assert first == summarise(predictions, seed=1)
    assert first != summarise(predictions, seed=2)
    assert all(metric.low <= metric.value <= metric.high for metric in first)
    assert {metric.num_pictures for metric in first} == {90}


def test_pictures_without_label_are_left_out(random_predictions: Maker, from_logits: Maker):
    known = random_predictions(num_pictures=30, num_classes=3)
    more = from_logits(
        torch.cat([known.logits, torch.randn(5, 3)]),
        torch.cat([known.targets, torch.full((5,), UNLABELLED)]),
    )
    assert summarise(more) == summarise(known)
    assert per_class(more) == per_class(known)


@pytest.mark.parametrize("measure", [summarise, per_class, metrics.accuracy, metrics.brier])
def test_without_any_label_nothing_is_measured(
    from_logits: Maker, measure: Callable[[Predictions], object]
):
    with pytest.raises(DataError, match="None of the 2 pictures has a label"):
        measure(from_logits(torch.zeros(2, 2), [UNLABELLED, UNLABELLED]))


def test_per_class_scores_agree_with_scikit_learn(random_predictions: Maker):
    predictions = random_predictions(num_pictures=25, num_classes=12)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        predictions.targets.numpy(),
        predictions.predicted.numpy(),
        labels=range(12),
        zero_division=0.0,  # pyright: ignore[reportArgumentType]  (the stub knows only strings)
    )
    scores = per_class(predictions)
    assert [score.name for score in scores] == list(predictions.vocab)
    np.testing.assert_allclose([score.precision for score in scores], precision)
    np.testing.assert_allclose([score.recall for score in scores], recall)
    np.testing.assert_allclose([score.f1 for score in scores], f1)
    np.testing.assert_array_equal([score.support for score in scores], support)


def test_a_class_without_pictures_has_an_open_interval(from_confusion: Maker):
    scores = per_class(from_confusion([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert scores[2].recall_interval == scores[2].precision_interval == (0.0, 1.0)
    assert (scores[2].recall, scores[2].precision, scores[2].f1) == (0.0, 0.0, 0.0)
    assert scores[0].num_predicted == 4
    assert scores[0].recall_interval == wilson_interval(3, 3)


def test_two_thousand_pictures_of_37_classes_take_well_under_two_seconds(random_predictions: Maker):
    predictions = random_predictions(num_pictures=2000, num_classes=37)
    started = time.process_time()
    summarise(predictions)
    assert time.process_time() - started < 2
