"""do_all: shares at the same time, on threads that stay; errors; a forked process."""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from vizsla.machine import _made, do_all

if TYPE_CHECKING:
    from collections.abc import Sequence


def threads_used(num_shares: int) -> set[int]:
    """Return which threads do so many shares that wait for one another."""
    together, used = threading.Barrier(num_shares), set[int]()

    def work(_share: Sequence[int]) -> None:
        together.wait(timeout=10)
        used.add(threading.get_ident())

    do_all(work, [range(1)] * num_shares)
    return used


def test_all_shares_are_done_at_the_same_time_by_the_same_threads_each_time():
    first = threads_used(3)
    assert len(first) == 3
    assert threading.get_ident() not in first
    assert [threads_used(3) for _ in range(5)] == [first] * 5


def test_torch_uses_one_thread_inside_and_as_many_as_before_outside():
    before = torch.get_num_threads()
    seen: list[int] = []
    do_all(lambda _share: seen.append(torch.get_num_threads()), [range(1)] * 4)
    assert seen == [1] * 4
    assert torch.get_num_threads() == before
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [before]


def test_its_threads_stay_with_one_thread_each_where_torch_uses_two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        executor = _made(2)
        seen = [
            executor.submit(lambda: (torch.rand(2**20) * 2, torch.get_num_threads())[1])
            for _ in range(4)
        ]
        assert [one.result() for one in seen] == [1] * 4
        executor.shutdown()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_error_of_the_first_share_arrives_when_all_shares_have_ended():
    ended: list[int] = []

    def work(share: Sequence[int]) -> None:
        if share[0] < 2:
            raise LookupError(f"share {share[0]}")
        ended.append(share[0])

    with pytest.raises(LookupError, match="share 0"):
        do_all(work, [[0], [1], [2]])
    assert ended == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_makes_threads_of_its_own():
    threads_used(2)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Later Pythons warn of forks beside threads.
        child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        os._exit(0 if len(threads_used(2)) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
