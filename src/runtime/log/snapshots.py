"""Snapshots of long streams in PostgreSQL: only a cache, written behind the appends, and never waited for.

What is read is used only if the code that wrote it folds as this does, if the log has the very event that it
stands at, and if its bytes are those that were written. No trouble here is a caller's: then there are no
snapshots, and streams are read from their first event.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from prometheus_client import Counter

from commands.ports import Known
from domain.envelope import Tip
from domain.values import Aggregate
from runtime.log.postgres import ROLE
from runtime.postgres import Connection, Pool, fetch, open_pool
from runtime.state_codec import FINGERPRINTS, decode_state, encode_state

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 1_000
"""Of streams whose snapshot is still to be written; then further ones are dropped."""
MAX_STATE_BYTES: Final = 4 * 2**20
"""A larger state is not kept: encoding and decoding it would hold up everything else for too long."""
MAX_BATCH: Final = 250
MAX_BATCH_BYTES: Final = 2**20
"""A batch ends with the state that passes it."""
PAUSE_S: Final = 0.25
"""Between two batches. Many snapshots of a stream that falls into one pause are one."""
MAX_TRIES: Final = 3
RETRY_S: Final = 1.0
WRITE_S: Final = 10.0
"""For the connection and the answer: a peer may fall silent without a word."""
POOL_SIZE: Final = 2
READ_S: Final = 2.0
"""For the connection and the answer. The log is read next; when it is away, it says so."""
STATEMENT_TIMEOUT: Final = "5s"
CHECKSUM_BYTES: Final = 16

WRITTEN = Counter("tallybook_snapshots_written", "States of streams that were kept")
READ = Counter("tallybook_snapshots_read", "Streams whose loading began at a snapshot")
IGNORED = Counter("tallybook_snapshots_ignored", "Snapshots that were of other code or history, or damaged")
DROPPED = Counter(
    "tallybook_snapshots_dropped", "States that were not kept: too many, too large, no database"
)

_READ: Final[LiteralString] = (
    "select s.stream, s.version, s.event_id::text, s.occurred_at,"
    " case when s.fingerprint = u.fingerprint and s.event_id = e.event_id then s.state end"
    " from unnest(%s::text[], %b::bytea[]) as u (stream, fingerprint)"
    " join log.snapshots s on s.stream = u.stream"
    " left join log.events e on e.stream = s.stream and e.version = s.version"
)
# In the order of streams, so that two writers never wait for each other. What the log disagrees with gives
# way, whatever its version: it is of a history that was restored away.
_WRITE: Final[LiteralString] = (
    "insert into log.snapshots as s (stream, version, event_id, fingerprint, occurred_at, state)"
    " select * from unnest("
    "   %s::text[], %s::bigint[], %s::uuid[], %b::bytea[], %s::timestamptz[], %b::bytea[]"
    " ) as u (stream, version, event_id, fingerprint, occurred_at, state) order by u.stream"
    " on conflict (stream) do update set version = excluded.version, event_id = excluded.event_id,"
    "   fingerprint = excluded.fingerprint, occurred_at = excluded.occurred_at, state = excluded.state"
    " where s.version < excluded.version or s.fingerprint <> excluded.fingerprint or not exists ("
    "   select from log.events e"
    "   where e.stream = s.stream and e.version = s.version and e.event_id = s.event_id"
    " )"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of log.snapshots."""

    stream: str
    version: int
    event_id: str
    fingerprint: bytes
    occurred_at: datetime
    state: bytes

    @classmethod
    def of(cls, stream: str, known: Known) -> "Row":
        if known.occurred_at is None:
            raise ValueError("a state before the first event")
        fingerprint = FINGERPRINTS[known.aggregate.category]
        state = encode_state(known.state)
        row = cls(stream, known.tip.version, known.tip.event_id, fingerprint, known.occurred_at, state)
        return replace(row, state=_checksum(row) + state)

    def known(self, aggregate: Aggregate[Any, Any]) -> Known:
        """msgspec.MsgspecError or ValueError if these are not the bytes that were kept in this row."""
        bare = replace(self, state=self.state[CHECKSUM_BYTES:])
        if _checksum(bare) + bare.state != self.state:
            raise ValueError("the checksum is not that of the state")
        state = decode_state(aggregate.category, bare.state)
        return Known(aggregate, Tip(self.version, self.event_id), state, self.occurred_at.astimezone(UTC))


