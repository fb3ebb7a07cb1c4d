"""keep_freed_memory: on Linux with glibc a freed block of many megabytes stays with the process, elsewhere nothing happens."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Every page that the system hands out anew costs a page fault.
COUNT_FAULTS = """
import ctypes, resource
from vizsla.allocator import keep_freed_memory

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


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
    reason="the habit is that of glibc",
)
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


@pytest.mark.skipif(platform.system() == "Linux", reason="for systems without glibc")
def test_other_systems_are_left_alone():
    from vizsla.allocator import keep_freed_memory

    assert keep_freed_memory() is False
