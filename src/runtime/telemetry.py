"""What a door tells Prometheus."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as exposition_of

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class DoorTelemetry:
    """Requests by operation and status, their time in seconds, and how many are in flight."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        labels = ("operation", "status")
        self._requests = Counter("tallybook_requests", "Requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "tallybook_request_seconds",
            "Time from a request to the end of its answer.",
            labels,
            buckets=BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge("tallybook_requests_in_flight", "Requests being answered.", registry=registry)

    def began(self) -> None:
        self._in_flight.inc()

    def ended(self, operation: str, status: int, seconds: float) -> None:
        self._in_flight.dec()
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation, str(status)).observe(seconds)

    def exposition(self) -> tuple[bytes, str]:
        return exposition_of(self._registry), CONTENT_TYPE_LATEST
