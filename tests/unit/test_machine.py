"""The machine: names, numbers of bytes, free memory; the allocator; blocks; the pool of threads."""

from __future__ import annotations

import gc
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vizsla import ConfigError
from vizsla.machine import (
    Blocks,
    default_num_workers,
    device_name,
    free_device_bytes,
    free_disk_bytes,
    free_memory_bytes,
    home_folder,
    keep_freed_memory,
    long_lived_objects_set_aside,
    map_in_threads,
    parse_bytes,
    peak_memory_bytes,
    run_in_threads,
    shown_bytes,
)
from vizsla.text import counted


def test_the_cpu_is_named_with_its_threads():
    assert device_name(torch.device("cpu")) == counted(torch.get_num_threads(), "CPU thread")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compared with a file of Linux")
def test_the_peak_memory_is_in_bytes_and_at_least_what_is_in_use():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    in_use = pages * os.sysconf("SC_PAGE_SIZE")
    # The system counts both a little late.
    assert 0.9 * in_use < peak_memory_bytes() < 100 * in_use


# Every new page costs a page fault.
COUNT_FAULTS = """
import ctypes, resource
from vizsla.machine import keep_freed_memory

c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = [ctypes.c_size_t]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]

def faults_of_a_second_use(num_bytes):
    counts = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = c.malloc(num_bytes)
        c.memset(block, 1, num_bytes)
        c.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return counts[-1]

usual = faults_of_a_second_use(64 * 2**20)
told = keep_freed_memory() and keep_freed_memory()
print(usual, told, faults_of_a_second_use(64 * 2**20))
"""


on_glibc = pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
    reason="the habit is that of glibc",
)


@on_glibc
def test_a_freed_block_is_used_again_without_new_pages(run_python):
    usual, told, kept = run_python(COUNT_FAULTS).split()
    assert told == "True"
    # Large pages may serve many small ones at once, so the count is compared with itself.
    assert int(usual) > 10
    assert int(kept) < int(usual) / 10


COUNT_HEAPS = """
import ctypes, os, re, tempfile, threading
from vizsla.machine import share_heaps

assert share_heaps() and share_heaps()
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
c.malloc.argtypes = [ctypes.c_size_t]
together = threading.Barrier(40)

def work():
    c.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.TemporaryFile("w+") as file:
    c.fdopen.restype = ctypes.c_void_p
    c.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    c.fflush.argtypes = [ctypes.c_void_p]
    stream = c.fdopen(file.fileno(), b"w")
    c.malloc_info(0, stream)
    c.fflush(stream)
    file.seek(0)
    print(len(re.findall("<heap nr", file.read())), os.cpu_count())
"""


@on_glibc
def test_many_threads_share_a_few_heaps(run_python):
    num_heaps, num_cores = map(int, run_python(COUNT_HEAPS).split())
    assert num_heaps <= 2 * num_cores + 1


@pytest.mark.skipif(platform.system() == "Linux", reason="for systems without glibc")
def test_other_systems_are_left_alone():
    assert keep_freed_memory() is False


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tensor_gets_the_memory_of_one_that_is_gone():
    blocks = Blocks(max_blocks=2)
    first = blocks.empty((4, 5), dtype=torch.float32)
    place = first.data_ptr()
    assert first.shape == (4, 5)
    assert first.is_contiguous()
    assert place % 64 == 0
    del first
    assert blocks.empty((80,), dtype=torch.uint8).data_ptr() == place


def filled(blocks: Blocks, value: float) -> torch.Tensor:
    return blocks.empty((3, 4), dtype=torch.float32).fill_(value)


KEPT: list[Callable[[torch.Tensor], Any]] = [
    lambda tensor: tensor,
    lambda tensor: tensor.permute(1, 0)[1:],
    lambda tensor: tensor.numpy()[2:],
    lambda tensor: torch.empty(0).set_(tensor.untyped_storage(), 0, (12,)),  # pyright: ignore[reportCallIssue]
]


