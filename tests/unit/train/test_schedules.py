"""The curves that schedules are made of, against recorded values. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsla.errors import ConfigError
from vizsla.train.rates.schedules import (
    Rates,
    Schedule,
    classic_epochs,
    combined,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    flat_cosine,
    linear,
    lr_range,
    one_cycle,
    polynomial,
    rates_per_group,
    shaped,
    triangular,
    triangular_beta,
    warm_restarts_classic,
)

if TYPE_CHECKING:
    from collections.abc import Callable


GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "schedules.json").read_text("utf-8")
)
CURVES = GOLDEN["curves"]


@pytest.mark.parametrize("function", [linear, cosine, exponential, polynomial])
def test_a_curve_has_the_golden_values(function: Callable[..., float]):
    case = CURVES[function.__name__]
    options = {"power": case["power"]} if "power" in case else {}
    found = [function(*case["ends"], position, **options) for position in CURVES["positions"]]
    np.testing.assert_allclose(found, case["values"], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN["one_cycle_shapes"])
def test_two_cosines_behind_one_another_have_the_golden_values(case: dict[str, float]):
    shares = [case["pct_start"], 1 - case["pct_start"]]
    parts = [
        partial(cosine, case["start"], case["peak"]),
        partial(cosine, case["peak"], case["end"]),
    ]
    curve = combined(shares, parts)
    found = [curve(position) for position in GOLDEN["one_cycle_shapes"][0]["positions"]]
    np.testing.assert_allclose(found, case["values"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("thirds", [(1 / 3, 1 / 3, 1 / 3), (3 / 7, 2 / 7, 2 / 7)])
def test_a_part_begins_at_its_boundary_whatever_rounding_does(thirds: tuple[float, ...]):
    steps = [partial(linear, float(part), part + 0.5) for part in range(3)]
    curve = combined(thirds, steps)
    for part in range(3):
        boundary = sum(thirds[:part])
        for position in (boundary, math.nextafter(boundary, 0), math.nextafter(boundary, 1)):
            assert curve(position) == pytest.approx(part, abs=1e-9)


def test_a_part_without_a_share_is_left_out():
    def never(position: float) -> float:
        raise ArithmeticError(position)

    curve = combined([0.0, 1.0, 0.0], [never, partial(linear, 1.0, 2.0), never])
    assert [curve(position) for position in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]


def test_curves_that_cannot_work_are_refused():
    for ends in ((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ConfigError, match="same sign"):
            exponential(*ends, 0.5)
    for shares in ([0.5, 0.4], [1.5, -0.5], [math.nan, 1.0], [1.0], []):
        with pytest.raises(ConfigError, match="Received: "):
            combined(shares, [partial(linear, 0.0, 1.0)] * 2)


def read_rates(value: Any) -> Rates:
    return slice(*value["slice"]) if isinstance(value, dict) else value


@pytest.mark.filterwarnings("ignore:slice.* gives the earliest layers the higher rate")
def test_rates_are_given_to_groups_as_recorded():
    for case in GOLDEN["rates_per_group"]:
        found = rates_per_group(read_rates(case["rates"]), num_groups=case["num_groups"])
        np.testing.assert_allclose(found, case["expected"], rtol=1e-9)


def test_a_list_gives_each_group_its_own_rate():
    assert rates_per_group([1e-5, 1e-4, 1e-3], num_groups=3) == (1e-5, 1e-4, 1e-3)


def test_a_slice_from_zero_counts_as_its_end_alone():
    assert rates_per_group(slice(0, 1e-3), num_groups=3) == (1e-4, 1e-4, 1e-3)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1e-5, 1e-4, 1e-3]), (1e-5, 1e-4, 1e-3)),
        (np.array([0.01]), (0.01,) * 3),
        (np.array(0.01), (0.01,) * 3),
        (np.float64(0.01), (0.01,) * 3),
        (np.float32(0.5), (0.5,) * 3),
        ([np.float32(0.5), 1, np.float64(2)], (0.5, 1.0, 2.0)),
        (slice(np.float32(0.25), np.float32(1)), (0.25, 0.5, 1.0)),
    ],
    ids=str,
)
def test_numbers_of_numpy_are_numbers(array: Any, expected: tuple[float, ...]):
    found = rates_per_group(array, num_groups=3)
    assert found == expected
    assert all(type(rate) is float for rate in found)


def test_a_slice_the_wrong_way_round_works_and_says_what_it_did():
    with pytest.warns(
        UserWarning, match=r"slice\(0.001, 1e-05\) .* higher rate; .* 3 groups"
    ) as said:
        found = rates_per_group(slice(1e-3, 1e-5), num_groups=3)
    np.testing.assert_allclose(found, (1e-3, 1e-4, 1e-5))
    assert len(said) == 1
    assert str(said[0].message).count(".") - str(said[0].message).count("0.") == 1
    assert said[0].filename == __file__


def test_a_slice_that_lasts_for_one_group_only_has_no_wrong_way_round():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates_per_group(slice(1e-3, 1e-5), num_groups=1) == (1e-5,)


def test_a_rate_that_is_not_positive_and_finite_is_refused():
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


def test_rates_of_another_form_are_refused():
    for rates in (slice(1e-3, None), slice(None), slice(1e-5, 1e-4, 1e-3)):
        with pytest.raises(ConfigError, match=r"slice\(last\) or slice\(first, last\)") as error:
            rates_per_group(rates, num_groups=3)
        assert repr(rates) in str(error.value)
    for rates in ([1e-3], (1e-3,) * 4, [], np.full(2, 1e-3), np.array([])):
        with pytest.raises(ConfigError, match=f"^{len(rates)} .* 3 parameter groups"):
            rates_per_group(rates, num_groups=3)
    with pytest.raises(ConfigError, match=r"Received: shape \(1, 3\)"):
        rates_per_group(np.full((1, 3), 1e-3), num_groups=3)


FITS = {case["name"]: case for case in GOLDEN["fits"]}


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
        epochs, rates = (
            arguments.pop("n_epoch"),
            read_rates(arguments.pop("lr_max", 1e-3)),
        )
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


def test_a_schedule_that_cannot_work_is_refused():
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


def test_cycles_are_counted_in_whole_numbers():
    good: dict[str, Any] = {"num_cycles": 2, "cycle_steps": 3, "cycle_mult": 2}
    bad: list[dict[str, Any]] = [{"num_cycles": 0}, {"cycle_steps": 0}, {"cycle_mult": 0}]
    bad += [{"cycle_mult": 1.5}, {"num_cycles": True}]
    for options in bad:
        with pytest.raises(ConfigError, match=f"^{next(iter(options))} is a whole number"):
            cosine_restarts(rates=[1.0], **(good | options))


def test_a_range_keeps_the_ratios_of_the_groups_and_stops_one_step_before_its_end():
    schedule = lr_range(4, [1e-5, 1e-4], 1.0)
    expected = [(1e-5, 1e-4), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1)]
    np.testing.assert_allclose([schedule.rates_at(step) for step in range(4)], expected, rtol=1e-12)


def test_a_linear_range_begins_at_zero():
    schedule = lr_range(4, [1e-5, 1e-4], 1.0, linearly=True)
    expected = [(0, 0), (0.025, 0.25), (0.05, 0.5), (0.075, 0.75)]
    np.testing.assert_allclose([schedule.rates_at(step) for step in range(4)], expected, rtol=1e-12)


def test_a_range_between_rates_that_cannot_work_is_refused():
    for linearly in (False, True):
        for bad in (0.0, -1.0, math.nan, math.inf):
            for start, end in ((bad, 1.0), (1e-3, bad)):
                with pytest.raises(ConfigError, match="positive finite"):
                    lr_range(10, [start], end, linearly=linearly)


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


def test_steps_are_counted_in_whole_numbers():
    bad: list[Any] = [-1, 2.0, True, None]
    for num_steps in bad:
        with pytest.raises(ConfigError, match="num_steps"):
            constant(num_steps, rates=[1.0])


def test_a_schedule_has_a_momentum_for_every_step_or_none():
    with pytest.raises(ConfigError, match="1 momenta for 2 steps"):
        Schedule(rates=(1.0,), factors=(1.0, 0.5), momenta=(0.9,))


CYCLES = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "classic_schedules.json").read_text("utf-8")
)
RESTARTS, TRIANGLES, FINDER = CYCLES["restarts"], CYCLES["triangles"], CYCLES["finder"]


def assert_equal(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_cycles_take_the_golden_number_of_epochs():
    for case in CYCLES["epochs"]:
        options = {name: value for name, value in case.items() if name != "epochs"}
        assert classic_epochs(**options) == case["epochs"]


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


def test_long_restarts_have_the_golden_multipliers():
    for name, mult, steps in (("three_cycles", 1, 1080), ("three_cycles_mult2", 2, 2520)):
        schedule = warm_restarts_classic(steps, rates=[1.0], cycle_steps=360, cycle_mult=mult)
        for step, multiplier in RESTARTS[f"nb360_{name}_multiplier"].items():
            assert schedule.factors[int(step)] == pytest.approx(multiplier, rel=1e-9)


def test_the_warm_up_is_as_long_as_recorded_and_tiny_cycles_have_the_golden_multipliers():
    for steps, count in RESTARTS["warmup_iterations"].items():
        schedule = warm_restarts_classic(2 * int(steps), rates=[1.0], cycle_steps=int(steps))
        assert schedule.factors.count(0.01) == count
    for steps, factors in RESTARTS["tiny_multipliers_3_cycles"].items():
        schedule = warm_restarts_classic(len(factors), rates=[1.0], cycle_steps=int(steps))
        assert_equal(schedule.factors, factors)


def test_cycles_of_one_step_train_at_the_full_rate():
    for name, mult in (("nb1_vizsla_3_cycles", 1), ("nb1_vizsla_3_cycles_mult2", 2)):
        expected = RESTARTS[name]
        schedule = warm_restarts_classic(len(expected), rates=[1.0], cycle_steps=1, cycle_mult=mult)
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


def test_rising_ranges_have_the_golden_rates():
    for steps in (10, 32):
        schedule = lr_range(steps, [1e-5], 10.0)
        found = [rate for (rate,) in schedule.learning_rates]
        assert_equal(found, FINDER[f"geometric_n{steps}"])
    for name, steps in (("geometric_n100", 100), ("geometric_n360", 360), ("linear_n32", 32)):
        schedule = lr_range(steps, [1e-5], 10.0, linearly=name.startswith("linear"))
        for step, rate in FINDER[f"{name}_points"].items():
            assert schedule.rates_at(int(step))[0] == pytest.approx(rate, rel=1e-9)


def test_a_range_from_three_rates_keeps_their_ratios():
    case = FINDER["array_start_1e-7_1e-6_1e-5_n32"]
    schedule = lr_range(32, [1e-7, 1e-6, 1e-5], 10.0)
    for step, name in ((0, "first"), (16, "at_16"), (31, "last")):
        assert_equal(schedule.rates_at(step), case[name])


def test_a_triangle_that_does_not_rise_is_refused():
    cases: list[tuple[Any, dict[str, float], str]] = [
        (triangular, {"div": 10, "cut_div": 40}, "cut_div=40 with cycles of 32 steps"),
        (triangular, {"div": 0, "cut_div": 4}, "div=0"),
        (triangular, {"div": 10, "cut_div": 0}, "cut_div=0"),
        (triangular_beta, {"div": 10, "pct": 99}, "pct=99"),
        (triangular_beta, {"div": -1, "pct": 10}, "div=-1"),
    ]
    for build, options, received in cases:
        with pytest.raises(ConfigError, match=received):
            build(32, rates=[1.0], cycle_steps=32, **options)


def test_momenta_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"Received: \(1.0, 0.85\)"):
        triangular(8, rates=[1.0], cycle_steps=8, div=10, cut_div=4, momenta=(1.0, 0.85))


def test_cycles_have_at_least_one_step_and_grow_by_a_positive_factor():
    for cycle_mult in (0, -1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="cycle_mult"):
            warm_restarts_classic(8, rates=[1.0], cycle_steps=2, cycle_mult=cycle_mult)
        with pytest.raises(ConfigError, match="cycle_mult"):
            classic_epochs(2, cycle_mult=cycle_mult)
    for build in (
        warm_restarts_classic,
        partial(triangular, div=10, cut_div=4),
        partial(triangular_beta, div=10, pct=10),
    ):
        with pytest.raises(ConfigError, match="cycle_steps"):
            build(8, rates=[1.0], cycle_steps=0)
