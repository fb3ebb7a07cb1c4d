"""Losses: recorded values, torch's own, and what belongs to a loss of any origin."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

from vizsla.errors import ConfigError
from vizsla.train.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLossFlat,
    L1LossFlat,
    LabelSmoothingCrossEntropy,
    LossFunction,
    MSELossFlat,
    activation_of,
    balanced_class_weights,
    default_loss,
    per_image,
)
from vizsla.types import UNLABELLED

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
CASE = GOLDEN["cross_entropy"]
LOGITS = torch.tensor(CASE["acts"])
TARGETS = torch.tensor(CASE["targ"])
WEIGHTS = torch.tensor([0.5, 2.0])


def randomly(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_is_the_recorded_one():
    loss = CrossEntropyLossFlat()
    assert loss(LOGITS, TARGETS).item() == pytest.approx(CASE["ce_mean"], abs=1e-6)
    each = CrossEntropyLossFlat(reduction="none")(LOGITS, TARGETS)
    torch.testing.assert_close(each, torch.tensor(CASE["ce_none"]))
    torch.testing.assert_close(loss.activation(LOGITS), torch.tensor(CASE["softmax"]))
    assert loss.decodes(loss.activation(LOGITS)).tolist() == CASE["flat_decodes"]
    assert repr(loss) == CASE["flat_loss_repr"]


def test_the_other_losses_are_the_recorded_ones():
    smooth = LabelSmoothingCrossEntropy()(LOGITS, TARGETS)
    assert smooth.item() == pytest.approx(CASE["label_smoothing_eps_0_1"], abs=1e-6)
    focal = FocalLossFlat()(LOGITS, TARGETS)
    assert focal.item() == pytest.approx(CASE["focal_gamma_2"], abs=1e-6)
    binary = CASE["bce"]
    loss = BCEWithLogitsLossFlat()
    inputs = torch.tensor(binary["inp"])
    assert loss(inputs, torch.tensor(binary["targ"])).item() == pytest.approx(binary["loss"])
    assert loss.decodes(loss.activation(inputs)).tolist() == binary["decodes_of_sigmoid"]


def test_classes_may_lie_along_another_axis():
    case = CASE["flat_loss_4d"]
    inputs, targets = torch.tensor(case["inp"]), torch.tensor(case["targ"])
    loss = CrossEntropyLossFlat(axis=1)
    assert loss(inputs, targets).item() == pytest.approx(case["loss"], abs=1e-6)
    assert loss.activation(inputs).sum(dim=1).allclose(torch.ones(2, 2, 2))
    assert loss.decodes(inputs).shape == (2, 2, 2)
    each = per_image(loss)(inputs, targets)
    assert each.shape == (2,)
    assert each.mean().item() == pytest.approx(case["loss"], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_whole_number_targets_of_any_width_are_taken(dtype: torch.dtype):
    column = TARGETS.to(dtype)[:, None]
    assert CrossEntropyLossFlat()(LOGITS, column).item() == pytest.approx(CASE["ce_mean"])


def test_class_weights_and_ignored_targets_are_those_of_torch():
    targets = torch.tensor([0, 1, 0, -100, 1, 0])
    expected = nn.CrossEntropyLoss(weight=WEIGHTS)(LOGITS, targets)
    assert CrossEntropyLossFlat(weight=WEIGHTS)(LOGITS, targets) == expected
    smooth = nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2)(LOGITS, TARGETS)
    assert LabelSmoothingCrossEntropy(eps=0.2, weight=WEIGHTS)(LOGITS, TARGETS) == smooth


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_focal_loss_without_focus_is_cross_entropy(reduction: str, weight: torch.Tensor | None):
    focal = FocalLossFlat(gamma=0, weight=weight, reduction=reduction)  # pyright: ignore[reportArgumentType]
    expected = F.cross_entropy(LOGITS, TARGETS, weight=weight, reduction=reduction)
    torch.testing.assert_close(focal(LOGITS, TARGETS), expected)


def test_class_weights_move_with_the_loss_and_fit_the_outputs():
    loss = CrossEntropyLossFlat(weight=WEIGHTS)
    assert [name for name, _ in loss.named_buffers()] == ["weight"]
    assert loss(LOGITS.double(), TARGETS).dtype == torch.float64


def test_numbers_may_come_without_their_last_axis():
    outputs, targets = randomly(5, 1), torch.arange(5)
    difference = outputs[:, 0] - targets
    assert MSELossFlat()(outputs, targets).item() == pytest.approx(
        difference.square().mean().item()
    )
    assert L1LossFlat()(outputs, targets).item() == pytest.approx(difference.abs().mean().item())
    assert MSELossFlat(reduction="none")(outputs, targets).shape == (5, 1)
    assert torch.equal(MSELossFlat().activation(outputs), outputs)
    assert torch.equal(L1LossFlat().decodes(outputs), outputs)


def test_reprs_name_the_loss():
    shown = [
        str(loss)
        for loss in (BCEWithLogitsLossFlat(), MSELossFlat(), L1LossFlat(), FocalLossFlat())
    ]
    assert shown == [
        "FlattenedLoss of BCEWithLogitsLoss()",
        "FlattenedLoss of MSELoss()",
        "FlattenedLoss of L1Loss()",
        "FlattenedLoss of FocalLoss()",
    ]
    assert str(LabelSmoothingCrossEntropy()) == "LabelSmoothingCrossEntropy()"


def test_gradients_flow_through_every_loss():
    many = (TARGETS[:, None] == torch.arange(2)).float()
    for loss, targets in (
        (CrossEntropyLossFlat(), TARGETS),
        (LabelSmoothingCrossEntropy(), TARGETS),
        (FocalLossFlat(), TARGETS),
        (BCEWithLogitsLossFlat(pos_weight=WEIGHTS), many),
        (MSELossFlat(), many),
        (L1LossFlat(), many),
    ):
        logits = LOGITS.clone().requires_grad_()
        loss(logits, targets).backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert logits.grad.abs().sum() > 0


def test_each_task_has_its_loss():
    assert isinstance(default_loss("category"), CrossEntropyLossFlat)
    assert isinstance(default_loss("multi_category"), BCEWithLogitsLossFlat)
    assert isinstance(default_loss("regression"), MSELossFlat)
    with pytest.raises(ConfigError, match="task is one of"):
        default_loss("segmentation")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        partial(F.cross_entropy, label_smoothing=0.1),
        nn.CrossEntropyLoss(),
        CrossEntropyLossFlat(),
        LabelSmoothingCrossEntropy(),
        FocalLossFlat(),
    ],
)
def test_losses_of_pictures_have_the_mean_that_the_loss_gives(loss: LossFunction):
    before = str(vars(loss)) if isinstance(loss, nn.Module) else ""
    each = per_image(loss)(LOGITS, TARGETS)
    assert each.shape == (6,)
    torch.testing.assert_close(each.mean(), loss(LOGITS, TARGETS))
    assert before == (str(vars(loss)) if isinstance(loss, nn.Module) else "")


@pytest.mark.parametrize(
    "loss",
    [
        F.binary_cross_entropy_with_logits,
        F.mse_loss,
        nn.L1Loss(),
        BCEWithLogitsLossFlat(),
        MSELossFlat(),
        L1LossFlat(),
    ],
)
def test_losses_of_pictures_average_over_classes(loss: LossFunction):
    logits, targets = randomly(7, 3), randomly(7, 3, seed=1).gt(0).float()
    each = per_image(loss)(logits, targets)
    assert each.shape == (7,)
    torch.testing.assert_close(each[2], loss(logits[2:3], targets[2:3]))


def test_weighted_losses_of_pictures_are_multiplied_by_their_weight():
    each = per_image(CrossEntropyLossFlat(weight=WEIGHTS))(LOGITS, TARGETS)
    torch.testing.assert_close(each, torch.tensor(CASE["ce_none"]) * WEIGHTS[TARGETS])


def mean_only(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def deaf(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def test_a_loss_that_has_only_a_mean_is_named():
    with pytest.raises(ConfigError, match="The loss mean_only gives no loss for each image"):
        per_image(mean_only)
    with pytest.raises(ConfigError, match=r"The loss deaf .* use a loss of vizsla\.train\.losses"):
        per_image(deaf)(LOGITS, TARGETS)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (F.cross_entropy, LOGITS.softmax(1)),
        (partial(F.cross_entropy, label_smoothing=0.1), LOGITS.softmax(1)),
        (nn.CrossEntropyLoss(), LOGITS.softmax(1)),
        (LabelSmoothingCrossEntropy(), LOGITS.softmax(1)),
        (FocalLossFlat(), LOGITS.softmax(1)),
        (F.nll_loss, LOGITS.exp()),
        (nn.BCEWithLogitsLoss(), LOGITS.sigmoid()),
        (F.binary_cross_entropy_with_logits, LOGITS.sigmoid()),
        (BCEWithLogitsLossFlat(), LOGITS.sigmoid()),
        (nn.MSELoss(), LOGITS),
        (mean_only, LOGITS),
    ],
)
def test_the_activation_belongs_to_the_loss(loss: LossFunction, expected: torch.Tensor):
    torch.testing.assert_close(activation_of(loss)(LOGITS), expected)


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (CrossEntropyLossFlat(), torch.tensor([0, 1]), r"shape \(6, 2\) and targets torch.int64 of shape \(2,\)"),
        (CrossEntropyLossFlat(), torch.zeros(6), "BCEWithLogitsLossFlat"),
        (BCEWithLogitsLossFlat(), TARGETS, r"shape \(6, 2\) and targets of shape \(6,\)"),
        (MSELossFlat(), TARGETS, r"shape \(6, 2\) and targets of shape \(6,\)"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_are_named(loss: nn.Module, targets: torch.Tensor, message: str):
    with pytest.raises(ConfigError, match=message):
        loss(LOGITS, targets)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="Received: 'average'"):
        CrossEntropyLossFlat(reduction="average")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"eps=1.5"):
        LabelSmoothingCrossEntropy(eps=1.5)
    with pytest.raises(ConfigError, match="gamma=-1"):
        FocalLossFlat(gamma=-1)


TARGETS_CLASS_WEIGHTS = torch.tensor([0] * 6 + [1] * 3 + [2])


def test_weights_are_those_of_scikit_learn():
    expected = compute_class_weight(
        "balanced", classes=np.arange(3), y=TARGETS_CLASS_WEIGHTS.numpy()
    )
    weights = balanced_class_weights(TARGETS_CLASS_WEIGHTS, 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert weights[TARGETS_CLASS_WEIGHTS].mean().item() == pytest.approx(1)


def test_a_class_that_does_not_occur_weighs_one_and_leaves_the_others_as_they_are():
    weights = balanced_class_weights(TARGETS_CLASS_WEIGHTS, 4)
    assert weights[3] == 1
    assert torch.equal(weights[:3], balanced_class_weights(TARGETS_CLASS_WEIGHTS, 3))


def test_pictures_without_label_do_not_count():
    more = torch.cat([TARGETS_CLASS_WEIGHTS, torch.full((7,), UNLABELLED)])
    assert torch.equal(
        balanced_class_weights(more, 3), balanced_class_weights(TARGETS_CLASS_WEIGHTS, 3)
    )


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0, 3]), torch.tensor([-2]), torch.tensor([UNLABELLED]), torch.zeros(4), torch.zeros(2, 2).long()],
)  # fmt: skip
def test_targets_that_are_no_classes_are_refused(targets: torch.Tensor):
    with pytest.raises(ConfigError, match="Class weights need"):
        balanced_class_weights(targets, 3)
