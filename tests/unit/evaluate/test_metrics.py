"""Metrics: values against scikit-learn and recorded ones, intervals against scipy and theory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate.metrics import measure, per_class, summarise
from vizsla.evaluate.predictions import Predictions
from vizsla.evaluate.statistics import wilson_interval
from vizsla.types import UNLABELLED, Task

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
MACRO: dict[str, Any] = {"average": "macro", "zero_division": 0}
Maker = Callable[..., Predictions]


def values(predictions: Predictions) -> dict[str, float]:
    return {metric.name: metric.value for metric in summarise(predictions)}


def test_values_agree_with_recorded_ones(from_logits: Maker):
    predictions = from_logits(GOLDEN["logits"], GOLDEN["targs"])
    got, expected = values(predictions), GOLDEN["multiclass"]
    assert got["accuracy"] == expected["accuracy"]
    assert got["error_rate"] == pytest.approx(expected["error_rate"], abs=1e-6)
    assert got["macro_f1"] == pytest.approx(expected["F1Score_macro"], abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(expected["BalancedAccuracy"], abs=1e-12)
    assert got["macro_precision"] == pytest.approx(expected["Precision_macro"], abs=1e-12)
    assert got["roc_auc"] == pytest.approx(expected["RocAuc_macro_ovr"], abs=1e-12)
    recall = measure(predictions, "macro_recall")
    assert recall.value == pytest.approx(expected["Recall_macro"], abs=1e-12)
    second = measure(predictions, "top_2_accuracy")
    assert (second.name, second.value) == ("top_2_accuracy", expected["top_k_accuracy_k2"])


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
    assert got["macro_precision"] == pytest.approx(
        reference.precision_score(targets, predicted, labels=seen, **MACRO)
    )
    truth = np.eye(num_classes)[targets]
    assert got["brier"] == pytest.approx(((probabilities - truth) ** 2).sum(1).mean())


def test_calibration_error_is_the_weighted_gap_of_its_bins(from_logits: Maker):
    # Confidences 0.9 0.9 (one right) and 0.6 (right): (2 * |0.9 - 0.5| + |0.6 - 1|) / 3.
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    metric = measure(from_logits(shares.log(), [0, 1, 0]), "expected_calibration_error")
    assert metric.value == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)


def test_a_perfect_and_certain_classifier_has_no_error(from_logits: Maker):
    got = values(from_logits(torch.eye(3) * 1e4, [0, 1, 2]))
    assert got == {
        "accuracy": 1.0,
        "error_rate": 0.0,
        "balanced_accuracy": 1.0,
        "macro_f1": 1.0,
        "macro_precision": 1.0,
        "roc_auc": 1.0,
        "log_loss": 0.0,
        "brier": 0.0,
        "expected_calibration_error": 0.0,
    }


def test_single_metrics_are_those_of_the_summary(random_predictions: Maker):
    for predictions in (
        random_predictions(num_pictures=60, num_classes=3),
        random_labels(num_pictures=40, num_labels=3),
        random_numbers(num_pictures=20, num_outputs=2),
    ):
        for metric in summarise(predictions, seed=4):
            assert measure(predictions, metric.name, seed=4) == metric
            assert metric.low <= metric.value <= metric.high


# 6,000 images are more than are resampled in one part.
@pytest.mark.parametrize("num_pictures", [500, 6000])
def test_the_interval_of_a_mean_is_what_theory_says(random_predictions: Maker, num_pictures: int):
    predictions = random_predictions(num_pictures=num_pictures, num_classes=2)
    losses = predictions.losses.double()
    half = 1.96 * losses.std().item() / num_pictures**0.5
    metric = measure(predictions, "log_loss")
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
        metric = measure(predictions, name)
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


def test_images_without_label_are_left_out(random_predictions: Maker, from_logits: Maker):
    classes = random_predictions(num_pictures=30, num_classes=3)
    labels = random_labels(num_pictures=30, num_labels=3)
    ages = random_numbers(num_pictures=10, num_outputs=1)
    for known, make, unknown in (
        (classes, from_logits, torch.full((5,), UNLABELLED)),
        (labels, labelled, torch.full((5, 3), torch.nan)),
        (ages, numbers, torch.full((5, 1), torch.nan)),
    ):
        logits = torch.cat([known.logits, torch.randn(5, known.logits.shape[1])])
        more = make(logits, torch.cat([known.targets, unknown]))
        assert summarise(more) == summarise(known)
        if known is not ages:
            assert per_class(more) == per_class(known)


def test_without_any_label_nothing_is_measured(from_logits: Maker):
    unknown = from_logits(torch.zeros(2, 2), [UNLABELLED, UNLABELLED])
    for measured in (
        lambda: summarise(unknown),
        lambda: per_class(unknown),
        lambda: measure(unknown, "accuracy"),
        lambda: measure(unknown, "brier"),
        lambda: summarise(numbers(torch.zeros(2, 1), torch.full((2, 1), torch.nan))),
    ):
        with pytest.raises(DataError, match="None of the 2 images"):
            measured()


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


@st.composite
def any_predictions(draw: st.DrawFn) -> Predictions:
    """Few images with ties, absent classes, a single class, all right or all wrong."""
    num_classes = draw(st.integers(2, 7))
    num_pictures = draw(st.integers(1, 12))
    steps = st.lists(st.integers(-2, 2), min_size=num_classes, max_size=num_classes)
    rows = st.lists(steps, min_size=num_pictures, max_size=num_pictures)
    logits = torch.tensor(draw(rows), dtype=torch.float32)
    highest = draw(st.integers(0, num_classes - 1))
    index = st.integers(0, highest)
    targets = torch.tensor(draw(st.lists(index, min_size=num_pictures, max_size=num_pictures)))
    kind = draw(st.sampled_from(["random", "perfect", "all wrong"]))
    if kind != "random":
        logits[torch.arange(num_pictures), targets] = 4.0 if kind == "perfect" else -4.0
    return Predictions(
        rows=torch.arange(num_pictures),
        paths=tuple(f"{number}.jpg" for number in range(num_pictures)),
        logits=logits,
        targets=targets,
        vocab=tuple(f"class {index}" for index in range(num_classes)),
    )


@given(any_predictions())
@settings(max_examples=15, deadline=None)
def test_values_of_any_predictions_are_those_of_scikit_learn(predictions: Predictions):
    targets, predicted = predictions.targets.numpy(), predictions.predicted.numpy()
    log_probabilities = predictions.logits.double().log_softmax(1)
    present = sorted(set(targets.tolist()))
    got = {metric.name: metric for metric in summarise(predictions)}
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


def test_the_area_needs_two_classes_among_the_labels(from_logits: Maker):
    with pytest.raises(DataError, match="roc_auc"):
        measure(from_logits(torch.eye(3), [1, 1, 1]), "roc_auc")


def test_the_interval_of_the_area_is_that_of_resampling(random_predictions: Maker):
    predictions = random_predictions(num_pictures=150, num_classes=3)
    targets = predictions.targets.numpy()
    scores = predictions.probabilities.double().numpy()
    draws = np.random.default_rng(0).integers(150, size=(200, 150))
    resampled = [
        reference.roc_auc_score(targets[chosen], scores[chosen], multi_class="ovr")
        for chosen in draws
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    metric = measure(predictions, "roc_auc")
    assert metric.low == pytest.approx(low, abs=0.25 * (high - low))
    assert metric.high == pytest.approx(high, abs=0.25 * (high - low))


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_all_classes_are_refused(from_logits: Maker, k: int):
    with pytest.raises(ConfigError, match=rf"1\.\.3.*{k}"):
        measure(from_logits(torch.eye(3), [0, 1, 2]), f"top_{k}_accuracy")


def test_predictions_of_another_task_are_sent_to_their_metrics():
    ages = numbers(torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(ConfigError, match=r"'accuracy'.*'regression'.*'category'.*mae, r2, rmse"):
        measure(ages, "accuracy")
    with pytest.raises(ConfigError):
        per_class(ages)


def of_task(task: Task, logits: torch.Tensor, targets: torch.Tensor) -> Predictions:
    return Predictions(
        rows=torch.arange(len(logits)),
        paths=tuple(f"{number}.jpg" for number in range(len(logits))),
        logits=logits,
        targets=targets,
        vocab=tuple(f"label {index}" for index in range(logits.shape[1])),
        task=task,
    )


labelled = partial(of_task, "multi_category")
numbers = partial(of_task, "regression")


def random_labels(*, num_pictures: int, num_labels: int, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num_pictures, num_labels, generator=generator) < 0.3).float()
    logits = torch.randn(num_pictures, num_labels, generator=generator) + 2 * targets - 1
    return labelled(logits, targets)


def test_values_agree_with_recorded_ones_multi_label():
    logits, targets = (torch.tensor(GOLDEN[name]) for name in ("multi_logits", "multi_targs"))
    got, expected = values(labelled(logits, targets)), GOLDEN["multilabel"]
    assert got["accuracy_multi"] == pytest.approx(expected["accuracy_multi"])
    assert got["hamming_loss"] == pytest.approx(expected["HammingLossMulti"])
    assert got["macro_f1"] == pytest.approx(expected["F1ScoreMulti_macro"])
    assert got["roc_auc"] == pytest.approx(expected["RocAucMulti"])


@pytest.mark.parametrize(("num_pictures", "num_labels"), [(200, 6), (25, 3)])
def test_values_agree_with_scikit_learn_multi_label(num_pictures: int, num_labels: int):
    predictions = random_labels(num_pictures=num_pictures, num_labels=num_labels)
    truth, given = predictions.targets.numpy(), predictions.predicted.numpy()
    probabilities = predictions.logits.double().sigmoid().numpy()
    got = values(predictions)
    assert list(got) == [
        "exact_match",
        "accuracy_multi",
        "hamming_loss",
        "macro_f1",
        "micro_f1",
        "mean_average_precision",
        "roc_auc",
        "log_loss",
    ]
    assert got["exact_match"] == pytest.approx(reference.accuracy_score(truth, given))
    assert got["hamming_loss"] == pytest.approx(reference.hamming_loss(truth, given))
    assert got["macro_f1"] == pytest.approx(reference.f1_score(truth, given, average="macro"))
    assert got["micro_f1"] == pytest.approx(reference.f1_score(truth, given, average="micro"))
    precision = reference.average_precision_score(truth, probabilities, average="macro")
    assert got["mean_average_precision"] == pytest.approx(precision)
    assert got["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, probabilities))
    losses = -np.log(np.where(truth == 1, probabilities, 1 - probabilities))
    assert got["log_loss"] == pytest.approx(losses.mean())


def test_the_interval_of_average_precision_is_that_of_resampling():
    predictions = random_labels(num_pictures=200, num_labels=4)
    truth, scores = predictions.targets.numpy(), predictions.logits.numpy()
    draws = np.random.default_rng(0).integers(200, size=(200, 200))
    resampled = [reference.average_precision_score(truth[rows], scores[rows]) for rows in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    metric = measure(predictions, "mean_average_precision")
    assert metric.high - metric.low == pytest.approx(high - low, rel=0.25)


def test_each_label_is_scored_by_itself():
    predictions = random_labels(num_pictures=60, num_labels=5)
    expected = reference.precision_recall_fscore_support(
        predictions.targets.numpy(), predictions.predicted.numpy()
    )
    scores = per_class(predictions)
    np.testing.assert_allclose([score.precision for score in scores], expected[0])
    np.testing.assert_allclose([score.recall for score in scores], expected[1])
    np.testing.assert_allclose([score.f1 for score in scores], expected[2])
    np.testing.assert_array_equal([score.support for score in scores], expected[3])


def test_without_a_single_label_what_is_undefined_is_left_out_and_named():
    bare = labelled(torch.full((3, 2), -5.0), torch.zeros(3, 2))
    got = values(bare)
    assert list(got) == ["exact_match", "accuracy_multi", "hamming_loss", "log_loss"]
    assert got["exact_match"] == 1
    for name in ("macro_f1", "micro_f1", "mean_average_precision", "roc_auc"):
        with pytest.raises(DataError, match=f"{name} is not defined"):
            measure(bare, name)


def random_numbers(*, num_pictures: int, num_outputs: int, mean: float = 0.0) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    targets = mean + 3 * torch.randn(num_pictures, num_outputs, generator=generator)
    return numbers(targets + torch.randn(num_pictures, num_outputs, generator=generator), targets)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_values_agree_with_scikit_learn_regression(num_outputs: int):
    predictions = random_numbers(num_pictures=50, num_outputs=num_outputs, mean=1000)
    arrays = predictions.targets.double().numpy(), predictions.logits.double().numpy()
    assert values(predictions) == {
        "mae": pytest.approx(reference.mean_absolute_error(*arrays)),
        "rmse": pytest.approx(reference.mean_squared_error(*arrays) ** 0.5),
        "r2": pytest.approx(reference.r2_score(*arrays)),
    }


def test_intervals_are_those_of_resampling():
    predictions = random_numbers(num_pictures=80, num_outputs=1, mean=50)
    targets, outputs = predictions.targets.numpy(), predictions.logits.numpy()
    draws = np.random.default_rng(0).integers(80, size=(400, 80))
    naive = {
        "mae": [reference.mean_absolute_error(targets[rows], outputs[rows]) for rows in draws],
        "rmse": [
            reference.mean_squared_error(targets[rows], outputs[rows]) ** 0.5 for rows in draws
        ],
        "r2": [reference.r2_score(targets[rows], outputs[rows]) for rows in draws],
    }
    for metric in summarise(predictions):
        low, high = np.quantile(naive[metric.name], [0.025, 0.975])
        assert metric.low == pytest.approx(low, abs=0.15 * (high - low))
        assert metric.high == pytest.approx(high, abs=0.15 * (high - low))


def test_perfect_numbers_have_no_error():
    targets = torch.arange(4.0)[:, None]
    assert values(numbers(targets, targets)) == {"mae": 0, "rmse": 0, "r2": 1}


@pytest.mark.parametrize("num_pictures", [1, 5])
def test_targets_that_do_not_vary_have_no_explained_share(num_pictures: int):
    targets = torch.full((num_pictures, 1), 0.1)
    predictions = numbers(targets + 1, targets)
    assert [metric.name for metric in summarise(predictions)] == ["mae", "rmse"]
    with pytest.raises(DataError, match="r2"):
        measure(predictions, "r2")
