"""Learning rates and momenta of every step, against recorded ones. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsla.errors import ConfigError
from vizsla.train.schedules import (
    Rates,
    Schedule,
    constant,
    cosine_restarts,
    flat_cosine,
    linear,
    lr_range,
    lr_range_linear,
    one_cycle,
    rates_per_group,
    shaped,
)

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "schedules.json").read_text("utf-8")
)
FITS = {case["name"]: case for case in GOLDEN["fits"]}


def read_rates(value: Any) -> Rates:
    return slice(*value["slice"]) if isinstance(value, dict) else value


def fit_phases(case: dict[str, Any]) -> list[Schedule]:
    """Return the schedules that the named method of a learner is documented to follow."""
    arguments = dict(case["arguments"])
    batches, num_groups = case["batches_per_epoch"], case["num_groups"]

    def cycle(epochs: int, rates: Rates, **options: Any) -> Schedule:
        peaks = rates_per_group(rates, num_groups=num_groups)
        return one_cycle(epochs * batches, peak_rates=peaks, **options)

    if case["method"] == "fit":
        rates = rates_per_group(read_rates(arguments["lr"]), num_groups=num_groups)
        return [constant(arguments["n_epoch"] * batches, rates=rates)]
    if case["method"] == "lr_find":
        return [lr_range(arguments["num_it"], [1e-7] * num_groups, 10.0)]
    if case["method"] == "fit_flat_cos":
        rates = rates_per_group(read_rates(arguments["lr"]), num_groups=num_groups)
        return [flat_cosine(arguments["n_epoch"] * batches, rates=rates)]
    if case["method"] == "fit_sgdr":
        rates = rates_per_group(read_rates(arguments["lr_max"]), num_groups=num_groups)
        steps = arguments["cycle_len"] * batches
        mult = arguments.get("cycle_mult", 2)
        return [
            cosine_restarts(arguments["n_cycles"], rates=rates, cycle_steps=steps, cycle_mult=mult)
        ]
    if case["method"] == "fit_one_cycle":
        epochs, rates = arguments.pop("n_epoch"), read_rates(arguments.pop("lr_max", 1e-3))
        arguments.pop("start_epoch", None)
        if "moms" in arguments:
            arguments["momenta"] = tuple(arguments.pop("moms"))
        return [cycle(epochs, rates, **arguments)]
    base, final = arguments.get("base_lr", 2e-3), arguments.get("div_final", 1e5)
    frozen = cycle(arguments.get("freeze_epochs", 1), slice(base), pct_start=0.99, div_final=final)
    unfrozen = cycle(
        arguments["epochs"],
        slice(base / 2 / arguments.get("lr_mult", 100), base / 2),
        pct_start=arguments.get("pct_start", 0.3),
        div=arguments.get("div", 5.0),
        div_final=final,
    )
    return [frozen, unfrozen]


@pytest.mark.parametrize("case", GOLDEN["one_cycle_shapes"])
def test_a_cycle_has_the_golden_shape_at_any_position(case: dict[str, Any]):
    schedule = one_cycle(
        100,
        peak_rates=[case["peak"]],
        div=case["peak"] / case["start"],
        div_final=case["peak"] / case["end"],
        pct_start=case["pct_start"],
    )
    found = [
        schedule.learning_rates[round(100 * position)][0]
        for position in case["positions"]
        if position < 1
    ]
    np.testing.assert_allclose(found, case["values"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", FITS)
def test_every_step_of_a_fit_has_the_golden_rates_and_momentum(name: str):
    case = FITS[name]
    schedules = fit_phases(case)
    assert len(schedules) == len(case["phases"])
    first = case["arguments"].get("start_epoch", 0) * case["batches_per_epoch"]
    for schedule, expected in zip(schedules, case["phases"], strict=True):
        rates = np.array(expected["learning_rates"])
        for step, rate in case.get("corrected_steps", {}).items():
            rates[int(step)] = rate
        found = np.array([schedule.rates_at(step) for step in range(first, schedule.num_steps)])
        # The reference rounds positions to float32, which near the end of a cosine is more than a millionth of the rate there.
        assert (np.abs(found - rates) <= 1e-6 * (rates + rates.max(axis=0))).all()
        if case["method"] in ("fit", "fit_flat_cos", "fit_sgdr", "lr_find"):
            assert schedule.momenta == ()
            assert schedule.momentum_at(0) is None
        else:
            momenta = [schedule.momentum_at(step) for step in range(first, schedule.num_steps)]
            np.testing.assert_allclose(np.array(momenta), expected["momenta"], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"pct_start": -0.1},
        {"pct_start": 1.1},
        {"pct_start": math.nan},
        {"div": 0.0},
        {"div": -5.0},
        {"div": math.nan},
        {"div_final": 0.0},
        {"momenta": (1.0, 0.85, 0.95)},
        {"momenta": (0.95, -0.1, 0.95)},
        {"momenta": (0.95, 0.85, math.nan)},
    ],
    ids=str,
)
def test_a_cycle_that_cannot_work_is_refused(options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}="):
        one_cycle(10, peak_rates=[1e-3], **options)


@pytest.mark.parametrize("pct_start", [0.0, 0.25, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_the_shortest_cycles_stay_between_their_ends(pct_start: float, num_steps: int):
    schedule = one_cycle(num_steps, peak_rates=[1.0], div=10, div_final=100, pct_start=pct_start)
    rates = [rate for (rate,) in schedule.learning_rates]
    assert len(rates) == len(schedule.momenta) == num_steps
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert all(0.85 <= momentum <= 0.95 for momentum in schedule.momenta)
    assert rates[0] == (0.1 if pct_start else 1.0)


@given(
    num_steps=st.integers(1, 200),
    peak=st.floats(1e-6, 1.0),
    div=st.floats(1.1, 100.0),
    div_final=st.floats(100.0, 1e6),
    pct_start=st.floats(0.0, 1.0),
)
def test_a_cycle_rises_then_falls_and_the_momentum_mirrors_it(
    num_steps: int, peak: float, div: float, div_final: float, pct_start: float
):
    schedule = one_cycle(
        num_steps, peak_rates=[peak, peak / 7], div=div, div_final=div_final, pct_start=pct_start
    )
    last = np.array(schedule.learning_rates)[:, 0]
    top = int(last.argmax())
    slack = peak * 1e-12
    assert (np.diff(last[: top + 1]) >= -slack).all()
    assert (np.diff(last[top:]) <= slack).all()
    assert last.max() <= peak * (1 + 1e-12)
    momenta = np.array(schedule.momenta)
    bottom = int(momenta.argmin())
    assert abs(bottom - top) <= 1  # the steps beside the peak may be equally near to it
    assert (np.diff(momenta[: bottom + 1]) <= 1e-12).all()
    assert (np.diff(momenta[bottom:]) >= -1e-12).all()
    np.testing.assert_allclose(np.array(schedule.learning_rates)[:, 1], last / 7, rtol=1e-8)


def test_constant_leaves_the_momentum_alone():
    schedule = constant(3, rates=[1e-4, 1e-3])
    assert schedule.learning_rates == ((1e-4, 1e-3),) * 3
    assert schedule.momenta == ()


@pytest.mark.parametrize(
    "options", [{"pct_start": 1.5}, {"pct_start": -0.1}, {"div_final": 0.0}], ids=str
)
def test_a_flat_cosine_that_cannot_work_is_refused(options: dict[str, Any]):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name}="):
        flat_cosine(10, rates=[1e-3], **options)


def test_equal_cycles_all_begin_at_the_full_rate():
    schedule = cosine_restarts(3, rates=[0.1, 1.0], cycle_steps=7, cycle_mult=1)
    assert schedule.num_steps == 21
    assert [step for step in range(21) if schedule.rates_at(step) == (0.1, 1.0)] == [0, 7, 14]
    assert schedule.factors[:7] == schedule.factors[7:14] == schedule.factors[14:]


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 3))
def test_every_cycle_falls_from_the_full_rate_and_never_reaches_zero(
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


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_cycles", 0), ("cycle_steps", 0), ("cycle_mult", 0), ("cycle_mult", 1.5), ("num_cycles", True)],
)  # fmt: skip
def test_cycles_are_counted_in_whole_numbers(name: str, value: Any):
    arguments: dict[str, Any] = {"num_cycles": 2, "cycle_steps": 3, "cycle_mult": 2, name: value}
    with pytest.raises(ConfigError, match=f"^{name} is a whole number from 1 on"):
        cosine_restarts(arguments.pop("num_cycles"), rates=[1.0], **arguments)


def test_a_range_keeps_the_ratios_of_the_groups_and_stops_one_step_before_its_end():
    schedule = lr_range(4, [1e-5, 1e-4], 1.0)
    expected = [(1e-5, 1e-4), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1)]
    np.testing.assert_allclose([schedule.rates_at(step) for step in range(4)], expected, rtol=1e-12)


def test_a_linear_range_begins_at_zero():
    schedule = lr_range_linear(4, [1e-5, 1e-4], 1.0)
    expected = [(0, 0), (0.025, 0.25), (0.05, 0.5), (0.075, 0.75)]
    np.testing.assert_allclose([schedule.rates_at(step) for step in range(4)], expected, rtol=1e-12)


@pytest.mark.parametrize("build", [lr_range, lr_range_linear])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_range_between_rates_that_cannot_work_is_refused(build: Any, bad: float):
    for start, end in (([bad], 1.0), ([1e-3], bad)):
        with pytest.raises(ConfigError, match="positive finite"):
            build(10, start, end)


def test_any_curve_makes_a_schedule():
    schedule = shaped(
        4,
        rates=[1, 10],
        shape=lambda position: 1 - position,
        momentum=lambda p: linear(0.9, 0.5, p),
    )
    assert schedule.learning_rates == ((1.0, 10.0), (0.75, 7.5), (0.5, 5.0), (0.25, 2.5))
    np.testing.assert_allclose(schedule.momenta, [0.9, 0.8, 0.7, 0.6])


def test_a_schedule_of_no_steps_is_empty():
    assert constant(0, rates=[1.0]).learning_rates == ()


@pytest.mark.parametrize("num_steps", [-1, 2.0, True, None])
def test_steps_are_counted_in_whole_numbers(num_steps: Any):
    with pytest.raises(ConfigError, match=r"^num_steps is a whole number from 0 on"):
        constant(num_steps, rates=[1.0])


def test_a_schedule_has_a_momentum_for_every_step_or_none():
    with pytest.raises(ConfigError, match="1 momenta for 2 steps"):
        Schedule(rates=(1.0,), factors=(1.0, 0.5), momenta=(0.9,))
