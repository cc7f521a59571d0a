"""UmaDB: the server and the Python client of its wheel, a thread and a client a caller.

A stream is a tag. An append is made on the condition that nothing has followed in its stream since the last
event seen there, as ours is made on a tip; the event's id lets the server know a repeat. Without a condition
it does less, and is measured as well.
"""

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import umadb

from bench import worker
from bench.loops import Measured, Window, in_threads
from bench.payload import event, ids, metadata, stream_of
from bench.seed import STREAMS
from bench.server import free_port
from runtime.codec import encode, encode_metadata

START_S: Final = 20.0
POLL_S: Final = 0.05
STOP_S: Final = 5.0
ANSWER_S: Final = 60.0
SEED_AT_ONCE: Final = 1_000


def measure(directory: Path, threads: int, window: Window, *, conditional: bool) -> Measured:
    with _server(directory) as url:
        task = {"url": url, "threads": threads, "conditional": conditional} | asdict(window)
        [answer] = worker.run(__name__, [task], window.warm + window.seconds + ANSWER_S)
    shutil.rmtree(directory)
    return Measured(**answer)


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    directory.mkdir()
    program = Path(sys.executable).with_name("umadb")
    with (directory / "umadb.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 - our own command
            [str(program), "--listen", address, "--db-path", str(directory / "uma.db")],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"http://{address}", directory / "umadb.log")
        yield f"http://{address}"
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
        server.kill()
        server.wait(STOP_S)


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            umadb.Client(url).head()
        except umadb.TransportError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"UmaDB does not answer:\n{log.read_text()}") from None
            time.sleep(POLL_S)
        else:
            return


def _run(task: dict[str, Any]) -> Measured:
    seeding = umadb.Client(task["url"])
    last_of: dict[str, int] = {}
    for first in range(0, STREAMS, SEED_AT_ONCE):
        streams = [stream_of(number) for number in range(first, first + SEED_AT_ONCE)]
        last = seeding.append([_event(stream) for stream in streams])
        last_of |= zip(streams, range(last - len(streams) + 1, last + 1), strict=True)
    shares = [dict(list(last_of.items())[thread :: task["threads"]]) for thread in range(task["threads"])]
    callers = [_caller(umadb.Client(task["url"]), share, task["conditional"]) for share in shares]
    worker.wait_for_go()
    return in_threads(callers, Window(task["warm"], task["seconds"]))


def _caller(client: umadb.Client, last_of: dict[str, int], conditional: bool) -> Callable[[], int]:  # noqa: FBT001 - private
    """Appends to streams of its own, at random, and knows the last position of each."""
    streams = list(last_of)

    def once() -> int:
        stream = random.choice(streams)  # noqa: S311 - not a secret
        condition = None
        if conditional:
            same = umadb.Query([umadb.QueryItem(tags=[stream])])
            condition = umadb.AppendCondition(same, after=last_of[stream])
        last_of[stream] = client.append([_event(stream)], condition)
        return 1

    return once


def _event(stream: str) -> umadb.Event:
    """Its metadata are pairs of texts: ours, as one."""
    return umadb.Event(
        "stock.adjusted.v1",
        encode(event(stream)),
        [stream],
        UUID(ids.new()),
        {"metadata": encode_metadata(metadata()).decode()},
    )


if __name__ == "__main__":
    worker.answer(asdict(_run(worker.told())))
