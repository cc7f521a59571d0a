"""HTTP as uvicorn speaks it, with limits on a request's head and on what of a body nobody reads."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536
"""Request line and headers; room for a Consistency-Token of the longest kind."""
HEAD_SECONDS: Final = 10.0
"""From the first byte of a request to the end of its headers."""
UNREAD_SECONDS: Final = 10.0
"""For the rest of a request that has been answered: read and dropped, so that the answer arrives."""

_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)


class HeadTooLarge(Exception):
    """The request line and the headers pass their limit."""


class BoundedHttp(HttpToolsProtocol):
    """A head that is too large gets 431; what comes too slowly, or never, loses its connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own arguments
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._heads = 0
        self._refused = False
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The parser keeps a header to itself until all of it is there, so what it was fed counts too."""
        if self._refused:
            return
        in_head, heads = self._in_head, self._heads
        if in_head and self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("")
            return
        if in_head and self._due is None:
            self._expect_within(HEAD_SECONDS)
        super().data_received(data)
        if in_head and self._heads == heads:
            self._head_bytes += len(data)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        self._came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._came()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._expect_within(UNREAD_SECONDS)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refused = True
            self.transport.write(_TOO_LARGE)
            self.transport.write_eof()
            self._expect_within(UNREAD_SECONDS)
        else:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        """What the parser's callback raises ends as `send_400_response`."""
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def _expect_within(self, seconds: float) -> None:
        self._came()
        self._due = self.loop.call_later(seconds, self.transport.close)

    def _came(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
