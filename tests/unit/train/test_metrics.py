"""Metrics against recorded values and scikit-learn."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as reference

from vizsla import (
    BalancedAccuracy,
    CohenKappa,
    ConfigError,
    F1Score,
    F1ScoreMulti,
    FBeta,
    FBetaMulti,
    HammingLoss,
    HammingLossMulti,
    Jaccard,
    JaccardMulti,
    MatthewsCorrCoef,
    MatthewsCorrCoefMulti,
    Precision,
    PrecisionMulti,
    Recall,
    RecallMulti,
    RocAuc,
    RocAucBinary,
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    top_k_accuracy,
)
from vizsla.train import metrics, unique_names

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, TARGETS = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["targs"])
LABEL_LOGITS, LABELS = torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"])
PAIR_LOGITS = torch.tensor(GOLDEN["binary_logits"])
PAIR_TARGETS = torch.tensor(GOLDEN["binary_targs"])


# --- without settings ---


def test_classes_along_another_axis():
    logits, targets = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1])
    assert accuracy(logits.T, targets, axis=0) == accuracy(logits, targets) == 1.0
    assert error_rate(logits.T, targets, 0) == 0.0
    assert top_k_accuracy(logits.T, targets, k=1, axis=0) == 1.0
    assert F1Score(axis=0)(LOGITS.T, TARGETS) == F1Score()(LOGITS, TARGETS)


def test_golden_values_of_functions():
    classes, labels = GOLDEN["multiclass"], GOLDEN["multilabel"]
    assert accuracy(LOGITS, TARGETS).item() == classes["accuracy"]
    assert error_rate(LOGITS, TARGETS).item() == pytest.approx(classes["error_rate"])
    assert top_k_accuracy(LOGITS, TARGETS, k=2).item() == classes["top_k_accuracy_k2"]
    assert accuracy_multi(LABEL_LOGITS, LABELS).item() == labels["accuracy_multi"]
    lower = accuracy_multi(LABEL_LOGITS, LABELS, thresh=0.3)
    assert lower.item() == pytest.approx(labels["accuracy_multi_thresh_0_3"])
    assert accuracy_multi(LABEL_LOGITS.sigmoid(), LABELS, 0.3, sigmoid=False) == lower


def test_column_of_targets():
    assert accuracy(LOGITS, TARGETS[:, None]) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS[:, None], k=2) == top_k_accuracy(LOGITS, TARGETS, k=2)


def test_top_k_counts_the_first_of_equal_scores():
    assert top_k_accuracy(LOGITS, TARGETS, k=1) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS, k=3) == 1
    equal = torch.zeros(3, 4)
    assert top_k_accuracy(equal, torch.tensor([0, 1, 2]), k=2).item() == pytest.approx(2 / 3)
    for k in (0, 4, -1):
        with pytest.raises(ConfigError, match=rf"from 1 to .*3.*k={k}"):
            top_k_accuracy(LOGITS, TARGETS, k=k)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_numbers_are_scored_as_in_scikit_learn(num_outputs: int):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(40, num_outputs, generator=generator) * 3 + 1000
    outputs = targets + torch.randn(40, num_outputs, generator=generator)
    pair = targets.double().numpy(), outputs.double().numpy()
    squared = reference.mean_squared_error(*pair)
    for metric, expected in (
        (mse, squared),
        (rmse, squared**0.5),
        (mae, reference.mean_absolute_error(*pair)),
        (r2_score, reference.r2_score(*pair)),
    ):
        assert metric(outputs, targets).item() == pytest.approx(expected)
        if num_outputs == 1:
            assert metric(outputs, targets[:, 0]) == metric(outputs, targets)


def test_r2_is_nan_where_targets_do_not_vary():
    assert r2_score(torch.tensor([[1.0], [2.0]]), torch.full((2, 1), 0.1)).isnan()
    assert r2_score(torch.tensor([[1.0]]), torch.tensor([[3.0]])).isnan()


# --- names and settings ---

CLASSES: list[Any] = [one for one in vars(metrics).values() if isinstance(one, type) and one.__module__ == metrics.__name__ and one.__name__ != "Metric" and not one.__qualname__.startswith("_")]  # fmt: skip


def test_unique_names():
    def f1_score_2(inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        return inp

    given = [F1Score(), partial(top_k_accuracy, k=2), F1Score(average="micro"), F1ScoreMulti()]
    assert unique_names(given) == ("f1_score", "top_k_accuracy", "f1_score_micro", "f1_score_2")
    named = unique_names([F1Score(), f1_score_2, F1Score()])
    assert named == ("f1_score", "f1_score_2", "f1_score_3")


def test_names_are_those_of_scikit_learn():
    assert len(CLASSES) == 21
    for metric in CLASSES:
        made = metric(2) if metric in (FBeta, FBetaMulti) else metric()
        assert callable(getattr(reference, made.__name__))
    assert F1Score().__name__ == GOLDEN["names"]["F1Score"] == "f1_score"
    assert RocAuc().__name__ == GOLDEN["names"]["RocAuc"]
    assert F1Score.__name__ == "F1Score"


def test_repr_shows_settings():
    assert repr(F1Score()) == "F1Score(axis=-1, labels=None, pos_label=1, average='auto')"
    assert repr(FBetaMulti(2, 0.3)).startswith("FBetaMulti(beta=2, thresh=0.3, sigmoid=True")


def test_class_in_place_of_a_metric_is_refused():
    for metric in CLASSES:
        arguments = (LABEL_LOGITS,) if len(metric.__dataclass_fields__) == 1 else (LABEL_LOGITS, LABELS)  # fmt: skip
        with pytest.raises(ConfigError, match=rf"metrics={metric.__name__}\(\)"):
            metric(*arguments)


def test_impossible_settings_are_refused():
    wrong: Any = "sample"
    for metric in (F1Score, F1ScoreMulti, RocAuc, metrics.RocAucMulti):
        with pytest.raises(ConfigError, match=r"average.*'sample'"):
            metric(average=wrong)
    for beta in (FBeta, FBetaMulti):
        with pytest.raises(ConfigError, match="beta=-1"):
            beta(-1)
    with pytest.raises(ConfigError, match=r"weights.*linear.*'sample'"):
        CohenKappa(weights=wrong)
    with pytest.raises(ConfigError, match=r"multi_class.*ovr, ovo"):
        RocAuc(multi_class=wrong)


def test_outputs_and_targets_that_do_not_fit_are_refused():
    cases: list[tuple[Any, torch.Tensor, torch.Tensor, str]] = [
        (accuracy, LABEL_LOGITS, LABELS, r"\(6, 4\)"),
        (error_rate, LABEL_LOGITS, LABELS, r"\(6, 4\)"),
        (partial(top_k_accuracy, k=2), LABEL_LOGITS, LABELS, r"\(6, 4\)"),
        (F1Score(average="binary"), LOGITS, TARGETS, "binary.*3 classes"),
        (F1Score(labels=[3]), LOGITS, TARGETS, r"from 0 to 2.*\[3\]"),
        (F1Score(), LOGITS, TARGETS.masked_fill(TARGETS == 2, 7), r"from 0 to 2.*0 to 7"),
        (F1ScoreMulti(), LABEL_LOGITS, LABELS[:, 0], r"\(6, 4\).*\(6,\)"),
        (F1ScoreMulti(labels=[4]), LABEL_LOGITS, LABELS, r"from 0 to 3.*\[4\]"),
        (RocAucBinary(), LOGITS, TARGETS, r"RocAucBinary.*\(12, 3\)"),
    ]
    for metric, outputs, targets, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            metric(outputs, targets)


# --- recorded values ---


def test_golden_values_of_classes():
    several = {
        "F1Score_macro": F1Score(),
        "F1Score_micro": F1Score(average="micro"),
        "F1Score_weighted": F1Score(average="weighted"),
        "FBeta2_macro": FBeta(2),
        "Precision_macro": Precision(),
        "Recall_macro": Recall(),
        "Jaccard_macro": Jaccard(),
        "BalancedAccuracy": BalancedAccuracy(),
        "CohenKappa": CohenKappa(),
        "MatthewsCorrCoef": MatthewsCorrCoef(),
        "HammingLoss": HammingLoss(),
        "RocAuc_macro_ovr": RocAuc(),
    }
    two = [F1Score(), Precision(), Recall(), RocAucBinary(), metrics.APScoreBinary()]
    labels = {
        "F1ScoreMulti_macro": F1ScoreMulti(),
        "F1ScoreMulti_samples": F1ScoreMulti(average="samples"),
        "PrecisionMulti": PrecisionMulti(),
        "RecallMulti": RecallMulti(),
        "HammingLossMulti": HammingLossMulti(),
        "RocAucMulti": metrics.RocAucMulti(),
    }
    for name, metric in several.items():
        expected = pytest.approx(GOLDEN["multiclass"][name], abs=1e-12)
        assert metric(LOGITS, TARGETS).item() == expected, name
    for metric in two:
        name = type(metric).__name__
        expected = pytest.approx(GOLDEN["binary"][name], abs=1e-12)
        assert metric(PAIR_LOGITS, PAIR_TARGETS).item() == expected, name
    for name, metric in labels.items():
        expected = pytest.approx(GOLDEN["multilabel"][name], abs=1e-12)
        assert metric(LABEL_LOGITS, LABELS).item() == expected, name
    assert F1Score(average="binary")(PAIR_LOGITS, PAIR_TARGETS) == two[0](PAIR_LOGITS, PAIR_TARGETS)
    assert F1Score(average="macro")(LOGITS, TARGETS) == F1Score()(LOGITS, TARGETS)


# --- scikit-learn ---


@st.composite
def classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Targets, predictions and the number of classes; some classes are often absent, or all but one."""
    num_classes = draw(st.integers(2, 6))
    num_images = draw(st.integers(1, 20))
    index = st.integers(0, draw(st.integers(0, num_classes - 1)))
    both = st.lists(index, min_size=num_images, max_size=num_images)
    targets, predicted = np.array(draw(both)), np.array(draw(both))
    kind = draw(st.sampled_from(["random", "perfect", "all wrong"]))
    if kind == "perfect":
        predicted = targets
    elif kind == "all wrong":
        predicted = (targets + 1) % num_classes
    return targets, predicted, num_classes


