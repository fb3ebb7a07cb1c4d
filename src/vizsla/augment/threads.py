"""Some shares of work in, all of them done out, each on a thread that lives as long as the process.

Threads that are made anew for each batch take memory each time: the C library gives a new thread whichever of its heaps is
free, and soon every heap has held the blocks of every kind of thread. With threads that stay, memory is flat.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Pool(NamedTuple):
    process: int
    num_threads: int
    executor: ThreadPoolExecutor


_POOLS: list[_Pool] = []
"""The one pool of this process, or none; a forked process inherits one without threads and makes its own."""


def do_all(work: Callable[[Sequence[int]], object], shares: Sequence[Sequence[int]]) -> None:
    """Do all shares of some work at the same time, and wait for them; in these threads torch uses no others.

    Args:
        work: Does one share.
        shares: What to do, a thread for each.

    Raises:
        Exception: What the work raised, unchanged; of several errors that of the first share. All shares have ended then.
    """
    executor = _executor(len(shares))
    jobs = [executor.submit(work, share) for share in shares]
    errors = [job.exception() for job in jobs]
    for error in errors:
        if error is not None:
            raise error


def _executor(num_threads: int) -> ThreadPoolExecutor:
    """Return the pool of this process, with at least so many threads."""
    # No lock: one that another thread holds while a process forks is never released there. Two threads that come here at the
    # same time make two pools; whoever uses the one that is not kept keeps it alive, and its threads end with it.
    process = os.getpid()
    for pool in _POOLS:
        if pool.process == process and pool.num_threads >= num_threads:
            return pool.executor
    executor = _made(num_threads)
    _POOLS[:] = [_Pool(process, num_threads, executor)]
    return executor


def _made(num_threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run, each with torch told to use no others."""
    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="vizsla-augment")
    all_there = threading.Barrier(num_threads)

    def begin() -> None:
        # torch sets the number itself when a thread uses it for the first time: asking for it is that time. The setting is the
        # thread's alone, but it also becomes the default of threads that torch has not seen yet.
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_there.wait()

    try:
        for job in [executor.submit(begin) for _ in range(num_threads)]:
            job.result()
    except BaseException:
        all_there.abort()  # Where not all can be started, those that were must not wait for ever.
        raise
    finally:
        torch.set_num_threads(threads)
    return executor
