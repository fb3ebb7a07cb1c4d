"""Metrics of several labels per picture: recorded values, and scikit-learn on anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as reference

from vizsla.errors import ConfigError
from vizsla.train.metrics import (
    F1ScoreMulti,
    FBetaMulti,
    HammingLossMulti,
    JaccardMulti,
    MatthewsCorrCoefMulti,
    PrecisionMulti,
    RecallMulti,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, LABELS = torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"])


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
def test_values_are_the_recorded_ones(metric: F1ScoreMulti, name: str):
    expected = pytest.approx(GOLDEN["multilabel"][name], abs=1e-12)
    assert metric(LOGITS, LABELS).item() == expected


def test_printed_names_are_those_of_scikit_learn():
    metrics: list[Any] = [F1ScoreMulti(), FBetaMulti(2), PrecisionMulti(), RecallMulti()]
    metrics += [JaccardMulti(), HammingLossMulti(), MatthewsCorrCoefMulti()]
    for metric in metrics:
        assert callable(getattr(reference, metric.__name__))


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
    probabilities, truth = LOGITS.sigmoid(), LABELS.numpy()
    expected = reference.f1_score(
        truth, (probabilities > 0.3).numpy(), labels=[0, 3], average="macro"
    )
    metric = F1ScoreMulti(thresh=0.3, labels=[0, 3])
    assert metric(LOGITS, LABELS).item() == pytest.approx(expected)
    as_given = F1ScoreMulti(thresh=0.3, sigmoid=False, labels=[0, 3])
    assert as_given(probabilities, LABELS) == metric(LOGITS, LABELS)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"outputs of shape \(6, 4\) and targets of shape \(6,\)"):
        F1ScoreMulti()(LOGITS, LABELS[:, 0])
    with pytest.raises(ConfigError, match=r"0\.\.3. Received: \[4\]"):
        F1ScoreMulti(labels=[4])(LOGITS, LABELS)
    wrong: Any = "binary"
    with pytest.raises(ConfigError, match=r"average is one of macro, .*'binary'"):
        F1ScoreMulti(average=wrong)


@pytest.mark.parametrize("metric", [F1ScoreMulti, FBetaMulti, HammingLossMulti])
def test_forgotten_brackets_are_named(metric: Any):
    with pytest.raises(ConfigError, match=rf"Write metrics={metric.__name__}\(\), with brackets"):
        metric(LOGITS, LABELS)
