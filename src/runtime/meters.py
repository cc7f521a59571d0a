"""The figures of a process without a door, for Prometheus."""

from prometheus_client import start_http_server

from runtime.settings import Settings


def serve_meters(settings: Settings) -> None:
    """In a thread of its own, if a port is set."""
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port, addr=settings.host)
