"""Schedules against recorded ones. Golden values: tests/golden/{schedules,classic_schedules}.json."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsla import ConfigError
from vizsla.train.rates import (
    Schedule,
    classic_epochs,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    flat_cosine,
    linear,
    lr_range,
    one_cycle,
    rates_per_group,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)

FOLDER = Path(__file__).resolve().parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "schedules.json").read_text("utf-8"))
CYCLES = json.loads((FOLDER / "classic_schedules.json").read_text("utf-8"))
CURVES = GOLDEN["curves"]
RESTARTS, TRIANGLES, FINDER = CYCLES["restarts"], CYCLES["triangles"], CYCLES["finder"]


def rates_of(schedule: Schedule) -> list[tuple[float, ...]]:
    return [schedule.rates_at(step) for step in range(schedule.num_steps)]


def test_golden_curves():
    for function in (linear, cosine, exponential):
        case = CURVES[function.__name__]
        start, end = case["ends"]
        found = [function(start, end, position) for position in CURVES["positions"]]
        np.testing.assert_allclose(found, case["values"], rtol=1e-6)


# --- one rate per group ---


@pytest.mark.filterwarnings("ignore:slice.* gives the earliest layers the higher rate")
def test_golden_rates_per_group():
    for case in GOLDEN["rates_per_group"]:
        rates = case["rates"]
        rates = slice(*rates["slice"]) if isinstance(rates, dict) else rates
        found = rates_per_group(rates, num_groups=case["num_groups"])
        np.testing.assert_allclose(found, case["expected"], rtol=1e-9)


def test_lists_arrays_and_slices_of_rates():
    cases: list[tuple[Any, tuple[float, ...]]] = [
        ([1e-5, 1e-4, 1e-3], (1e-5, 1e-4, 1e-3)),
        (slice(0, 1e-3), (1e-4, 1e-4, 1e-3)),
        (np.array([1e-5, 1e-4, 1e-3]), (1e-5, 1e-4, 1e-3)),
        (np.array([0.01]), (0.01,) * 3),
        (np.array(0.01), (0.01,) * 3),
        (np.float64(0.01), (0.01,) * 3),
        (np.float32(0.5), (0.5,) * 3),
        ([np.float32(0.5), 1, np.float64(2)], (0.5, 1.0, 2.0)),
        (slice(np.float32(0.25), np.float32(1)), (0.25, 0.5, 1.0)),
    ]
    for rates, expected in cases:
        found = rates_per_group(rates, num_groups=3)
        assert found == expected
        assert all(type(rate) is float for rate in found)


def test_reversed_slice_works_with_a_warning():
    with pytest.warns(UserWarning, match=r"slice\(0.001, 1e-05\).*3 groups") as said:
        found = rates_per_group(slice(1e-3, 1e-5), num_groups=3)
    np.testing.assert_allclose(found, (1e-3, 1e-4, 1e-5))
    assert len(said) == 1
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates_per_group(slice(1e-3, 1e-5), num_groups=1) == (1e-5,)


def test_impossible_rates_are_refused():
    bad: list[Any] = [math.nan, math.inf, 0, -1e-3, True, "1e-3", None, [1e-3, 0.0, 1e-3]]
    bad += [[1e-3, None, 1e-3], np.array([1e-3, 0.0, 1e-3]), np.array([math.nan])]
    bad += [slice(math.nan, 1e-3), slice(1e-5, math.nan), slice(math.inf), slice(0), slice(1e-3, 0)]
    bad += [slice(-1e-3, 1e-3), slice(-1e-3, -1e-5), slice("a", "b")]
    for rates in bad:
        with pytest.raises(ConfigError, match="positive finite") as error:
            rates_per_group(rates, num_groups=3)
        assert f"Received: {rates!r}" in str(error.value)
        if not isinstance(rates, list | np.ndarray):
            with pytest.raises(ConfigError, match="positive finite"):
                rates_per_group(rates, num_groups=1)


def test_wrong_numbers_of_rates_are_refused():
    for rates in (slice(1e-3, None), slice(None), slice(1e-5, 1e-4, 1e-3)):
        with pytest.raises(ConfigError, match=re.escape(repr(rates))):
            rates_per_group(rates, num_groups=3)
    for rates in ([1e-3], (1e-3,) * 4, [], np.full(2, 1e-3), np.array([])):
        with pytest.raises(ConfigError, match=rf"^{len(rates)} .*3 parameter groups"):
            rates_per_group(rates, num_groups=3)
    with pytest.raises(ConfigError, match=r"shape \(1, 3\)"):
        rates_per_group(np.full((1, 3), 1e-3), num_groups=3)


# --- fastai 2 ---


def test_golden_shapes_of_one_cycle():
    for case in GOLDEN["one_cycle_shapes"]:
        schedule = one_cycle(
            100,
            peak_rates=[case["peak"]],
            div=case["peak"] / case["start"],
            div_final=case["peak"] / case["end"],
            pct_start=case["pct_start"],
        )
        positions = [position for position in case["positions"] if position < 1]
        found = [schedule.rates_at(round(100 * position))[0] for position in positions]
        np.testing.assert_allclose(found, case["values"], rtol=1e-5, atol=1e-9)


def test_impossible_shapes_are_refused():
    bad = {"pct_start": (-0.1, 1.1, math.nan), "div": (0.0, -5.0, math.nan), "div_final": (0.0,)}
    momenta = ((1.0, 0.85, 0.95), (0.95, -0.1, 0.95), (0.95, 0.85, math.nan))
    for name, values in {**bad, "momenta": momenta}.items():
        for value in values:
            options: Any = {name: value}
            with pytest.raises(ConfigError, match=f"{name}="):
                one_cycle(10, peak_rates=[1e-3], **options)
            if name in ("pct_start", "div_final"):
                with pytest.raises(ConfigError, match=f"{name}="):
                    flat_cosine(10, rates=[1e-3], **options)


@given(
    num_steps=st.integers(1, 200),
    peak=st.floats(1e-6, 1.0),
    div=st.floats(1.1, 100.0),
    div_final=st.floats(100.0, 1e6),
    pct_start=st.just(0.0) | st.floats(0.001, 1.0),
)
def test_one_cycle_rises_then_falls_and_the_momentum_mirrors_it(
    num_steps: int, peak: float, div: float, div_final: float, pct_start: float
):
    schedule = one_cycle(
        num_steps, peak_rates=[peak, peak / 7], div=div, div_final=div_final, pct_start=pct_start
    )
    last = np.array(rates_of(schedule))[:, 0]
    assert last[0] == pytest.approx(peak / div if pct_start else peak)
    assert peak / div_final * (1 - 1e-12) <= last.min()
    top = int(last.argmax())
    slack = peak * 1e-12
    assert (np.diff(last[: top + 1]) >= -slack).all()
    assert (np.diff(last[top:]) <= slack).all()
    assert last.max() <= peak * (1 + 1e-12)
    momenta = np.array(schedule.momenta)
    assert len(last) == len(momenta) == num_steps
    assert 0.85 - 1e-12 <= momenta.min() <= momenta.max() <= 0.95 + 1e-12
    bottom = int(momenta.argmin())
    assert abs(bottom - top) <= 1  # the steps beside the peak may be equally near to it
    assert (np.diff(momenta[: bottom + 1]) <= 1e-12).all()
    assert (np.diff(momenta[bottom:]) >= -1e-12).all()
    np.testing.assert_allclose(np.array(rates_of(schedule))[:, 1], last / 7, rtol=1e-8)


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 3))
def test_restarts_fall_from_the_full_rate_and_never_reach_zero(
    num_cycles: int, cycle_steps: int, cycle_mult: int
):
    schedule = cosine_restarts(
        num_cycles, rates=[1.0], cycle_steps=cycle_steps, cycle_mult=cycle_mult
    )
    first = 0
    for cycle in range(num_cycles):
        steps = cycle_steps * cycle_mult**cycle
        factors = np.array(schedule.factors[first : first + steps])
        assert factors[0] == 1.0
        assert (np.diff(factors) < 0).all()
        assert factors[-1] > 0
        first += steps
    assert first == schedule.num_steps


def test_counts_are_whole_numbers():
    good: dict[str, Any] = {"num_cycles": 2, "cycle_steps": 3, "cycle_mult": 2}
    bad: list[dict[str, Any]] = [{"num_cycles": 0}, {"cycle_steps": 0}, {"cycle_mult": 0}]
    bad += [{"cycle_mult": 1.5}, {"num_cycles": True}]
    for options in bad:
        with pytest.raises(ConfigError, match=f"^{next(iter(options))} "):
            cosine_restarts(rates=[1.0], **(good | options))
    counts: list[Any] = [-1, 2.0, True, None]
    for num_steps in counts:
        with pytest.raises(ConfigError, match="num_steps"):
            constant(num_steps, rates=[1.0])
    with pytest.raises(ConfigError, match="1 momenta for 2 steps"):
        Schedule(rates=(1.0,), factors=(1.0, 0.5), momenta=(0.9,))


def test_rising_range_keeps_the_ratios_of_the_groups():
    by_factors = [(1e-5, 1e-4), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1)]
    by_amounts = [(0, 0), (0.025, 0.25), (0.05, 0.5), (0.075, 0.75)]
    for linearly, expected in ((False, by_factors), (True, by_amounts)):
        found = rates_of(lr_range(4, [1e-5, 1e-4], 1.0, linearly=linearly))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        for bad in (0.0, -1.0, math.nan, math.inf):
            for start, end in ((bad, 1.0), (1e-3, bad)):
                with pytest.raises(ConfigError, match="positive finite"):
                    lr_range(10, [start], end, linearly=linearly)


# --- lesson one's notebooks ---


def assert_equal(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_golden_numbers_of_epochs():
    for case in CYCLES["epochs"]:
        options = {name: value for name, value in case.items() if name != "epochs"}
        assert classic_epochs(**options) == case["epochs"]


def test_golden_restarts():
    case = RESTARTS["fit_1e-2_3_cycle_len_1_nb32"]
    schedule = warm_restarts_classic(case["n_iter"], rates=[0.01], cycle_steps=32)
    assert_equal([rate for (rate,) in rates_of(schedule)], case["lrs"])
    assert schedule.momenta == ()
    case = RESTARTS["fit_1e-4_1e-3_1e-2_3_cycle_len_1_cycle_mult_2_nb32"]
    schedule = warm_restarts_classic(
        case["n_iter"], rates=case["group_lrs"], cycle_steps=32, cycle_mult=2
    )
    shares = np.array(case["group_lrs"]) / case["group_lrs"][-1]
    assert_equal(rates_of(schedule), np.array(case["lrs_last_group"])[:, None] * shares)


def test_golden_multipliers_of_long_and_tiny_restarts():
    for name, mult, steps in (("three_cycles", 1, 1080), ("three_cycles_mult2", 2, 2520)):
        schedule = warm_restarts_classic(steps, rates=[1.0], cycle_steps=360, cycle_mult=mult)
        for step, multiplier in RESTARTS[f"nb360_{name}_multiplier"].items():
            assert schedule.factors[int(step)] == pytest.approx(multiplier, rel=1e-9)
    for steps, count in RESTARTS["warmup_iterations"].items():
        schedule = warm_restarts_classic(2 * int(steps), rates=[1.0], cycle_steps=int(steps))
        assert schedule.factors.count(0.01) == count
    for steps, factors in RESTARTS["tiny_multipliers_3_cycles"].items():
        schedule = warm_restarts_classic(len(factors), rates=[1.0], cycle_steps=int(steps))
        assert_equal(schedule.factors, factors)
    for name, mult in (("nb1_vizsla_3_cycles", 1), ("nb1_vizsla_3_cycles_mult2", 2)):
        expected = RESTARTS[name]
        schedule = warm_restarts_classic(len(expected), rates=[1.0], cycle_steps=1, cycle_mult=mult)
        assert_equal(schedule.factors, expected)


def test_golden_triangles():
    schedule = triangular(64, rates=[0.1, 1.0], cycle_steps=32, div=32, cut_div=5)
    assert_equal(schedule.factors, TRIANGLES["use_clr_(32,5)_nb32_multiplier"] * 2)
    assert schedule.momentum_at(0) is None
    options: dict[str, Any] = {"rates": [1.0], "momenta": (0.95, 0.85)}
    for name, schedule in (
        ("use_clr_(10,10,0.95,0.85)_nb32", triangular(32, cycle_steps=32, div=10, cut_div=10, **options)),
        ("use_clr_beta_(20,10,0.95,0.85)_nb40", triangular_beta(40, cycle_steps=40, div=20, pct=10, **options)),
    ):  # fmt: skip
        assert_equal(schedule.factors, TRIANGLES[name]["multiplier"])
        assert_equal(schedule.momenta, TRIANGLES[name]["momentum_used_at_iteration"])


def test_golden_ranges():
    (case,) = (case for case in GOLDEN["fits"] if case["method"] == "lr_find")
    found = rates_of(lr_range(10, [1e-7] * 3, 10.0))
    np.testing.assert_allclose(found, case["phases"][0]["learning_rates"], rtol=1e-6)
    for steps in (10, 32):
        schedule = lr_range(steps, [1e-5], 10.0)
        assert_equal([rate for (rate,) in rates_of(schedule)], FINDER[f"geometric_n{steps}"])
    for name, steps in (("geometric_n100", 100), ("geometric_n360", 360), ("linear_n32", 32)):
        schedule = lr_range(steps, [1e-5], 10.0, linearly=name.startswith("linear"))
        for step, rate in FINDER[f"{name}_points"].items():
            assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)
    case = FINDER["array_start_1e-7_1e-6_1e-5_n32"]
    schedule = lr_range(32, [1e-7, 1e-6, 1e-5], 10.0)
    for step, name in ((0, "first"), (16, "at_16"), (31, "last")):
        assert_equal(schedule.rates_at(step), case[name])


def test_impossible_cycles_are_refused():
    usual = {"div": 10, "cut_div": 4}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (triangular, {"div": 10, "cut_div": 40}, "cut_div=40 with cycles of 32 steps"),
        (triangular, {"div": 0, "cut_div": 4}, "div=0"),
        (triangular, {"div": 10, "cut_div": 0}, "cut_div=0"),
        (triangular, {**usual, "momenta": (1.0, 0.85)}, r"\(1\.0, 0\.85\)"),
        (triangular, {**usual, "cycle_steps": 0}, "cycle_steps"),
        (triangular_beta, {"div": 10, "pct": 99}, "pct=99"),
        (triangular_beta, {"div": -1, "pct": 10}, "div=-1"),
        (triangular_beta, {"div": 10, "pct": 10, "cycle_steps": 0}, "cycle_steps"),
        (warm_restarts_classic, {"cycle_steps": 0}, "cycle_steps"),
    ]
    for cycle_mult in (0, -1, math.nan, math.inf):
        cases.append((warm_restarts_classic, {"cycle_mult": cycle_mult}, "cycle_mult"))
        with pytest.raises(ConfigError, match="cycle_mult"):
            classic_epochs(2, cycle_mult=cycle_mult)
    for build, options, facts in cases:
        with pytest.raises(ConfigError, match=facts):
            build(32, rates=[1.0], **{"cycle_steps": 32, **options})
