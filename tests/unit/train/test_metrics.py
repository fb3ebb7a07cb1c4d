"""Metrics of a notebook that need no settings."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from sklearn import metrics as reference

from vizsla.errors import ConfigError
from vizsla.train.metrics import (
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    top_k_accuracy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, TARGETS = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["targs"])
LABEL_LOGITS, LABELS = torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"])


def test_accuracy_and_error_rate_count_pictures():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 2.0], [5.0, 1.0, 0.0]])
    targets = torch.tensor([0, 1, 1, 2])
    assert accuracy(logits, targets).item() == 0.5
    assert error_rate(logits, targets).item() == 0.5
    assert accuracy(logits[:3], targets[:3]).item() == pytest.approx(2 / 3)
    assert error_rate(logits[:3], targets[:3]).item() == pytest.approx(1 / 3)


def test_probabilities_give_the_same_as_logits():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 4
    assert accuracy(logits.softmax(1), targets) == accuracy(logits, targets)


def test_classes_may_lie_along_another_axis():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    targets = torch.tensor([0, 1])
    assert accuracy(logits.T, targets, axis=0) == accuracy(logits, targets) == 1.0
    assert error_rate(logits.T, targets, 0) == 0.0
    assert top_k_accuracy(logits.T, targets, k=1, axis=0) == 1.0


def test_values_are_the_recorded_ones():
    classes, labels = GOLDEN["multiclass"], GOLDEN["multilabel"]
    assert accuracy(LOGITS, TARGETS).item() == classes["accuracy"]
    assert error_rate(LOGITS, TARGETS).item() == pytest.approx(classes["error_rate"])
    assert top_k_accuracy(LOGITS, TARGETS, k=2).item() == classes["top_k_accuracy_k2"]
    assert accuracy_multi(LABEL_LOGITS, LABELS).item() == labels["accuracy_multi"]
    lower = accuracy_multi(LABEL_LOGITS, LABELS, thresh=0.3)
    assert lower.item() == pytest.approx(labels["accuracy_multi_thresh_0_3"])
    assert accuracy_multi(LABEL_LOGITS.sigmoid(), LABELS, 0.3, sigmoid=False) == lower


def test_a_column_of_targets_counts_each_picture_once():
    assert accuracy(LOGITS, TARGETS[:, None]) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS[:, None], k=2) == top_k_accuracy(LOGITS, TARGETS, k=2)


def test_the_first_of_the_highest_is_the_prediction():
    assert top_k_accuracy(LOGITS, TARGETS, k=1) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS, k=3) == 1
    equal = torch.zeros(3, 4)
    assert top_k_accuracy(equal, torch.tensor([0, 1, 2]), k=2).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_more_than_all_classes_are_refused(k: int):
    with pytest.raises(ConfigError, match=rf"k in 1\.\.3, as there are 3 classes. Received: k={k}"):
        top_k_accuracy(LOGITS, TARGETS, k=k)


@pytest.mark.parametrize("metric", [accuracy, error_rate, partial(top_k_accuracy, k=2)])
def test_labels_in_place_of_classes_are_refused(
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
):
    with pytest.raises(
        ConfigError, match=r"each of 6 pictures. Received: targets of shape \(6, 4\)"
    ):
        metric(LABEL_LOGITS, LABELS)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_errors_of_numbers_are_those_of_scikit_learn(num_outputs: int):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(40, num_outputs, generator=generator) * 3 + 1000
    outputs = targets + torch.randn(40, num_outputs, generator=generator)
    arrays = targets.double().numpy(), outputs.double().numpy()
    assert mse(outputs, targets).item() == pytest.approx(reference.mean_squared_error(*arrays))
    assert rmse(outputs, targets).item() == pytest.approx(
        reference.mean_squared_error(*arrays) ** 0.5
    )
    assert mae(outputs, targets).item() == pytest.approx(reference.mean_absolute_error(*arrays))
    assert r2_score(outputs, targets).item() == pytest.approx(reference.r2_score(*arrays))


def test_one_number_may_come_without_its_axis():
    outputs, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0])
    assert mse(outputs, targets).item() == pytest.approx(1 / 3)
    assert mae(outputs, targets).item() == pytest.approx(1 / 3)
    assert r2_score(outputs, targets).item() == pytest.approx(0.5)


def test_nothing_explains_targets_that_do_not_vary():
    assert r2_score(torch.tensor([[1.0], [2.0]]), torch.full((2, 1), 0.1)).isnan()
    assert r2_score(torch.tensor([[1.0]]), torch.tensor([[3.0]])).isnan()
