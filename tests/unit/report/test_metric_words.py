"""Words for metrics: every metric that is ever summarised has some, and intervals are told as they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.evaluate.metrics import Metric, summarise
from vizsla.evaluate.predictions import Predictions
from vizsla.report.metric_words import interval_methods, metric_rows

if TYPE_CHECKING:
    from vizsla.types import Task


def predictions(task: Task) -> Predictions:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 6, generator=draws)
    targets = {
        "category": torch.arange(40) % 6,
        "multi_category": (torch.rand(40, 6, generator=draws) < 0.4).float(),
        "regression": torch.randn(40, 6, generator=draws),
    }
    return Predictions(
        rows=torch.arange(40),
        paths=tuple(map(str, range(40))),
        logits=logits,
        targets=targets[task],
        vocab=tuple("abcdef"),
        task=task,
    )


@pytest.mark.parametrize("task", ["category", "multi_category", "regression"])
def test_every_metric_of_a_summary_has_words(task: Task):
    rows = metric_rows(summarise(predictions(task)))
    assert [row.title for row in rows if not row.description] == []


def test_intervals_are_told_as_they_were_made():
    texts = {task: interval_methods(summarise(predictions(task))) for task in ("category", "multi_category", "regression")}  # fmt: skip
    assert texts["regression"] == "1,000 resamples of the pictures"
    for task in ("category", "multi_category"):
        assert "Wilson" in texts[task]
        assert "DeLong" in texts[task]
        assert texts[task].endswith("1,000 resamples of the pictures for the others")
    only = Metric(name="accuracy", value=0.5, low=0.4, high=0.6, num_pictures=9)
    assert interval_methods([only]) == "Wilson\u2019s interval for shares of pictures"
