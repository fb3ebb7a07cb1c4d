"""What the machine and the process say of themselves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from vizsla.machine import device_name, peak_memory_bytes


def test_the_cpu_is_named_with_its_threads():
    assert device_name(torch.device("cpu")) == f"{torch.get_num_threads()} CPU threads"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compared with a file of Linux")
def test_the_peak_memory_is_in_bytes_and_at_least_what_is_in_use():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    in_use = pages * os.sysconf("SC_PAGE_SIZE")
    # The system counts both a little late.
    assert 0.9 * in_use < peak_memory_bytes() < 100 * in_use
