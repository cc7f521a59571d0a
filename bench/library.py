"""The `eventsourcing` library's PostgreSQL recorder in its default mode: synchronous, a connection a thread.

It stores the same bytes as one state, in streams named by UUID, and neither request nor tip: its check is the
unique key of stream and version.
"""

import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from bench import worker
from bench.loops import Measured, Window, in_threads
from bench.payload import event, metadata, stream_of
from bench.seed import STREAMS
from runtime.codec import encode, encode_metadata

THREADS: Final = (1, 4, 16)
ANSWER_S: Final = 60.0
SEED_AT_ONCE: Final = 1_000


def measure(url: str, threads: int, window: Window) -> Measured:
    task = {"url": url, "threads": threads} | asdict(window)
    [answer] = worker.run(__name__, [task], window.warm + window.seconds + ANSWER_S)
    return Measured(**answer)


def _run(task: dict[str, Any]) -> Measured:
    threads = task["threads"]
    parts = psycopg.conninfo.conninfo_to_dict(task["url"])
    with PostgresDatastore(
        dbname=str(parts["dbname"]),
        host=str(parts["host"]),
        port=str(parts["port"]),
        user=str(parts["user"]),
        password=str(parts["password"]),
        pool_size=threads,
    ) as datastore:
        recorder = PostgresApplicationRecorder(datastore)
        recorder.create_table()
        streams = [UUID(int=number) for number in range(1, STREAMS + 1)]
        for first in range(0, STREAMS, SEED_AT_ONCE):
            recorder.insert_events([_stored(one, 1) for one in streams[first : first + SEED_AT_ONCE]])
        callers = [_caller(recorder, streams[thread::threads]) for thread in range(threads)]
        worker.wait_for_go()
        return in_threads(callers, Window(task["warm"], task["seconds"]))


def _caller(recorder: PostgresApplicationRecorder, streams: list[UUID]) -> Callable[[], int]:
    """Appends to streams of its own, at random, and knows their versions."""
    versions = dict.fromkeys(streams, 1)

    def once() -> int:
        stream = random.choice(streams)  # noqa: S311 - not a secret
        recorder.insert_events([_stored(stream, versions[stream] + 1)])
        versions[stream] += 1
        return 1

    return once


def _stored(stream: UUID, version: int) -> StoredEvent:
    state = encode(event(stream_of(0))) + encode_metadata(metadata())
    return StoredEvent(stream, version, "stock.adjusted.v1", state)


if __name__ == "__main__":
    worker.answer(asdict(_run(worker.told())))
