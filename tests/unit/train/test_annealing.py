"""The curves that schedules are made of, against recorded values. Golden values: tests/golden/schedules.json."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vizsla.errors import ConfigError
from vizsla.train.schedules import combined, cosine, exponential, linear, polynomial

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


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_an_exponential_does_not_cross_zero(ends: tuple[float, float]):
    with pytest.raises(ConfigError, match="same sign"):
        exponential(*ends, 0.5)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.4], "add up to 1"),
        ([1.5, -0.5], "not negative"),
        ([math.nan, 1.0], "not negative"),
        ([1.0], "1 shares and 2 parts"),
        ([], "0 shares"),
    ],
)
def test_shares_that_cannot_work_are_refused(shares: list[float], message: str):
    with pytest.raises(ConfigError, match=message):
        combined(shares, [partial(linear, 0.0, 1.0)] * 2)
