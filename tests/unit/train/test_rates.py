"""Rates of the parameter groups, against recorded ones. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vizsla.errors import ConfigError
from vizsla.train.schedules import Rates, rates_per_group

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "schedules.json").read_text("utf-8")
)


def read_rates(value: Any) -> Rates:
    return slice(*value["slice"]) if isinstance(value, dict) else value


@pytest.mark.filterwarnings("ignore:slice.* gives the earliest layers the higher rate")
@pytest.mark.parametrize("case", GOLDEN["rates_per_group"])
def test_rates_are_given_to_groups_as_recorded(case: dict[str, Any]):
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


@pytest.mark.parametrize(
    "rates",
    [
        math.nan,
        math.inf,
        0,
        0.0,
        -1e-3,
        True,
        "1e-3",
        None,
        [1e-3, 0.0, 1e-3],
        [1e-3, math.nan, 1e-3],
        [1e-3, None, 1e-3],
        np.array([1e-3, 0.0, 1e-3]),
        np.array([math.nan]),
        slice(math.nan, 1e-3),
        slice(1e-5, math.nan),
        slice(math.inf),
        slice(0),
        slice(-1e-3),
        slice(1e-3, 0),
        slice(1e-3, -1e-3),
        slice(-1e-3, 1e-3),
        slice(-1e-3, -1e-5),
        slice("a", "b"),
    ],
    ids=str,
)
@pytest.mark.parametrize("num_groups", [1, 3])
def test_a_rate_that_is_not_positive_and_finite_is_refused(rates: Any, num_groups: int):
    if isinstance(rates, list) and num_groups == 1:
        rates = rates[1:2]
    if isinstance(rates, np.ndarray) and num_groups == 1:
        rates = rates[-2:-1] if len(rates) > 1 else rates
    with pytest.raises(ConfigError, match="Learning rates are positive finite numbers") as error:
        rates_per_group(rates, num_groups=num_groups)
    assert f"Received: {rates!r}" in str(error.value)


@pytest.mark.parametrize("rates", [slice(1e-3, None), slice(None)])
def test_a_slice_without_an_end_is_refused(rates: slice):
    with pytest.raises(ConfigError, match=r"needs its end: slice\(last\) or slice\(first, last\)"):
        rates_per_group(rates, num_groups=3)


def test_a_slice_of_three_parts_is_refused():
    with pytest.raises(ConfigError, match="has two parts"):
        rates_per_group(slice(1e-5, 1e-4, 1e-3), num_groups=3)


@pytest.mark.parametrize(
    "rates", [[1e-3], [1e-3, 1e-3], (1e-3,) * 4, [], np.full(2, 1e-3), np.array([])], ids=str
)
def test_a_list_of_another_length_is_refused(rates: Any):
    with pytest.raises(
        ConfigError, match=f"^{len(rates)} learning rates .* there are 3 parameter groups"
    ):
        rates_per_group(rates, num_groups=3)


def test_a_table_of_rates_is_refused():
    with pytest.raises(ConfigError, match=r"one dimension. Received: shape \(1, 3\)"):
        rates_per_group(np.full((1, 3), 1e-3), num_groups=3)
