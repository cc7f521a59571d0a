"""A wire to a server that holds back, for each connection, what a test wants to come later, or never."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

CHUNK: Final = 65_536
CATCH_S: Final = 10.0
OVERLAP: Final = 64
"""Bytes kept of what went before, so that a pattern is seen although it came in two pieces."""


class Line:
    """One connection through the wire. `answered` is set by each answer of the server."""

    def __init__(self, wire: "Wire", here: asyncio.StreamWriter, there: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._here = here
        self._there = there
        self._kept: list[bytes] | None = None
        self.before = b""
        self._deaf = False
        self.broken = False
        self.answered = asyncio.Event()

    def hold(self) -> None:
        """What the client sends from here on is held back."""
        self._kept = []

    def turn_deaf(self) -> None:
        """What the server answers from here on is lost."""
        self._deaf = True

    def release(self) -> None:
        """What was held back arrives."""
        self.answered.clear()
        kept, self._kept = self._kept or [], None
        for data in kept:
            self._there.write(data)

    def break_off(self) -> None:
        """The client loses the connection; the server does not notice, and what is held may still come."""
        self.broken = True
        self._here.transport.abort()

    def send(self, data: bytes) -> None:
        seen = self.before + data
        self.before = seen[-OVERLAP:]
        self._wire.catch(self, seen)
        if self._kept is not None:
            self._kept.append(data)
        else:
            self._there.write(data)

    def answer(self, data: bytes) -> None:
        self.answered.set()
        if not self._deaf:
            self._here.write(data)

    def close(self) -> None:
        self._here.transport.abort()
        self._there.transport.abort()


class Wire:
    """`caught`: the lines on which what was watched for came by, in that order."""

    def __init__(self, host: str, port: int) -> None:
        self._server_at = (host, port)
        self._patterns: tuple[bytes, ...] = ()
        self._then: Callable[[Line], None] | None = None
        self._lines: dict[Line, asyncio.Future[Any]] = {}
        self.caught: list[Line] = []

    def watch(self, *patterns: bytes, then: Callable[[Line], None] | None = None) -> None:
        """For bytes on their way to the server, in upper or lower case; no patterns: no more."""
        self._patterns = tuple(pattern.lower() for pattern in patterns)
        self._then = then
        for line in self._lines:
            line.before = b""

    def catch(self, line: Line, data: bytes) -> None:
        lower = data.lower()
        if line not in self.caught and any(pattern in lower for pattern in self._patterns):
            self.caught.append(line)
            if self._then is not None:
                self._then(line)

    async def catches(self, lines: int) -> None:
        """Returns when so many lines have been caught."""
        async with asyncio.timeout(CATCH_S):
            while len(self.caught) < lines:
                await asyncio.sleep(0.002)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._server_at)
        line = Line(self, writer, there_writer)
        self._lines[line] = asyncio.gather(
            _requests(reader, line, there_writer), _answers(there_reader, line, writer)
        )
        await self._lines[line]

    async def close(self) -> None:
        for line in self._lines:
            line.close()
        await asyncio.gather(*self._lines.values())


async def _requests(reader: asyncio.StreamReader, line: Line, there: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            line.send(data)
    if not line.broken:
        there.close()


async def _answers(reader: asyncio.StreamReader, line: Line, here: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            line.answer(data)
    line.answered.set()
    here.close()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """The wire, and the URL that goes through it."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "", parts.port or 0)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield wire, urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")))
    finally:
        server.close()
        await wire.close()
        await server.wait_closed()