def test_memory_that_is_still_in_use_is_left_alone():
    for kept_of in KEPT:
        blocks = Blocks(max_blocks=1)
        kept = kept_of(filled(blocks, 7))
        filled(blocks, 1)
        assert set(np.asarray(kept).flatten().tolist()) == {7.0}
    blocks = Blocks(max_blocks=1)  # A gradient needs it too.
    weight = torch.ones(3, 4, requires_grad=True)
    loss = (filled(blocks, 7) * weight).sum()
    filled(blocks, 1)
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3, 4), 7.0))


def test_the_number_of_blocks_is_bounded():
    blocks = Blocks(max_blocks=2)  # Further tensors get memory of their own.
    tensors = [blocks.empty((8,), dtype=torch.uint8).fill_(number) for number in range(5)]
    assert [set(tensor.tolist()) for tensor in tensors] == [{0}, {1}, {2}, {3}, {4}]
    blocks = Blocks(max_blocks=1)  # A larger block takes the place of a smaller one.
    blocks.empty((8,), dtype=torch.uint8)
    large = blocks.empty((8000,), dtype=torch.uint8)
    place = large.data_ptr()
    del large
    assert blocks.empty((8,), dtype=torch.uint8).data_ptr() == place


def test_empty_tensors_and_those_of_inference_mode_are_usual_tensors():
    blocks = Blocks(max_blocks=1)
    assert blocks.empty((0, 3), dtype=torch.uint8).shape == (0, 3)
    with torch.inference_mode():
        tensor = blocks.empty((2,), dtype=torch.float32)
    assert not tensor.is_inference()


# ── numbers of bytes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_bytes_are_read_as_people_write_them_and_shown_in_words():
    written: list[tuple[int | str, int]] = [
        ("4GB", 4_000_000_000),
        ("500 MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2k", 2000),
        ("7KiB", 7168),
        ("3 tb", 3 * 10**12),
        ("12345", 12345),
        ("0", 0),
        (99, 99),
        ("10B", 10),
    ]
    for text, expected in written:
        assert parse_bytes(text, option="--cache-budget") == expected
    for text in ("", "GB", "-1", "4 apples", "1,5GB", "iB", "4iB", -3, "auto"):
        with pytest.raises(ConfigError) as caught:
            parse_bytes(text, option="--cache-budget")
        assert "--cache-budget" in str(caught.value)
        assert repr(text) in str(caught.value)
    shown = {0: "0.0 MB", 450_000: "0.5 MB", 3_210_000_000: "3.2 GB", 4 * 10**12: "4,000.0 GB"}
    assert {number: shown_bytes(number) for number in shown} == shown


def test_a_future_folder_has_the_space_of_its_disk(tmp_path: Path):
    there, to_be = free_disk_bytes(tmp_path), free_disk_bytes(tmp_path / "a" / "b")
    assert to_be == pytest.approx(there, rel=0.1)


def test_home_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIZSLA_HOME", "here")
    assert home_folder() == Path.cwd() / "here"


# ── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def threads_used(num_shares: int) -> set[int]:
    """Return the threads that work on shares that wait for one another."""
    together, used = threading.Barrier(num_shares), set[int]()

    def work(_share: Sequence[int]) -> None:
        together.wait(timeout=10)
        used.add(threading.get_ident())

    run_in_threads(work, [range(1)] * num_shares)
    return used


def test_all_shares_run_together_in_the_same_threads():
    first = threads_used(3)
    assert len(first) == 3
    assert threading.get_ident() not in first
    there = {thread.ident for thread in threading.enumerate()}
    assert all(threads_used(3) <= there for _ in range(5))


COUNT_THREADS = """
import threading
import torch
from vizsla.machine import run_in_threads

torch.set_num_threads(2)
seen = []

def work(_share=None):
    torch.rand(2**20) * 2
    seen.append(torch.get_num_threads())

run_in_threads(work, [range(1)] * 4)
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(*seen)
"""


