"""Cycles, rates and finder against recorded numbers (tests/golden/classic.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vizsla.classic.training import FitPlan, decays_of, rates_of
from vizsla.errors import ConfigError
from vizsla.train.schedules import lr_range

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "classic.json").read_text("utf-8")
)


def plan(
    n_cycle: int, cycle_len: int | None, cycle_mult: float, batches: int, **more: Any
) -> FitPlan:
    return FitPlan(
        n_cycle=n_cycle, cycle_len=cycle_len, cycle_mult=cycle_mult, batches=batches, **more
    )


@pytest.mark.parametrize("case", GOLDEN["epochs"]["cases"])
def test_epochs_are_those_of_the_original(case: dict[str, Any]):
    found = plan(case["n_cycle"], case["cycle_len"], case["cycle_mult"], 1)
    assert found.epochs == case["epochs"]


def test_three_equal_cycles_have_the_recorded_rates():
    schedule = plan(3, 1, 1, 32).schedule((0.01,))
    rates = [schedule.rates_at(step)[0] for step in range(schedule.num_steps)]
    assert rates == pytest.approx(GOLDEN["sgdr"]["fit_1e-2_3_cycle_len_1_nb32"]["lrs"], rel=1e-9)


def test_groups_share_the_shape_of_doubling_cycles():
    golden = GOLDEN["sgdr"]["fit_1e-4_1e-3_1e-2_3_cycle_len_1_cycle_mult_2_nb32"]
    schedule = plan(3, 1, 2, 32).schedule(tuple(golden["group_lrs"]))
    assert schedule.num_steps == golden["n_iter"]
    for step, last in enumerate(golden["lrs_last_group"]):
        assert schedule.rates_at(step) == pytest.approx((last / 100, last / 10, last), rel=1e-9)


@pytest.mark.parametrize("batches", [2, 3, 4])
def test_cycles_of_few_steps_have_the_recorded_factors(batches: int):
    golden = GOLDEN["sgdr"]["tiny_multipliers_3_cycles"][str(batches)]
    assert plan(3, 1, 1, batches).schedule((1.0,)).factors == pytest.approx(golden, rel=1e-9)


def test_cycles_end_after_their_last_step():
    golden = GOLDEN["sgdr"]["vizsla_on_cycle_end_fires_after_n_batches"]
    assert plan(3, 1, 2, 32).cycle_ends == tuple(step for step, _ in golden)


@pytest.mark.parametrize(
    ("more", "batches", "golden"),
    [
        ({"use_clr": (32, 5)}, 32, GOLDEN["clr"]["use_clr_(32,5)_nb32_multiplier"]),
        ({"use_clr": (10, 10, 0.95, 0.85)}, 32, GOLDEN["clr"]["use_clr_(10,10,0.95,0.85)_nb32"]),
        (
            {"use_clr_beta": (20, 10, 0.95, 0.85)},
            40,
            GOLDEN["clr"]["use_clr_beta_(20,10,0.95,0.85)_nb40"],
        ),
    ],
    ids=["clr", "clr with momenta", "clr_beta"],
)
def test_triangles_have_the_recorded_factors(more: dict[str, Any], batches: int, golden: Any):
    schedule = plan(1, 1, 1, batches, **more).schedule((1.0,))
    factors = golden if isinstance(golden, list) else golden["multiplier"]
    assert schedule.factors == pytest.approx(factors, rel=1e-9)
    if isinstance(golden, dict):
        assert schedule.momenta == pytest.approx(golden["momentum_used_at_iteration"], rel=1e-9)


def test_triangles_need_the_length_of_a_cycle():
    with pytest.raises(ConfigError, match="cycle_len"):
        plan(1, None, 1, 32, use_clr=(32, 5)).schedule((1.0,))


def test_a_triangle_that_cannot_rise_is_a_value_error():
    with pytest.raises(ValueError, match="rises for at least one step"):
        plan(1, 1, 1, 4, use_clr=(32, 5)).schedule((1.0,))


def test_without_a_cycle_length_the_rate_is_constant():
    assert plan(2, None, 1, 3).schedule((0.5,)).factors == (1.0,) * 6


@pytest.mark.parametrize("count", [10, 32])
def test_the_finder_rises_by_the_recorded_factors(count: int):
    schedule = lr_range(count, (1e-5,), 10.0)
    rates = [schedule.rates_at(step)[0] for step in range(count)]
    assert rates == pytest.approx(GOLDEN["lr_find"][f"geometric_n{count}"], rel=1e-9)


def test_the_finder_keeps_the_ratios_of_the_groups():
    golden = GOLDEN["lr_find"]["array_start_1e-7_1e-6_1e-5_n32"]
    schedule = lr_range(32, (1e-7, 1e-6, 1e-5), 10.0)
    for step, name in ((0, "first"), (16, "at_16"), (31, "last")):
        assert schedule.rates_at(step) == pytest.approx(golden[name], rel=1e-9)


def test_the_linear_finder_starts_at_zero():
    schedule = lr_range(32, (1e-5,), 10.0, linearly=True)
    for step, rate in GOLDEN["lr_find"]["linear_n32_points"].items():
        assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)


def test_one_rate_is_for_all_groups():
    assert rates_of(0.1, num_groups=3, head_only=False) == (0.1, 0.1, 0.1)
    assert rates_of([0.1], num_groups=3, head_only=False) == (0.1, 0.1, 0.1)


def test_rates_of_groups_are_taken_as_given():
    rates = np.array([1e-4, 1e-3, 1e-2])
    assert rates_of(rates, num_groups=3, head_only=False) == (1e-4, 1e-3, 1e-2)


def test_decays_are_one_or_one_per_group():
    assert decays_of(None, num_groups=2) == (0.0, 0.0)
    assert decays_of(0.1, num_groups=2) == (0.1, 0.1)
    assert decays_of([0.1, 0.2], num_groups=2) == (0.1, 0.2)
    with pytest.raises(ConfigError, match="3 weight decays were given and there are 2"):
        decays_of([0.1, 0.2, 0.3], num_groups=2)
