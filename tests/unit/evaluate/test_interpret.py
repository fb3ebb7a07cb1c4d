"""Confusions, top losses and least certain images against recorded values and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vizsla.errors import ConfigError
from vizsla.evaluate.interpret import (
    confusion_matrix,
    confusion_shares,
    least_certain,
    most_confused,
    top_losses,
    worst_mistakes,
)
from vizsla.evaluate.predictions import Predictions
from vizsla.types import UNLABELLED, Task

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
Maker = Callable[..., Predictions]


@pytest.fixture
def recorded(from_logits: Maker) -> Predictions:
    case = GOLDEN["confusion_matrix"]
    return from_logits(torch.tensor(case["preds"]).log(), case["targs"])


def test_the_confusion_matrix_agrees_with_the_recorded_one(recorded: Predictions):
    counts = confusion_matrix(recorded)
    assert counts.dtype == torch.int64
    assert counts.tolist() == GOLDEN["confusion_matrix"]["confusion"]


def test_the_confusion_matrix_has_room_for_classes_that_never_occur(from_confusion: Maker):
    assert confusion_matrix(from_confusion([[2, 1, 0], [0, 3, 0], [0, 0, 0]])).tolist() == [
        [2, 1, 0],
        [0, 3, 0],
        [0, 0, 0],
    ]


def test_shares_of_an_absent_class_are_zero(from_confusion: Maker):
    shares = confusion_shares(from_confusion([[3, 1], [0, 0]]))
    assert shares.tolist() == [[0.75, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize("case", GOLDEN["most_confused"])
def test_most_confused_agrees_with_the_recorded_lists(case: dict[str, Any], from_confusion: Maker):
    predictions = from_confusion(case["confusion"], vocab=case["vocab"])
    for min_count, expected in case["most_confused"].items():
        pairs = most_confused(predictions, min_count=int(min_count))
        assert pairs == [tuple(pair) for pair in expected]
        assert all(type(count) is int for _, _, count in pairs)


@pytest.mark.parametrize("min_count", [0, -3])
def test_a_minimum_below_one_means_one(from_confusion: Maker, min_count: int):
    predictions = from_confusion([[2, 0], [1, 4]])
    assert most_confused(predictions, min_count=min_count) == [("class 1", "class 0", 1)]


def test_top_losses_agree_with_the_recorded_ones(recorded: Predictions):
    case = GOLDEN["top_losses"]
    torch.testing.assert_close(recorded.losses, torch.tensor(case["losses"]), atol=1e-5, rtol=0)
    assert top_losses(recorded, 4).tolist() == case["k4"]["idx"]
    assert top_losses(recorded, 3, largest=False).tolist() == case["k3_smallest"]["idx"]


def test_top_losses_without_a_number_are_all_and_equal_ones_keep_their_order(from_logits: Maker):
    predictions = from_logits([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [0, 0, 1])
    assert top_losses(predictions).tolist() == [1, 0, 2]
    assert top_losses(predictions, 99).tolist() == [1, 0, 2]
    assert top_losses(predictions, 0).tolist() == []


def test_pictures_without_label_have_no_place_among_losses(from_logits: Maker):
    predictions = from_logits([[9.0, 0.0], [0.0, 1.0], [2.0, 0.0]], [UNLABELLED, 0, 0])
    assert top_losses(predictions).tolist() == [1, 2]
    assert worst_mistakes(predictions).tolist() == [1]
    assert confusion_matrix(predictions).tolist() == [[1, 1], [0, 0]]


def test_worst_mistakes_leave_out_right_answers(from_logits: Maker):
    # The second image is right with a larger loss than the wrong third one has.
    logits = [[0.0, 5.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 9.0]]
    predictions = from_logits(logits, [0, 0, 2, 2])
    assert worst_mistakes(predictions).tolist() == [0, 2]
    assert worst_mistakes(predictions, 1).tolist() == [0]


def test_no_mistakes_give_no_positions(from_confusion: Maker):
    assert worst_mistakes(from_confusion([[2, 0], [0, 2]]), 12).tolist() == []


def test_least_certain_pictures_come_first_labelled_or_not(from_logits: Maker):
    predictions = from_logits([[4.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [0, UNLABELLED, 0])
    assert least_certain(predictions).tolist() == [1, 2, 0]
    assert least_certain(predictions, 2).tolist() == [1, 2]


@pytest.mark.parametrize("ask", [top_losses, worst_mistakes, least_certain])
def test_a_negative_number_of_pictures_is_refused(from_logits: Maker, ask: Callable[..., object]):
    with pytest.raises(ConfigError, match="k=-1"):
        ask(from_logits([[1.0, 0.0]], [0]), -1)


@pytest.fixture
def several(from_logits: Maker) -> Predictions:
    nan = float("nan")
    targets = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [nan, nan]]
    logits = [[9.0, -9.0], [0.2, -9.0], [-5.0, 5.0], [0.1, 0.0]]
    return from_logits(logits, targets, task="multi_category")


def test_pictures_with_several_labels_are_ranked_by_their_mean_loss(several: Predictions):
    assert top_losses(several).tolist() == [2, 1, 0]
    assert top_losses(several, 1, largest=False).tolist() == [0]
    assert worst_mistakes(several).tolist() == [2, 1]
    assert least_certain(several).tolist() == [3, 1, 2, 0]


def test_numbers_are_ranked_by_their_squared_error(from_logits: Maker):
    numbers = from_logits([[1.0], [-1.0], [8.0]], [[1.5], [-4.0], [8.0]], task="regression")
    assert top_losses(numbers).tolist() == [1, 0, 2]
    for ask in (worst_mistakes, least_certain):
        with pytest.raises(ConfigError, match="'regression'"):
            ask(numbers)


@pytest.mark.parametrize("ask", [confusion_matrix, confusion_shares, most_confused])
@pytest.mark.parametrize("task", ["multi_category", "regression"])
def test_confusions_are_of_single_classes_only(
    from_logits: Maker, ask: Callable[..., object], task: Task
):
    predictions = from_logits([[0.0, 1.0]], [[0.0, 1.0]], task=task)
    with pytest.raises(
        ConfigError, match=f"one class each. Received: predictions of the task '{task}'"
    ):
        ask(predictions)
