"""Numbers that make no sense are refused; clients and bodies are counted exactly, and places are given back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch

from vizsla import ConfigError
from vizsla.serve import Admission, FairBudget, Limits, RateLimiter, RefusedError


def test_impossible_limits_are_refused():
    for field in fields(Limits):
        if field.name == "formats":
            continue
        wrong: tuple[Any, ...] = (-1, float("nan"), float("inf"))
        for value in wrong if field.name == "requests_per_second" else (0, *wrong):
            given: dict[str, Any] = {field.name: value}
            with pytest.raises(ConfigError, match=field.name):
                Limits(**given)
    with pytest.raises(ConfigError, match="holds at least one body"):
        Limits(body_bytes=10, buffered_bytes=9)


def test_a_client_has_two_seconds_worth_and_regains_at_its_rate():
    now = 0.0
    rates = RateLimiter(10, clock=lambda: now)
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
    slow = RateLimiter(0.1, clock=lambda: 0.0)
    slow.take("::1")
    with pytest.raises(RefusedError) as refused:
        slow.take("::1")
    assert refused.value.retry_seconds == 10
    free = RateLimiter(0)
    for _ in range(10_000):
        free.take("1.2.3.4")


def test_an_ipv6_network_is_one_client_and_memory_is_bounded():
    rates = RateLimiter(0.5, clock=lambda: 0.0)
    rates.take("2001:db8::1")
    with pytest.raises(RefusedError):
        rates.take("2001:db8::ffff:2%eth0")
    rates.take("2001:db8:0:1::1")
    rates = RateLimiter(1, clock=lambda: 0.0)
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
    admission = Admission(Limits())
    with pytest.raises(KeyError), admission.admitted(10):
        raise KeyError
    assert (admission.requests, admission.reserved_bytes) == (0, 0)
    with pytest.raises(RefusedError) as refused, Admission(Limits(body_bytes=5)).admitted(6):
        pass
    assert (refused.value.status, refused.value.retry_seconds) == (413, None)


def run(amounts: Sequence[int], *, most: int) -> tuple[list[int], int]:
    """Let tasks take their amounts; return the order in which they came in, and the most that was ever used."""
    order: list[int] = []
    used = highest = 0

    async def task(budget: FairBudget, number: int, amount: int) -> None:
        nonlocal used, highest
        await budget.take(amount)
        order.append(number)
        used += min(amount, most)
        highest = max(highest, used)
        for _ in range(1 + number % 5):
            await asyncio.sleep(0)
        used -= min(amount, most)
        budget.give(amount)

    async def all_of_them() -> None:
        budget = FairBudget(most)
        await asyncio.gather(*(task(budget, *one) for one in enumerate(amounts)))
        assert budget.used == 0
        assert budget.num_waiting == 0

    asyncio.run(all_of_them())
    return order, highest


def test_a_budget_is_used_up_to_its_limit_in_order_of_arrival():
    for seed in range(5):
        numbers = torch.randint(1, 12, (200,), generator=torch.Generator().manual_seed(seed))
        assert run(numbers.tolist(), most=10) == (list(range(200)), 10)
    assert run([3, 99, 3], most=10) == ([0, 1, 2], 10)  # more than there is: all of it


def test_small_amounts_do_not_overtake_large_ones():
    async def ask() -> list[str]:
        budget, came = FairBudget(10), list[str]()

        async def task(name: str, amount: int) -> None:
            await budget.take(amount)
            came.append(name)

        await budget.take(6)
        tasks = [asyncio.create_task(task(*one)) for one in (("much", 9), ("little", 1))]
        await asyncio.sleep(0)
        assert budget.num_waiting == 2
        budget.give(6)
        await asyncio.gather(*tasks)
        return came

    assert asyncio.run(ask()) == ["much", "little"]


def test_a_cancelled_waiter_takes_nothing_and_lets_others_in():
    async def ask() -> int:
        budget = FairBudget(10)
        await budget.take(5)
        much, little = (asyncio.create_task(budget.take(amount)) for amount in (9, 4))
        await asyncio.sleep(0)
        much.cancel()
        await asyncio.wait_for(little, 1)
        return budget.used

    assert asyncio.run(ask()) == 9


def test_a_waiter_cancelled_at_its_turn_gives_back():
    async def ask() -> int:
        budget = FairBudget(10)
        await budget.take(5)
        waiting = asyncio.create_task(budget.take(9))
        await asyncio.sleep(0)
        budget.give(5)  # Its turn has come, but it has not run yet.
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return budget.used

    assert asyncio.run(ask()) == 0
