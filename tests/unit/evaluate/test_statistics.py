"""The arithmetic of metrics: tallies, rankings and intervals, against scipy, scikit-learn and naive counting."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference
from torch import Tensor

from vizsla import ConfigError
from vizsla.evaluate import (
    Ranked,
    Tallies,
    average_precision,
    bootstrap,
    influence_metric,
    mean_over_classes,
    normal_quantile,
    roc_auc,
    wilson_interval,
)
from vizsla.evaluate import statistics as formulas

if TYPE_CHECKING:
    from collections.abc import Callable


def test_resampled_images_are_counted_as_if_drawn_one_by_one():
    draws = torch.Generator().manual_seed(0)
    counts = torch.randint(3, (30, 5), generator=draws).double()

    count_classes = partial(formulas.count_classes, num_classes=4)
    for count, values in (
        (count_classes, torch.randint(4, (2, 30), generator=draws)),
        (formulas.count_labels, torch.rand(2, 30, 4, generator=draws) < 0.4),
    ):
        tallies = count(*values, counts=counts)
        for resample in range(5):
            drawn = torch.arange(30).repeat_interleave(counts[:, resample].long())
            for found, alone in zip(tallies, count(*values[:, drawn]), strict=True):
                assert torch.equal(found[:, [resample]], alone)


def test_large_matrices_give_the_same_in_parts(monkeypatch: pytest.MonkeyPatch):
    draws = torch.Generator().manual_seed(0)
    labels = torch.rand(2, 30, 4, generator=draws) < 0.4
    scores, targets = torch.randn(40, 7, generator=draws), torch.arange(40) % 7

    def found() -> tuple[Tallies, Ranked | None]:
        area = mean_over_classes(roc_auc, scores, positive=lambda index: targets == index)
        return formulas.count_labels(*labels), area

    tallies, area = found()
    monkeypatch.setattr(formulas, "_VALUES_AT_ONCE", 80)
    tallies_of_parts, area_of_parts = found()
    assert area is not None
    assert area_of_parts is not None
    assert area.value == area_of_parts.value
    for whole, parts in zip(
        (*tallies, area.influence), (*tallies_of_parts, area_of_parts.influence), strict=True
    ):
        assert torch.equal(whole, parts)


@given(st.data())
def test_wilson_agrees_with_scipy(data: st.DataObject):
    trials = data.draw(st.integers(1, 5000))
    successes = data.draw(st.integers(0, trials))
    level = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    expected = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    low, high = wilson_interval(successes, trials, level=level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / trials <= high <= 1


def test_wilson_knows_nothing_without_trials_and_refuses_impossible_counts():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for successes, trials, level in ((3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)):
        with pytest.raises(ConfigError, match=f"={successes},.*={trials},.*={level}"):
            wilson_interval(successes, trials, level=level)


def mean_of(values: Tensor):
    def measure(counts: Tensor) -> dict[str, Tensor]:
        return {"mean": values @ counts / counts.sum(0)}

    return measure


def normal(num_values: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_values, generator=generator, dtype=torch.float64)


def test_bootstrap_intervals_cover_as_often_as_they_say():
    # 200 samples of 60 images: 95 % give 190 hits, with a standard deviation of 3; percentiles run a little short.
    hits = 0
    for seed in range(200):
        metric = bootstrap(mean_of(normal(60, seed=seed)), num_images=60, seed=seed)["mean"]
        hits += metric.low <= 0 <= metric.high
    assert 180 <= hits <= 199


def test_what_is_undefined_is_left_out_and_undefined_resamples_do_not_count():
    def measure(counts: Tensor) -> dict[str, Tensor]:
        drawn = counts[0] > 0  # a third of all resamples lack the first image
        value = torch.where(drawn, counts[0], torch.nan)
        return {"never": value * torch.nan, "sometimes": value}

    metrics = bootstrap(measure, num_images=5, seed=0)
    assert list(metrics) == ["sometimes"]
    assert (metrics["sometimes"].low, metrics["sometimes"].value) == (1, 1)
    assert metrics["sometimes"].high >= 3


def test_influences_give_the_interval_of_a_share_in_log_odds():
    # The influence of an image on a mean is its deviation over N.
    hits = torch.tensor([1.0] * 80 + [0.0] * 20, dtype=torch.float64)
    metric = influence_metric("share", value=0.8, influence=(hits - 0.8) / 100)
    half = normal_quantile() * math.sqrt(0.8 * 0.2 / 100) / (0.8 * 0.2)
    odds = math.log(4)
    assert metric.low == pytest.approx(1 / (1 + math.exp(half - odds)))
    assert metric.high == pytest.approx(1 / (1 + math.exp(-half - odds)))
    assert metric.num_pictures == 100


def test_where_all_images_are_alike_the_interval_has_no_width():
    metric = bootstrap(mean_of(torch.tensor([0.5]).double()), num_images=1, seed=0)["mean"]
    assert (metric.low, metric.value, metric.high) == (0.5, 0.5, 0.5)
    for value in (0.0, 1.0):
        metric = influence_metric("share", value=value, influence=torch.zeros(5).double())
        assert metric.low == metric.high == value


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and who is positive: at least one of each."""
    size = draw(st.integers(2, 25))
    scores = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    positive = draw(st.lists(st.booleans(), min_size=size - 2, max_size=size - 2))
    return np.array(scores, dtype=float), np.array([True, False, *positive])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (roc_auc, reference.roc_auc_score),
        (average_precision, reference.average_precision_score),
    ],
)
@given(case=rankings())
@settings(max_examples=40, deadline=None)
def test_values_and_influences_are_right_for_any_ranking(
    metric: Callable[[Tensor, Tensor], Ranked | None],
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
    # The weights of all images together change nothing.
    assert found.influence.sum().item() == pytest.approx(0, abs=1e-12)


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
