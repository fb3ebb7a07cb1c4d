"""The C library's allocator in, the same allocator without its most expensive habits out.

A network on the CPU frees and allocates blocks of many megabytes in every layer. glibc gives each one back to the system at
once, which then has to hand out and clear the same pages again: EfficientNet-Lite0 at 224 px ran at 70 pictures a second
that way on two cores, and at 150 with the freed blocks kept.

Batches are a few blocks of tens of megabytes that live long beside many small ones. Where a small one has taken a corner of a
freed block, the next batch does not fit there any more, and the process grew by a batch every few epochs; ``Blocks`` hands
the same memory to the next batch instead.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEPT_BYTES = 2**30

_ALIGNMENT = 64
"""Bytes; torch's own tensors begin at such addresses, which vector instructions like best."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 1 GiB for the next layer; called by whatever runs a network.

    The process does not need more memory than before at its peak, but gives less back in between.

    Returns:
        Whether the allocator could be told; other systems than Linux with glibc do not need it or cannot.
    """
    if not _has_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


@cache
def share_heaps() -> bool:
    """Let threads share heaps, two for each core; called by whatever starts threads, before it does.

    glibc gives a new thread a heap that no other has, up to eight for each core. Where reading threads end and others begin
    with each epoch, an old one is often not quite gone, so that there was another heap of 24 MB every few epochs.

    Returns:
        Whether the allocator could be told; other systems than Linux with glibc do not need it or cannot.
    """
    if not _has_glibc():
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2 * (os.cpu_count() or 1) + 1))


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


class Blocks:
    """Memory on the CPU for tensors that are alike, such as batches; for any number of threads.

    A block is used again when nothing refers to the tensor any more that had it, nor to a view of that tensor or an array
    that shares its memory: whoever gets a tensor may keep it as long as they like.

    Args:
        max_blocks: So many blocks are kept at most. While more tensors are in use, the others get memory of their own.
    """

    def __init__(self, *, max_blocks: int) -> None:
        import numpy as np

        self._max_blocks = max_blocks
        self._blocks: list[NDArray[np.uint8]] = []
        # Measured because it depends on the version of Python: what looking at a list counts itself.
        self._own_references = _references([np.empty(0, dtype=np.uint8)])[0]
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], *, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor on the CPU with any values.

        Args:
            shape: Its shape.
            dtype: Its type.
        """
        import torch

        num_bytes = math.prod(shape) * dtype.itemsize
        with self._lock, torch.inference_mode(mode=False):
            block = self._block(num_bytes + _ALIGNMENT) if num_bytes else None
            if block is None:
                return torch.empty(shape, dtype=dtype)
            start = -block.ctypes.data % _ALIGNMENT
            used = torch.from_numpy(
                block[start : start + num_bytes]
            )  # The array refers to the block.
            return used.view(dtype).view(shape)

    def _block(self, num_bytes: int) -> NDArray[np.uint8] | None:
        """Return a free block of at least so many bytes; None if all that may be kept are in use."""
        import numpy as np

        counts = _references(self._blocks)
        free = [
            block
            for block, count in zip(self._blocks, counts, strict=True)
            if count == self._own_references
        ]
        fitting = [block for block in free if block.nbytes >= num_bytes]
        if fitting:
            return min(fitting, key=lambda block: block.nbytes)
        if len(self._blocks) == self._max_blocks:
            if not free:
                return None
            self._blocks = [block for block in self._blocks if block is not free[0]]
        self._blocks.append(np.empty(num_bytes, dtype=np.uint8))
        return self._blocks[-1]


def _references(blocks: list[NDArray[np.uint8]]) -> list[int]:
    return [sys.getrefcount(block) for block in blocks]
