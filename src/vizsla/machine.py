"""What this computer has, and how this process uses it: names, free memory and disk, the C library's allocator, threads.

Three defaults are changed here because they cost much:

- glibc gives freed blocks back to the system, and a network on the CPU frees blocks of many megabytes in every layer:
  EfficientNet-Lite0 at 224 px ran at 70 images a second on two cores that way, and at 150 with freed blocks kept.
- New threads for each batch take memory each time: glibc gives a new thread whichever of its heaps is free, and soon every
  heap has held the blocks of every kind of thread. With one pool of threads that stays, memory is flat.
- Once a small block has taken a corner of a freed batch, the next batch no longer fits there, and the process grew by a batch
  every few epochs. ``Blocks`` hands the same memory to the next batch.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import re
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from vizsla.cores import control_groups, num_cores
from vizsla.errors import ConfigError
from vizsla.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

MAX_WORKERS = 16
"""More threads than this did not decode faster: the interpreter lock is held between the images."""


def device_name(device: torch.device) -> str:
    """Return the name of a device, as shown to the user."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return counted(torch.get_num_threads(), "CPU thread") if device.type == "cpu" else device.type


def default_num_workers() -> int:
    """Return how many threads read images by default: one for each core of this process, at most ``MAX_WORKERS``."""
    return min(MAX_WORKERS, max(1, num_cores() // num_processes_here()))


def num_processes_here() -> int:
    """Return how many processes share this machine's cores and memory in a training that torchrun started."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


NumWorkers = int | Literal["auto"] | None
"""How many threads read images: ``"auto"`` (or ``None``) is one for each core, 0 reads in the caller's thread."""


def worker_count(num_workers: NumWorkers) -> int:
    """Return a number of threads that may be given as ``"auto"``; raise a ConfigError for anything below 0."""
    if num_workers is None or num_workers == "auto":
        return default_num_workers()
    if not isinstance(num_workers, int) or num_workers < 0:  # pyright: ignore[reportUnnecessaryIsInstance] (from the user)
        raise ConfigError(
            f'num_workers must be at least 0, or "auto". Received: num_workers={num_workers!r}'
        )
    return num_workers


def home_folder() -> Path:
    """Return the folder where vizsla keeps files between runs: ``$VIZSLA_HOME``, else ``~/.vizsla``; it may not exist."""
    chosen = os.environ.get("VIZSLA_HOME")
    if chosen:
        return Path(chosen).absolute()
    try:
        return Path.home() / ".vizsla"
    except RuntimeError as error:
        raise ConfigError(
            "There is no home folder to keep files in. Set VIZSLA_HOME to a folder."
        ) from error


# ── numbers of bytes ──────────────────────────────────────────────────────────────────────────────────────────────────

_ASSUMED_FREE_BYTES = 4 * 2**30
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_NUM_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b?)\s*", re.IGNORECASE)


def parse_bytes(text: int | str, *, option: str) -> int:
    """Return the number of bytes that an option gives as ``4GB``, ``500 MB``, ``1.5GiB`` or a plain number.

    kB, MB, GB, TB are powers of 1000, KiB to TiB of 1024; the B may be missing.
    """
    match = _NUM_BYTES.fullmatch(str(text))
    if match is None or (match[3] and not match[2]):
        raise ConfigError(
            f"{option} must be a number of bytes such as 500MB, 4GB or 1.5GiB. Received: {text!r}"
        )
    unit = match[2].lower()
    return int(float(match[1]) * (_BINARY_UNITS if match[3] else _UNITS)[unit])


def shown_bytes(num_bytes: int) -> str:
    """Return a number of bytes as shown to the user: ``"3.2 GB"``, ``"0.4 MB"``."""
    if num_bytes >= 10**9:
        return f"{num_bytes / 1e9:,.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"


def peak_memory_bytes() -> int:
    """Return the most memory that this process has used so far; 0 if the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_disk_bytes(folder: Path) -> int:
    """Return the free space of the disk that a folder is on, or will be on once it is made; an OSError if unknown."""
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), folder)
    return shutil.disk_usage(existing).free


def free_device_bytes(device: torch.device) -> int:
    """Return how much memory of a device may be taken now; the CPU and Apple's GPU share that of the machine."""
    if device.type != "cuda":
        return free_memory_bytes()
    free, _total = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + idle


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return how much memory this process may take now without harm: its part if torchrun started several here.

    On Linux that is what the kernel calls available, or less if a control group (a container) sets a limit. Elsewhere it is
    half of the machine's memory, or 4 GiB if even that is unknown. ``root`` is where the system's files lie.
    """
    return _free_bytes(root) // num_processes_here()


def _free_bytes(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(int(available.split()[1]) * 1024, _left_in_control_group(root))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return _ASSUMED_FREE_BYTES


def _left_in_control_group(root: Path) -> int:
    """Return what control groups leave to this program; a huge number if there is no limit."""
    return min((_left_in(group) for group in control_groups("memory", root)), default=2**62)


def _left_in(group: Path) -> int:
    second = "memory.max", "memory.current", "inactive_file "
    first = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "
    largest, current, files = second if (group / "memory.max").exists() else first
    try:
        limit, used = (int((group / name).read_text()) for name in (largest, current))
        lines = (group / "memory.stat").read_text().splitlines()
        given_back = [int(line.split()[1]) for line in lines if line.startswith(files)]
        return max(0, limit - used + sum(given_back))
    except (OSError, ValueError, IndexError):  # no limit is "max" in version 2
        return 2**62


# ── the allocator ─────────────────────────────────────────────────────────────────────────────────────────────────────

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 2**30


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc on Linux; others need no help, or have none of these options."""
    is_glibc = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if is_glibc else None


@cache
def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 1 GiB for the next layer; return whether the allocator has that option.

    Everything that runs a network calls this. The peak of memory stays the same; less is given back in between.
    """
    glibc = _glibc()
    options = _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD
    return glibc is not None and all(glibc.mallopt(option, _KEPT_BYTES) for option in options)


@cache
def share_heaps(num_heaps: int | None = None) -> bool:
    """Let threads share heaps (None: two for each core); return whether the allocator has that option.

    Everything that starts threads calls this first. glibc gives a new thread a heap of its own, up to eight for each core.
    When reading threads end and others begin with each epoch, an old one is often not quite gone, so that another heap of 24
    MB appeared every few epochs. In a server each decoding thread would in time hold the largest of all images that visitors
    sent, and a network's largest maps do not fit beside each other into a thread's own heap (64 MB): their pages were
    requested from the system for each batch again, 500 for each image with two heaps, 40 with one.
    """
    glibc = _glibc()
    num_heaps = 2 * num_cores() + 1 if num_heaps is None else num_heaps
    return glibc is not None and bool(glibc.mallopt(_M_ARENA_MAX, num_heaps))


def give_back_freed_memory() -> bool:
    """Give free memory back to the system, and return whether there was any. It slows the next batch by milliseconds."""
    glibc = _glibc()
    return glibc is not None and bool(glibc.malloc_trim(0))


@contextmanager
def long_lived_objects_set_aside() -> Generator[None]:
    """Keep Python from looking for garbage among the objects that exist already, while the block runs.

    The modules of torch and timm alone are 400,000 objects: each search stopped all threads for 0.2 seconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Blocks:
    """Memory on the CPU for tensors that are alike, such as batches. Safe for any number of threads.

    A block is used again once nothing refers to its tensor, to a view of the tensor or to an array that shares its memory:
    whoever gets a tensor may keep it as long as they like. (A ring of buffers would need a consumer that says when it is done
    with a batch; ``for x, y in dls.train`` says nothing.) While more than ``max_blocks`` tensors are in use, the others get
    memory of their own.
    """

    _ALIGNMENT = 64  # Bytes; torch's own tensors begin at such addresses, where vector instructions are fastest.

    def __init__(self, *, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks: list[NDArray[np.uint8]] = []
        # Looking at a list adds references, how many depends on the version of Python.
        self._own_references = _references([np.empty(0, dtype=np.uint8)])[0]
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], *, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor on the CPU with any values."""
        num_bytes = math.prod(shape) * dtype.itemsize
        with self._lock, torch.inference_mode(mode=False):
            block = self._block(num_bytes + self._ALIGNMENT) if num_bytes else None
            if block is None:
                return torch.empty(shape, dtype=dtype)
            start = -block.ctypes.data % self._ALIGNMENT
            # The array refers to the block.
            used = torch.from_numpy(block[start : start + num_bytes])
            return used.view(dtype).view(shape)

    def _block(self, num_bytes: int) -> NDArray[np.uint8] | None:
        """Return a free block of at least ``num_bytes``; None if all blocks that may be kept are in use."""
        counts = zip(self._blocks, _references(self._blocks), strict=True)
        free = [block for block, count in counts if count == self._own_references]
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


# ── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Share = TypeVar("Share")
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Pool(NamedTuple):
    process: int
    num_threads: int
    executor: ThreadPoolExecutor


_POOLS: list[_Pool] = []
"""The one pool of this process, or none; a forked process inherits one without threads and makes its own."""


def use_threads(count: int) -> None:
    """Let torch use ``count`` threads in the calling thread; also the default for threads that torch has not seen yet."""
    # Torch sets a thread's number to the default when it first meets the thread, and would overwrite an earlier setting.
    torch.get_num_threads()
    torch.set_num_threads(count)


def run_in_threads(work: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
    """Return the results of all shares of some work, done at the same time, each in a thread in which torch uses no others.

    The threads live as long as the process. An error is raised unchanged once all shares have ended; of several, that of the
    first share.
    """
    executor = _executor(len(shares))
    jobs = [executor.submit(work, share) for share in shares]
    errors = [error for job in jobs if (error := job.exception()) is not None]
    if errors:
        raise errors[0]
    return [job.result() for job in jobs]


def map_in_threads(
    run: Callable[[list[Item]], Sequence[Result]],
    items: Sequence[Item],
    *,
    num_threads: int,
    together: int,
) -> list[Result]:
    """Return ``run`` of all items, in order, from ``num_threads`` threads at the same time.

    ``run`` returns one result for each of up to ``together`` items. Each thread gets as many items as the others, or one
    fewer. An error is raised unchanged once all threads have ended.

    Examples:
        >>> map_in_threads(lambda numbers: [2 * number for number in numbers], [1, 2, 3], num_threads=2, together=8)
        [2, 4, 6]
    """

    def run_share(share: Sequence[Item]) -> list[Result]:
        starts = range(0, len(share), together)
        return [result for start in starts for result in run(list(share[start : start + together]))]

    used = min(num_threads, len(items))
    parts = run_in_threads(run_share, [items[first::used] for first in range(used)]) if used else []
    return [parts[position % used][position // used] for position in range(len(items))]


def _executor(num_threads: int) -> ThreadPoolExecutor:
    """Return the pool of this process, with at least ``num_threads`` threads."""
    # No lock: if another thread holds it while the process forks, it is never released in the child. Two threads that come
    # here at the same time make two pools; the one that is not kept lives as long as it is used, and its threads end with it.
    process = os.getpid()
    for pool in _POOLS:
        if pool.process == process and pool.num_threads >= num_threads:
            return pool.executor
    executor = _start_pool(num_threads)
    _POOLS[:] = [_Pool(process, num_threads, executor)]
    return executor


def _start_pool(num_threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads are running; torch uses no other threads in them."""
    threads = torch.get_num_threads()
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="vizsla-pool")
    all_there = threading.Barrier(num_threads)

    def begin() -> None:
        use_threads(1)
        all_there.wait()

    try:
        for job in [executor.submit(begin) for _ in range(num_threads)]:
            job.result()
    except BaseException:
        all_there.abort()  # If not all can be started, the others must not wait for ever.
        raise
    finally:
        use_threads(threads)
    return executor
