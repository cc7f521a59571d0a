"""A wire to a server that can be cut, or heard no more: a TCP relay of our own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65_536


class Wire:
    """`deaf`: the server's answers are lost. `cut` ends every connection; `down` takes no new one as well.

    `fatal`: so many times, a request that says this does not arrive, and every connection ends.
    """

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_down = False
        self.port = 0
        self.deaf = False
        self.fatal: tuple[bytes, int] = (b"", 0)

    async def up(self) -> None:
        self._is_down = False
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def down(self) -> None:
        """It goes on listening: asyncio loses a connection that comes while a server is closed."""
        self._is_down = True
        while self._serving:  # one that was only connecting has nothing to cut yet
            self.cut()
            await asyncio.wait(self._serving, timeout=0.05)

    async def close(self) -> None:
        await self.down()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._is_down:
            writer.transport.abort()
            return
        self._serving.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._there)
            self._writers |= {writer, there_writer}
            await asyncio.gather(
                self._copy(reader, there_writer, answers=False),
                self._copy(there_reader, writer, answers=True),
            )
            self._writers -= {writer, there_writer}
        finally:
            self._serving.discard(task)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await reader.read(CHUNK):
                if not answers and self._is_fatal(data):
                    self.cut()
                    return
                if not (answers and self.deaf):
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    def _is_fatal(self, data: bytes) -> bool:
        word, left = self.fatal
        if left == 0 or word not in data:
            return False
        self.fatal = (word, left - 1)
        return True


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """The wire, and the URL that goes through it."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "", parts.port or 0)
    await wire.up()
    through = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{wire.port}"))
    try:
        yield wire, urlunsplit(through)
    finally:
        await wire.close()
