"""Rates read from finder curves, against recorded ones. Golden values: tests/golden/lrfind.json."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vizsla.errors import ConfigError
from vizsla.train.rates.lr_finder import FinderCurve
from vizsla.train.rates.suggestions import (
    RobustRate,
    minimum,
    robust,
    robust_rate,
    runs_needed,
    slide,
    steep,
    suggest,
    usable_points,
    valley,
)

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.train.rates.suggestions import Reading, Suggestion


CURVES = {
    case["name"]: case
    for case in json.loads(
        (Path(__file__).resolve().parents[2] / "golden" / "lrfind.json").read_text("utf-8")
    )["curves"]
}
READINGS: tuple[Suggestion, ...] = (minimum, steep, valley, slide)
FAULTY = {("inf_from_90", "steep")}
"""What the reference got wrong: it divides infinity by a step and calls that steep."""


def recorded(name: str) -> tuple[Tensor, Tensor, int]:
    case = CURVES[name]
    losses = [math.nan if loss is None else float(loss) for loss in case["recorded_losses"]]
    return torch.tensor(case["recorded_lrs"]), torch.tensor(losses), case["num_it"]


def as_reference_sees(name: str) -> tuple[Tensor, Tensor, int]:
    """Return a curve without its ends and what follows the first nan; the reference keeps infinite losses."""
    lrs, losses, num_it = recorded(name)
    lrs, losses = lrs[num_it // 10 : -5], losses[num_it // 10 : -5]
    broken = losses.isnan().tolist()
    end = broken.index(True) if any(broken) else len(lrs)
    return lrs[:end], losses[:end], num_it


def finder_curve(name: str) -> FinderCurve:
    lrs, losses, num_it = recorded(name)
    points = tuple(losses.tolist())
    return FinderCurve(lrs=tuple(lrs.tolist()), losses=points, runs=(points,), num_it=num_it)


MATCHED = [
    (name, function)
    for name, case in CURVES.items()
    for function in READINGS
    if isinstance(
        case["suggestions"][function.__name__], float
    )  # else the reference raised an error
    and function.__name__ not in case.get("ambiguous", ())
    and (name, function.__name__) not in FAULTY
]


def test_nearly_all_recorded_suggestions_are_compared():
    assert len(MATCHED) == 16 * 4 - 4 - 1 - 1


def test_curves_get_the_golden_suggestions_and_dots():
    for name, function in MATCHED:
        lrs, losses, num_it = as_reference_sees(name)
        assert len(lrs) == CURVES[name]["n_used"]
        rate, dot = function(lrs, losses, num_it)
        expected = CURVES[name]["suggestions"][function.__name__]
        assert rate == pytest.approx(expected, rel=1e-6), (name, function)
        expected = CURVES[name]["plot_points"][function.__name__]
        assert dot == pytest.approx(expected, rel=1e-5), (name, function)


def test_where_the_slope_is_the_same_everywhere_any_point_is_steepest():
    lrs, losses, num_it = as_reference_sees("monotone_decreasing")
    rate, dot = steep(lrs, losses, num_it)
    assert rate in lrs.tolist()
    assert dot == (rate, float(losses[lrs.tolist().index(rate)]))


def test_an_infinite_loss_is_not_steep():
    lrs, losses, num_it = as_reference_sees("inf_from_90")
    finite = losses.isfinite()
    assert not finite.all()
    assert steep(lrs, losses, num_it) == steep(lrs[finite], losses[finite], num_it)


@pytest.mark.parametrize(
    ("name", "used"), [("nan_from_80", 70), ("nan_at_40_only", 30), ("inf_from_90", 80)]
)
def test_a_curve_is_read_up_to_its_first_loss_that_is_not_finite(name: str, used: int):
    lrs, losses, num_it = recorded(name)
    found_lrs, found_losses = usable_points(lrs, losses, num_it)
    assert found_lrs.equal(lrs[10 : 10 + used])
    assert found_losses.equal(losses[10 : 10 + used])


def test_several_runs_are_read_up_to_the_first_of_them_to_break():
    lrs, losses = torch.arange(30.0), torch.ones(2, 30)
    losses[1, 12] = math.inf
    found_lrs, found_losses = usable_points(lrs, losses, 30)
    assert found_lrs.tolist() == list(range(3, 12))
    assert found_losses.shape == (2, 9)


def test_too_few_points_suggest_nothing():
    for function in READINGS:
        for count in (0, 1):
            rate, (x, y) = function(torch.full((count,), 1e-3), torch.ones(count), 100)
            if count and function in (minimum, valley):
                assert x == pytest.approx(1e-3)
            else:
                assert all(math.isnan(number) for number in (rate, x, y))


def test_a_slide_needs_both_ends_of_its_interval():
    lrs, losses = torch.logspace(-5, 0, 16), torch.linspace(2, 1, 16)
    assert slide(lrs, losses, 100)[0] == pytest.approx(1e-5)
    assert math.isnan(slide(lrs[:15], losses[:15], 100)[0])


def test_a_slide_can_be_adjusted():
    lrs, losses, num_it = as_reference_sees("smooth")
    plain = slide(lrs, losses, num_it)[0]
    assert slide(lrs, losses, num_it, adjust_value=0.5)[0] == pytest.approx(plain / 2)


def test_two_falling_points_have_their_valley_at_the_first():
    rate, dot = valley(torch.tensor([1e-3, 1e-2]), torch.tensor([2.0, 1.0]), 100)
    assert (rate, dot) == (pytest.approx(1e-3), (pytest.approx(1e-3), 2.0))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_a_valley_is_the_one_that_the_plain_quadratic_search_finds(heights: list[int]):
    lengths = [1] * len(heights)
    for i in range(len(heights)):
        longer = [lengths[j] + 1 for j in range(i) if heights[j] > heights[i]]
        lengths[i] = max([1, *longer])
    longest = max(lengths)
    start = lengths.index(longest) - longest
    middle = start + int(longest / 3) + int(longest / 6)
    lrs = torch.arange(1.0, len(heights) + 1)
    assert valley(lrs, torch.tensor(heights, dtype=torch.float32), 0)[0] == max(0, middle) + 1


def test_what_was_asked_for_is_shown_and_unpacked_in_its_order():
    found = suggest(finder_curve("smooth"), (slide, minimum, valley))
    golden = CURVES["smooth"]["suggestions"]
    assert found.as_dict() == pytest.approx(
        {name: golden[name] for name in ("slide", "minimum", "valley")}, rel=1e-6
    )
    assert list(found.as_dict()) == ["slide", "minimum", "valley"]
    assert tuple(found) == (found.slide, found.minimum, found.valley)
    assert len(found) == 3
    assert found[1] == found.minimum
    assert (
        repr(found)
        == f"SuggestedLRs(slide={found.slide}, minimum={found.minimum}, valley={found.valley})"
    )
    assert not hasattr(found, "steep")
    assert found.note == ""


def test_a_call_that_asks_for_nothing_shows_the_valley_and_unpacks_to_minimum_and_steep():
    found = suggest(finder_curve("smooth"))
    golden = CURVES["smooth"]["suggestions"]
    assert repr(found) == f"SuggestedLRs(valley={found.valley})"
    assert found.valley == pytest.approx(golden["valley"], rel=1e-6)
    lr_min, lr_steep = found
    assert (lr_min, lr_steep) == pytest.approx((golden["minimum"], golden["steep"]), rel=1e-6)


@pytest.mark.parametrize("asked", [valley, (valley,), [valley]], ids=["bare", "tuple", "list"])
def test_asking_for_the_valley_alone_unpacks_to_one_rate(asked: Any):
    (rate,) = suggest(finder_curve("smooth"), asked)
    assert rate == pytest.approx(CURVES["smooth"]["suggestions"]["valley"], rel=1e-6)


def test_two_rates_are_unpacked_as_notebooks_do():
    lr_min, lr_steep = suggest(finder_curve("noisy_02"), suggest_funcs=(minimum, steep))
    golden = CURVES["noisy_02"]["suggestions"]
    assert (lr_min, lr_steep) == pytest.approx((golden["minimum"], golden["steep"]), rel=1e-6)


def test_a_partial_goes_by_the_name_of_its_function():
    halved = partial(slide, adjust_value=0.5)
    found = suggest(finder_curve("smooth"), (slide, halved, partial(halved, lr_diff=10)))
    assert list(found.as_dict()) == ["slide", "slide_2", "slide_3"]
    assert found[1] == pytest.approx(found.slide / 2)


def test_a_function_of_ones_own_is_asked_too():
    def first(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
        return float(lrs[0]), (float(lrs[0]), float(losses[0]))

    found = suggest(finder_curve("smooth"), first)
    assert repr(found).startswith("SuggestedLRs(first=6.3")


def test_a_curve_that_is_too_short_gives_nan_and_says_so_in_one_sentence():
    found = suggest(finder_curve("real_head_after_training"), (*READINGS,))
    assert all(math.isnan(rate) for rate in found)
    assert all(math.isnan(x) for dot in found.dots.values() for x in dot)
    assert found.note == (
        "Of 13 losses 0 can be read, too few to suggest minimum or steep or valley or slide; take more steps (num_it)."
    )


def test_a_call_that_asks_for_nothing_still_unpacks_to_two_when_the_curve_is_too_short():
    lr_min, lr_steep = suggest(finder_curve("real_head_after_training"))
    assert math.isnan(lr_min)
    assert math.isnan(lr_steep)


def test_to_suggest_by_no_function_is_refused():
    with pytest.raises(ConfigError, match="Name what to suggest"):
        suggest(finder_curve("smooth"), ())


@pytest.mark.parametrize(
    ("asked", "runs"), [(None, 1), (valley, 1), ((valley, robust), 3), (partial(robust), 3)]
)
def test_only_the_robust_suggestion_needs_several_runs(asked: Any, runs: int):
    assert runs_needed(asked) == runs


def test_the_robust_suggestion_sees_every_run():
    lrs = torch.logspace(-7, 1, 100)
    clean = 2 - torch.sigmoid(3 * (lrs.log10() + 4)) + (lrs > 0.1) * 9
    noise = 0.02 * torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    runs = clean + noise
    curve = FinderCurve(
        lrs=tuple(lrs.tolist()),
        losses=tuple(runs.mean(0).tolist()),
        runs=tuple(tuple(run) for run in runs.tolist()),
        num_it=100,
    )
    found = suggest(curve, (valley, robust))
    assert found.robust_rate is not None
    assert found.robust_rate.num_runs == 3
    assert found.robust == found.robust_rate.value
    assert found.dots["robust"][0] == found.robust
    assert found.note == ""
    used_lrs, used_runs = usable_points(lrs, runs, 100)
    rate, dot = robust(used_lrs, used_runs, 100)
    assert (rate, dot) == (found.robust, found.dots["robust"])


def test_where_nothing_is_safe_the_reason_is_said():
    lrs = torch.logspace(-7, 1, 100).tolist()
    losses = (1 + 0.1 * torch.randn(100, generator=torch.Generator().manual_seed(1))).tolist()
    curve = FinderCurve(lrs=tuple(lrs), losses=tuple(losses), runs=(tuple(losses),), num_it=100)
    found = suggest(curve, robust)
    assert math.isnan(found.robust)
    assert found.note.startswith("There is no safe learning rate here: ")


LRS = torch.logspace(-7, 1, 100)


def curve(*, falls_at: float, rises_at: float, depth: float = 1.0) -> torch.Tensor:
    """Return losses that fall from 2 around one rate and rise steeply from another on."""
    fall = depth * torch.sigmoid(3 * (LRS.log10() - math.log10(falls_at)))
    rise = torch.clamp(LRS.log10() - math.log10(rises_at), min=0) * 20
    return 2 - fall + rise


def runs_of(losses: torch.Tensor, *, noise: float, seed: int = 0, runs: int = 3) -> torch.Tensor:
    draws = torch.randn(runs, len(losses), generator=torch.Generator().manual_seed(seed))
    return losses + noise * draws


def test_the_rate_lies_where_all_runs_fall_and_none_rises():
    losses = curve(falls_at=1e-4, rises_at=1e-1)
    for seed in range(10):
        found = robust_rate(LRS, runs_of(losses, noise=0.05, seed=seed))
        assert found.safe
        assert found.reason == ""
        assert found.num_runs == 3
        assert 1e-6 < found.low < 1e-3 < found.high < 0.2
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


def test_losses_that_only_vary_have_no_safe_rate():
    for seed in range(20):
        found = robust_rate(LRS, runs_of(torch.ones(100), noise=0.1, seed=seed))
        assert not found.safe
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert "the loss fell at no rate by more than it varies" in found.reason
        assert "num_it" in found.reason


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
