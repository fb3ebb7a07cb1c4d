"""A batch is shared out to threads and comes back in order; torch uses one processor in each and as many as before elsewhere."""

from __future__ import annotations

import threading

import pytest
import torch

from vizsla.machine import Shares, use_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    use_threads(2)
    yield
    use_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 25])
def test_results_come_in_the_order_of_the_items(num_threads: int, count: int):
    shares = Shares[int, int](
        lambda items: [2 * item for item in items], num_threads=num_threads, together=3
    )
    assert shares.results(range(count)) == [2 * item for item in range(count)]
    shares.close()


def test_each_thread_gets_alike_many_and_at_most_so_many_at_a_time():
    sizes: dict[str, list[int]] = {}

    def run(items: list[int]) -> list[int]:
        sizes.setdefault(threading.current_thread().name, []).append(len(items))
        both.wait()
        return items

    both = threading.Barrier(2, timeout=30)
    shares = Shares[int, int](run, num_threads=2, together=4)
    shares.results(range(10))
    assert list(sizes.values()) == [[4, 1], [4, 1]]
    shares.close()


@pytest.mark.usefixtures("two_threads")
def test_torch_uses_one_processor_in_the_threads_and_as_many_as_before_elsewhere():
    shares = Shares[int, int](
        lambda items: [torch.get_num_threads()] * len(items), num_threads=2, together=1
    )
    assert shares.results(range(6)) == [1] * 6
    assert torch.get_num_threads() == 2
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]
    shares.close()


def test_an_error_of_one_thread_comes_out_when_all_have_ended():
    ended: list[int] = []

    def run(items: list[int]) -> list[int]:
        if items == [0]:
            raise ValueError("the first")
        ended.extend(items)
        return items

    shares = Shares[int, int](run, num_threads=2, together=1)
    with pytest.raises(ValueError, match="the first"):
        shares.results([0, 1, 2, 3])
    assert ended == [1, 3]
    assert shares.results([5, 6]) == [5, 6]
    shares.close()
