"""Metrics: values against scikit-learn and recorded ones, intervals against theory and naive resampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from vizsla import ConfigError, DataError, Predictions
from vizsla.evaluate import imbalance_lines, measure, per_class, summarise, wilson_interval
from vizsla.types import UNLABELLED

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
MACRO: dict[str, Any] = {"average": "macro", "zero_division": 0}
Maker = Callable[..., Predictions]


def values(predictions: Predictions) -> dict[str, float]:
    return {metric.name: metric.value for metric in summarise(predictions)}


def test_values_agree_with_recorded_ones(from_logits: Maker):
    predictions = from_logits(GOLDEN["logits"], GOLDEN["targs"])
    got, expected = values(predictions), GOLDEN["multiclass"]
    got |= {name: measure(predictions, name).value for name in ("macro_recall", "top_2_accuracy")}
    for name, recorded, margin in (
        ("accuracy", "accuracy", 0),
        ("error_rate", "error_rate", 1e-6),
        ("macro_f1", "F1Score_macro", 1e-12),
        ("balanced_accuracy", "BalancedAccuracy", 1e-12),
        ("macro_precision", "Precision_macro", 1e-12),
        ("roc_auc", "RocAuc_macro_ovr", 1e-12),
        ("macro_recall", "Recall_macro", 1e-12),
        ("top_2_accuracy", "top_k_accuracy_k2", 0),
    ):
        assert got[name] == pytest.approx(expected[recorded], abs=margin, rel=0), name
    labels = from_logits(GOLDEN["multi_logits"], GOLDEN["multi_targs"], task="multi_category")
    got, expected = values(labels), GOLDEN["multilabel"]
    for name, recorded in (
        ("accuracy_multi", "accuracy_multi"),
        ("hamming_loss", "HammingLossMulti"),
        ("macro_f1", "F1ScoreMulti_macro"),
        ("roc_auc", "RocAucMulti"),
    ):
        assert got[name] == pytest.approx(expected[recorded]), name


@pytest.mark.parametrize(("num_images", "num_labels"), [(200, 6), (25, 3)])
def test_values_of_labels_agree_with_scikit_learn(
    random_predictions: Maker, num_images: int, num_labels: int
):
    predictions = random_predictions(num_images, num_labels, task="multi_category")
    truth, given_labels = predictions.targets.numpy(), predictions.predicted.numpy()
    shares = predictions.logits.double().sigmoid().numpy()
    wrong = reference.hamming_loss(truth, given_labels)
    assert values(predictions) == {
        "exact_match": pytest.approx(reference.accuracy_score(truth, given_labels)),
        "accuracy_multi": pytest.approx(1 - wrong),
        "hamming_loss": pytest.approx(wrong),
        "macro_f1": pytest.approx(reference.f1_score(truth, given_labels, average="macro")),
        "micro_f1": pytest.approx(reference.f1_score(truth, given_labels, average="micro")),
        "mean_average_precision": pytest.approx(reference.average_precision_score(truth, shares)),
        "roc_auc": pytest.approx(reference.roc_auc_score(truth, shares)),
        "log_loss": pytest.approx(-np.log(np.where(truth == 1, shares, 1 - shares)).mean()),
    }


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_values_of_numbers_agree_with_scikit_learn(random_predictions: Maker, num_outputs: int):
    predictions = random_predictions(50, num_outputs, task="regression", mean=1000)
    arrays = predictions.targets.double().numpy(), predictions.logits.double().numpy()
    assert values(predictions) == {
        "mae": pytest.approx(reference.mean_absolute_error(*arrays)),
        "rmse": pytest.approx(reference.mean_squared_error(*arrays) ** 0.5),
        "r2": pytest.approx(reference.r2_score(*arrays)),
    }


def test_calibration_error_is_the_weighted_gap_of_its_bins(from_logits: Maker):
    # Confidences 0.9 0.9 (one right) and 0.6 (right): (2 * |0.9 - 0.5| + |0.6 - 1|) / 3.
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    metric = measure(from_logits(shares.log(), [0, 1, 0]), "expected_calibration_error")
    assert metric.value == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)


def test_single_metrics_are_those_of_the_summary_and_the_seed_repeats_them(
    random_predictions: Maker,
):
    for predictions in (
        random_predictions(60, 3),
        random_predictions(40, 3, task="multi_category"),
        random_predictions(20, 2, task="regression"),
    ):
        found = summarise(predictions, seed=4)
        assert found == summarise(predictions, seed=4)
        assert found != summarise(predictions, seed=2)
        for metric in found:
            assert measure(predictions, metric.name, seed=4) == metric
            assert metric.low <= metric.value <= metric.high
            assert metric.num_pictures == len(predictions.paths)


# 6,000 images are more than are resampled in one part.
@pytest.mark.parametrize("num_images", [500, 6000])
def test_the_interval_of_a_mean_is_what_theory_says(random_predictions: Maker, num_images: int):
    predictions = random_predictions(num_images, 2)
    losses = predictions.losses.double()
    half = 1.96 * losses.std().item() / num_images**0.5
    metric = measure(predictions, "log_loss")
    assert metric.low == pytest.approx(losses.mean().item() - half, abs=0.1 * half)
    assert metric.high == pytest.approx(losses.mean().item() + half, abs=0.1 * half)


def test_intervals_are_those_of_drawing_the_images_one_by_one(random_predictions: Maker):
    few, classes = random_predictions(80, 6), random_predictions(150, 3)
    labels = random_predictions(200, 4, task="multi_category")
    ages = random_predictions(80, 1, task="regression", mean=50)

    def f1(targets: np.ndarray, predicted: np.ndarray) -> float:
        return float(reference.f1_score(targets, predicted, average="macro"))

    def root(targets: np.ndarray, outputs: np.ndarray) -> float:
        return reference.mean_squared_error(targets, outputs) ** 0.5

    def brier(targets: np.ndarray, probabilities: np.ndarray) -> float:
        return ((probabilities - np.eye(6)[targets]) ** 2).sum(1).mean()

    def area(targets: np.ndarray, probabilities: np.ndarray) -> float:
        return float(reference.roc_auc_score(targets, probabilities, multi_class="ovr"))

    cases: tuple[tuple[str, Predictions, torch.Tensor, Callable[..., float], int, float], ...] = (
        ("macro_f1", few, few.predicted, f1, 1500, 0.1),
        ("brier", few, few.probabilities, brier, 1500, 0.1),
        ("roc_auc", classes, classes.probabilities.double(), area, 200, 0.25),
        (
            "mean_average_precision",
            labels,
            labels.logits,
            reference.average_precision_score,
            200,
            0.25,
        ),
        ("mae", ages, ages.logits, reference.mean_absolute_error, 400, 0.15),
        ("rmse", ages, ages.logits, root, 400, 0.15),
        ("r2", ages, ages.logits, reference.r2_score, 400, 0.15),
    )
    for name, predictions, outputs, formula, num_draws, margin in cases:
        number = len(predictions.paths)
        targets, said = predictions.targets.numpy(), outputs.numpy()
        draws = np.random.default_rng(0).integers(number, size=(num_draws, number))
        resampled = [formula(targets[rows], said[rows]) for rows in draws]
        low, high = np.quantile(resampled, [0.025, 0.975])
        metric = measure(predictions, name)
        assert metric.low == pytest.approx(low, abs=margin * (high - low)), name
        assert metric.high == pytest.approx(high, abs=margin * (high - low)), name


def test_images_without_label_are_left_out(random_predictions: Maker, from_logits: Maker):
    for known, unknown in (
        (random_predictions(30, 3), torch.full((5,), UNLABELLED)),
        (random_predictions(30, 3, task="multi_category"), torch.full((5, 3), torch.nan)),
        (random_predictions(10, 1, task="regression"), torch.full((5, 1), torch.nan)),
    ):
        logits = torch.cat([known.logits, torch.randn(5, known.logits.shape[1])])
        more = from_logits(logits, torch.cat([known.targets, unknown]), task=known.task)
        assert summarise(more) == summarise(known)
        if known.task != "regression":
            assert per_class(more) == per_class(known)


def test_what_cannot_be_measured_is_refused(from_logits: Maker):
    unknown = from_logits(torch.zeros(2, 2), [UNLABELLED, UNLABELLED])
    ages = from_logits(torch.zeros(2, 1), torch.full((2, 1), torch.nan), task="regression")
    for measured in (
        lambda: summarise(unknown),
        lambda: per_class(unknown),
        lambda: measure(unknown, "accuracy"),
        lambda: measure(unknown, "brier"),
        lambda: summarise(ages),
    ):
        with pytest.raises(DataError, match="None of the 2 images"):
            measured()
    for k in (0, 4):
        with pytest.raises(ConfigError, match=rf"from 1 to .*3.*{k}"):
            measure(from_logits(torch.eye(3), [0, 1, 2]), f"top_{k}_accuracy")
    with pytest.raises(ConfigError, match=r"'accuracy'.*'regression'.*'category'.*mae, r2, rmse"):
        measure(ages, "accuracy")
    with pytest.raises(ConfigError):
        per_class(ages)


def test_what_is_undefined_is_left_out_and_named(from_logits: Maker):
    one_class = from_logits(torch.eye(3), [1, 1, 1])
    bare = from_logits(torch.full((3, 2), -5.0), torch.zeros(3, 2), task="multi_category")
    alike = torch.full((5, 1), 0.1)
    for predictions, undefined in (
        (one_class, ["roc_auc"]),
        (bare, ["macro_f1", "micro_f1", "mean_average_precision", "roc_auc"]),
        (from_logits(alike + 1, alike, task="regression"), ["r2"]),
        (from_logits(alike[:1] + 1, alike[:1], task="regression"), ["r2"]),
    ):
        assert values(predictions).keys().isdisjoint(undefined)
        for name in undefined:
            with pytest.raises(DataError, match=name):
                measure(predictions, name)
    assert list(values(bare)) == ["exact_match", "accuracy_multi", "hamming_loss", "log_loss"]


def test_per_class_scores_agree_with_scikit_learn(random_predictions: Maker):
    for predictions in (
        random_predictions(25, 12),
        random_predictions(60, 5, task="multi_category"),
    ):
        expected: Any = reference.precision_recall_fscore_support(
            predictions.targets.numpy(),
            predictions.predicted.numpy(),
            labels=range(len(predictions.vocab)),
            zero_division=0.0,  # pyright: ignore[reportArgumentType]  (the stub knows only strings)
        )
        scores = per_class(predictions)
        assert [score.name for score in scores] == list(predictions.vocab)
        got = [(score.precision, score.recall, score.f1, score.support) for score in scores]
        np.testing.assert_allclose(got, np.transpose(expected))


def test_a_class_without_images_has_an_open_interval(from_confusion: Maker):
    scores = per_class(from_confusion([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert scores[2].recall_interval == scores[2].precision_interval == (0.0, 1.0)
    assert (scores[2].recall, scores[2].precision, scores[2].f1) == (0.0, 0.0, 0.0)
    assert scores[0].num_predicted == 4
    assert scores[0].recall_interval == wilson_interval(3, 3)


@st.composite
def any_answers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of few images with ties, absent classes, a single class, all right or all wrong."""
    num_classes = draw(st.integers(2, 7))
    num_images = draw(st.integers(1, 12))
    steps = st.lists(st.integers(-2, 2), min_size=num_classes, max_size=num_classes)
    rows = st.lists(steps, min_size=num_images, max_size=num_images)
    logits = torch.tensor(draw(rows), dtype=torch.float32)
    index = st.integers(0, draw(st.integers(0, num_classes - 1)))
    targets = torch.tensor(draw(st.lists(index, min_size=num_images, max_size=num_images)))
    kind = draw(st.sampled_from(["random", "perfect", "all wrong"]))
    if kind != "random":
        logits[torch.arange(num_images), targets] = 4.0 if kind == "perfect" else -4.0
    return logits, targets


