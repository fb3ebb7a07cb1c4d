"""A batch in, what each of its items gives out: shared out to threads, in each of which torch uses no other processor."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


def use_threads(count: int) -> None:
    """Let torch use so many threads in the calling thread.

    Args:
        count: At least 1. It also becomes the default of threads that torch has not seen yet.
    """
    # Torch sets a thread's number to the default when it first looks at it, and so would overwrite what was set before.
    torch.get_num_threads()
    torch.set_num_threads(count)


class Shares(Generic[Item, Result]):
    """Runs a function over the items of a batch, in several threads at the same time.

    Args:
        run: Takes items and returns one result for each; called in the threads.
        num_threads: At least 1.
        together: Items that the function is given at a time, at most.

    Example:
        >>> shares = Shares(lambda numbers: [number * 2 for number in numbers], num_threads=2, together=8)
        >>> shares.results([1, 2, 3])
        [2, 4, 6]
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], *, num_threads: int, together: int
    ) -> None:
        self._run = run
        self._num_threads = num_threads
        self._together = together
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="vizsla-share")
        usual = torch.get_num_threads()
        all_there = threading.Barrier(num_threads)

        def begin() -> None:
            use_threads(1)
            all_there.wait()

        try:
            for job in [self._threads.submit(begin) for _ in range(num_threads)]:
                job.result()
        except BaseException:
            all_there.abort()  # Where not all can be started, those that were must not wait for ever.
            raise
        finally:
            use_threads(usual)

    def results(self, items: Sequence[Item]) -> list[Result]:
        """Return the results of some items, in their order.

        Args:
            items: Any number; each thread gets as many as any other, or one fewer.

        Raises:
            Exception: What the function raised, unchanged; all threads have ended their shares then.
        """
        shares = [items[first :: self._num_threads] for first in range(self._num_threads)]
        jobs = [self._threads.submit(self._done, share) for share in shares if share]
        errors = [job.exception() for job in jobs]
        for error in errors:
            if error is not None:
                raise error
        results: dict[int, Result] = {}
        for first, job in enumerate(jobs):
            results.update(
                zip(range(first, len(items), self._num_threads), job.result(), strict=True)
            )
        return [results[position] for position in range(len(items))]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _done(self, share: Sequence[Item]) -> list[Result]:
        results: list[Result] = []
        for start in range(0, len(share), self._together):
            results += self._run(list(share[start : start + self._together]))
        return results
