"""Connections to PostgreSQL: each takes its role, and no wait on one is endless."""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection, OperationalError
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

Connection = AsyncConnection[TupleRow]

CONNECT_S: Final = 5
POOL_WAIT_S: Final = 5.0
RECONNECT_S: Final = 0.2
"""How long a pool tries to replace a connection before it leaves that to the next who asks.

It tries at once and at the end of this; the pauses between further tries would double from a second on.
"""
ASK_S: Final = 0.001
"""How long a pool asks itself for a connection: that it asks is enough."""
SILENCE_MS: Final = 30_000
"""How long a peer may leave what we sent unacknowledged; keep-alives watch only a connection that rests."""
# Whatever the database's default is: a statement that waited for the log's lock must see what was committed.
ISOLATION: Final = {"default_transaction_isolation": r"read\ committed"}
# As on the roles (migrations/roles.sql): taking a role does not apply what is set on it.
TIME_OUTS: Final = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "transaction_timeout": "60s",
    "idle_in_transaction_session_timeout": "30s",
}


def arguments(role: str, **settings: str) -> dict[str, Any]:
    """Keyword arguments for psycopg's connect: the role, its time-outs, further settings, keep-alives."""
    options = " ".join(
        f"-c {name}={value}" for name, value in ({"role": role} | ISOLATION | TIME_OUTS | settings).items()
    )
    return {
        "options": options,
        "application_name": role,
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENCE_MS,
    }


@asynccontextmanager
async def connect(url: str, role: str, **settings: str) -> AsyncIterator[Connection]:
    """A connection in autocommit mode. Raises psycopg's OperationalError."""
    connection = await AsyncConnection.connect(url, autocommit=True, **arguments(role, **settings))
    async with connection:
        yield connection


class Pool(AsyncConnectionPool[Connection]):
    """A pool that loses no cancellation, and serves who waits as soon as the server is back.

    On Python 3.11 asyncio.wait_for, and so psycopg's pool, swallows a cancellation that comes in the moment
    in which a connection becomes free; a loop that was told to stop would go on for ever. And it pauses for
    seconds after the second connection that it finds broken, as all are when a server has started again.
    """

    def __init__(self, url: str, **settings: Any) -> None:  # noqa: ANN401 - psycopg's
        super().__init__(url, connection_class=Connection, **settings)
        self.url = url

    async def getconn(self, timeout: float | None = None) -> Connection:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        before = task.cancelling() if task else 0
        deadline = loop.time() + (self.timeout if timeout is None else timeout)
        while True:
            connection = await super().getconn(deadline - loop.time())
            works = False
            try:
                if task and task.cancelling() > before:
                    raise asyncio.CancelledError
                works = await _works(connection)
            finally:
                if not works:
                    await self.putconn(connection)  # which replaces it
            if works:
                return connection

    async def reconnect_failed(self) -> None:
        """Asks, if anybody waits: the pool has given up, and tries again only for who asks anew."""
        if self.get_stats().get("requests_waiting"):
            with suppress(PoolTimeout):
                await self.putconn(await super().getconn(ASK_S))


async def _works(connection: Connection) -> bool:
    """Without a round trip where nothing has happened: a server that is gone has closed the connection.

    That shows as something to read, as does whatever else it may have said meanwhile.
    """
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        try:
            await AsyncConnectionPool.check_connection(connection)
        except OperationalError:
            return False
    return True


async def fetch(
    pool: Pool, query: LiteralString, parameters: Sequence[object], *, seconds: float
) -> list[tuple[Any, ...]]:
    """All rows, in binary form. OperationalError when there is no connection, or no answer in time."""
    async with answering(pool, seconds) as connection, connection.cursor(binary=True) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


@asynccontextmanager
async def answering(pool: Pool, seconds: float) -> AsyncIterator[Connection]:
    """A connection for reading, for so long. OperationalError when there is none, or no answer in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    async with pool.connection(min(seconds, POOL_WAIT_S)) as connection:
        with _silent_until(deadline, connection):
            yield connection
            await connection.commit()  # the pool would wait for that without an end


@contextmanager
def _silent_until(deadline: float, connection: Connection) -> Iterator[None]:
    """Cuts a connection on which something is still awaited at the deadline. OperationalError if it was.

    Cancelling what waits would be no bound: psycopg first asks the peer to cancel the query, and waits for
    that for ten seconds; a peer may have fallen silent without a word.
    """
    began = asyncio.get_running_loop().time()
    cut = False

    def cuts() -> None:
        nonlocal cut
        cut = True
        if not connection.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as theirs:
                theirs.shutdown(socket.SHUT_RDWR)

    cutting = asyncio.get_running_loop().call_at(deadline, cuts)
    try:
        yield
    except OperationalError as ended:
        if cut:
            raise OperationalError(f"no answer in {deadline - began:.1f} s") from ended
        raise
    finally:
        cutting.cancel()


@asynccontextmanager
async def open_pool(
    url: str,
    role: str,
    *,
    size: int,
    autocommit: bool = False,
    configure: Callable[[Connection], Awaitable[None]] | None = None,
    **settings: str,
) -> AsyncIterator[Pool]:
    """Up to `size` connections, made when they are needed; who finds none free waits for `POOL_WAIT_S`."""
    pool = Pool(
        url,
        kwargs={"autocommit": autocommit, **arguments(role, **settings)},
        min_size=0,
        max_size=size,
        timeout=POOL_WAIT_S,
        reconnect_timeout=RECONNECT_S,
        configure=configure,
        open=False,
    )
    async with pool:
        yield pool
