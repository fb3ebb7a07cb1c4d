"""keep_freed_memory: on Linux with glibc a freed block of many megabytes stays with the process, elsewhere nothing happens.

Blocks: the memory of a tensor is used again once nobody can see it any more.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from vizsla.machine import Blocks

if TYPE_CHECKING:
    from collections.abc import Callable

# Every page that the system hands out anew costs a page fault.
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
def test_a_block_that_was_freed_is_used_again_without_new_pages():
    # In a process of its own, because the allocator cannot be told back.
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    usual, told, kept = done.stdout.split()
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
def test_many_threads_share_a_few_heaps():
    done = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    num_heaps, num_cores = map(int, done.stdout.split())
    assert num_heaps <= 2 * num_cores + 1


@pytest.mark.skipif(platform.system() == "Linux", reason="for systems without glibc")
def test_other_systems_are_left_alone():
    from vizsla.machine import keep_freed_memory

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


@pytest.mark.parametrize(
    "kept_of",
    [
        lambda tensor: tensor,
        lambda tensor: tensor.permute(1, 0)[1:],
        lambda tensor: tensor.numpy()[2:],
        lambda tensor: torch.empty(0).set_(tensor.untyped_storage(), 0, (12,)),  # pyright: ignore[reportCallIssue]
    ],
    ids=["tensor", "view", "array", "storage"],
)
def test_memory_that_anybody_can_still_see_is_left_alone(
    kept_of: Callable[[torch.Tensor], torch.Tensor],
):
    blocks = Blocks(max_blocks=1)
    kept = kept_of(filled(blocks, 7))
    filled(blocks, 1)
    assert set(np.asarray(kept).flatten().tolist()) == {7.0}


def test_memory_that_a_gradient_still_needs_is_left_alone():
    blocks = Blocks(max_blocks=1)
    weight = torch.ones(3, 4, requires_grad=True)
    loss = (filled(blocks, 7) * weight).sum()
    filled(blocks, 1)
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((3, 4), 7.0))


def test_more_tensors_than_blocks_get_memory_of_their_own():
    blocks = Blocks(max_blocks=2)
    tensors = [blocks.empty((8,), dtype=torch.uint8).fill_(number) for number in range(5)]
    assert [set(tensor.tolist()) for tensor in tensors] == [{0}, {1}, {2}, {3}, {4}]


def test_a_larger_tensor_takes_the_place_of_a_smaller_block():
    blocks = Blocks(max_blocks=1)
    blocks.empty((8,), dtype=torch.uint8)
    large = blocks.empty((8000,), dtype=torch.uint8)
    place = large.data_ptr()
    del large
    assert blocks.empty((8,), dtype=torch.uint8).data_ptr() == place


def test_a_tensor_of_nothing_and_one_made_in_inference_mode_are_usual_tensors():
    blocks = Blocks(max_blocks=1)
    assert blocks.empty((0, 3), dtype=torch.uint8).shape == (0, 3)
    with torch.inference_mode():
        tensor = blocks.empty((2,), dtype=torch.float32)
    assert not tensor.is_inference()
