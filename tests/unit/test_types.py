"""Targets of the three tasks: what they look like, which are known, how they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from vizsla import ConfigError
from vizsla.types import (
    UNLABELLED,
    ImageTable,
    Task,
    is_labelled,
    label_of,
    probabilities_of,
    unknown_targets,
)

NAN = torch.nan


def table_of(task: Task, targets: Tensor) -> ImageTable:
    rows = torch.arange(len(targets))
    return ImageTable(
        root=Path("/data"),
        paths=tuple(Path(f"/data/{row}.jpg") for row in rows.tolist()),
        targets=targets,
        vocab=("a", "b;c", "犬"),
        train_rows=rows,
        valid_rows=rows,
        task=task,
    )


def test_labels_are_shown_by_task():
    classes = table_of("category", torch.tensor([2, UNLABELLED]))
    assert [classes.label(row) for row in range(2)] == ["犬", ""]
    several = table_of("multi_category", torch.tensor([[1.0, 0, 1], [0, 0, 0], [NAN, NAN, NAN]]))
    assert [several.label(row) for row in range(3)] == ["a;犬", "", ""]
    numbers = table_of("regression", torch.tensor([[0.1, -2, 1e-9], [1e20, 0, 1 / 3], [NAN] * 3]))
    assert [numbers.label(row) for row in range(3)] == ["0.1;-2;1e-09", "1e+20;0;0.3333333", ""]


@pytest.mark.parametrize("task", get_args(Task))
def test_unknown_targets_count_as_unlabelled(task: Task):
    targets = unknown_targets(4, task=task, num_outputs=3)
    assert is_labelled(targets).tolist() == [False] * 4
    assert [table_of(task, targets).label(row) for row in range(4)] == [""] * 4
    assert is_labelled(unknown_targets(0, task=task, num_outputs=3)).shape == (0,)


def test_a_minus_one_among_numbers_is_a_number():
    targets = torch.tensor([[-1.0], [NAN]])
    assert is_labelled(targets).tolist() == [True, False]
    assert label_of(targets[0], task="regression", vocab=("x",)) == "-1"


def test_targets_of_another_form_or_task_are_refused():
    for task, targets in [
        ("category", torch.zeros(2)),
        ("category", torch.zeros(2, 3, dtype=torch.int64)),
        ("multi_category", torch.zeros(2, dtype=torch.int64)),
        ("multi_category", torch.zeros(2, 3, dtype=torch.int64)),
        ("regression", torch.zeros(2)),
        ("regression", torch.zeros(2, 3, dtype=torch.float64)),
        ("detection", torch.zeros(1, dtype=torch.int64)),
    ]:
        with pytest.raises(ConfigError, match=task):
            table_of(task, targets)  # pyright: ignore[reportArgumentType]


def test_probabilities_follow_the_task():
    logits = torch.tensor([[0.0, 0.0], [200.0, -200.0]])
    assert probabilities_of(logits, task="category").tolist() == [[0.5, 0.5], [1, 0]]
    assert probabilities_of(logits, task="multi_category").tolist() == [[0.5, 0.5], [1, 0]]
    half = probabilities_of(torch.ones(2, 4), task="multi_category")[0, 0]
    assert half == pytest.approx(0.731059)
    assert probabilities_of(logits, task="regression") is logits
    assert probabilities_of(logits[0], task="category").tolist() == [0.5, 0.5]
