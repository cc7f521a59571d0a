"""The figures of a process without a door, for Prometheus."""

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.process import listening
from runtime.settings import Settings

CLIENT_SECONDS: Final = 10.0
"""How long a client may say nothing."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(), CONTENT_TYPE_LATEST)
            case "/healthz":
                self._answer(HTTPStatus.OK, b'{"status":"alive"}', "application/json")
            case _:
                self._answer(
                    HTTPStatus.NOT_FOUND, b"/metrics and /healthz are all there is here\n", "text/plain"
                )

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _answer(self, status: HTTPStatus, content: bytes, media_type: str) -> None:
        self.send_response_only(status)  # without naming server and Python
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: Prometheus asks for ever."""


def serve_meters(settings: Settings) -> None:
    """In a thread of its own, if a port is set. Raises CannotListen."""
    if settings.metrics_port is not None:
        server = meters_on(settings.host, settings.metrics_port)
        threading.Thread(target=server.serve_forever, name="meters", daemon=True).start()


def meters_on(host: str, port: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer((host, port), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening(host, port)
    return server