class SnapshotStore:
    """Implements `commands.ports.Snapshots`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: OrderedDict[str, Known] = OrderedDict()
        self._offered = asyncio.Event()
        self._too_large: set[str] = set()
        self._told: set[str] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, role: str = ROLE) -> AsyncIterator["SnapshotStore"]:
        """Connects when it is used. What is not written when it closes is forgotten."""
        async with open_pool(url, role, size=POOL_SIZE, autocommit=True, configure=_configure) as pool:
            store = cls(pool)
            writing = asyncio.create_task(store._write_behind(), name="write snapshots")
            try:
                yield store
            finally:
                writing.cancel()
                await asyncio.wait({writing})

    async def read(self, streams: Mapping[str, Aggregate[Any, Any]]) -> Mapping[str, Known]:
        fingerprints = [FINGERPRINTS[aggregate.category] for aggregate in streams.values()]
        try:
            rows = await fetch(self._pool, _READ, (list(streams), fingerprints), seconds=READ_S)
        except psycopg.Error as away:
            self._tell("read", "snapshots cannot be read: %s", away)
            return {}
        self._told.discard("read")
        known = {row[0]: self._known(streams[row[0]], row) for row in rows}
        found = {stream: state for stream, state in known.items() if state is not None}
        READ.inc(len(found))
        IGNORED.inc(len(rows) - len(found))
        return found

    def offer(self, stream: str, known: Known) -> None:
        waiting = self._waiting.get(stream)
        if waiting is not None and waiting.tip.version > known.tip.version:
            return
        if stream in self._too_large or (waiting is None and len(self._waiting) >= MAX_WAITING):
            DROPPED.inc()
            return
        self._waiting[stream] = known
        self._offered.set()

    def _known(self, aggregate: Aggregate[Any, Any], row: Sequence[Any]) -> Known | None:
        stream, version, event_id, occurred_at, state = row
        if state is None:
            return None
        fingerprint = FINGERPRINTS[aggregate.category]
        try:
            return Row(stream, version, event_id, fingerprint, occurred_at, state).known(aggregate)
        except (msgspec.MsgspecError, ValueError) as damaged:
            self._tell("damage", "a snapshot of %s is damaged: %s", stream, damaged)
            return None

    async def _write_behind(self) -> None:
        """For ever, whatever happens to a batch."""
        while True:
            await self._offered.wait()
            await asyncio.sleep(PAUSE_S)
            if rows := await self._next_batch():
                await self._keep(rows)
            if not self._waiting:
                self._offered.clear()

    async def _next_batch(self) -> list[Row]:
        """Others go between two states: encoding a large one takes milliseconds. They may offer one anew."""
        rows: dict[str, Row] = {}
        size = 0
        while self._waiting and len(rows) < MAX_BATCH and size < MAX_BATCH_BYTES:
            stream, known = self._waiting.popitem(last=False)
            try:
                row = Row.of(stream, known)
            except Exception:
                DROPPED.inc()
                logger.exception("a state of %s that cannot be kept", stream)
                continue
            if len(row.state) > MAX_STATE_BYTES:
                DROPPED.inc()
                self._too_large.add(stream)
                logger.warning("the state of %s has %d bytes: it is not kept", stream, len(row.state))
            else:
                rows[stream] = row
                size += len(row.state)
            await asyncio.sleep(0)
        return list(rows.values())

    async def _keep(self, rows: Sequence[Row]) -> None:
        columns = (
            [row.stream for row in rows],
            [row.version for row in rows],
            [row.event_id for row in rows],
            [row.fingerprint for row in rows],
            [row.occurred_at for row in rows],
            [row.state for row in rows],
        )
        for _ in range(MAX_TRIES):
            try:
                async with asyncio.timeout(WRITE_S), self._pool.connection(WRITE_S) as connection:
                    written = await connection.execute(_WRITE, columns)
            except Exception as away:  # noqa: BLE001 - the task must live on; logged
                self._tell("write", "snapshots cannot be written: %s", away)
                await asyncio.sleep(RETRY_S)
            else:
                self._told.discard("write")
                WRITTEN.inc(written.rowcount)
                return
        DROPPED.inc(len(rows))

    def _tell(self, trouble: str, message: str, *facts: object) -> None:
        """Once, until it is over: the counters say how often."""
        if trouble not in self._told:
            self._told.add(trouble)
            logger.warning(message, *facts)


async def _configure(connection: Connection) -> None:
    """A snapshot that is lost in a crash is worth no wait for the disk."""
    await connection.execute(
        "select set_config('statement_timeout', %s, false), set_config('synchronous_commit', 'off', false)",
        (STATEMENT_TIMEOUT,),
    )


def _checksum(row: Row) -> bytes:
    """Over all of the row, so that it does not pass for another stream's or another version's either."""
    about = (row.stream, row.version, row.event_id, row.occurred_at.astimezone(UTC).isoformat())
    keyed = hashlib.blake2b(msgspec.msgpack.encode(about), digest_size=CHECKSUM_BYTES, key=row.fingerprint)
    keyed.update(row.state)
    return keyed.digest()