# scikit-learn warns of classes that are only predicted, and of a single one.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@given(classes(), st.sampled_from(["macro", "micro", "weighted"]))
@settings(max_examples=30, deadline=None)
def test_any_classes_are_scored_as_in_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, int], average: Any
):
    targets, predicted, num_classes = case
    logits = torch.nn.functional.one_hot(torch.as_tensor(predicted), num_classes).float()
    options: dict[str, Any] = {"average": average, "zero_division": 0}
    kappa = partial(reference.cohen_kappa_score, targets, predicted, labels=range(num_classes))
    expected = {
        F1Score(average=average): reference.f1_score(targets, predicted, **options),
        FBeta(0.5, average=average): reference.fbeta_score(targets, predicted, beta=0.5, **options),
        Precision(average=average): reference.precision_score(targets, predicted, **options),
        Recall(average=average): reference.recall_score(targets, predicted, **options),
        Jaccard(average=average): reference.jaccard_score(targets, predicted, **options),
        HammingLoss(): reference.hamming_loss(targets, predicted),
        MatthewsCorrCoef(): reference.matthews_corrcoef(targets, predicted),
        BalancedAccuracy(): reference.balanced_accuracy_score(targets, predicted),
        CohenKappa(): kappa(weights=None),
        CohenKappa(weights="linear"): kappa(weights="linear"),
        CohenKappa(weights="quadratic"): kappa(weights="quadratic"),
    }
    for metric, value in expected.items():
        found = metric(logits, torch.as_tensor(targets)).item()
        assert found == pytest.approx(value, abs=1e-12, nan_ok=isinstance(metric, CohenKappa)), (
            metric
        )


