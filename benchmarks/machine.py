"""A process and its children in, their memory out; the machine and the versions in words; medians with their spread."""

from __future__ import annotations

import os
import platform
import statistics
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS_BETWEEN_LOOKS = 0.5
"""Looking at 3 GB takes 30 ms, in which that process waits for its memory."""


class MemoryWatch:
    """Looks twice a second at how much memory a process and all its children hold, and remembers the most.

    What counts is the proportional set size: a page that n processes share counts as 1/n for each, so the sum over the
    tree is what the tree takes from the machine. Linux only; elsewhere ``peak_bytes`` stays 0.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(self.pid))


def tree_bytes(pid: int, *, own: bool = False) -> int:
    """Return the proportional set size of a process and all its children, in bytes; 0 where the system does not say.

    Args:
        pid: The process.
        own: Without the pages of files, such as libraries: their part changes whenever another process that uses the same
            library starts or ends.
    """
    line = "Pss_Anon:" if own else "Pss:"
    return sum(_process_bytes(each, line=line) for each in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


def _process_bytes(pid: int, *, line: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(each.split()[1]) * 1024 for each in lines if each.startswith(line))


def described(*packages: str) -> str:
    """Return the machine and the versions of some packages in one line.

    Args:
        packages: Names of distributions; those that are not installed are left out.
    """
    versions: list[str] = []
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = platform.python_version()
    return f"{_processor()}, {os.cpu_count()} cores{load}; Python {python}, {', '.join(versions)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def with_spread(values: Sequence[float], *, digits: int = 0) -> str:
    """Return the median and, in brackets, the smallest and the largest value."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"
