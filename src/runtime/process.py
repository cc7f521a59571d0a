"""How one of our processes runs: on uvloop, until it is told to stop or its supervisor is gone."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import uvicorn
import uvloop

from runtime.bounded_http import BoundedHttp

logger = logging.getLogger(__name__)

SUPERVISOR_VARIABLE: Final = "TALLYBOOK_SUPERVISOR_PID"
DRAIN_SECONDS: Final = 3  # a door's open requests, before they are cut
BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 30
GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Of the collector's generations; at the usual 700 it looks through a thousand loaded events many times."""


INTERRUPTED: Final = 130
"""The exit code of what Ctrl-C has stopped."""


class CannotStart(RuntimeError):
    """Something the operator can put right; the message says what, and is shown without a traceback."""


class Unwritable(CannotStart):
    """A file cannot be made where it is to be."""


class CannotListen(CannotStart):
    """The address is another's, or none of this machine's."""


def run_process(work: Coroutine[Any, Any, None]) -> int:
    """Run until done, SIGTERM, SIGINT or the supervisor's death; the process's exit code."""
    collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_told(work))


def collect_rarely() -> None:
    """Nearly all that a process makes ends by reference counting; what it has now, it has for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _until_told(work: Coroutine[Any, Any, None]) -> int:
    task = asyncio.create_task(work)
    told: list[str] = []

    def stop(why: str) -> None:
        if not told:  # once: a second cancellation would cut the ending short
            told.append(why)
            task.cancel()

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop, sign.name)
    try:
        with _supervised(partial(stop, "the supervisor's death")):
            await task
    except asyncio.CancelledError:
        if not told:
            raise
        logger.info("stopped by %s", told[0])
        return 0
    except CannotStart as refused:
        logger.error("%s", refused)  # noqa: TRY400 - the message is for the operator, the traceback for nobody
        return 1
    except Exception:
        logger.exception("ended by an error")
        return 1
    return 0


@contextmanager
def _supervised(orphaned: Callable[[], None]) -> Iterator[None]:
    """Call it when the supervisor is gone, even by SIGKILL, or is by now; at most once."""
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is None:
        yield
        return
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(int(supervisor))
    except ProcessLookupError:
        orphaned()
        yield
        return

    def gone() -> None:
        loop.remove_reader(handle)
        orphaned()

    loop.add_reader(handle, gone)
    try:
        yield
    finally:
        loop.remove_reader(handle)
        os.close(handle)


class _Door(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are run_process's


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections there. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]  # Python repeats the address
        raise CannotListen(f"nothing can listen on {host}:{port}: {why}") from None


async def serve_door(app: Any, *, host: str, port: int) -> None:  # noqa: ANN401 - an ASGI application
    """Serve until cancelled; open requests have DRAIN_SECONDS to finish. Raises CannotListen."""
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        proxy_headers=False,  # nobody asks for the client's address or scheme
        log_config=None,
        access_log=False,
        server_header=False,
    )
    door = _Door(config)
    serving = asyncio.create_task(door.serve(sockets=[listening(host, port)]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        door.should_exit = True
        await serving
        raise
