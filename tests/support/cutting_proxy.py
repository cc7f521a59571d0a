"""A way to a server on which connections are cut, held back, and what was held back arrives late."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

CHUNK: Final = 65_536
LATE_S: Final = 0.03
"""What arrived late has so long to be served before the connection goes on."""
QUIET_S: Final = 30.0

Direction = Literal["requests", "answers"]


class Connection:
    """One client's way to the server and back. A closed gate keeps what comes, in order."""

    def __init__(
        self, asks: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._asks = asks
        self._client = client
        self._server = server
        self.gates: dict[Direction, asyncio.Event] = {
            "requests": asyncio.Event(),
            "answers": asyncio.Event(),
        }
        self.keeps = False
        self.stranded = False
        self.dead = False
        self.open()

    def open(self) -> None:
        for gate in self.gates.values():
            gate.set()

    @property
    def orphaned(self) -> bool:
        """The client is gone; the server may still have to be given what it sent."""
        return self.stranded or self._asks.at_eof()

    def strand(self) -> None:
        """The client learns that it is cut; the server does not."""
        self.stranded = True
        self.lose_client()

    def cut(self) -> None:
        """Both sides learn of it; what is held back is lost."""
        self.dead = True
        self.open()
        self.lose_client()
        self._server.transport.abort()

    def lose_client(self) -> None:
        self._client.transport.abort()

    def close(self) -> None:
        self._client.close()
        self._server.close()


class CuttingProxy:
    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._connections: set[Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._bytes_left: dict[Direction, int] = {}
        self._late_before: int | bytes | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut(stranded=True)
        if self._serving:
            await asyncio.wait(self._serving)
        await self._server.wait_closed()

    def cut(self, *, stranded: bool = False) -> None:
        """Every connection; the `stranded` ones only if so asked."""
        for connection in self._connections:
            if stranded or not connection.stranded:
                connection.cut()

    def cut_after(self, count: int, direction: Direction) -> None:
        """The connection over which the `count`-th byte from now on goes ends with that byte."""
        self._bytes_left[direction] = count

    def hold(self, direction: Direction) -> None:
        """Connections that there are now keep what they are given; new ones do not."""
        for connection in self._connections:
            connection.gates[direction].clear()

    def strand(self) -> None:
        """Clients lose the connections on which something is held back; the server has heard nothing of it.

        The others go on.
        """
        for connection in self._connections:
            if connection.keeps:
                connection.strand()
            elif not connection.stranded:
                connection.open()

    def deliver_before(self, chunk: int | bytes) -> None:
        """What is stranded arrives just before clients send their `chunk`-th thing from now on, or a text."""
        self._late_before = chunk

    def release(self) -> None:
        """All that is held back arrives, and nothing more is going to happen."""
        self._bytes_left.clear()
        self._late_before = None
        for connection in self._connections:
            connection.open()

    async def quiet(self) -> None:
        """Until the server is through with all that clients who are gone have sent; `release` first."""
        async with asyncio.timeout(QUIET_S):
            while any(connection.orphaned for connection in self._connections):
                await asyncio.sleep(0.002)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._there)
            connection = Connection(reader, writer, there_writer)
            self._connections.add(connection)
            try:
                await asyncio.gather(
                    self._pass(connection, reader, there_writer, "requests"),
                    self._pass(connection, there_reader, writer, "answers"),
                )
            finally:
                self._connections.discard(connection)
                connection.close()
        except OSError:
            writer.transport.abort()
        finally:
            self._serving.discard(task)

    async def _pass(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                if direction == "requests":
                    connection.keeps = not connection.gates[direction].is_set()
                await connection.gates[direction].wait()
                if direction == "requests":
                    connection.keeps = False
                    if not connection.stranded:
                        await self._deliver_late(data)
                if connection.dead:
                    return
                allowed = self._allowed(len(data), direction)
                writer.write(data[:allowed])
                await writer.drain()
                if allowed < len(data) or self._bytes_left.get(direction) == 0:
                    self._bytes_left.pop(direction, None)
                    connection.lose_client()
                    break
        with contextlib.suppress(OSError):
            writer.write_eof()  # the other direction goes on: the server serves what it was given

    def _allowed(self, count: int, direction: Direction) -> int:
        if direction not in self._bytes_left:
            return count
        allowed = min(count, self._bytes_left[direction])
        self._bytes_left[direction] -= allowed
        return allowed

    async def _deliver_late(self, data: bytes) -> None:
        match self._late_before:
            case None:
                return
            case bytes(text):
                if text not in data:
                    return
            case chunk:
                self._late_before = chunk - 1
                if chunk > 1:
                    return
        self._late_before = None
        for connection in self._connections:
            if connection.stranded:
                connection.gates["requests"].set()
        await asyncio.sleep(LATE_S)


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[CuttingProxy, str]]:
    """The proxy, and the URL that goes through it."""
    parts = urlsplit(url)
    proxy = CuttingProxy(parts.hostname or "", parts.port or 0)
    await proxy.start()
    through = parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}"))
    try:
        yield proxy, urlunsplit(through)
    finally:
        await proxy.stop()
