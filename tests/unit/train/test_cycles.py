"""Schedules of lesson one, against recorded ones. Golden values: tests/golden/classic_schedules.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vizsla.errors import ConfigError
from vizsla.train.schedules import (
    classic_epochs,
    lr_range,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "classic_schedules.json").read_text("utf-8")
)
RESTARTS, TRIANGLES, FINDER = GOLDEN["restarts"], GOLDEN["triangles"], GOLDEN["finder"]


def assert_equal(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("case", GOLDEN["epochs"], ids=str)
def test_cycles_take_the_golden_number_of_epochs(case: dict[str, Any]):
    expected = case.pop("epochs")
    assert classic_epochs(case.pop("n_cycle"), **case) == expected


def test_restarts_have_the_golden_rates():
    case = RESTARTS["fit_1e-2_3_cycle_len_1_nb32"]
    schedule = warm_restarts_classic(case["n_iter"], rates=[0.01], cycle_steps=32)
    assert_equal([rate for (rate,) in schedule.learning_rates], case["lrs"])
    assert schedule.momenta == ()


def test_restarts_of_growing_length_have_the_golden_rates_in_three_groups():
    case = RESTARTS["fit_1e-4_1e-3_1e-2_3_cycle_len_1_cycle_mult_2_nb32"]
    schedule = warm_restarts_classic(
        case["n_iter"], rates=case["group_lrs"], cycle_steps=32, cycle_mult=2
    )
    shares = np.array(case["group_lrs"]) / case["group_lrs"][-1]
    expected = np.array(case["lrs_last_group"])[:, None] * shares
    assert_equal(schedule.learning_rates, expected)


@pytest.mark.parametrize(
    ("name", "cycle_mult", "num_steps"),
    [("nb360_three_cycles_multiplier", 1, 1080), ("nb360_three_cycles_mult2_multiplier", 2, 2520)],
)
def test_long_restarts_have_the_golden_multipliers(name: str, cycle_mult: int, num_steps: int):
    schedule = warm_restarts_classic(num_steps, rates=[1.0], cycle_steps=360, cycle_mult=cycle_mult)
    for step, multiplier in RESTARTS[name].items():
        assert schedule.factors[int(step)] == pytest.approx(multiplier, rel=1e-9)


@pytest.mark.parametrize(("steps", "expected"), RESTARTS["warmup_iterations"].items())
def test_the_warm_up_is_as_long_as_recorded(steps: str, expected: int):
    schedule = warm_restarts_classic(2 * int(steps), rates=[1.0], cycle_steps=int(steps))
    assert schedule.factors.count(0.01) == expected


@pytest.mark.parametrize(("steps", "expected"), RESTARTS["tiny_multipliers_3_cycles"].items())
def test_tiny_cycles_have_the_golden_multipliers(steps: str, expected: list[float]):
    schedule = warm_restarts_classic(len(expected), rates=[1.0], cycle_steps=int(steps))
    assert_equal(schedule.factors, expected)


@pytest.mark.parametrize(
    ("name", "cycle_mult"),
    [("nb1_vizsla_3_cycles", 1), ("nb1_vizsla_3_cycles_mult2", 2)],
)
def test_cycles_of_one_step_train_at_the_full_rate(name: str, cycle_mult: int):
    expected = RESTARTS[name]
    schedule = warm_restarts_classic(
        len(expected), rates=[1.0], cycle_steps=1, cycle_mult=cycle_mult
    )
    assert_equal(schedule.factors, expected)


def test_a_triangle_has_the_golden_multipliers():
    schedule = triangular(64, rates=[0.1, 1.0], cycle_steps=32, div=32, cut_div=5)
    expected = TRIANGLES["use_clr_(32,5)_nb32_multiplier"] * 2
    assert_equal(schedule.factors, expected)
    assert schedule.momentum_at(0) is None


def test_a_triangle_with_momenta_has_the_golden_values():
    case = TRIANGLES["use_clr_(10,10,0.95,0.85)_nb32"]
    schedule = triangular(32, rates=[1.0], cycle_steps=32, div=10, cut_div=10, momenta=(0.95, 0.85))
    assert_equal(schedule.factors, case["multiplier"])
    assert_equal(schedule.momenta, case["momentum_used_at_iteration"])


def test_a_triangle_with_a_tail_has_the_golden_values():
    case = TRIANGLES["use_clr_beta_(20,10,0.95,0.85)_nb40"]
    schedule = triangular_beta(
        40, rates=[1.0], cycle_steps=40, div=20, pct=10, momenta=(0.95, 0.85)
    )
    assert_equal(schedule.factors, case["multiplier"])
    assert_equal(schedule.momenta, case["momentum_used_at_iteration"])


@pytest.mark.parametrize("steps", [10, 32])
def test_a_rising_range_has_the_golden_rates(steps: int):
    schedule = lr_range(steps, [1e-5], 10.0)
    found = [rate for (rate,) in schedule.learning_rates]
    assert_equal(found, FINDER[f"geometric_n{steps}"])


@pytest.mark.parametrize("steps", [100, 360])
def test_a_long_rising_range_passes_through_the_golden_points(steps: int):
    schedule = lr_range(steps, [1e-5], 10.0)
    for step, rate in FINDER[f"geometric_n{steps}_points"].items():
        assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)


def test_a_linear_range_passes_through_the_golden_points():
    schedule = lr_range(32, [1e-5], 10.0, linearly=True)
    for step, rate in FINDER["linear_n32_points"].items():
        assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)


def test_a_range_from_three_rates_keeps_their_ratios():
    case = FINDER["array_start_1e-7_1e-6_1e-5_n32"]
    schedule = lr_range(32, [1e-7, 1e-6, 1e-5], 10.0)
    for step, name in ((0, "first"), (16, "at_16"), (31, "last")):
        assert_equal(schedule.rates_at(step), case[name])


@pytest.mark.parametrize(
    ("build", "options", "received"),
    [
        (triangular, {"div": 10, "cut_div": 40}, "cut_div=40 with cycles of 32 steps"),
        (triangular, {"div": 0, "cut_div": 4}, "div=0"),
        (triangular, {"div": 10, "cut_div": 0}, "cut_div=0"),
        (triangular_beta, {"div": 10, "pct": 100}, "pct=100"),
        (triangular_beta, {"div": 10, "pct": 99}, "pct=99"),
        (triangular_beta, {"div": -1, "pct": 10}, "div=-1"),
    ],
)
def test_a_triangle_that_does_not_rise_is_refused(
    build: Any, options: dict[str, float], received: str
):
    with pytest.raises(ConfigError, match=received):
        build(32, rates=[1.0], cycle_steps=32, **options)


def test_momenta_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"Received: \(1.0, 0.85\)"):
        triangular(8, rates=[1.0], cycle_steps=8, div=10, cut_div=4, momenta=(1.0, 0.85))


@pytest.mark.parametrize("cycle_mult", [0, -1, float("nan"), float("inf")])
def test_cycles_grow_by_a_positive_factor(cycle_mult: float):
    with pytest.raises(ConfigError, match="cycle_mult is a positive number"):
        warm_restarts_classic(8, rates=[1.0], cycle_steps=2, cycle_mult=cycle_mult)
    with pytest.raises(ConfigError, match="cycle_mult is a positive number"):
        classic_epochs(2, cycle_mult=cycle_mult)


@pytest.mark.parametrize("build", [warm_restarts_classic, triangular, triangular_beta])
def test_cycles_have_at_least_one_step(build: Any):
    options = {
        "warm_restarts_classic": {},
        "triangular": {"div": 10, "cut_div": 4},
        "triangular_beta": {"div": 10, "pct": 10},
    }[build.__name__]
    with pytest.raises(ConfigError, match="cycle_steps is a whole number from 1 on"):
        build(8, rates=[1.0], cycle_steps=0, **options)