@given(answers=any_answers())
@settings(max_examples=15, deadline=None)
def test_values_of_any_predictions_are_those_of_scikit_learn(
    from_logits: Maker, answers: tuple[torch.Tensor, torch.Tensor]
):
    predictions = from_logits(*answers)
    targets, predicted = predictions.targets.numpy(), predictions.predicted.numpy()
    log_probabilities = predictions.logits.double().log_softmax(1)
    present = sorted(set(targets.tolist()))
    hits = predicted == targets
    squares = (log_probabilities.exp().numpy() - np.eye(len(predictions.vocab))[targets]) ** 2
    got = {metric.name: metric for metric in summarise(predictions)}
    assert got["accuracy"].value == pytest.approx(hits.mean())
    recalls = [hits[targets == index].mean() for index in present]
    assert got["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    assert got["brier"].value == pytest.approx(squares.sum(1).mean(), abs=1e-12)
    assert got["macro_f1"].value == pytest.approx(reference.f1_score(targets, predicted, **MACRO))
    precision = reference.precision_score(targets, predicted, **MACRO)
    assert got["macro_precision"].value == pytest.approx(precision)
    losses = -log_probabilities.numpy()[np.arange(len(targets)), targets]
    assert got["log_loss"].value == pytest.approx(losses.mean())
    if len(present) > 1:
        scores = log_probabilities.float().numpy()  # equal ones stay equal
        areas = [reference.roc_auc_score(targets == index, scores[:, index]) for index in present]
        assert got["roc_auc"].value == pytest.approx(np.mean(areas))
    assert ("roc_auc" in got) == (len(present) > 1)
    assert ("top_5_accuracy" in got) == (len(predictions.vocab) > 5)
    assert measure(predictions, "top_1_accuracy").value == got["accuracy"].value
    for metric in got.values():
        assert 0 <= metric.low <= metric.value <= metric.high, metric


def test_lines_are_there_where_classes_are_unequal_and_name_those_found_least(
    from_logits: Callable[..., Predictions],
):
    targets = torch.tensor([0] * 12 + [1] * 4 + [2] * 8)
    logits = torch.nn.functional.one_hot(targets, 3).float()
    logits[13:16] = torch.tensor([1.0, 0.0, 0.0])
    predictions = from_logits(logits, targets)
    lines = imbalance_lines(predictions, summarise(predictions))
    assert len(lines) == 2
    assert "3 times" in lines[0]
    assert "50.0%" in lines[0]
    assert f"{predictions.vocab[1]} 25.0% of 4 images" in lines[1]
    equal = predictions.take(torch.arange(24) != 0)  # 11 to 4
    assert imbalance_lines(equal, summarise(equal)) == ()
