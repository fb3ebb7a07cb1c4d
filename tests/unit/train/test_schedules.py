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
from vizsla.train.schedules import Rates, Schedule, constant, cosine, one_cycle, rates_per_group

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
    if case["method"] == "fit_one_cycle":
        epochs, rates = arguments.pop("n_epoch"), read_rates(arguments.pop("lr_max", 1e-3))
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


def test_cosine_has_the_golden_values():
    case = GOLDEN["cosine"]
    found = [cosine(case["start"], case["end"], position) for position in case["positions"]]
    np.testing.assert_allclose(found, case["values"], rtol=1e-5, atol=1e-9)


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


@pytest.mark.parametrize("case", GOLDEN["rates_per_group"])
def test_rates_are_given_to_groups_as_recorded(case: dict[str, Any]):
    found = rates_per_group(read_rates(case["rates"]), num_groups=case["num_groups"])
    np.testing.assert_allclose(found, case["expected"], rtol=1e-9)


@pytest.mark.parametrize("name", FITS)
def test_every_step_of_a_fit_has_the_golden_rates_and_momentum(name: str):
    case = FITS[name]
    schedules = fit_phases(case)
    assert len(schedules) == len(case["phases"])
    for schedule, expected in zip(schedules, case["phases"], strict=True):
        np.testing.assert_allclose(
            schedule.learning_rates, expected["learning_rates"], rtol=1e-5, atol=1e-9
        )
        if case["method"] == "fit":
            assert schedule.momenta == ()
        else:
            np.testing.assert_allclose(schedule.momenta, expected["momenta"], rtol=1e-5, atol=1e-9)


def test_a_list_gives_each_group_its_own_rate():
    assert rates_per_group([1e-5, 1e-4, 1e-3], num_groups=3) == (1e-5, 1e-4, 1e-3)


def test_a_slice_from_zero_counts_as_its_end_alone():
    assert rates_per_group(slice(0, 1e-3), num_groups=3) == (1e-4, 1e-4, 1e-3)


@pytest.mark.parametrize(
    "rates",
    [
        math.nan,
        math.inf,
        0,
        0.0,
        -1e-3,
        [1e-3, 0.0, 1e-3],
        [1e-3, math.nan, 1e-3],
        slice(math.nan, 1e-3),
        slice(1e-5, math.nan),
        slice(math.inf),
        slice(0),
        slice(-1e-3),
        slice(1e-3, 0),
        slice(1e-3, -1e-3),
        slice(-1e-3, 1e-3),
        slice(-1e-3, -1e-5),
    ],
    ids=str,
)
def test_a_rate_that_is_not_positive_and_finite_is_refused(rates: Rates):
    with pytest.raises(ConfigError, match="Learning rates are positive finite numbers") as error:
        rates_per_group(rates, num_groups=3)
    assert f"Received: {rates!r}" in str(error.value)


@pytest.mark.parametrize("rates", [slice(1e-3, None), slice(None)])
def test_a_slice_without_an_end_is_refused(rates: slice):
    with pytest.raises(ConfigError, match=r"needs its end: slice\(last\) or slice\(first, last\)"):
        rates_per_group(rates, num_groups=3)


@pytest.mark.parametrize("rates", [[1e-3], [1e-3, 1e-3], (1e-3,) * 4, []])
def test_a_list_of_another_length_is_refused(rates: list[float]):
    with pytest.raises(
        ConfigError, match=f"^{len(rates)} learning rates .* there are 3 parameter groups"
    ):
        rates_per_group(rates, num_groups=3)


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
