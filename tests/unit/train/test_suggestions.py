"""Rates read from finder curves, against recorded ones. Golden values: tests/golden/lrfind.json."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vizsla import ConfigError, minimum, robust, slide, steep, valley
from vizsla.train.rates import FinderCurve, robust_rate, runs_needed, suggest, usable_points

if TYPE_CHECKING:
    from torch import Tensor

    from vizsla.train.rates import Reading, Suggestion


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "lrfind.json").read_text("utf-8"))
CURVES = {case["name"]: case for case in GOLDEN["curves"]}
READINGS: tuple[Suggestion, ...] = (minimum, steep, valley, slide)
FAULTY = {("inf_from_90", "steep"), ("inf_from_90", "slide")}
"""The reference reads on after an infinite loss, and calls the step to it steep."""


def recorded(name: str) -> tuple[Tensor, Tensor, int]:
    case = CURVES[name]
    losses = [math.nan if loss is None else float(loss) for loss in case["recorded_losses"]]
    return torch.tensor(case["recorded_lrs"]), torch.tensor(losses), case["num_it"]


def finder_curve(name: str) -> FinderCurve:
    lrs, losses, num_it = recorded(name)
    points = tuple(losses.tolist())
    return FinderCurve(lrs=tuple(lrs.tolist()), losses=points, runs=(points,), num_it=num_it)


LRS = torch.logspace(-7, 1, 100)


def curve(*, falls_at: float, rises_at: float, depth: float = 1.0) -> torch.Tensor:
    """Return losses that fall from 2 around one rate and rise steeply from another on."""
    fall = depth * torch.sigmoid(3 * (LRS.log10() - math.log10(falls_at)))
    rise = torch.clamp(LRS.log10() - math.log10(rises_at), min=0) * 20
    return 2 - fall + rise


def runs_of(losses: torch.Tensor, *, noise: float, seed: int = 0, runs: int = 3) -> torch.Tensor:
    draws = torch.randn(runs, len(losses), generator=torch.Generator().manual_seed(seed))
    return losses + noise * draws


def as_curve(runs: torch.Tensor) -> FinderCurve:
    each = tuple(tuple(run) for run in runs.tolist())
    return FinderCurve(lrs=tuple(LRS.tolist()), losses=tuple(runs.mean(0).tolist()), runs=each, num_it=100)  # fmt: skip


def test_golden_suggestions_and_dots():
    compared = 0
    for name, reading in product(CURVES, READINGS):
        case, asked = CURVES[name], reading.__name__
        golden = case["suggestions"][asked]
        refused = not isinstance(golden, float)  # the reference raised an error
        if refused or asked in case.get("ambiguous", ()) or (name, asked) in FAULTY:
            continue
        used, _ = usable_points(*recorded(name))
        assert name == "inf_from_90" or len(used) == case["n_used"]
        found = suggest(finder_curve(name), reading)
        assert found[0] == pytest.approx(golden, rel=1e-6), name
        assert found.dots[asked] == pytest.approx(case["plot_points"][asked], rel=1e-5), name
        compared += 1
    assert compared == 16 * 4 - 4 - 1 - 2


def test_steepest_point():
    # Where the slope is the same everywhere any point will do; an infinite loss is not steep.
    lrs, losses, num_it = recorded("monotone_decreasing")
    rate, dot = steep(lrs, losses, num_it)
    assert dot == (rate, float(losses[lrs.tolist().index(rate)]))
    lrs, losses, num_it = recorded("inf_from_90")
    finite = losses.isfinite()
    assert not finite.all()
    assert steep(lrs, losses, num_it) == steep(lrs[finite], losses[finite], num_it)


def test_slide_needs_more_points_than_its_interval():
    lrs, losses = torch.logspace(-5, 0, 16), torch.linspace(2, 1, 16)
    assert slide(lrs, losses, 100)[0] == pytest.approx(1e-5)
    assert math.isnan(slide(lrs[:15], losses[:15], 100)[0])
    lrs, losses, num_it = recorded("inf_from_90")
    rate, _ = slide(lrs[10:-5], losses[10:-5], num_it)  # all that the reference reads
    assert rate == pytest.approx(CURVES["inf_from_90"]["suggestions"]["slide"], rel=1e-6)


def test_runs_are_read_up_to_the_first_loss_that_is_not_finite():
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


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_valley_is_that_of_the_plain_quadratic_search(heights: list[int]):
    lengths = [1] * len(heights)
    for i in range(len(heights)):
        longer = [lengths[j] + 1 for j in range(i) if heights[j] > heights[i]]
        lengths[i] = max([1, *longer])
    longest = max(lengths)
    start = lengths.index(longest) - longest
    middle = start + int(longest / 3) + int(longest / 6)
    lrs = torch.arange(1.0, len(heights) + 1)
    assert valley(lrs, torch.tensor(heights, dtype=torch.float32), 0)[0] == max(0, middle) + 1


def test_suggestions_keep_the_order_of_the_question():
    found = suggest(finder_curve("smooth"), (slide, minimum, valley))
    golden = CURVES["smooth"]["suggestions"]
    names = ("slide", "minimum", "valley")
    assert found.as_dict() == pytest.approx({name: golden[name] for name in names}, rel=1e-6)
    assert tuple(found.as_dict()) == names
    assert tuple(found) == (found.slide, found.minimum, found.valley)
    assert len(found) == 3
    assert found[1] == found.minimum
    shown = ", ".join(f"{name}={getattr(found, name)}" for name in names)
    assert repr(found) == f"SuggestedLRs({shown})"
    assert not hasattr(found, "steep")
    assert found.note == ""


def test_partials_and_own_functions():
    halved = partial(slide, adjust_value=0.5)
    found = suggest(finder_curve("smooth"), (slide, halved, partial(halved, lr_diff=10)))
    assert list(found.as_dict()) == ["slide", "slide_2", "slide_3"]
    assert found[1] == pytest.approx(found.slide / 2)

    def first(lrs: Tensor, losses: Tensor, num_it: int) -> Reading:
        return float(lrs[0]), (float(lrs[0]), float(losses[0]))

    assert repr(suggest(finder_curve("smooth"), first)).startswith("SuggestedLRs(first=6.3")


def test_short_curve_suggests_nan_and_says_why():
    found = suggest(finder_curve("real_head_after_training"), (*READINGS,))
    assert all(math.isnan(rate) for rate in found)
    assert all(math.isnan(x) for dot in found.dots.values() for x in dot)
    assert "0 of 13 losses" in found.note
    assert all(function.__name__ in found.note for function in READINGS)
    assert "more steps" in found.note


def test_no_function_is_refused():
    with pytest.raises(ConfigError, match="minimum, steep, valley, slide or robust"):
        suggest(finder_curve("smooth"), ())


def test_robust_suggestion_needs_and_sees_several_runs():
    for asked, count in ((None, 1), (valley, 1), ((valley, robust), 3), (partial(robust), 3)):
        assert runs_needed(asked) == count
    clean = 2 - torch.sigmoid(3 * (LRS.log10() + 4)) + (LRS > 0.1) * 9
    runs = runs_of(clean, noise=0.02, seed=1)
    found = suggest(as_curve(runs), (valley, robust))
    assert found.robust_rate is not None
    assert found.robust_rate.num_runs == 3
    assert found.robust == found.robust_rate.value
    assert found.note == ""
    used_lrs, used_runs = usable_points(LRS, runs, 100)
    assert robust(used_lrs, used_runs, 100) == (found.robust, found.dots["robust"])
    assert found.dots["robust"][0] == found.robust
    nothing = suggest(as_curve(runs_of(torch.ones(100), noise=0.1, seed=1, runs=1)), robust)
    assert math.isnan(nothing.robust)
    assert nothing.robust_rate is not None
    assert nothing.note == nothing.robust_rate.reason != ""


def test_robust_rate_lies_where_all_runs_fall_and_none_rises():
    losses = curve(falls_at=1e-4, rises_at=1e-1)
    for seed in range(10):
        found = robust_rate(LRS, runs_of(losses, noise=0.05, seed=seed))
        assert found.safe
        assert found.reason == ""
        assert found.num_runs == 3
        assert 1e-6 < found.low < 1e-3 < found.high < 0.2
        assert found.low <= found.value <= found.high / 3
        assert 1e-4 < found.value < 3e-2


def test_range_of_robust_rates():
    losses = curve(falls_at=1e-4, rises_at=1e-1)
    found = robust_rate(LRS, losses)
    # Without noise it ends at the lowest loss, half a window (half a power of ten) below at most.
    assert 0.1 < found.high / float(LRS[losses.argmin()]) <= 1.1
    assert found.num_runs == 1
    # The run that rises first ends it, the run that falls last begins it.
    patient, hasty = curve(falls_at=1e-4, rises_at=1.0), curve(falls_at=1e-4, rises_at=1e-2)
    together = robust_rate(LRS, torch.stack([patient, hasty, patient]))
    assert together.high == robust_rate(LRS, hasty).high < robust_rate(LRS, patient).high
    early, late = curve(falls_at=1e-5, rises_at=1.0), curve(falls_at=1e-3, rises_at=1.0)
    together = robust_rate(LRS, torch.stack([early, late, early]))
    assert together.low > robust_rate(LRS, early).low


def test_losses_without_a_safe_rate():
    for seed in range(20):
        found = robust_rate(LRS, runs_of(torch.ones(100), noise=0.1, seed=seed))
        assert not found.safe
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert "more steps" in found.reason
    rising = robust_rate(LRS, runs_of(torch.linspace(1, 9, 100), noise=0.05))
    assert not rising.safe
    assert math.isnan(rising.high)
    level = curve(falls_at=1e-4, rises_at=1e-2, depth=0.0)
    found = robust_rate(LRS, runs_of(level, noise=0.05, seed=3))
    assert not found.safe
    assert 1e-7 < found.high < 3e-2
    assert "not finite" in robust_rate(LRS, torch.full((3, 100), math.nan)).reason
    for count in (0, 1, 14):
        found = robust_rate(LRS[:count], torch.ones(3, count))
        assert f"{count} losses" in found.reason
        assert found.num_runs == 3


def test_odd_batches_do_not_count_as_a_rise_but_infinite_losses_do():
    losses = runs_of(curve(falls_at=1e-4, rises_at=1e-1), noise=0.05)
    spiked = losses.clone()
    spiked[1, [30, 45, 60]] = 50.0
    assert robust_rate(LRS, spiked).high == pytest.approx(robust_rate(LRS, losses).high, rel=2)
    losses = runs_of(curve(falls_at=1e-4, rises_at=10.0), noise=0.02)
    losses[2, 70:] = math.nan
    found = robust_rate(LRS, losses)
    assert found.safe
    assert found.high <= LRS[75]


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.integers(15, 100))
def test_unit_of_the_loss_does_not_matter(seed: int, unit: float, count: int):
    losses = runs_of(curve(falls_at=1e-4, rises_at=1e-1), noise=0.05, seed=seed)[:, :count]
    plain = robust_rate(LRS[:count], losses)
    scaled = robust_rate(LRS[:count], losses.double() * unit)
    assert scaled.safe == plain.safe
    if plain.safe:
        assert plain.low <= plain.value <= plain.high
        assert (scaled.value, scaled.low, scaled.high) == (plain.value, plain.low, plain.high)
