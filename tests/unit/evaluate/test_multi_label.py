"""Metrics of several labels per picture, against scikit-learn."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate import multi_label
from vizsla.evaluate.metrics import accuracy, per_class, summarise
from vizsla.evaluate.predictions import Predictions

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]


def labelled(logits: torch.Tensor, targets: torch.Tensor) -> Predictions:
    return Predictions(
        rows=torch.arange(len(logits)),
        paths=tuple(f"{number}.jpg" for number in range(len(logits))),
        logits=logits,
        targets=targets,
        vocab=tuple(f"label {index}" for index in range(logits.shape[1])),
        task="multi_category",
    )


def random_labels(*, num_pictures: int, num_labels: int, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num_pictures, num_labels, generator=generator) < 0.3).float()
    logits = torch.randn(num_pictures, num_labels, generator=generator) + 2 * targets - 1
    return labelled(logits, targets)


def values(predictions: Predictions) -> dict[str, float]:
    return {metric.name: metric.value for metric in summarise(predictions)}


def test_values_agree_with_recorded_ones():
    got = values(
        labelled(torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"]))
    )
    expected = GOLDEN["multilabel"]
    assert got["accuracy_multi"] == pytest.approx(expected["accuracy_multi"])
    assert got["hamming_loss"] == pytest.approx(expected["HammingLossMulti"])
    assert got["macro_f1"] == pytest.approx(expected["F1ScoreMulti_macro"])
    assert got["roc_auc"] == pytest.approx(expected["RocAucMulti"])


@pytest.mark.parametrize(("num_pictures", "num_labels"), [(200, 6), (25, 3)])
def test_values_agree_with_scikit_learn(num_pictures: int, num_labels: int):
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
    metric = multi_label.mean_average_precision(predictions)
    assert metric.high - metric.low == pytest.approx(high - low, rel=0.25)


def test_single_metrics_are_those_of_the_summary():
    predictions = random_labels(num_pictures=40, num_labels=3)
    seedless = {"exact_match", "mean_average_precision", "roc_auc"}
    for metric in summarise(predictions, seed=4):
        function = getattr(multi_label, metric.name)
        same = function(predictions) if metric.name in seedless else function(predictions, seed=4)
        assert same == metric
        assert metric.low <= metric.value <= metric.high


def test_pictures_without_labels_are_left_out():
    known = random_labels(num_pictures=30, num_labels=3)
    more = labelled(
        torch.cat([known.logits, torch.randn(4, 3)]),
        torch.cat([known.targets, torch.full((4, 3), torch.nan)]),
    )
    assert summarise(more) == summarise(known)
    assert per_class(more) == per_class(known)


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
    for metric in (
        multi_label.macro_f1,
        multi_label.micro_f1,
        multi_label.mean_average_precision,
        multi_label.roc_auc,
    ):
        with pytest.raises(DataError, match=f"{metric.__name__} is not defined for these pictures"):
            metric(bare)


def test_metrics_of_one_class_refuse_several_labels():
    predictions = random_labels(num_pictures=3, num_labels=2)
    with pytest.raises(ConfigError, match=r"'multi_category'. .* vizsla\.evaluate\.multi_label"):
        accuracy(predictions)


def test_two_thousand_pictures_of_a_hundred_labels_take_less_than_a_second():
    predictions = random_labels(num_pictures=2000, num_labels=100)
    started = time.process_time()
    summarise(predictions)
    assert time.process_time() - started < 1
