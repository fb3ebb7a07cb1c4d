"""What tasks use together stays within a budget, and each has its turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.serve.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(amounts: Sequence[int], *, most: int) -> tuple[list[int], int]:
    """Let tasks take their amounts; return the order in which they came in, and the most that was ever used."""
    order: list[int] = []
    used = highest = 0

    async def task(budget: Budget, number: int, amount: int) -> None:
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
        budget = Budget(most)
        await asyncio.gather(*(task(budget, *one) for one in enumerate(amounts)))
        assert budget.used == 0
        assert budget.num_waiting == 0

    asyncio.run(all_of_them())
    return order, highest


@pytest.mark.parametrize("seed", range(5))
def test_never_more_is_used_than_there_is_and_all_come_in_in_their_order(seed: int):
    numbers = torch.randint(1, 12, (200,), generator=torch.Generator().manual_seed(seed))
    order, highest = run(numbers.tolist(), most=10)
    assert order == list(range(200))
    assert highest == 10


def test_who_needs_more_than_there_is_gets_all_of_it():
    order, highest = run([3, 99, 3], most=10)
    assert order == [0, 1, 2]
    assert highest == 10


def test_who_needs_little_does_not_overtake_who_needs_much():
    async def ask() -> list[str]:
        budget, came = Budget(10), list[str]()

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


def test_who_gives_up_waiting_takes_nothing_and_lets_others_in():
    async def ask() -> int:
        budget = Budget(10)
        await budget.take(5)
        much, little = (asyncio.create_task(budget.take(amount)) for amount in (9, 4))
        await asyncio.sleep(0)
        much.cancel()
        await asyncio.wait_for(little, 1)
        return budget.used

    assert asyncio.run(ask()) == 9


def test_who_gives_up_when_its_turn_has_just_come_gives_back():
    async def ask() -> int:
        budget = Budget(10)
        await budget.take(5)
        waiting = asyncio.create_task(budget.take(9))
        await asyncio.sleep(0)
        budget.give(5)  # Its turn has come, but it has not run yet.
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return budget.used

    assert asyncio.run(ask()) == 0
