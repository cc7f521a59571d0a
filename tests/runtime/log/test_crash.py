"""PostgreSQL killed under load, on a server that writes to the disk: nothing acknowledged is lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from log_tools import Appends, stream
from prometheus_client import REGISTRY

from commands.ports import Append, Appended, Duplicate, LogUnavailable, OutcomeUnknown
from runtime.embedded.child import Child
from runtime.embedded.postgres import EmbeddedPostgres
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.migrate import migrate
from runtime.postgres import connect

pytestmark = pytest.mark.anyio

START_S = 30.0
CALLERS = 16
APPENDS_BEFORE_KILL = 200
KILLS, MOST_KILLS = 2, 8
AGAIN_S = 20.0


@pytest.fixture
async def server(session_home: Path, free_port: Callable[[], int]) -> AsyncIterator[tuple[Child, str]]:
    postgres = EmbeddedPostgres(
        directory=session_home / "crashing",
        port=free_port(),
        password="owner",
        log=session_home / "crashing.log",
        settings={"fsync": "on", "shared_buffers": "64MB"},
    )
    child = Child(postgres.spec())
    try:
        await child.start()
        await child.wait_ready(START_S)
        yield child, postgres.url("postgres")
    finally:
        await child.stop()


async def kill(child: Child) -> None:
    """All of the server at once, so that nothing of it can tidy up."""
    assert child.pid is not None
    postmaster = psutil.Process(child.pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.suspend()
    for process in family:
        process.send_signal(signal.SIGKILL)
    async with asyncio.timeout(START_S):
        while child.exit_code is None or any(process.is_running() for process in family[1:]):
            await asyncio.sleep(0.01)


def settled() -> float:
    """How many appends this process has sent of which a connection broke before the answer."""
    return REGISTRY.get_sample_value("tallybook_log_unknown_outcomes_total") or 0.0


class Writer:
    """Appends one after the other; one whose outcome it does not know it sends again until it does."""

    def __init__(self, log: PostgresLog, appends: Appends) -> None:
        self._log = log
        self._appends = appends
        self.told: dict[str, int] = {}

    async def write_until(self, done: asyncio.Event) -> None:
        while not done.is_set():
            append = self._appends.of(stream(), digest=self._appends.digest())
            event_id = append.events[0].event_id
            async with asyncio.timeout(AGAIN_S):
                while event_id not in self.told:
                    await self._send(append, event_id)

    async def _send(self, append: Append, event_id: str) -> None:
        try:
            verdict = await self._log.append(append)
        except (OutcomeUnknown, LogUnavailable):
            await asyncio.sleep(0.05)
            return
        match verdict:
            case Appended([event]):
                self.told[event_id] = event.position
            case Duplicate(position, 1):
                self.told[event_id] = position
            case _:
                raise AssertionError(verdict)


async def test_a_killed_server_has_every_acknowledged_append_and_no_hole(
    server: tuple[Child, str], appends: Appends
) -> None:
    child, url = server
    await migrate(url, "log")
    async with PostgresLog.open(url) as log:
        before = settled()
        writers, done = [Writer(log, appends) for _ in range(CALLERS)], asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.write_until(done))
            kills = 0
            # until one has come while something was in flight, and its writer has found out
            while kills < KILLS or settled() == before:
                kills += 1
                assert kills <= MOST_KILLS
                await _written(writers, kills * APPENDS_BEFORE_KILL)
                await kill(child)
                await child.start()
                await child.wait_ready(START_S)
                await _written(writers, kills * APPENDS_BEFORE_KILL + CALLERS)
            done.set()
    told = {event_id: position for writer in writers for event_id, position in writer.told.items()}
    async with connect(url, "postgres") as connection, LogReader.open(url) as reader:
        found = await connection.execute("select event_id::text, position from log.events order by position")
        there = {event_id: position async for event_id, position in found}
        assert (await reader.head()).position == len(there)
    assert there == told
    assert list(there.values()) == list(range(1, len(there) + 1))


async def _written(writers: list[Writer], count: int) -> None:
    async with asyncio.timeout(START_S):
        while sum(len(writer.told) for writer in writers) < count:
            await asyncio.sleep(0.01)
