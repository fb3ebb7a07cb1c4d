"""Items of many tasks run together: none is lost or mixed up, none waits without need, one bad item harms no other."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from vizsla.serve.batching import Batcher
from vizsla.serve.limits import RefusedError


def test_results_come_to_who_asked_in_the_order_asked():
    async def run() -> list[list[int]]:
        async with Batcher[int, int](lambda items: [item * 10 for item in items], max_items=4) as batcher:  # fmt: skip
            return await asyncio.gather(*(batcher.submit([n, n + 1, n + 2]) for n in range(50)))

    assert asyncio.run(run()) == [[10 * n, 10 * n + 10, 10 * n + 20] for n in range(50)]


def test_what_arrives_while_a_batch_runs_makes_the_next_one():
    batches: list[list[int]] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def record(items: list[int]) -> list[int]:
        batches.append(items)
        first_runs.set()
        go_on.wait(10)
        return items

    async def run() -> None:
        async with Batcher[int, int](record, max_items=4) as batcher:
            asked = [asyncio.create_task(batcher.submit([0]))]
            await asyncio.to_thread(first_runs.wait, 10)
            asked += [asyncio.create_task(batcher.submit([n])) for n in range(1, 8)]
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(*asked)

    asyncio.run(run())
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


@pytest.mark.parametrize(("more_to_come", "expected"), [(True, [[1, 2]]), (False, [[1], [2]])])
def test_an_idle_thread_waits_only_if_more_is_on_its_way(more_to_come: bool, expected: list[list[int]]):  # fmt: skip
    batches: list[list[int]] = []

    def record(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def run() -> None:
        batcher = Batcher[int, int](
            record, max_items=2, max_wait_seconds=5, more_to_come=lambda: more_to_come
        )
        async with batcher:
            first = asyncio.create_task(batcher.submit([1]))
            await asyncio.sleep(0.05)
            await batcher.submit([2])
            await first

    asyncio.run(run())
    assert batches == expected


def test_the_wait_for_others_ends():
    async def run() -> float:
        batcher = Batcher[int, int](
            lambda items: items, max_items=2, max_wait_seconds=0.02, more_to_come=lambda: True
        )
        async with batcher:
            started = time.monotonic()
            await batcher.submit([1])
            return time.monotonic() - started

    assert 0.02 <= asyncio.run(run()) < 5


def test_batches_are_bounded_by_cost_but_one_item_may_cost_more():
    batches: list[list[int]] = []

    def record(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def run() -> None:
        batcher = Batcher[int, int](record, max_items=9, max_cost=10, cost=float)
        async with batcher:
            await batcher.submit([4, 6, 1, 99, 5, 5])

    asyncio.run(run())
    assert batches == [[4, 6], [1], [99], [5, 5]]


def test_an_item_that_fails_takes_no_other_with_it():
    def divide(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    async def run() -> list[object]:
        async with Batcher[int, float](divide, max_items=8) as batcher:
            asked = [batcher.submit([item]) for item in (1, 0, 2)]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    one, failed, half = asyncio.run(run())
    assert (one, half) == ([1.0], [0.5])
    assert isinstance(failed, ZeroDivisionError)


def test_more_than_may_wait_is_refused_and_what_waits_is_kept():
    async def run() -> list[int]:
        async with Batcher[int, int](lambda items: items, max_items=2, max_waiting=3) as batcher:
            kept = asyncio.create_task(batcher.submit([1, 2, 3]))
            await asyncio.sleep(0)
            with pytest.raises(RefusedError) as refused:
                await batcher.submit([4])
            assert refused.value.status == 503
            return await kept

    assert asyncio.run(run()) == [1, 2, 3]


def test_items_of_a_cancelled_caller_are_left_out():
    seen: list[int] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def record(items: list[int]) -> list[int]:
        seen.extend(items)
        first_runs.set()
        go_on.wait(10)
        return items

    async def run() -> None:
        async with Batcher[int, int](record, max_items=1) as batcher:
            first = asyncio.create_task(batcher.submit([1]))
            await asyncio.to_thread(first_runs.wait, 10)
            dropped = asyncio.create_task(batcher.submit([2]))
            kept = asyncio.create_task(batcher.submit([3]))
            await asyncio.sleep(0)
            dropped.cancel()
            await asyncio.sleep(0)
            go_on.set()
            assert (await first, await kept) == ([1], [3])

    asyncio.run(run())
    assert seen == [1, 3]


def test_the_end_finishes_what_waits_and_takes_nothing_new():
    async def run() -> list[int]:
        batcher = Batcher[int, int](lambda items: items, max_items=1)
        async with batcher:
            waiting = asyncio.create_task(batcher.submit([1, 2, 3]))
            await asyncio.sleep(0)
        with pytest.raises(RefusedError):
            await batcher.submit([4])
        return await waiting

    assert asyncio.run(run()) == [1, 2, 3]
