"""Compute single items from many tasks together in batches, and give each task its results."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from vizsla.serve.limits import busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(kw_only=True, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """Runs a function over items in its own thread, as many together as are waiting.

    While a batch runs, the next one gathers, so batches grow with the load. An idle thread starts at once, unless more is about to
    arrive: then it waits a few milliseconds for it.

    Args:
        run: Takes items and returns one result for each; called in the thread.
        begin: Called once in the thread before all else.
        max_items: Largest batch.
        max_cost: Largest total cost of a batch; a single item may cost more.
        cost: Cost of an item, such as its pixels.
        max_wait_seconds: Longest time that an item waits for others.
        max_waiting: Items that may wait; more are refused.
        more_to_come: Whether another item is about to arrive.
        on_batch: Called with the size of each batch and the seconds that it took.

    Examples:
        >>> batcher = Batcher(lambda numbers: [number * 2 for number in numbers], max_items=8)
        >>> async with batcher:
        ...     await batcher.submit([1, 2])
        [2, 4]
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        begin: Callable[[], None] = lambda: None,
        max_items: int,
        max_cost: float = float("inf"),
        cost: Callable[[Item], float] = lambda _item: 1.0,
        max_wait_seconds: float = 0.005,
        max_waiting: int = 1024,
        more_to_come: Callable[[], bool] = lambda: False,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self._run = run
        self._max_items = max_items
        self._max_cost = max_cost
        self._cost = cost
        self._max_wait_seconds = max_wait_seconds
        self._max_waiting = max_waiting
        self._more_to_come = more_to_come
        self._on_batch = on_batch
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vizsla-predict", initializer=begin)
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Batcher[Item, Result]:
        """Start to work."""
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Finish what is waiting, then stop."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    @property
    def num_waiting(self) -> int:
        """Items that wait for their batch."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of some items, in order; if the caller is cancelled, items that have not begun are dropped.

        Raises:
            RefusedError: Too many are waiting, or the batcher is stopping (503).
        """
        if self._closing or len(self._waiting) + len(items) > self._max_waiting:
            raise busy()
        loop = asyncio.get_running_loop()
        asked = [_Waiting[Item, Result](item=item, answer=loop.create_future()) for item in items]
        self._waiting.extend(asked)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(one.answer for one in asked)))
        finally:
            for one in asked:
                one.answer.cancel()

    async def _work(self) -> None:
        while not (self._closing and not self._waiting):
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._gather()
            batch = self._next_batch()
            if batch:
                await self._answer(batch)

    async def _gather(self) -> None:
        """Wait for more items that are on their way."""
        until = self._waiting[0].since + self._max_wait_seconds
        while len(self._waiting) < self._max_items and self._more_to_come() and not self._closing:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        cost = 0.0
        while self._waiting and len(batch) < self._max_items:
            first = self._waiting[0]
            if not first.answer.done():  # Otherwise nobody waits for it any more.
                cost += self._cost(first.item)
                if batch and cost > self._max_cost:
                    break
                batch.append(first)
            self._waiting.popleft()
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._run, [one.item for one in batch])
        await asyncio.wait([running])
        self._on_batch(len(batch), time.monotonic() - started)
        error = running.exception()
        if error is None:
            for one, result in zip(batch, running.result(), strict=True):
                if not one.answer.done():
                    one.answer.set_result(result)
        elif len(batch) > 1:  # One item must not make the others fail.
            for one in batch:
                await self._answer([one])
        elif not batch[0].answer.done():
            batch[0].answer.set_exception(error)