def test_torch_uses_one_thread_inside_and_as_many_as_before_outside(run_python):
    assert run_python(COUNT_THREADS).split() == ["1"] * 4 + ["2"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_makes_threads_of_its_own():
    threads_used(2)
    with warnings.catch_warnings():  # Later Pythons warn of forks beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        os._exit(0 if len(threads_used(2)) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_results_come_in_the_order_of_the_items():
    for num_threads in (1, 2, 3):
        for count in (0, 1, 2, 3, 7, 8, 25):
            found = map_in_threads(
                lambda some: [2 * one for one in some],
                range(count),
                num_threads=num_threads,
                together=3,
            )
            assert found == [2 * one for one in range(count)]


def test_items_are_divided_evenly_and_given_a_few_at_a_time():
    sizes: dict[str, list[int]] = {}

    def run(items: list[int]) -> list[int]:
        sizes.setdefault(threading.current_thread().name, []).append(len(items))
        both.wait()
        return items

    both = threading.Barrier(2, timeout=30)
    map_in_threads(run, range(10), num_threads=2, together=4)
    assert list(sizes.values()) == [[4, 1], [4, 1]]


def test_an_error_is_raised_once_all_threads_have_ended():
    ended: list[int] = []

    def run(items: list[int]) -> list[int]:
        if items == [0]:
            raise ValueError("the first")
        ended.extend(items)
        return items

    with pytest.raises(ValueError, match="the first"):
        map_in_threads(run, [0, 1, 2, 3], num_threads=2, together=1)
    assert ended == [1, 3]  # The other thread has done all its shares.
    assert map_in_threads(run, [5, 6], num_threads=2, together=1) == [5, 6]


def test_long_lived_objects_are_set_aside_and_come_back():
    def fail() -> None:
        with long_lived_objects_set_aside():
            assert gc.get_freeze_count() > 1000
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.get_freeze_count() == 0


# ── free memory ───────────────────────────────────────────────────────────────────────────────────────────────────────


def write(root: Path, **files: str) -> None:
    """Write system files: ``meminfo``, and those of a control group of version 2, memory.X."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/\n4:memory:/\n")
    (root / "proc/self/mountinfo").write_text(
        "30 24 0:27 / /sys/fs/cgroup rw - cgroup2 none rw\n31 24 0:28 / /sys/fs/cgroup/v1 rw - cgroup none rw,memory\n"
    )
    for name, text in files.items():
        where = "proc/meminfo" if name == "meminfo" else f"sys/fs/cgroup/memory.{name}"
        path = root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_free_memory_is_what_the_kernel_or_the_container_leaves(tmp_path: Path):
    write(tmp_path, meminfo="MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert free_memory_bytes(tmp_path) == 5000 * 1024
    write(tmp_path, max="1000000\n", current="600000\n", stat="anon 5\ninactive_file 50000\n")
    assert free_memory_bytes(tmp_path) == 450_000
    first = tmp_path / "sys/fs/cgroup/v1"
    first.mkdir()
    for name, text in {
        "limit_in_bytes": "500000\n", "usage_in_bytes": "200000\n", "stat": "inactive_file 1\ntotal_inactive_file 1000\n",
    }.items():  # fmt: skip
        (first / f"memory.{name}").write_text(text)
    assert free_memory_bytes(tmp_path) == 301_000
    (first / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    for unlimited in ("max\n", "nonsense\n"):
        write(tmp_path, max=unlimited)
        assert free_memory_bytes(tmp_path) == 5000 * 1024
    assert free_device_bytes(torch.device("cpu")) > 0


def test_processes_of_torchrun_share_memory_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable: 5000 kB\n")
    alone = default_num_workers()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory_bytes(tmp_path) == 5000 * 1024 // 4
    assert 1 <= default_num_workers() <= max(1, alone)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows does not tell it this way")
@pytest.mark.parametrize("meminfo", [None, "MemTotal: 9000 kB\n", "MemAvailable:\n"])
def test_otherwise_half_of_the_machine_is_free(tmp_path: Path, meminfo: str | None):
    if meminfo is not None:
        write(tmp_path, meminfo=meminfo)
    expected = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    assert free_memory_bytes(tmp_path) == expected
