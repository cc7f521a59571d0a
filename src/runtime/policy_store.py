"""Where policies stand: a checkpoint and timers each, in the schema `policies` of the log's database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg_pool import AsyncConnectionPool

from commands.policies.policy import Timer
from domain.envelope import NO_EVENT


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last event that a policy has dealt with, of one incarnation of the log."""

    incarnation: str
    position: int
    event_id: str


class HistoryChanged(RuntimeError):
    """A policy's checkpoint is not in this log."""


class PolicyStore:
    def __init__(self, pool: AsyncConnectionPool, incarnation: str) -> None:
        self._pool = pool
        self._incarnation = incarnation

    async def checkpoint(self, policy: str) -> Checkpoint:
        """Made at position 0 when there is none. `HistoryChanged` if the log does not have its event."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "insert into policies.checkpoint (policy, incarnation, position, event_id)"
                " values (%s, %s, 0, %s) on conflict do nothing",
                (policy, self._incarnation, NO_EVENT),
            )
            cursor = await connection.execute(
                "select c.incarnation::text, c.position, c.event_id::text,"
                " c.position = 0 or exists (select from log.events e"
                "   where e.position = c.position and e.event_id = c.event_id)"
                " from policies.checkpoint c where c.policy = %s",
                (policy,),
            )
            found = await cursor.fetchone()
        if found is None:
            raise LookupError(f"the checkpoint of {policy} was deleted under us")
        incarnation, position, event_id, known = found
        if not known or incarnation != self._incarnation:
            raise HistoryChanged(
                f"{policy} stands at event {event_id} at {position} of {incarnation}, which this log"
                f" (incarnation {self._incarnation}) does not have: restore the log, or delete its row"
                " in policies.checkpoint to start from the beginning (steps taken before are repeats)"
            )
        return Checkpoint(incarnation, position, event_id)

    async def advance(
        self, policy: str, at: Checkpoint, to: Checkpoint, timers: Sequence[tuple[Timer, str]]
    ) -> bool:
        """Move the checkpoint and set or clear timers, each by (timer, id of the event that says so).

        False, and nothing done, when the checkpoint is not at `at` any more.
        """
        async with self._pool.connection() as connection, connection.transaction():
            moved = await connection.execute(
                "update policies.checkpoint set position = %s, event_id = %s"
                " where policy = %s and position = %s and incarnation = %s",
                (to.position, to.event_id, policy, at.position, at.incarnation),
            )
            if not moved.rowcount:
                return False
            last = {timer.stream: (timer.due_at, event_id) for timer, event_id in timers}
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "delete from policies.timers where policy = %s and stream = %s",
                    [(policy, stream) for stream in last],
                )
                await cursor.executemany(
                    "insert into policies.timers (policy, stream, due_at, event_id) values (%s, %s, %s, %s)",
                    [
                        (policy, stream, due_at, event_id)
                        for stream, (due_at, event_id) in last.items()
                        if due_at
                    ],
                )
        return True

    async def due(self, policy: str, now: datetime, limit: int) -> list[tuple[str, str]]:
        """Timers that are due: (stream, id of the event that set it), the longest overdue first."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select stream, event_id::text from policies.timers"
                " where policy = %s and due_at <= %s order by due_at limit %s",
                (policy, now, limit),
            )
            return [(stream, event_id) for stream, event_id in await cursor.fetchall()]

    async def done(self, policy: str, stream: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(
                "delete from policies.timers where policy = %s and stream = %s", (policy, stream)
            )
