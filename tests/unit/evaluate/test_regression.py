"""Errors of predicted numbers, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from vizsla.errors import ConfigError, DataError
from vizsla.evaluate import multi_label, regression
from vizsla.evaluate.metrics import summarise
from vizsla.evaluate.predictions import Predictions


def numbers(outputs: torch.Tensor, targets: torch.Tensor) -> Predictions:
    return Predictions(
        rows=torch.arange(len(outputs)),
        paths=tuple(f"{number}.jpg" for number in range(len(outputs))),
        logits=outputs,
        targets=targets,
        vocab=tuple(f"number {index}" for index in range(outputs.shape[1])),
        task="regression",
    )


def random_numbers(*, num_pictures: int, num_outputs: int, mean: float = 0.0) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    targets = mean + 3 * torch.randn(num_pictures, num_outputs, generator=generator)
    return numbers(targets + torch.randn(num_pictures, num_outputs, generator=generator), targets)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_values_agree_with_scikit_learn(num_outputs: int):
    predictions = random_numbers(num_pictures=50, num_outputs=num_outputs, mean=1000)
    arrays = predictions.targets.double().numpy(), predictions.logits.double().numpy()
    got = {metric.name: metric.value for metric in summarise(predictions)}
    assert got == {
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


def test_single_metrics_are_those_of_the_summary():
    predictions = random_numbers(num_pictures=20, num_outputs=2)
    for metric in summarise(predictions, seed=3):
        assert getattr(regression, metric.name)(predictions, seed=3) == metric


def test_perfect_numbers_have_no_error():
    targets = torch.arange(4.0)[:, None]
    got = {metric.name: metric.value for metric in summarise(numbers(targets, targets))}
    assert got == {"mae": 0, "rmse": 0, "r2": 1}


@pytest.mark.parametrize("num_pictures", [1, 5])
def test_targets_that_do_not_vary_have_no_explained_share(num_pictures: int):
    targets = torch.full((num_pictures, 1), 0.1)
    predictions = numbers(targets + 1, targets)
    assert [metric.name for metric in summarise(predictions)] == ["mae", "rmse"]
    with pytest.raises(DataError, match="r2 is not defined for these pictures"):
        regression.r2(predictions)


def test_pictures_without_numbers_are_left_out():
    known = random_numbers(num_pictures=10, num_outputs=1)
    more = numbers(
        torch.cat([known.logits, torch.zeros(2, 1)]),
        torch.cat([known.targets, torch.full((2, 1), torch.nan)]),
    )
    assert summarise(more) == summarise(known)
    with pytest.raises(DataError, match="None of the 2 pictures has a label"):
        summarise(numbers(torch.zeros(2, 1), torch.full((2, 1), torch.nan)))


def test_metrics_of_labels_refuse_numbers():
    with pytest.raises(ConfigError, match=r"'regression'. .* vizsla\.evaluate\.regression"):
        multi_label.exact_match(random_numbers(num_pictures=2, num_outputs=1))
