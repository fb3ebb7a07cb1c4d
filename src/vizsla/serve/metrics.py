"""Count what a server does, for Prometheus. Each server has its own registry, so that tests can run several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Metrics:
    """Counters of a server."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        # Separate, because one registry refuses both ``vizsla_requests`` and ``vizsla_requests_total``.
        self._gauges = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "vizsla_requests", "Answered requests.", ["route", "status"], registry=self._registry
        )
        self._images = Counter(
            "vizsla_pictures", "Images that were sent.", ["result"], registry=self._registry
        )
        for result in ("predicted", "unreadable"):
            self._images.labels(result)
        self._seconds = Histogram(
            "vizsla_predict_seconds",
            "Time of a request for predictions.",
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "vizsla_batch_pictures",
            "Images in a batch of the network.",
            buckets=_BATCH_SIZES,
            registry=self._registry,
        )
        self._busy = Counter(
            "vizsla_network_busy_seconds", "Time that the network ran.", registry=self._registry
        )

    def add_gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a value that is read on each scrape."""
        Gauge(name, meaning, registry=self._gauges).set_function(value)

    def note_request(self, route: str, *, status: int, seconds: float) -> None:
        """Count an answered request; the route is one of a fixed set, so that visitors cannot make new counters."""
        self._requests.labels(route, str(status)).inc()
        if route == "/api/predict":
            self._seconds.observe(seconds)

    def note_image(self, result: str) -> None:
        """Count an image: ``"predicted"`` or ``"unreadable"``."""
        self._images.labels(result).inc()

    def note_batch(self, size: int, seconds: float) -> None:
        """Count a batch of the network."""
        self._batches.observe(size)
        self._busy.inc(seconds)

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self._registry) + generate_latest(self._gauges)
