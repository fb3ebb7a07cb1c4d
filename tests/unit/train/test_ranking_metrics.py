"""Ranking metrics of a notebook: recorded values and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics as reference

from vizsla.errors import ConfigError
from vizsla.train.metrics import APScoreBinary, APScoreMulti, RocAuc, RocAucBinary, RocAucMulti

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "interp.json").read_text())["metrics"]
LOGITS, TARGETS = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["targs"])
PAIR_LOGITS = torch.tensor(GOLDEN["binary_logits"])
PAIR_TARGETS = torch.tensor(GOLDEN["binary_targs"])
LABEL_LOGITS, LABELS = torch.tensor(GOLDEN["multi_logits"]), torch.tensor(GOLDEN["multi_targs"])


def test_values_are_the_recorded_ones():
    assert RocAuc()(LOGITS, TARGETS).item() == pytest.approx(
        GOLDEN["multiclass"]["RocAuc_macro_ovr"]
    )
    pair = GOLDEN["binary"]
    assert RocAucBinary()(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(pair["RocAucBinary"])
    assert APScoreBinary()(PAIR_LOGITS, PAIR_TARGETS).item() == pytest.approx(pair["APScoreBinary"])
    labels = GOLDEN["multilabel"]["RocAucMulti"]
    assert RocAucMulti()(LABEL_LOGITS, LABELS).item() == pytest.approx(labels)


def test_printed_names_are_those_of_scikit_learn():
    metrics: list[Any] = [RocAuc(), RocAucBinary(), RocAucMulti()]
    assert {metric.__name__ for metric in metrics} == {GOLDEN["names"]["RocAuc"]}
    more: list[Any] = [APScoreBinary(), APScoreMulti()]
    assert {metric.__name__ for metric in more} == {"average_precision_score"}


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


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"RocAucBinary needs outputs of two classes.*\(12, 3\)"):
        RocAucBinary()(LOGITS, TARGETS)
    wrong: Any = "sum"
    with pytest.raises(ConfigError, match=r"average is one of macro, weighted. Received: 'sum'"):
        RocAuc(average=wrong)
    with pytest.raises(ConfigError, match="multi_class is one of ovr, ovo"):
        RocAuc(multi_class=wrong)
    forgotten: Any = RocAucMulti
    with pytest.raises(ConfigError, match=r"metrics=RocAucMulti\(\)"):
        forgotten(LABEL_LOGITS, LABELS)
