"""A function and its jobs in, the results in order out, worked out in threads ahead of the consumer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

Job = TypeVar("Job")
Result = TypeVar("Result")

PREFETCH_BYTES = 512 * 2**20
"""Results that wait for the consumer take at most this much memory."""

CLOSE_SECONDS = 5.0
"""How long the end waits for threads that are at work. A thread that hangs in the system longer ends when that lets go."""


def _nothing(_result: object) -> int:
    return 0


def read_ahead(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    num_workers: int,
    max_waiting: int,
    max_bytes: int = PREFETCH_BYTES,
    num_bytes: Callable[[Result], int] = _nothing,
    max_seconds: float | None = None,
    too_slow: Callable[[Job], Exception] | None = None,
) -> Generator[Result]:
    """Yield ``function(job)`` of every job, in order, worked out in threads ahead of the consumer.

    The threads live as long as the generator runs: they end when it is used up, closed, dropped, or left by an error or
    Ctrl-C. An error of the function arrives unchanged at its place in the order; jobs after it are cancelled.

    Args:
        function: Must be thread-safe.
        jobs: Taken one by one, not all at once.
        num_workers: Threads; 0 works in the consumer's thread.
        max_waiting: At most so many results are worked on or wait (but always one per worker).
        max_bytes: The same in bytes, reckoned with the largest result so far.
        num_bytes: Size of a result.
        max_seconds: Wait at most so long for one result; None waits for ever. Without workers nothing is measured.
        too_slow: Gives the error that is raised then; None raises TimeoutError.

    Yields:
        Results, in the order of the jobs.
    """
    if num_workers == 0:
        yield from map(function, jobs)
        return
    threads = _Threads(function, num_workers)
    waiting: deque[tuple[Job, Future[Result]]] = deque()

    def oldest() -> Result:
        job, future = waiting.popleft()
        try:
            # The oldest job was begun before all others, so it is not waiting for a thread.
            return future.result(timeout=max_seconds)
        except TimeoutError as error:
            if future.done() or too_slow is None:
                raise
            raise too_slow(job) from error

    num_allowed = num_workers  # Until the size of a result is known.
    largest = 1
    try:
        for job in jobs:
            while len(waiting) >= num_allowed:
                result = oldest()
                largest = max(largest, num_bytes(result))
                num_allowed = max(num_workers, min(max_waiting, max_bytes // largest))
                yield result
            waiting.append((job, threads.submit(job)))
        while waiting:
            yield oldest()
    finally:
        waiting.clear()
        threads.close()


class _Threads(Generic[Job, Result]):
    """Threads that work on jobs until closed; unlike those of the standard pools, one that hangs does not keep the program.

    Args:
        function: What to do with a job.
        num_threads: How many.
    """

    def __init__(self, function: Callable[[Job], Result], num_threads: int) -> None:
        self._function = function
        self._num_threads = num_threads
        self._jobs: SimpleQueue[tuple[Job, Future[Result]] | None] = SimpleQueue()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> Future[Result]:
        """Hand a job to the threads; the first jobs each start one, so that an epoch that reads nothing has none."""
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        if len(self._threads) < self._num_threads:
            thread = threading.Thread(
                target=_work,
                args=(self._function, self._jobs, self._closed),
                name=f"vizsla-reader-{len(self._threads)}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Drop the jobs that were not begun and wait for the threads, but not for ever."""
        self._closed.set()
        with contextlib.suppress(Exception):
            while not self._jobs.empty():
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _work(
    function: Callable[[Job], Result],
    jobs: SimpleQueue[tuple[Job, Future[Result]] | None],
    closed: threading.Event,
) -> None:
    while (item := jobs.get()) is not None and not closed.is_set():
        job, future = item
        try:
            future.set_result(function(job))
        except BaseException as error:  # noqa: BLE001 (it is handed to the consumer, unchanged)
            future.set_exception(error)
        del item, job, future  # An idle thread holds no picture.
