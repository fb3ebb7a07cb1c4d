"""Metrics of a notebook."""

from __future__ import annotations

import pytest
import torch

from vizsla.train.metrics import accuracy, error_rate


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
