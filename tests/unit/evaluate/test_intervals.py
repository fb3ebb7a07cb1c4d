"""Intervals: Wilson's against scipy, the bootstrap and the influence of pictures against theory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vizsla.errors import ConfigError
from vizsla.evaluate.statistics import bootstrap, influence_metric, normal_quantile, wilson_interval


@given(st.data())
def test_wilson_agrees_with_scipy(data: st.DataObject):
    trials = data.draw(st.integers(1, 5000))
    successes = data.draw(st.integers(0, trials))
    level = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    expected = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    low, high = wilson_interval(successes, trials, level=level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / trials <= high <= 1


def test_wilson_knows_nothing_without_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)]
)
def test_wilson_refuses_impossible_counts(successes: int, trials: int, level: float):
    with pytest.raises(ConfigError, match=f"successes={successes}, trials={trials}, level={level}"):
        wilson_interval(successes, trials, level=level)


def mean_of(values: torch.Tensor):
    def measure(counts: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mean": values @ counts / counts.sum(0)}

    return measure


def normal(num_values: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_values, generator=generator, dtype=torch.float64)


def test_resamples_do_not_depend_on_how_many_are_made_at_a_time_beyond_their_draws():
    # 3,000 classes leave room for 699 resamples at a time, 10 classes for all.
    values = normal(400)
    few = bootstrap(mean_of(values), num_pictures=400, num_values=3000, seed=0)["mean"]
    all_at_once = bootstrap(mean_of(values), num_pictures=400, num_values=10, seed=0)["mean"]
    half = 1.96 * values.std().item() / 20
    for metric in (few, all_at_once):
        assert metric.low == pytest.approx(values.mean().item() - half, abs=0.1 * half)
        assert metric.high == pytest.approx(values.mean().item() + half, abs=0.1 * half)


def test_bootstrap_intervals_cover_as_often_as_they_say():
    # 200 samples of 60 pictures: 95 % give 190 hits, with a standard deviation of 3; percentiles run a little short.
    hits = 0
    for seed in range(200):
        metric = bootstrap(mean_of(normal(60, seed=seed)), num_pictures=60, seed=seed)["mean"]
        hits += metric.low <= 0 <= metric.high
    assert 180 <= hits <= 199


def test_what_is_undefined_is_left_out_and_undefined_resamples_do_not_count():
    def measure(counts: torch.Tensor) -> dict[str, torch.Tensor]:
        drawn = counts[0] > 0  # a third of all resamples lack the first picture
        value = torch.where(drawn, counts[0], torch.nan)
        return {"never": value * torch.nan, "sometimes": value}

    metrics = bootstrap(measure, num_pictures=5, seed=0)
    assert list(metrics) == ["sometimes"]
    assert (metrics["sometimes"].low, metrics["sometimes"].value) == (1, 1)
    assert metrics["sometimes"].high >= 3


def test_a_single_picture_has_an_interval_without_width():
    metric = bootstrap(mean_of(torch.tensor([0.5]).double()), num_pictures=1, seed=0)["mean"]
    assert (metric.low, metric.value, metric.high) == (0.5, 0.5, 0.5)


def test_influences_give_the_interval_of_a_share_in_log_odds():
    # The influence of a picture on a mean is its deviation over N.
    hits = torch.tensor([1.0] * 80 + [0.0] * 20, dtype=torch.float64)
    metric = influence_metric("share", value=0.8, influence=(hits - 0.8) / 100)
    half = normal_quantile() * math.sqrt(0.8 * 0.2 / 100) / (0.8 * 0.2)
    odds = math.log(4)
    assert metric.low == pytest.approx(1 / (1 + math.exp(half - odds)))
    assert metric.high == pytest.approx(1 / (1 + math.exp(-half - odds)))
    assert metric.num_pictures == 100


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_no_picture_pulls_the_interval_has_no_width(value: float):
    metric = influence_metric("share", value=value, influence=torch.zeros(5).double())
    assert metric.low == metric.high == value
