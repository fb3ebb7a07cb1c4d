"""Metrics of a notebook that need no settings."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as reference

from vizsla.errors import ConfigError
from vizsla.train.metrics import (
    APScoreBinary,
    APScoreMulti,
    BalancedAccuracy,
    CohenKappa,
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
    RocAucMulti,
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    top_k_accuracy,
    unique_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, TARGETS = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["targs"])
LABEL_LOGITS, LABELS = torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"])


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
    assert top_k_accuracy(logits.T, targets, k=1, axis=0) == 1.0


def test_values_are_the_recorded_ones():
    classes, labels = GOLDEN["multiclass"], GOLDEN["multilabel"]
    assert accuracy(LOGITS, TARGETS).item() == classes["accuracy"]
    assert error_rate(LOGITS, TARGETS).item() == pytest.approx(classes["error_rate"])
    assert top_k_accuracy(LOGITS, TARGETS, k=2).item() == classes["top_k_accuracy_k2"]
    assert accuracy_multi(LABEL_LOGITS, LABELS).item() == labels["accuracy_multi"]
    lower = accuracy_multi(LABEL_LOGITS, LABELS, thresh=0.3)
    assert lower.item() == pytest.approx(labels["accuracy_multi_thresh_0_3"])
    assert accuracy_multi(LABEL_LOGITS.sigmoid(), LABELS, 0.3, sigmoid=False) == lower


def test_a_column_of_targets_counts_each_picture_once():
    assert accuracy(LOGITS, TARGETS[:, None]) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS[:, None], k=2) == top_k_accuracy(LOGITS, TARGETS, k=2)


def test_the_first_of_the_highest_is_the_prediction():
    assert top_k_accuracy(LOGITS, TARGETS, k=1) == accuracy(LOGITS, TARGETS)
    assert top_k_accuracy(LOGITS, TARGETS, k=3) == 1
    equal = torch.zeros(3, 4)
    assert top_k_accuracy(equal, torch.tensor([0, 1, 2]), k=2).item() == pytest.approx(2 / 3)


def test_what_does_not_fit_the_classes_is_refused():
    for k in (0, 4, -1):
        with pytest.raises(ConfigError, match=rf"1\.\.3.* Received: k={k}"):
            top_k_accuracy(LOGITS, TARGETS, k=k)
    for metric in (accuracy, error_rate, partial(top_k_accuracy, k=2)):
        with pytest.raises(ConfigError, match=r"Received: targets of shape \(6, 4\)"):
            metric(LABEL_LOGITS, LABELS)


def test_metrics_of_one_name_get_names_of_their_own():
    metrics = [F1Score(), partial(top_k_accuracy, k=2), F1Score(average="micro"), F1ScoreMulti()]
    assert unique_names(metrics) == ("f1_score", "top_k_accuracy", "f1_score_2", "f1_score_3")

    def f1_score_2(inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        return inp

    named = unique_names([F1Score(), f1_score_2, F1Score()])
    assert named == ("f1_score", "f1_score_2", "f1_score_3")


def test_settings_are_shown():
    assert repr(F1Score()) == "F1Score(axis=-1, labels=None, pos_label=1, average='auto')"
    assert repr(FBetaMulti(2, 0.3)).startswith("FBetaMulti(beta=2, thresh=0.3, sigmoid=True")


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_errors_of_numbers_are_those_of_scikit_learn(num_outputs: int):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(40, num_outputs, generator=generator) * 3 + 1000
    outputs = targets + torch.randn(40, num_outputs, generator=generator)
    arrays = targets.double().numpy(), outputs.double().numpy()
    assert mse(outputs, targets).item() == pytest.approx(reference.mean_squared_error(*arrays))
    assert rmse(outputs, targets).item() == pytest.approx(
        reference.mean_squared_error(*arrays) ** 0.5
    )
    assert mae(outputs, targets).item() == pytest.approx(reference.mean_absolute_error(*arrays))
    assert r2_score(outputs, targets).item() == pytest.approx(reference.r2_score(*arrays))


def test_one_number_may_come_without_its_axis():
    outputs, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0])
    assert mse(outputs, targets).item() == pytest.approx(1 / 3)
    assert mae(outputs, targets).item() == pytest.approx(1 / 3)
    assert r2_score(outputs, targets).item() == pytest.approx(0.5)


def test_nothing_explains_targets_that_do_not_vary():
    assert r2_score(torch.tensor([[1.0], [2.0]]), torch.full((2, 1), 0.1)).isnan()
    assert r2_score(torch.tensor([[1.0]]), torch.tensor([[3.0]])).isnan()


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


def test_classes_of_scores_may_lie_along_another_axis():
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


def test_targets_that_are_no_classes_are_refused():
    with pytest.raises(ConfigError, match=r"0\.\.2, .* Received: targets from 0 to 7"):
        F1Score()(LOGITS, TARGETS.masked_fill(TARGETS == 2, 7))


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (F1ScoreMulti(), "F1ScoreMulti_macro"),
        (F1ScoreMulti(average="samples"), "F1ScoreMulti_samples"),
        (PrecisionMulti(), "PrecisionMulti"),
        (RecallMulti(), "RecallMulti"),
        (HammingLossMulti(), "HammingLossMulti"),
    ],
)
def test_values_of_labels_are_the_recorded_ones(metric: F1ScoreMulti, name: str):
    expected = pytest.approx(GOLDEN["multilabel"][name], abs=1e-12)
    assert metric(LABEL_LOGITS, LABELS).item() == expected


@st.composite
def labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(2, 5)))
    both = arrays.arrays(np.bool_, shape)
    return draw(both), draw(both)


# Of labels that neither occur nor are predicted, and of a single one.
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(labels(), st.sampled_from(["macro", "micro", "weighted", "samples"]))
@settings(max_examples=30, deadline=None)
def test_scores_of_any_labels_are_those_of_scikit_learn(
    case: tuple[np.ndarray, np.ndarray], average: Any
):
    truth, given_labels = case
    arguments = torch.as_tensor(given_labels).float() - 0.5, torch.as_tensor(truth).float()
    options: dict[str, Any] = {"average": average, "zero_division": 0}
    expected = {
        F1ScoreMulti(average=average): reference.f1_score(truth, given_labels, **options),
        FBetaMulti(2, average=average): reference.fbeta_score(
            truth, given_labels, beta=2, **options
        ),
        PrecisionMulti(average=average): reference.precision_score(truth, given_labels, **options),
        RecallMulti(average=average): reference.recall_score(truth, given_labels, **options),
        JaccardMulti(average=average): reference.jaccard_score(truth, given_labels, **options),
        HammingLossMulti(): reference.hamming_loss(truth, given_labels),
        MatthewsCorrCoefMulti(): reference.matthews_corrcoef(truth.ravel(), given_labels.ravel()),
    }
    for metric, value in expected.items():
        assert metric(*arguments).item() == pytest.approx(value, abs=1e-7), metric


def test_threshold_and_chosen_labels_are_obeyed():
    probabilities, truth = LABEL_LOGITS.sigmoid(), LABELS.numpy()
    expected = reference.f1_score(
        truth, (probabilities > 0.3).numpy(), labels=[0, 3], average="macro"
    )
    metric = F1ScoreMulti(thresh=0.3, labels=[0, 3])
    assert metric(LABEL_LOGITS, LABELS).item() == pytest.approx(expected)
    as_given = F1ScoreMulti(thresh=0.3, sigmoid=False, labels=[0, 3])
    assert as_given(probabilities, LABELS) == metric(LABEL_LOGITS, LABELS)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"outputs of shape \(6, 4\) and targets of shape \(6,\)"):
        F1ScoreMulti()(LABEL_LOGITS, LABELS[:, 0])
    with pytest.raises(ConfigError, match=r"0\.\.3. Received: \[4\]"):
        F1ScoreMulti(labels=[4])(LABEL_LOGITS, LABELS)


def test_rankings_are_the_recorded_ones():
    assert RocAuc()(LOGITS, TARGETS).item() == pytest.approx(
        GOLDEN["multiclass"]["RocAuc_macro_ovr"]
    )
    pair = GOLDEN["binary"]
    assert RocAucBinary()(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(pair["RocAucBinary"])
    assert APScoreBinary()(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(pair["APScoreBinary"])
    labels = GOLDEN["multilabel"]["RocAucMulti"]
    assert RocAucMulti()(LABEL_LOGITS, LABELS).item() == pytest.approx(labels)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@pytest.mark.parametrize("multi_class", ["ovr", "ovo"])
def test_areas_of_several_classes_are_those_of_scikit_learn(average: Any, multi_class: Any):
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


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_rankings_of_labels_are_those_of_scikit_learn(average: Any):
    generator = torch.Generator().manual_seed(4)
    truth = (torch.rand(50, 5, generator=generator) < 0.3).float()
    logits = torch.randn(50, 5, generator=generator).add(truth).mul(3).round()
    arrays = truth.numpy(), logits.numpy()
    assert RocAucMulti(average=average)(logits, truth).item() == pytest.approx(
        reference.roc_auc_score(*arrays, average=average)
    )
    assert APScoreMulti(average=average)(logits, truth).item() == pytest.approx(
        reference.average_precision_score(*arrays, average=average)
    )


def test_both_of_two_classes_have_the_same_area():
    both = RocAuc()(PAIR_LOGITS, PAIR_TARGETS).item()
    assert both == pytest.approx(RocAucBinary()(PAIR_LOGITS, PAIR_TARGETS).item())


@pytest.mark.parametrize("multi_class", ["ovr", "ovo"])
def test_absent_classes_are_left_out_and_a_single_one_has_no_area(multi_class: Any):
    metric = RocAuc(multi_class=multi_class)
    wider = torch.cat([PAIR_LOGITS, torch.full((10, 1), -1e4)], dim=1)
    assert metric(wider, PAIR_TARGETS) == metric(PAIR_LOGITS, PAIR_TARGETS)
    assert metric(PAIR_LOGITS, torch.zeros_like(PAIR_TARGETS)).isnan()


def test_rankings_of_another_number_of_classes_are_refused():
    with pytest.raises(ConfigError, match=r"RocAucBinary needs outputs of two classes.*\(12, 3\)"):
        RocAucBinary()(LOGITS, TARGETS)


OF_AXIS_ALONE: list[Any] = [MatthewsCorrCoef, HammingLoss, RocAucBinary, APScoreBinary]
OF_CLASSES: list[Any] = [F1Score, Precision, Recall, Jaccard, BalancedAccuracy, CohenKappa, RocAuc]
OF_LABELS: list[Any] = [F1ScoreMulti, PrecisionMulti, RecallMulti, JaccardMulti, HammingLossMulti]
OF_LABELS_TOO: list[Any] = [MatthewsCorrCoefMulti, RocAucMulti, APScoreMulti]
CLASSES = OF_CLASSES + OF_LABELS + OF_LABELS_TOO
WITH_BETA: list[Any] = [FBeta, FBetaMulti]


def test_printed_names_are_those_of_scikit_learn():
    for metric in (*(made() for made in CLASSES + OF_AXIS_ALONE), FBeta(2), FBetaMulti(2)):
        assert callable(getattr(reference, metric.__name__))
    assert F1Score().__name__ == GOLDEN["names"]["F1Score"] == "f1_score"
    assert RocAuc().__name__ == GOLDEN["names"]["RocAuc"]
    assert F1Score.__name__ == "F1Score"


def test_forgotten_brackets_are_named():
    for metric in CLASSES + WITH_BETA:
        with pytest.raises(ConfigError, match=rf"metrics={metric.__name__}\(\)"):
            metric(LABEL_LOGITS, LABELS)


def test_impossible_settings_are_refused_at_once():
    wrong: Any = "sample"
    for metric in (F1Score, F1ScoreMulti, RocAuc, RocAucMulti):
        with pytest.raises(ConfigError, match=r"average is one of .*'sample'"):
            metric(average=wrong)
    for beta in (FBeta, FBetaMulti):
        with pytest.raises(ConfigError, match="beta=-1"):
            beta(-1)
    with pytest.raises(ConfigError, match="weights is None"):
        CohenKappa(weights=wrong)
    with pytest.raises(ConfigError, match="multi_class is one of ovr, ovo"):
        RocAuc(multi_class=wrong)
