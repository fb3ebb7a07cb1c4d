"""A function in, how long a call of it takes out, within the time that there is."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CALLS = 100


class Budget:
    """The time of a bench.

    Args:
        seconds: All of it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._started = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def part(self, share: float) -> float:
        """Return the seconds that a part of the work may take."""
        return share * self.seconds

    def allows(self, seconds: float) -> bool:
        """Return whether there is still time for something that takes so long."""
        return self.used + seconds <= self.seconds


def wait_for(device: torch.device) -> None:
    """Return when a CUDA device has done what it was given; elsewhere at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], *, within: float, device: torch.device) -> float:
    """Return the median time of a call.

    The first one, in which things are set up, counts only where there is no time for another.

    Args:
        call: Does some work.
        within: About so many seconds for all calls.
        device: Waited for after each.
    """
    times: list[float] = []
    while len(times) <= MAX_CALLS and (not times or sum(times) + times[-1] <= within):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)