@st.composite
def labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(2, 5)))
    both = arrays.arrays(np.bool_, shape)
    return draw(both), draw(both)


# scikit-learn warns of labels that neither occur nor are predicted, and of a single one.
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(labels(), st.sampled_from(["macro", "micro", "weighted", "samples"]))
@settings(max_examples=30, deadline=None)
def test_any_labels_are_scored_as_in_scikit_learn(
    case: tuple[np.ndarray, np.ndarray], average: Any
):
    truth, predicted = case
    options: dict[str, Any] = {"average": average, "zero_division": 0}
    expected = {
        F1ScoreMulti(average=average): reference.f1_score(truth, predicted, **options),
        FBetaMulti(2, average=average): reference.fbeta_score(truth, predicted, beta=2, **options),
        PrecisionMulti(average=average): reference.precision_score(truth, predicted, **options),
        RecallMulti(average=average): reference.recall_score(truth, predicted, **options),
        JaccardMulti(average=average): reference.jaccard_score(truth, predicted, **options),
        HammingLossMulti(): reference.hamming_loss(truth, predicted),
        MatthewsCorrCoefMulti(): reference.matthews_corrcoef(truth.ravel(), predicted.ravel()),
    }
    for metric, value in expected.items():
        found = metric(torch.as_tensor(predicted).float() - 0.5, torch.as_tensor(truth).float())
        assert found.item() == pytest.approx(value, abs=1e-7), metric


