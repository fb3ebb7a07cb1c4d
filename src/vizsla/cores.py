"""How many CPU cores this process may use, and how OpenMP's threads use them; imports nothing heavy, for it runs before torch does.

Torch computes with threads of OpenMP. Two of that library's defaults are for a machine that nobody shares:

- A thread that waits for the others spins. Where another process has the core, the one who is waited for gets no time: with
  four busy processes on two cores ``predict_many`` gave 4 images a second, and 12 with threads that sleep.
- There are as many threads as cores that the process may run on. A container may have the time of two cores on a machine of
  64, by a quota, which OpenMP does not know.
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_ROOT = Path("/")


def num_cores(root: Path = _ROOT) -> int:
    """Return how many CPU cores this process may use: those that it may run on, or fewer if a control group has a quota.

    Of a quota of 1.5 cores two are used: one thread would leave a third of it, while two are stopped for a quarter of the time
    at most. ``root`` is where the system's files lie.
    """
    return max(1, min(_cores_to_run_on(), math.ceil(min(_cores_of_quota(root), sys.maxsize))))


def prepare_threads(root: Path = _ROOT) -> None:
    """Let OpenMP's threads sleep while they wait, and be no more than ``num_cores()``; what the user has chosen stays.

    Once torch is imported only their number can be changed.
    """
    cores = num_cores(root)
    is_chosen = "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ
    is_too_many = cores < _cores_to_run_on() and not is_chosen
    torch = sys.modules.get("torch")
    if torch is None:
        # For libgomp as for Intel's and LLVM's libraries, where GOMP_SPINCOUNT and KMP_BLOCKTIME say more and come first.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if is_too_many:
            os.environ["OMP_NUM_THREADS"] = str(cores)  # MKL and OpenBLAS take it too.
    elif is_too_many and torch.get_num_threads() == _cores_to_run_on():
        torch.set_num_threads(cores)


def control_groups(controller: str, root: Path = _ROOT) -> Generator[Path]:
    """Yield the folders of the control groups that a process is in, of both versions, from the innermost to the outermost.

    A limit holds for all groups within. In a container, the outermost that can be seen is that of the container.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    # Such as "0::/user.slice" in version 2, "4:cpu,cpuacct:/docker/1f" in version 1.
    fields = [line.split(":", 2) for line in groups]
    own = {name: path for _, names, path in fields for name in names.split(",")}
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        is_second = kind.startswith("cgroup2 ")
        if not is_second and not (
            kind.startswith("cgroup ") and controller in kind.split()[-1].split(",")
        ):
            continue
        mounted, point = place.split()[3:5]
        top = root / point.lstrip("/")
        folder = top
        # A path that is not below what is mounted is that of another namespace; what is mounted is the group itself then.
        with suppress(ValueError, KeyError):
            folder = top / PurePosixPath(own["" if is_second else controller]).relative_to(mounted)
        yield folder
        while folder != top:
            folder = folder.parent
            yield folder


def _cores_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _cores_of_quota(root: Path) -> float:
    """Return how many cores the control groups give the time of; infinite without a quota."""
    return min(map(_quota_of, control_groups("cpu", root)), default=math.inf)


def _quota_of(group: Path) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (
            group / "cpu.max"
        ).exists():  # "150000 100000", microseconds of each period, or "max 100000"
            quota, period = map(int, (group / "cpu.max").read_text().split())
        else:
            quota = int((group / "cpu.cfs_quota_us").read_text())
            period = int((group / "cpu.cfs_period_us").read_text())
        if quota > 0:
            return quota / period
    return math.inf
