"""The log's twin in memory: the same contract, for tests."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from commands.ports import Append, Appended, Clock, Conflict, Duplicate, Item, Mismatch, Verdict
from domain import CONTEXTS
from domain.envelope import NOTHING, Recorded, Tip
from domain.values import category_of
from runtime.lanes import lane_of
from runtime.log.batch import Encoded
from runtime.log.limits import check, check_query

INCARNATION: Final = "00000000-0000-4000-8000-000000000001"
LANES: Final = 8


class MemoryLog:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[Recorded] = []
        self._tags: list[frozenset[str]] = []
        self._streams: dict[str, list[Recorded]] = {}
        self._ids: set[str] = set()
        self._requests: dict[bytes, tuple[bytes | None, int, int]] = {}

    @property
    def incarnation(self) -> str:
        return INCARNATION

    async def append(self, append: Append) -> Verdict:
        check(append)
        Encoded.of(append)
        await asyncio.sleep(0)  # as any log, it lets others go first
        if append.digest is not None and (bound := self._requests.get(append.digest)):
            fingerprint, first, count = bound
            return Duplicate(first, count) if fingerprint == append.fingerprint else Mismatch()
        if any(self._tip(stream) != tip for stream, tip in append.tips.items()):
            return Conflict()
        if any(
            condition.after > len(self._events) or self._positions_of(condition.query, condition.after)
            for condition in append.conditions
        ):
            return Conflict()
        ids = {new.event_id for new in append.events}
        if len(ids) < len(append.events) or ids & self._ids:
            raise ValueError("an event id that the log has already")
        self._ids |= ids
        recorded_at = self._next_time()
        recorded = tuple(self._record(append, number, recorded_at) for number in range(len(append.events)))
        if recorded and append.digest is not None:
            self._requests[append.digest] = (append.fingerprint, recorded[0].position, len(recorded))
        return Appended(recorded)

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        await asyncio.sleep(0)
        return {stream: self._streams.get(stream, [])[version:] for stream, version in after.items()}

    async def read_positions(self, first_position: int, count: int) -> Sequence[Recorded]:
        await asyncio.sleep(0)
        return self._events[first_position - 1 : first_position - 1 + count]

    async def read_query(
        self, query: Sequence[Item], *, after: int = 0, limit: int
    ) -> tuple[Sequence[Recorded], int]:
        check_query(query, after, limit)
        await asyncio.sleep(0)
        positions = self._positions_of(query, after)[:limit]
        upto = positions[-1] if len(positions) == limit else len(self._events)
        return [self._events[position - 1] for position in positions], upto

    def _positions_of(self, query: Sequence[Item], after: int) -> list[int]:
        return [
            recorded.position
            for recorded, tags in zip(self._events[after:], self._tags[after:], strict=True)
            if any((not item.types or recorded.type in item.types) and item.tags <= tags for item in query)
        ]

    def _tip(self, stream: str) -> Tip:
        events = self._streams.get(stream)
        return Tip(events[-1].version, events[-1].event_id) if events else NOTHING

    def _next_time(self) -> datetime:
        now = self._clock.now()
        return max(now, self._events[-1].recorded_at + timedelta(microseconds=1)) if self._events else now

    def _record(self, append: Append, number: int, recorded_at: datetime) -> Recorded:
        new = append.events[number]
        stream = self._streams.setdefault(new.stream, [])
        recorded = Recorded(
            position=len(self._events) + 1,
            stream=new.stream,
            version=len(stream) + 1,
            event_id=new.event_id,
            context=CONTEXTS[category_of(new.stream)],
            lane=lane_of(new.stream, LANES),
            event=new.event,
            metadata=append.metadata,
            recorded_at=recorded_at,
        )
        stream.append(recorded)
        self._events.append(recorded)
        self._tags.append(new.tags)
        return recorded
