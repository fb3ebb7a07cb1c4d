"""Metrics with settings: recorded values, and scikit-learn on anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from vizsla.errors import ConfigError
from vizsla.train.metrics import (
    BalancedAccuracy,
    CohenKappa,
    F1Score,
    FBeta,
    HammingLoss,
    Jaccard,
    MatthewsCorrCoef,
    Precision,
    Recall,
)

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, TARGETS = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["targs"])
PAIR_LOGITS = torch.tensor(GOLDEN["binary_logits"])
PAIR_TARGETS = torch.tensor(GOLDEN["binary_targs"])


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (F1Score(average="macro"), "F1Score_macro"),
        (F1Score(), "F1Score_macro"),
        (F1Score(average="micro"), "F1Score_micro"),
        (F1Score(average="weighted"), "F1Score_weighted"),
        (FBeta(2), "FBeta2_macro"),
        (Precision(), "Precision_macro"),
        (Recall(), "Recall_macro"),
        (Jaccard(), "Jaccard_macro"),
        (BalancedAccuracy(), "BalancedAccuracy"),
        (CohenKappa(), "CohenKappa"),
        (MatthewsCorrCoef(), "MatthewsCorrCoef"),
        (HammingLoss(), "HammingLoss"),
    ],
)
def test_values_of_several_classes_are_the_recorded_ones(
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], name: str
):
    expected = pytest.approx(GOLDEN["multiclass"][name], abs=1e-12)
    assert metric(LOGITS, TARGETS).item() == expected


@pytest.mark.parametrize("metric", [F1Score, Precision, Recall])
def test_of_two_classes_the_second_is_scored(metric: type[F1Score]):
    expected = pytest.approx(GOLDEN["binary"][metric.__name__], abs=1e-12)
    assert metric()(PAIR_LOGITS, PAIR_TARGETS).item() == expected
    assert metric(average="binary")(PAIR_LOGITS, PAIR_TARGETS).item() == expected


def test_printed_names_are_those_of_scikit_learn():
    metrics: list[Any] = [F1Score(), FBeta(2), Precision(), Recall(), Jaccard(), BalancedAccuracy()]
    metrics += [CohenKappa(), MatthewsCorrCoef(), HammingLoss()]
    for metric in metrics:
        assert callable(getattr(reference, metric.__name__))
    assert metrics[0].__name__ == GOLDEN["names"]["F1Score"] == "f1_score"
    assert F1Score.__name__ == "F1Score"


def as_logits(predicted: np.ndarray, *, num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(predicted), num_classes).float()


@st.composite
def classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Targets, predictions and the number of classes; some classes are often absent, or all but one."""
    num_classes = draw(st.integers(2, 6))
    num_pictures = draw(st.integers(1, 20))
    index = st.integers(0, draw(st.integers(0, num_classes - 1)))
    both = st.lists(index, min_size=num_pictures, max_size=num_pictures)
    targets, predicted = np.array(draw(both)), np.array(draw(both))
    kind = draw(st.sampled_from(["random", "perfect", "all wrong"]))
    if kind == "perfect":
        predicted = targets
    elif kind == "all wrong":
        predicted = (targets + 1) % num_classes
    return targets, predicted, num_classes


# Of classes that are only predicted, and of a single one.
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(classes(), st.sampled_from(["macro", "micro", "weighted"]))
@settings(max_examples=30, deadline=None)
def test_scores_of_any_classes_are_those_of_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, int], average: Any
):
    targets, predicted, num_classes = case
    arguments = as_logits(predicted, num_classes=num_classes), torch.as_tensor(targets)
    options: dict[str, Any] = {"average": average, "zero_division": 0}
    expected = {
        F1Score(average=average): reference.f1_score(targets, predicted, **options),
        FBeta(0.5, average=average): reference.fbeta_score(targets, predicted, beta=0.5, **options),
        Precision(average=average): reference.precision_score(targets, predicted, **options),
        Recall(average=average): reference.recall_score(targets, predicted, **options),
        Jaccard(average=average): reference.jaccard_score(targets, predicted, **options),
        HammingLoss(): reference.hamming_loss(targets, predicted),
        MatthewsCorrCoef(): reference.matthews_corrcoef(targets, predicted),
    }
    for metric, value in expected.items():
        assert metric(*arguments).item() == pytest.approx(value, abs=1e-12), metric


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@given(classes())
@settings(max_examples=25, deadline=None)
def test_agreement_with_any_classes_is_that_of_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, int],
):
    targets, predicted, num_classes = case
    arguments = as_logits(predicted, num_classes=num_classes), torch.as_tensor(targets)
    balanced = reference.balanced_accuracy_score(targets, predicted)
    assert BalancedAccuracy()(*arguments).item() == pytest.approx(balanced)
    for weights in (None, "linear", "quadratic"):
        kappa = reference.cohen_kappa_score(
            targets, predicted, labels=range(num_classes), weights=weights
        )
        got = CohenKappa(weights=weights)(*arguments).item()
        assert got == pytest.approx(kappa, abs=1e-12, nan_ok=True)


def test_balanced_accuracy_can_be_adjusted_for_chance():
    predicted = LOGITS.argmax(1).numpy()
    expected = reference.balanced_accuracy_score(TARGETS.numpy(), predicted, adjusted=True)
    assert BalancedAccuracy(adjusted=True)(LOGITS, TARGETS).item() == pytest.approx(expected)


def test_chosen_classes_alone_are_averaged():
    predicted = LOGITS.argmax(1).numpy()
    expected = reference.f1_score(TARGETS.numpy(), predicted, labels=[0, 2], average="macro")
    assert F1Score(labels=[0, 2])(LOGITS, TARGETS).item() == pytest.approx(expected)
    first = reference.f1_score(PAIR_TARGETS.numpy(), PAIR_LOGITS.argmax(1).numpy(), pos_label=0)
    assert F1Score(pos_label=0)(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(first)


def test_classes_may_lie_along_another_axis():
    assert F1Score(axis=0)(LOGITS.T, TARGETS) == F1Score()(LOGITS, TARGETS)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            F1Score(average="binary"),
            'one of two classes. Received: outputs of 3 classes. Choose "macro"',
        ),
        (F1Score(labels=[3]), r"0\.\.2. Received: \[3\]"),
    ],
)
def test_settings_that_do_not_fit_the_classes_are_refused(metric: F1Score, message: str):
    with pytest.raises(ConfigError, match=message):
        metric(LOGITS, TARGETS)


def test_impossible_settings_are_refused_at_once():
    wrong: Any = "sample"
    with pytest.raises(ConfigError, match=r"average is one of auto, binary, .*'sample'"):
        F1Score(average=wrong)
    with pytest.raises(ConfigError, match="beta=-1"):
        FBeta(-1)
    with pytest.raises(ConfigError, match="weights is None"):
        CohenKappa(weights=wrong)


@pytest.mark.parametrize("metric", [F1Score, FBeta, BalancedAccuracy, CohenKappa])
def test_forgotten_brackets_are_named(metric: Any):
    with pytest.raises(ConfigError, match=rf"Write metrics={metric.__name__}\(\), with brackets"):
        metric(LOGITS, TARGETS)


def test_targets_that_are_no_classes_are_refused():
    with pytest.raises(ConfigError, match=r"0\.\.2, .* Received: targets from 0 to 7"):
        F1Score()(LOGITS, TARGETS.masked_fill(TARGETS == 2, 7))
