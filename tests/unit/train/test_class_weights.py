"""Class weights that make each class count the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from vizsla.errors import ConfigError
from vizsla.train.losses import balanced_class_weights
from vizsla.types import UNLABELLED

TARGETS = torch.tensor([0] * 6 + [1] * 3 + [2])


def test_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=TARGETS.numpy())
    weights = balanced_class_weights(TARGETS, 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert weights[TARGETS].mean().item() == pytest.approx(1)


def test_a_class_that_does_not_occur_weighs_one_and_leaves_the_others_as_they_are():
    weights = balanced_class_weights(TARGETS, 4)
    assert weights[3] == 1
    assert torch.equal(weights[:3], balanced_class_weights(TARGETS, 3))


def test_pictures_without_label_do_not_count():
    more = torch.cat([TARGETS, torch.full((7,), UNLABELLED)])
    assert torch.equal(balanced_class_weights(more, 3), balanced_class_weights(TARGETS, 3))


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0, 3]), torch.tensor([-2]), torch.tensor([UNLABELLED]), torch.zeros(4), torch.zeros(2, 2).long()],
)  # fmt: skip
def test_targets_that_are_no_classes_are_refused(targets: torch.Tensor):
    with pytest.raises(ConfigError, match="Class weights need"):
        balanced_class_weights(targets, 3)
