"""Suspected labels: confident learning on cases worked out by hand, and on labels that were spoilt on purpose."""

from __future__ import annotations

import pytest
import torch

from vizsla.evaluate.label_errors import suspected_labels
from vizsla.evaluate.predictions import Predictions
from vizsla.types import UNLABELLED


def predictions(probabilities: torch.Tensor, targets: list[int]) -> Predictions:
    return Predictions(
        rows=torch.arange(len(targets)),
        paths=tuple(f"{number}.jpg" for number in range(len(targets))),
        logits=probabilities.clamp_min(1e-9).log().float(),
        targets=torch.tensor(targets),
        vocab=("a", "b", "c")[: probabilities.shape[1]],
    )


def test_a_picture_above_the_threshold_of_another_class_is_suspected():
    # Class a: mean of 0.9, 0.8 and 0.1 is 0.6; class b: mean of 0.7 and 0.6 is 0.65. Only the third image passes b's.
    shares = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.4, 0.6]])
    (found,) = suspected_labels(predictions(shares, [0, 0, 0, 1, 1]))
    assert (found.position, found.suggestion) == (2, 1)
    assert found.label_probability == pytest.approx(0.1)
    assert found.probability == pytest.approx(0.9)


def test_a_mistake_below_the_threshold_is_not_suspected():
    # The third image is predicted as b with 0.6, less than b's images usually have.
    shares = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.1, 0.9]])
    assert suspected_labels(predictions(shares, [0, 0, 0, 1, 1])) == ()


def test_no_picture_is_said_to_be_of_a_class_that_no_label_names():
    shares = torch.tensor([[0.6, 0.1, 0.3], [0.05, 0.05, 0.9], [0.2, 0.7, 0.1]])
    assert all(each.suggestion != 2 for each in suspected_labels(predictions(shares, [0, 0, 1])))


def test_spoilt_labels_are_found_among_many():
    random = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    logits = torch.randn(300, 3, generator=random) + 8 * torch.eye(3)[truth]
    spoilt = list(range(0, 300, 25))
    targets = truth.clone()
    targets[spoilt] = (truth[spoilt] + 1) % 3
    found = suspected_labels(predictions(logits.softmax(1), targets.tolist()))
    places = [each.position for each in found]
    assert len(set(places) & set(spoilt)) >= 11
    assert len(set(places) - set(spoilt)) <= 6
    gaps = [each.probability - each.label_probability for each in found]
    assert gaps == sorted(gaps, reverse=True)


def test_unlabelled_pictures_and_other_tasks_have_no_suspects():
    shares = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert suspected_labels(predictions(shares, [UNLABELLED, UNLABELLED])) == ()
    many = Predictions(
        rows=torch.arange(1),
        paths=("a.jpg",),
        logits=torch.tensor([[3.0, 3.0]]),
        targets=torch.zeros(1, 2),
        vocab=("a", "b"),
        task="multi_category",
    )
    assert suspected_labels(many) == ()
