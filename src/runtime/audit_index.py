"""The read model `event_index` as the audit door asks it: where it has come far enough, or not at all."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from api.audit.ports import Filter
from api.ports import Bearable
from domain.envelope import Token
from projections.event_index import EVENT_INDEX, IndexFilter, indexed
from projections.ports import Ask, ForeignToken, NotYetApplied, TooManyWaiting
from runtime.audit_log.threaded import ThreadedHistory
from runtime.read_models.rows import PostgresRows

logger = logging.getLogger(__name__)

WAIT_S: Final = 0.25
"""For an index that is a little behind."""
ANSWER_S: Final = 10.0
READY_S: Final = 1.0
REST_S: Final = 10.0
"""How long an index that gave no answer is not asked again."""
AWAY: Final = (OperationalError, PoolTimeout, TimeoutError)


class AuditIndex:
    """Implements `api.audit.ports.Index`. How far it must have come is asked of the auditor's half."""

    def __init__(self, rows: PostgresRows, history: ThreadedHistory) -> None:
        self._rows = rows
        self._history = history
        self._rests_until = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, history: ThreadedHistory) -> AsyncIterator["AuditIndex"]:
        async with PostgresRows.open(url) as rows:
            yield cls(rows, history)

    async def positions(self, wanted: Filter, *, after: int, upto: int, limit: int) -> Sequence[int] | None:
        """Raises HistoryAway."""
        clock = asyncio.get_running_loop().time
        if clock() < self._rests_until:
            return None
        looked_for = IndexFilter(
            type=wanted.type,
            category=wanted.category,
            actor=":".join(wanted.actor) if wanted.actor else None,
            correlation_id=wanted.correlation,
        )
        applied = Token(await self._history.incarnation(), await self._history.heads(upto))
        ask = Ask(applied, WAIT_S)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await indexed(self._rows, looked_for, ask, after=after, upto=upto, limit=limit)
        except (NotYetApplied, ForeignToken, TooManyWaiting):
            return None
        except AWAY as away:
            logger.warning("the event index cannot be asked, again in %.0f s: %s", REST_S, away)
            self._rests_until = clock() + REST_S
            return None
        missing = (*answer.omitted.parked.values(), *answer.omitted.skipped.values())
        if any(first <= upto for first in missing):
            return None  # an event that has no row would be hidden; reading along finds it
        return [one.row.position for one in answer.rows]

    async def wrong(self) -> Bearable | None:
        """What is wrong with it, if anything is."""
        try:
            async with asyncio.timeout(READY_S):
                ready = await self._rows.ready(EVENT_INDEX)
        except AWAY:
            return Bearable("cannot be reached: filtered feeds read the log along")
        return None if ready else Bearable("has not caught up: filtered feeds read the log along")
