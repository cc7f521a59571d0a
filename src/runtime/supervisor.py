"""The supervisor of one home: starts its processes, restarts what dies, and ends all of it in order.

It may itself be killed at any moment. What it started is therefore recorded by process id and start time (an
id alone is soon another process's), and the next supervisor of the home ends what is left before it begins.
"""

import asyncio
import fcntl
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import psutil
from pydantic import BaseModel, ConfigDict, TypeAdapter

from runtime.embedded.child import Child, ChildSpec, Process, bound_log, end_process, require_free
from runtime.fork_server import LOST, ForkServer, is_ours
from runtime.home import Home, HomeUnusable, reading, write_private
from runtime.process import CannotStart

logger = logging.getLogger(__name__)

READY_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 0.05
INSPECT_SECONDS: Final = 5.0  # between looks at memory and log
FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 10.0
HEALTHY_SECONDS: Final = 1.0  # who has lived so long could start: its death is the first one again
LOADED_SECONDS: Final = 10.0  # that a fork server is waited for; then each process loads by itself
FORK_SERVER_SECONDS: Final = 1.0  # before another one is started
CLOCK_SECONDS: Final = 2.0  # start times are derived from a boot time that clock corrections move


class HomeLocked(CannotStart):
    """Another supervisor has this home."""


class ProcessRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started_at: float  # seconds since the epoch
    port: int | None
    stop_signal: signal.Signals
    stop_seconds: float

    def find(self) -> psutil.Process | None:
        """The process, if it still runs and is the same one."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started_at) < CLOCK_SECONDS
            runs = is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if runs else None


_RECORDS: Final = TypeAdapter(tuple[ProcessRecord, ...])


def records_of(home: Home) -> tuple[ProcessRecord, ...]:
    """Raises HomeUnusable."""
    if not home.processes.exists():
        return ()
    with reading(home.processes, "end what still runs of it, then remove the file"):
        return _RECORDS.validate_json(home.processes.read_bytes())


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the home for this process. Raises HomeLocked, naming who has it, and HomeUnusable."""
    home.make()
    with _opened(home.lock) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise HomeLocked(f"{home.path} is in use: process {holder} is already up on it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield  # the lock goes with the file's last handle, whatever ends this process


def _opened(lock: Path) -> IO[str]:
    try:
        return lock.open("a+")
    except OSError as error:
        raise HomeUnusable(f"{lock.parent} cannot be written: {error.strerror}") from None


class Supervisor:
    """Of a home that its caller has locked."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stages: list[list[Child]] = []
        self._fork_server: ForkServer | None = None

    async def end_leftovers(self) -> None:
        for record in reversed(records_of(self._home)):
            if process := record.find():
                logger.info("ending %s (process %d), left by an earlier supervisor", record.name, record.pid)
                await end_process(process, record.stop_signal, record.stop_seconds)
        self._record()

    def start_fork_server(self) -> None:
        """It loads while something else is started. What is ours is forked from it from then on."""
        if self._fork_server:
            self._fork_server.end()
        self._fork_server = ForkServer()

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Start these, after those before them, and wait until all are ready. Raises ChildFailed."""
        if any(is_ours(spec) for spec in specs):
            await self._until_loaded()
        stage = [Child(spec, self._forked) for spec in specs]
        self._stages.append(stage)
        for child in stage:
            logger.info("starting %s", child.spec.name)
            await self._begin(child)
        await asyncio.gather(*(child.wait_ready(READY_SECONDS) for child in stage))

    async def watch(self) -> None:
        """Until cancelled: restart what dies, later and later while it keeps dying."""
        async with asyncio.TaskGroup() as watchers:
            for child in self._children():
                watchers.create_task(self._keep(child), name=child.spec.name)
            if self._fork_server:
                watchers.create_task(self._keep_fork_server(), name="fork server")

    async def stop(self) -> None:
        """The last started first; what was started together is ended together."""
        for stage in reversed(self._stages):
            await asyncio.gather(*(child.stop() for child in stage))
        self._stages.clear()
        self._record()
        if self._fork_server:
            self._fork_server.end()

    async def _keep(self, child: Child) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            await self._until_ended(child)
            if time.monotonic() - began >= HEALTHY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            name, log = child.spec.name, child.spec.log
            code = "a code that nobody knows" if child.exit_code == LOST else f"code {child.exit_code}"
            logger.warning("%s ended with %s and starts again in %.1f s; see %s", name, code, delay, log)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            try:
                await self._begin(child)
            except (CannotStart, OSError):
                logger.exception("%s could not be started", name)

    async def _until_ended(self, child: Child) -> None:
        inspect_at = time.monotonic() + INSPECT_SECONDS
        while child.exit_code is None:
            if time.monotonic() >= inspect_at:
                inspect_at += INSPECT_SECONDS
                bound_log(child.spec.log)
                if child.outgrew_memory():
                    logger.warning("%s has outgrown its memory", child.spec.name)
                    await child.stop()
            await asyncio.sleep(WATCH_SECONDS)

    async def _keep_fork_server(self) -> None:
        """What it forked lives on without it, and what dies meanwhile is started anew."""
        while True:
            await asyncio.sleep(FORK_SERVER_SECONDS)
            if self._fork_server and not self._fork_server.lives:
                logger.warning("the fork server ended; another one is started")
                self.start_fork_server()

    async def _until_loaded(self) -> None:
        deadline = time.monotonic() + LOADED_SECONDS
        while (server := self._fork_server) and server.lives and not server.loaded:
            if time.monotonic() > deadline:
                logger.warning("the fork server has not loaded in %.0f s", LOADED_SECONDS)
                return
            await asyncio.sleep(WATCH_SECONDS)

    def _forked(self, spec: ChildSpec) -> Process | None:
        return self._fork_server.fork(spec) if self._fork_server and is_ours(spec) else None

    async def _begin(self, child: Child) -> None:
        await child.start()
        self._record()

    def _children(self) -> list[Child]:
        return [child for stage in self._stages for child in stage]

    def _record(self) -> None:
        records = tuple(record for child in self._children() if (record := _record_of(child)))
        write_private(self._home.processes, _RECORDS.dump_json(records, indent=2).decode())


def _record_of(child: Child) -> ProcessRecord | None:
    if child.pid is None or child.exit_code is not None:
        return None
    try:
        started_at = psutil.Process(child.pid).create_time()
    except psutil.NoSuchProcess:  # it has just ended, and been waited for
        return None
    return ProcessRecord(
        name=child.spec.name,
        pid=child.pid,
        started_at=started_at,
        port=child.spec.port,
        stop_signal=child.spec.stop_signal,
        stop_seconds=child.spec.stop_seconds,
    )


Stage = tuple[Sequence[ChildSpec], Callable[[], Awaitable[None]]]


async def supervise(home: Home, stages: Sequence[Stage]) -> None:
    """Start the stages one after the other, each followed by its step, then keep everything running.

    Runs until cancelled. Whatever happens, nothing is left running.
    """
    supervisor = Supervisor(home)
    await supervisor.end_leftovers()
    for specs, _ in stages:
        for spec in specs:
            if spec.port is not None:
                require_free(spec.name, spec.host, spec.port)
    try:
        if any(is_ours(spec) for specs, _ in stages for spec in specs):
            supervisor.start_fork_server()
        for specs, then in stages:
            await supervisor.start(specs)
            await then()
        await supervisor.watch()
    finally:
        await supervisor.stop()
