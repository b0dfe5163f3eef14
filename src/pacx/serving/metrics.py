"""What the server counts, for Prometheus: requests, seconds, batch sizes, the queue, killed decoders."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server; several workers write theirs to files and answer with the sum."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("pacx_requests", "Requests by path and status", ["path", "status"], **own)
        self.seconds = Histogram(
            "pacx_request_seconds", "Seconds from the first byte to the answer", ["path"], buckets=_SECONDS, **own
        )
        self.images = Counter("pacx_images", "Images answered, by model", ["model"], **own)
        self.batch_size = Histogram(
            "pacx_batch_size", "Images per forward pass", ["model"], buckets=(1, 2, 4, 8, 16, 32), **own
        )
        self.waiting = Gauge("pacx_waiting", "Images that wait for a model", multiprocess_mode="livesum", **own)
        self.held = Gauge("pacx_held_bytes", "Bytes of uploads in memory", multiprocess_mode="livesum", **own)
        self.killed = Gauge(
            "pacx_decoders_killed", "Decoders that took too long or died", multiprocess_mode="livesum", **own
        )

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        registry = self.registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