def test_chosen_classes_labels_and_thresholds():
    predicted, truth = LOGITS.argmax(1).numpy(), LABELS.numpy()
    chosen = reference.f1_score(TARGETS.numpy(), predicted, labels=[0, 2], average="macro")
    assert F1Score(labels=[0, 2])(LOGITS, TARGETS).item() == pytest.approx(chosen)
    first = reference.f1_score(PAIR_TARGETS.numpy(), PAIR_LOGITS.argmax(1).numpy(), pos_label=0)
    assert F1Score(pos_label=0)(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(first)
    adjusted = reference.balanced_accuracy_score(TARGETS.numpy(), predicted, adjusted=True)
    assert BalancedAccuracy(adjusted=True)(LOGITS, TARGETS).item() == pytest.approx(adjusted)
    probabilities = LABEL_LOGITS.sigmoid()
    lower = (probabilities > 0.3).numpy()
    expected = reference.f1_score(truth, lower, labels=[0, 3], average="macro")
    found = F1ScoreMulti(thresh=0.3, labels=[0, 3])(LABEL_LOGITS, LABELS)
    assert found.item() == pytest.approx(expected)
    assert F1ScoreMulti(0.3, sigmoid=False, labels=[0, 3])(probabilities, LABELS) == found


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize("multi_class", ["ovr", "ovo"])
def test_roc_auc_of_classes_is_that_of_scikit_learn(average: Any, multi_class: Any):
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(4, (70,), generator=generator)
    logits = torch.randn(70, 4, generator=generator).mul(4).round().div(4)  # with ties
    logits[torch.arange(70), targets] += 0.5
    # As float32, so that probabilities which are equal but for rounding are equal.
    probabilities = logits.double().log_softmax(1).float().double().exp().numpy()
    expected = reference.roc_auc_score(
        targets.numpy(), probabilities, average=average, multi_class=multi_class
    )
    metric = RocAuc(average=average, multi_class=multi_class)
    assert metric(logits, targets).item() == pytest.approx(expected, abs=1e-12)
    wider = torch.cat([PAIR_LOGITS, torch.full((10, 1), -1e4)], dim=1)  # an absent class
    assert metric(wider, PAIR_TARGETS) == metric(PAIR_LOGITS, PAIR_TARGETS)
    assert metric(PAIR_LOGITS, torch.zeros_like(PAIR_TARGETS)).isnan()
    both = RocAucBinary()(PAIR_LOGITS, PAIR_TARGETS).item()
    assert metric(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(both)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_rankings_of_labels_are_those_of_scikit_learn(average: Any):
    generator = torch.Generator().manual_seed(4)
    truth = (torch.rand(50, 5, generator=generator) < 0.3).float()
    logits = torch.randn(50, 5, generator=generator).add(truth).mul(3).round()
    pair = truth.numpy(), logits.numpy()
    for metric, function in (
        (metrics.RocAucMulti(average=average), reference.roc_auc_score),
        (metrics.APScoreMulti(average=average), reference.average_precision_score),
    ):
        expected = function(*pair, average=average)
        assert metric(logits, truth).item() == pytest.approx(expected)
