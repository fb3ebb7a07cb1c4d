"""Losses: recorded values, torch's own, and what belongs to a loss of any origin."""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F

from vizsla import (
    BCEWithLogitsLossFlat,
    ConfigError,
    CrossEntropyLossFlat,
    FocalLossFlat,
    L1LossFlat,
    LabelSmoothingCrossEntropy,
    MSELossFlat,
    balanced_class_weights,
)
from vizsla.train import activation_of, check_weights, default_loss, per_image
from vizsla.types import UNLABELLED

if TYPE_CHECKING:
    from vizsla.train.losses import LossFunction

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())
CASE = GOLDEN["cross_entropy"]
LOGITS = torch.tensor(CASE["acts"])
TARGETS = torch.tensor(CASE["targ"])
WEIGHTS = torch.tensor([0.5, 2.0])


def randomly(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_golden_losses():
    loss = CrossEntropyLossFlat()
    assert loss(LOGITS, TARGETS).item() == pytest.approx(CASE["ce_mean"], abs=1e-6)
    each = CrossEntropyLossFlat(reduction="none")(LOGITS, TARGETS)
    torch.testing.assert_close(each, torch.tensor(CASE["ce_none"]))
    torch.testing.assert_close(loss.activation(LOGITS), torch.tensor(CASE["softmax"]))
    assert loss.decodes(loss.activation(LOGITS)).tolist() == CASE["flat_decodes"]
    smooth = LabelSmoothingCrossEntropy()(LOGITS, TARGETS)
    assert smooth.item() == pytest.approx(CASE["label_smoothing_eps_0_1"], abs=1e-6)
    focal = FocalLossFlat()(LOGITS, TARGETS)
    assert focal.item() == pytest.approx(CASE["focal_gamma_2"], abs=1e-6)
    binary, loss = CASE["bce"], BCEWithLogitsLossFlat()
    inputs = torch.tensor(binary["inp"])
    assert loss(inputs, torch.tensor(binary["targ"])).item() == pytest.approx(binary["loss"])
    assert loss.decodes(loss.activation(inputs)).tolist() == binary["decodes_of_sigmoid"]


def test_classes_along_another_axis():
    case = CASE["flat_loss_4d"]
    inputs, targets = torch.tensor(case["inp"]), torch.tensor(case["targ"])
    loss = CrossEntropyLossFlat(axis=1)
    assert loss(inputs, targets).item() == pytest.approx(case["loss"], abs=1e-6)
    assert loss.activation(inputs).sum(dim=1).allclose(torch.ones(2, 2, 2))
    assert loss.decodes(inputs).shape == (2, 2, 2)
    each = per_image(loss)(inputs, targets)
    assert each.shape == (2,)
    assert each.mean().item() == pytest.approx(case["loss"], abs=1e-6)


def test_any_whole_number_targets():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        column = TARGETS.to(dtype)[:, None]
        assert CrossEntropyLossFlat()(LOGITS, column).item() == pytest.approx(CASE["ce_mean"])


def test_class_weights_and_ignored_targets():
    targets = torch.tensor([0, 1, 0, -100, 1, 0])
    expected = nn.CrossEntropyLoss(weight=WEIGHTS)(LOGITS, targets)
    assert CrossEntropyLossFlat(weight=WEIGHTS)(LOGITS, targets) == expected
    smooth = nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.2)(LOGITS, TARGETS)
    assert LabelSmoothingCrossEntropy(eps=0.2, weight=WEIGHTS)(LOGITS, TARGETS) == smooth


def test_focal_loss_with_gamma_0_is_cross_entropy():
    for reduction, weight in product(("mean", "sum", "none"), (None, WEIGHTS)):
        focal = FocalLossFlat(gamma=0, weight=weight, reduction=reduction)
        expected = F.cross_entropy(LOGITS, TARGETS, weight=weight, reduction=reduction)
        torch.testing.assert_close(focal(LOGITS, TARGETS), expected)


