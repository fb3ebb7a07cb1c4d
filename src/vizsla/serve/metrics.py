"""What a server has done in, the text that Prometheus reads out (exposition format 0.0.4). Counted in one event loop."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts values by how large they are.

    Args:
        bounds: Upper bounds, rising.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._count = 0

    def note(self, value: float) -> None:
        """Count a value."""
        self._sum += value
        self._count += 1
        for place, bound in enumerate(self._bounds):
            self._counts[place] += value <= bound

    def lines(self, name: str) -> list[str]:
        """Return the lines of it.

        Args:
            name: Of the metric.
        """
        buckets = [
            f'{name}_bucket{{le="{bound:g}"}} {count}'
            for bound, count in zip(self._bounds, self._counts, strict=True)
        ]
        return [
            *buckets,
            f'{name}_bucket{{le="+Inf"}} {self._count}',
            f"{name}_sum {self._sum:.6f}",
            f"{name}_count {self._count}",
        ]


class Metrics:
    """Counters of a server.

    Args:
        gauges: (name, meaning, function) of values that are read when asked for.
    """

    def __init__(self, gauges: Sequence[tuple[str, str, Callable[[], float]]] = ()) -> None:
        self.gauges = list(gauges)
        self._started = time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._pictures: Counter[str] = Counter()
        self._seconds = Histogram(_REQUEST_SECONDS)
        self._batches = Histogram(_BATCH_SIZES)
        self._busy_seconds = 0.0

    def note_request(self, route: str, *, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: One of a fixed set, so that visitors cannot make new counters.
            status: HTTP status.
            seconds: From headers to the last byte.
        """
        self._requests[route, status] += 1
        if route == "/api/predict":
            self._seconds.note(seconds)

    def note_picture(self, result: str) -> None:
        """Count a picture: ``"predicted"`` or ``"unreadable"``."""
        self._pictures[result] += 1

    def note_batch(self, size: int, seconds: float) -> None:
        """Count a batch of the network."""
        self._batches.note(size)
        self._busy_seconds += seconds

    def text(self) -> str:
        """Return all of it."""
        lines: list[str] = []

        def add(name: str, kind: str, meaning: str, samples: Sequence[str]) -> None:
            lines.extend([f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *samples])

        add(
            "vizsla_requests_total",
            "counter",
            "Answered requests.",
            [
                f'vizsla_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._requests.items())
            ],
        )
        add(
            "vizsla_pictures_total",
            "counter",
            "Pictures that were sent.",
            [
                f'vizsla_pictures_total{{result="{result}"}} {self._pictures[result]}'
                for result in ("predicted", "unreadable")
            ],
        )
        name = "vizsla_predict_seconds"
        add(name, "histogram", "Time of a request for predictions.", self._seconds.lines(name))
        name = "vizsla_batch_pictures"
        add(name, "histogram", "Pictures in a batch of the network.", self._batches.lines(name))
        name = "vizsla_network_busy_seconds_total"
        add(name, "counter", "Time that the network ran.", [f"{name} {self._busy_seconds:.6f}"])
        for name, meaning, value in self.gauges:
            add(name, "gauge", meaning, [f"{name} {value():g}"])
        name = "process_start_time_seconds"
        add(name, "gauge", "Start, in seconds since 1970.", [f"{name} {self._started:.3f}"])
        memory = resident_bytes()
        if memory:
            name = "process_resident_memory_bytes"
            add(name, "gauge", "Memory of the process.", [f"{name} {memory}"])
        return "\n".join([*lines, ""])


def resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
