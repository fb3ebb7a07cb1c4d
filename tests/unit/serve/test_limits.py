"""Numbers that make no sense are refused; clients and bodies are counted exactly, and places are given back."""

from __future__ import annotations

from typing import Any

import pytest

from vizsla.errors import ConfigError
from vizsla.serve.limits import Admission, Limits, Rates, RefusedError


@pytest.mark.parametrize("name", ["body_bytes", "pixels", "pictures", "seconds", "requests", "connections", "header_seconds", "stop_seconds"])  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_makes_no_sense_is_refused(name: str, value: Any):
    with pytest.raises(ConfigError, match=f"The limit {name} is a number above 0"):
        Limits(**{name: value})


def test_any_number_of_requests_is_a_rate_of_zero():
    rates = Rates(Limits(requests_per_second=0).requests_per_second)
    for _ in range(10_000):
        rates.take("1.2.3.4")


def test_a_buffer_that_holds_no_body_is_refused():
    with pytest.raises(ConfigError, match="holds at least one body"):
        Limits(body_bytes=10, buffered_bytes=9)


def test_a_bucket_has_two_seconds_worth_and_fills_at_its_rate():
    now = 0.0
    rates = Rates(10, clock=lambda: now)
    for _ in range(20):
        rates.take("1.2.3.4")
    with pytest.raises(RefusedError) as refused:
        rates.take("1.2.3.4")
    assert (refused.value.status, refused.value.retry_seconds) == (429, 1)
    rates.take("1.2.3.5")
    now = 0.1
    rates.take("1.2.3.4")
    with pytest.raises(RefusedError):
        rates.take("1.2.3.4")


def test_a_slow_rate_says_how_long_to_wait():
    rates = Rates(0.1, clock=lambda: 0.0)
    rates.take("::1")
    with pytest.raises(RefusedError) as refused:
        rates.take("::1")
    assert refused.value.retry_seconds == 10


def test_an_ipv6_network_is_one_client():
    rates = Rates(0.5, clock=lambda: 0.0)
    rates.take("2001:db8::1")
    with pytest.raises(RefusedError):
        rates.take("2001:db8::ffff:2%eth0")
    rates.take("2001:db8:0:1::1")


def test_many_addresses_take_bounded_memory():
    rates = Rates(1, clock=lambda: 0.0)
    for number in range(20_000):
        rates.take(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(rates._buckets) == 10_000


def test_places_and_bytes_are_counted_and_given_back():
    admission = Admission(Limits(requests=2, body_bytes=60, buffered_bytes=100))
    with admission.admitted(50):
        assert (admission.requests, admission.reserved_bytes) == (1, 50)
        with pytest.raises(RefusedError) as refused, admission.admitted(51):
            pass
        assert refused.value.status == 503
        with pytest.raises(RefusedError), admission.admitted(None):  # may be as long as allowed
            pass
        with admission.admitted(50), pytest.raises(RefusedError), admission.admitted(0):
            pass
    assert (admission.requests, admission.reserved_bytes) == (0, 0)


def test_a_place_is_given_back_after_an_error():
    admission = Admission(Limits())
    with pytest.raises(KeyError), admission.admitted(10):
        raise KeyError
    assert (admission.requests, admission.reserved_bytes) == (0, 0)


def test_a_body_that_is_too_large_whenever_it_comes_is_told_so():
    with pytest.raises(RefusedError) as refused, Admission(Limits(body_bytes=5)).admitted(6):
        pass
    assert (refused.value.status, refused.value.retry_seconds) == (413, None)