def test_class_weights_are_buffers_and_take_the_dtype_of_the_outputs():
    loss = CrossEntropyLossFlat(weight=WEIGHTS)
    assert [name for name, _ in loss.named_buffers()] == ["weight"]
    assert loss(LOGITS.double(), TARGETS).dtype == torch.float64


def test_losses_of_numbers():
    outputs, targets = randomly(5, 1), torch.arange(5)
    difference = outputs[:, 0] - targets
    assert MSELossFlat()(outputs, targets).item() == pytest.approx(
        difference.square().mean().item()
    )
    assert L1LossFlat()(outputs, targets).item() == pytest.approx(difference.abs().mean().item())
    assert MSELossFlat(reduction="none")(outputs, targets).shape == (5, 1)
    assert torch.equal(MSELossFlat().activation(outputs), outputs)
    assert torch.equal(L1LossFlat().decodes(outputs), outputs)


def test_repr():
    for loss in (BCEWithLogitsLossFlat, MSELossFlat, L1LossFlat, FocalLossFlat):
        assert repr(loss()) == f"FlattenedLoss of {loss.__name__.removesuffix('Flat')}()"
    assert repr(CrossEntropyLossFlat()) == CASE["flat_loss_repr"]
    assert repr(LabelSmoothingCrossEntropy()) == "LabelSmoothingCrossEntropy()"


def test_every_loss_has_gradients():
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


def test_default_loss_of_each_task():
    assert isinstance(default_loss("category"), CrossEntropyLossFlat)
    assert isinstance(default_loss("multi_category"), BCEWithLogitsLossFlat)
    assert isinstance(default_loss("regression"), MSELossFlat)
    with pytest.raises(ConfigError, match="segmentation"):
        default_loss("segmentation")  # pyright: ignore[reportArgumentType]


def test_per_image_losses_have_the_mean_of_the_loss():
    for loss in (
        F.cross_entropy,
        partial(F.cross_entropy, label_smoothing=0.1),
        nn.CrossEntropyLoss(),
        CrossEntropyLossFlat(),
        LabelSmoothingCrossEntropy(),
        FocalLossFlat(),
    ):
        before = str(getattr(loss, "__dict__", ""))
        each = per_image(loss)(LOGITS, TARGETS)
        assert each.shape == (6,)
        torch.testing.assert_close(each.mean(), loss(LOGITS, TARGETS))
        assert str(getattr(loss, "__dict__", "")) == before
    weighted = per_image(CrossEntropyLossFlat(weight=WEIGHTS))(LOGITS, TARGETS)
    torch.testing.assert_close(weighted, torch.tensor(CASE["ce_none"]) * WEIGHTS[TARGETS])


def test_per_image_losses_average_over_classes():
    logits, targets = randomly(7, 3), randomly(7, 3, seed=1).gt(0).float()
    for loss in (
        F.binary_cross_entropy_with_logits,
        F.mse_loss,
        nn.L1Loss(),
        BCEWithLogitsLossFlat(),
        MSELossFlat(),
        L1LossFlat(),
    ):
        each = per_image(loss)(logits, targets)
        assert each.shape == (7,)
        torch.testing.assert_close(each[2], loss(logits[2:3], targets[2:3]))


