"""What several runs of the finder say together, on curves whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vizsla.train.suggestions import RobustRate, robust_rate

LRS = torch.logspace(-7, 1, 100)


def curve(*, falls_at: float, rises_at: float, depth: float = 1.0) -> torch.Tensor:
    """Return losses that fall from 2 around one rate and rise steeply from another on."""
    fall = depth * torch.sigmoid(3 * (LRS.log10() - math.log10(falls_at)))
    rise = torch.clamp(LRS.log10() - math.log10(rises_at), min=0) * 20
    return 2 - fall + rise


def runs_of(losses: torch.Tensor, *, noise: float, seed: int = 0, runs: int = 3) -> torch.Tensor:
    draws = torch.randn(runs, len(losses), generator=torch.Generator().manual_seed(seed))
    return losses + noise * draws


@pytest.mark.parametrize("seed", range(10))
def test_the_rate_lies_where_all_runs_fall_and_none_rises(seed: int):
    losses = curve(falls_at=1e-4, rises_at=1e-1)
    found = robust_rate(LRS, runs_of(losses, noise=0.05, seed=seed))
    assert found.safe
    assert found.reason == ""
    assert found.num_runs == 3
    assert 1e-6 < found.low < 1e-3
    assert 1e-3 < found.high < 0.2
    assert found.low <= found.value <= found.high / 3
    assert 1e-4 < found.value < 3e-2


def test_without_noise_the_range_ends_at_the_lowest_loss():
    losses = curve(falls_at=1e-4, rises_at=1e-1)
    found = robust_rate(LRS, losses)
    lowest = float(LRS[losses.argmin()])
    assert (
        0.1 < found.high / lowest <= 1.1
    )  # half a window, about half a power of ten, below at most
    assert found.num_runs == 1


def test_the_run_that_rises_first_ends_the_range():
    patient = curve(falls_at=1e-4, rises_at=1.0)
    hasty = curve(falls_at=1e-4, rises_at=1e-2)
    together = robust_rate(LRS, torch.stack([patient, hasty, patient]))
    assert together.high == robust_rate(LRS, hasty).high
    assert together.high < robust_rate(LRS, patient).high


def test_the_run_that_falls_last_begins_the_range():
    early = curve(falls_at=1e-5, rises_at=1.0)
    late = curve(falls_at=1e-3, rises_at=1.0)
    together = robust_rate(LRS, torch.stack([early, late, early]))
    assert together.low > robust_rate(LRS, early).low


@pytest.mark.parametrize("seed", range(20))
def test_losses_that_only_vary_have_no_safe_rate(seed: int):
    found = robust_rate(LRS, runs_of(torch.ones(100), noise=0.1, seed=seed))
    assert not found.safe
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.reason == (
        "There is no safe learning rate here: the loss fell at no rate by more than it varies from batch to batch "
        "(larger batches or a larger num_it would show smaller falls)."
    )


def test_losses_that_rise_from_the_beginning_have_no_safe_rate_and_no_end_of_the_range():
    found = robust_rate(LRS, runs_of(torch.linspace(1, 9, 100), noise=0.05))
    assert not found.safe
    assert math.isnan(found.high)


def test_losses_that_do_not_fall_still_tell_from_where_they_rise():
    losses = curve(falls_at=1e-4, rises_at=1e-2, depth=0.0)
    found = robust_rate(LRS, runs_of(losses, noise=0.05, seed=3))
    assert not found.safe
    assert 1e-7 < found.high < 3e-2


def test_an_odd_batch_is_no_rise():
    losses = runs_of(curve(falls_at=1e-4, rises_at=1e-1), noise=0.05)
    spiked = losses.clone()
    spiked[1, [30, 45, 60]] = 50.0
    assert robust_rate(LRS, spiked).high == pytest.approx(robust_rate(LRS, losses).high, rel=2)


def test_a_loss_that_is_not_finite_is_a_rise():
    losses = runs_of(curve(falls_at=1e-4, rises_at=10.0), noise=0.02)
    losses[2, 70:] = math.nan
    found = robust_rate(LRS, losses)
    assert found.safe
    assert found.high <= LRS[75]


def test_losses_that_are_never_finite_have_no_safe_rate():
    found = robust_rate(LRS, torch.full((3, 100), math.nan))
    assert found.reason.endswith("the loss is not finite even at the lowest rates.")


@pytest.mark.parametrize("count", [0, 1, 14])
def test_too_few_points_have_no_safe_rate(count: int):
    found = robust_rate(LRS[:count], torch.ones(3, count))
    assert found.reason.endswith(f"{count} losses can be read and 15 are needed.")
    assert found.num_runs == 3


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.integers(15, 100))
def test_the_unit_of_the_loss_does_not_matter(seed: int, unit: float, count: int):
    losses = runs_of(curve(falls_at=1e-4, rises_at=1e-1), noise=0.05, seed=seed)[:, :count]
    plain = robust_rate(LRS[:count], losses)
    scaled = robust_rate(LRS[:count], losses.double() * unit)
    assert scaled.safe == plain.safe
    if plain.safe:
        assert plain.low <= plain.value <= plain.high
        assert (scaled.value, scaled.low, scaled.high) == (plain.value, plain.low, plain.high)


def test_a_rate_is_safe_unless_there_is_a_reason():
    assert RobustRate(value=1e-3, low=1e-4, high=1e-2).safe
    assert not RobustRate(reason="None was found.").safe
