"""ROC-AUC and average precision with ties against scikit-learn; influences against weighing single pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from vizsla.evaluate import statistics as ranking
from vizsla.evaluate.statistics import Ranked, average_precision, mean_over_classes, roc_auc

if TYPE_CHECKING:
    from collections.abc import Callable

METRICS = [
    (roc_auc, reference.roc_auc_score),
    (average_precision, reference.average_precision_score),
]


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and who is positive: at least one of each."""
    size = draw(st.integers(2, 25))
    scores = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    positive = draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))
    return np.array(scores, dtype=float), np.array([True, False, *positive])


@pytest.mark.parametrize(("metric", "expected"), METRICS)
@given(case=rankings())
@settings(max_examples=40, deadline=None)
def test_values_and_influences_are_right_for_any_ranking(
    metric: Callable[[torch.Tensor, torch.Tensor], Ranked | None],
    expected: Callable[..., float],
    case: tuple[np.ndarray, np.ndarray],
):
    scores, positive = case
    found = metric(torch.as_tensor(scores), torch.as_tensor(positive))
    assert found is not None
    assert found.value == pytest.approx(expected(positive, scores), abs=1e-12)
    step = 1e-5
    for place in (0, 1, len(scores) - 1):
        weights = np.ones(len(scores))
        weights[place] += step
        more = expected(positive, scores, sample_weight=weights)
        weights[place] -= 2 * step
        less = expected(positive, scores, sample_weight=weights)
        slope = (more - less) / (2 * step)
        assert found.influence[place].item() == pytest.approx(slope, abs=1e-6)
    # The weights of all pictures together change nothing.
    assert found.influence.sum().item() == pytest.approx(0, abs=1e-12)


def test_one_kind_of_pictures_cannot_be_ranked():
    scores = torch.arange(3.0)
    assert roc_auc(scores, torch.ones(3, dtype=torch.bool)) is None
    assert roc_auc(scores, torch.zeros(3, dtype=torch.bool)) is None
    assert average_precision(scores, torch.zeros(3, dtype=torch.bool)) is None
    assert mean_over_classes(roc_auc, scores[:, None], positive=lambda _: scores > 9) is None


def test_columns_are_read_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch):
    scores = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 7
    whole = mean_over_classes(roc_auc, scores, positive=lambda index: targets == index)
    monkeypatch.setattr(ranking, "_VALUES_AT_ONCE", 80)
    parts = mean_over_classes(roc_auc, scores, positive=lambda index: targets == index)
    assert whole is not None
    assert parts is not None
    assert whole.value == parts.value
    assert torch.equal(whole.influence, parts.influence)


def test_intervals_of_the_area_cover_as_often_as_they_say():
    # Scores 1 apart in standard deviations: the true area is that of the normal distribution at 1 / sqrt(2).
    truth = torch.special.ndtr(torch.tensor(0.5).sqrt()).item()
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(80) < 30
    hits = 0
    for _ in range(300):
        scores = torch.randn(80, generator=generator, dtype=torch.float64) + positive
        found = roc_auc(scores, positive)
        assert found is not None
        error = found.influence.square().sum().sqrt().item()
        hits += abs(found.value - truth) < 1.96 * error
    assert 273 <= hits <= 296  # 95 % are 285, give or take 3.8