def mean_only(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def deaf(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def test_loss_that_has_only_a_mean_is_refused():
    with pytest.raises(ConfigError, match="mean_only"):
        per_image(mean_only)
    with pytest.raises(ConfigError, match="deaf"):
        per_image(deaf)(LOGITS, TARGETS)


def test_activation_of_a_loss():
    softmax, sigmoid = LOGITS.softmax(1), LOGITS.sigmoid()
    cases: list[tuple[LossFunction, torch.Tensor]] = [
        (F.cross_entropy, softmax),
        (partial(F.cross_entropy, label_smoothing=0.1), softmax),
        (nn.CrossEntropyLoss(), softmax),
        (LabelSmoothingCrossEntropy(), softmax),
        (FocalLossFlat(), softmax),
        (F.nll_loss, LOGITS.exp()),
        (nn.BCEWithLogitsLoss(), sigmoid),
        (F.binary_cross_entropy_with_logits, sigmoid),
        (BCEWithLogitsLossFlat(), sigmoid),
        (nn.MSELoss(), LOGITS),
        (mean_only, LOGITS),
    ]
    for loss, expected in cases:
        torch.testing.assert_close(activation_of(loss)(LOGITS), expected)


def test_targets_that_do_not_fit_are_refused():
    for loss, targets, facts in (
        (CrossEntropyLossFlat(), torch.tensor([0, 1]), r"\(6, 2\).*torch.int64.*\(2,\)"),
        (CrossEntropyLossFlat(), torch.zeros(6), "BCEWithLogitsLossFlat"),
        (BCEWithLogitsLossFlat(), TARGETS, r"\(6, 2\).*\(6,\)"),
        (MSELossFlat(), TARGETS, r"\(6, 2\).*\(6,\)"),
    ):
        with pytest.raises(ConfigError, match=facts):
            loss(LOGITS, targets)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"reduction.*'average'"):
        CrossEntropyLossFlat(reduction="average")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"eps=1\.5"):
        LabelSmoothingCrossEntropy(eps=1.5)
    with pytest.raises(ConfigError, match="gamma=-1"):
        FocalLossFlat(gamma=-1)


def test_balanced_class_weights():
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    weights = balanced_class_weights(targets, 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert weights[targets].mean().item() == pytest.approx(1)
    # A class that does not occur weighs 1; images without a label do not count.
    assert balanced_class_weights(targets, 4).tolist() == [*weights.tolist(), 1]
    more = torch.cat([targets, torch.full((7,), UNLABELLED)])
    assert torch.equal(balanced_class_weights(more, 3), weights)


def test_class_weights_of_impossible_targets_are_refused():
    unknown = torch.tensor([UNLABELLED])
    for targets in (torch.tensor([0, 3]), torch.tensor([-2]), unknown, torch.zeros(4), torch.zeros(2, 2).long()):  # fmt: skip
        with pytest.raises(ConfigError, match="Class weights"):
            balanced_class_weights(targets, 3)


def test_class_weights_may_be_a_list_or_an_array_and_fit_the_classes():
    expected = CrossEntropyLossFlat(weight=WEIGHTS)(LOGITS[:, :2], TARGETS % 2)
    weights: list[Any] = [WEIGHTS.tolist(), WEIGHTS.double().numpy()]
    for weight in weights:
        assert torch.equal(
            CrossEntropyLossFlat(weight=weight)(LOGITS[:, :2], TARGETS % 2), expected
        )
    fitting: list[LossFunction] = [
        CrossEntropyLossFlat(weight=WEIGHTS),
        BCEWithLogitsLossFlat(weight=[2.0], pos_weight=[3.0]),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        F.cross_entropy,
        nn.CrossEntropyLoss(),
    ]
    for loss in fitting:
        check_weights(loss, classes=("a", "b"))
    three = torch.ones(3)
    wrong: list[LossFunction] = [
        CrossEntropyLossFlat(weight=three),
        FocalLossFlat(weight=[1.0]),
        BCEWithLogitsLossFlat(pos_weight=three),
        nn.CrossEntropyLoss(three),
        partial(F.cross_entropy, weight=three),
    ]
    for loss in wrong:
        with pytest.raises(ConfigError, match=r"weight= .*2 classes.*: a, b\. Received: [13]"):
            check_weights(loss, classes=("a", "b"))
    with pytest.raises(ConfigError, match=r"at least 0.*-1"):
        check_weights(CrossEntropyLossFlat(weight=[1.0, -1.0]), classes=("a", "b"))
