"""Tallies of classes and labels: resampled counts are those of drawing the pictures one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vizsla.evaluate import statistics as formulas

if TYPE_CHECKING:
    import pytest


def test_resampled_classes_are_counted_as_if_drawn_one_by_one():
    targets, predicted = torch.tensor([0, 2, 1, 1]), torch.tensor([0, 1, 1, 0])
    counts = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 3.0], [0.0, 1.0]], dtype=torch.float64)
    tallies = formulas.count_classes(targets, predicted, num_classes=3, counts=counts)
    for resample in range(2):
        drawn = torch.arange(4).repeat_interleave(counts[:, resample].long())
        alone = formulas.count_classes(targets[drawn], predicted[drawn], num_classes=3)
        for name in ("hits", "supports", "predicted"):
            assert torch.equal(getattr(tallies, name)[:, [resample]], getattr(alone, name))


def test_resampled_labels_are_counted_as_if_drawn_one_by_one():
    generator = torch.Generator().manual_seed(0)
    targets, predicted = (torch.rand(2, 30, 4, generator=generator) < 0.4).unbind()
    counts = torch.randint(3, (30, 5), generator=generator).double()
    tallies = formulas.count_labels(targets, predicted, counts=counts)
    for resample in range(5):
        drawn = torch.arange(30).repeat_interleave(counts[:, resample].long())
        alone = formulas.count_labels(targets[drawn], predicted[drawn])
        for name in ("hits", "supports", "predicted"):
            assert torch.equal(getattr(tallies, name)[:, [resample]], getattr(alone, name))


def test_labels_are_counted_the_same_in_parts(monkeypatch: pytest.MonkeyPatch):
    targets, predicted = (torch.rand(2, 30, 4) < 0.4).unbind()
    whole = formulas.count_labels(targets, predicted)
    monkeypatch.setattr(formulas, "_VALUES_AT_ONCE", 28)
    parts = formulas.count_labels(targets, predicted)
    assert torch.equal(whole.hits, parts.hits)
    assert torch.equal(whole.supports, parts.supports)


def test_a_share_of_nothing_is_zero():
    none = formulas.count_classes(torch.tensor([0]), torch.tensor([1]), num_classes=3)
    assert formulas.precision(none)[:, 0].tolist() == [0, 0, 0]
    assert formulas.recall(none)[:, 0].tolist() == [0, 0, 0]
    assert formulas.jaccard(none)[:, 0].tolist() == [0, 0, 0]
    assert formulas.f_beta(none, beta=0)[:, 0].tolist() == [0, 0, 0]
    assert none.seen[:, 0].tolist() == [True, True, False]


def test_places_put_the_first_of_equal_scores_first():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0]] * 4)
    assert formulas.places_of(scores, torch.arange(4)).tolist() == [3, 0, 1, 2]
