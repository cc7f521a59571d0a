"""Queries as of an earlier position: the rows are folded anew from the log, and the same query reads them.

Which rows may matter is known from what holds of them for ever, say their keys; the streams that feed them
stand in their parts. So a question about the past of a few rows reads the streams of these, and no other.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, Final, LiteralString, TypeVar

import msgspec

from commands.ports import MAX_EVENTS_PER_APPEND
from domain import CONTEXTS
from domain.envelope import Mark, Recorded, Token
from domain.values import category_of
from projections.ports import (
    Answer,
    Ask,
    BeyondTheLog,
    Omitted,
    ReadModel,
    Step,
    StreamParked,
    TooMuchHistory,
    Versioned,
)
from runtime.lanes import lane_of
from runtime.log.reading import BATCH_EVENTS, LogReader, StoredEvent
from runtime.read_models.builds import Lane
from runtime.read_models.folding import Parts, contexts_of, fold, keys_of
from runtime.read_models.rows import Contributors, PostgresRows

MAX_ROWS: Final = 10_000
"""Of which the streams are looked up; where more may matter, all of the contexts is read."""
MAX_EVENTS: Final = 200_000

Row = TypeVar("Row")


class _Commanded(msgspec.Struct):
    command_id: str


class PastRows:
    """Implements `projections.ports.Rows` and `Past`: as of a position, else as the read models have it."""

    def __init__(self, rows: PostgresRows, reader: LogReader) -> None:
        self._rows = rows
        self._reader = reader

    async def position_at(self, at: datetime) -> int:
        head, newest = await self._reader.newest()
        if newest is None or at > newest:
            raise BeyondTheLog(head)
        return await self._reader.position_at(at)

    async def must_reach(self, position: int) -> None:
        head, _ = await self._reader.newest()
        if position > head:
            raise BeyondTheLog(head)

    async def select(
        self,
        model: ReadModel[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
        *,
        ever: LiteralString | None = None,
    ) -> Answer[Row]:
        if ask.as_of is None:
            answer = await self._rows.select(model, where, parameters, ask)
            await self._refuse_parked(ask, answer.omitted)
            return answer
        heads = await self._reader.heads(ask.as_of)
        marks = {lane: mark for lane, mark in heads.items() if lane[0] in contexts_of(model)}
        at = Token(await self._reader.incarnation(), marks, seen=True)
        applied = Ask(at, ask.wait_s)  # what the rows of today say of those of then, they must have seen
        if ever is None or model.counter:
            today = await self._rows.parts(model, "false", {}, applied, limit=1)
            rows = await self._all(model, marks, today.omitted)
        else:
            today = await self._rows.parts(model, ever, parameters, applied, limit=MAX_ROWS + 1)
            few = len(today.names) <= MAX_ROWS
            rows = await (
                self._of(model, today, ask.as_of) if few else self._all(model, marks, today.omitted)
            )
        combined = [row for parts in rows.values() if parts and (row := model.combine(parts)) is not None]
        found = await self._rows.among(model, combined, where, parameters)
        return Answer(tuple(Versioned(row, ask.as_of) for row in found), at, today.build, today.omitted)

    async def explain(
        self, model: ReadModel[Any], key: str, field: str | None, ask: Ask
    ) -> tuple[Sequence[Step], Token]:
        applied = ask
        if ask.as_of is not None:
            heads = await self._reader.heads(ask.as_of)
            marks = {lane: mark for lane, mark in heads.items() if lane[0] in contexts_of(model)}
            applied = Ask(Token(await self._reader.incarnation(), marks, seen=True), ask.wait_s)
        today = await self._rows.parts_of(model, key, applied)
        await self._refuse_parked(applied, today.omitted)
        at = today.at if ask.as_of is None or applied.after is None else applied.after
        if not today.names:
            return [], at
        events = await self._that_feed(model, key, today, at)
        return list(_steps(model, key, field, events)), at

    async def _refuse_parked(self, ask: Ask, omitted: Omitted) -> None:
        """Raises StreamParked where the token is of an append to a stream that stands still before it."""
        if ask.after is None or ask.after.seen or not omitted.parked:
            return
        lanes = await self._reader.lanes()
        parked = {(CONTEXTS[category_of(stream)], lane_of(stream, lanes)) for stream in omitted.parked}
        for context, lane in sorted(parked & ask.after.marks.keys()):
            mark = ask.after.marks[context, lane]
            stored = await self._reader.read_lane(
                context, lane, after=mark.position - MAX_EVENTS_PER_APPEND, upto=mark.position
            )
            for event in _of_one_append(stored, mark):
                if omitted.is_parked(event):
                    raise StreamParked(event.stream)

    async def _that_feed(
        self, model: ReadModel[Any], key: str, today: Contributors, at: Token
    ) -> list[Recorded]:
        """The events behind a row, in the order of the log, as far as each lane has come."""
        events: list[Recorded] = []
        if model.counter:
            async for page in self._pages(at.marks):
                kept = today.omitted.out_of(page)
                events += (one for one in self._decoded(model, kept) if key in keys_of(model, one))
        else:
            upto = max((mark.position for mark in at.marks.values()), default=0)
            stored = await self._reader.read_streams(
                sorted(today.names[key]), upto=upto, limit=MAX_EVENTS + 1
            )
            if len(stored) > MAX_EVENTS:
                raise TooMuchHistory
            kept = today.omitted.out_of(stored)
            events = [one for one in self._decoded(model, kept) if _applied_by(at, one)]
        return sorted(events, key=lambda recorded: recorded.position)

    async def _of(self, model: ReadModel[Any], today: Contributors, as_of: int) -> Mapping[str, Parts]:
        """The parts of these rows at a position."""
        streams = sorted({name for parts in today.names.values() for name in parts})
        events = await self._reader.read_streams(streams, upto=as_of, limit=MAX_EVENTS + 1)
        if len(events) > MAX_EVENTS:
            raise TooMuchHistory
        rows: dict[str, Parts] = {}
        fold(model, rows, self._decoded(model, today.omitted.out_of(events)), today.names.__contains__)
        return rows

    async def _all(
        self, model: ReadModel[Any], marks: Mapping[Lane, Mark], omitted: Omitted
    ) -> Mapping[str, Parts]:
        """The parts of every row there was at these marks."""
        rows: dict[str, Parts] = {}
        async for page in self._pages(marks):
            fold(model, rows, self._decoded(model, omitted.out_of(page)))
        return rows

    async def _pages(self, marks: Mapping[Lane, Mark]) -> AsyncIterator[list[StoredEvent]]:
        left = MAX_EVENTS
        for (context, lane), mark in marks.items():
            after = 0
            while page := await self._reader.read_lane(
                context, lane, after=after, upto=mark.position, limit=BATCH_EVENTS
            ):
                left -= len(page)
                if left < 0:
                    raise TooMuchHistory
                yield page
                after = page[-1].position

    def _decoded(self, model: ReadModel[Any], events: Iterable[StoredEvent]) -> Iterable[Recorded]:
        return (self._reader.decode(stored) for stored in events if category_of(stored.stream) in model.folds)


def _steps(model: ReadModel[Any], key: str, field: str | None, events: Iterable[Recorded]) -> Iterator[Step]:
    rows: dict[str, Parts] = {}
    before = None
    for recorded in events:
        fold(model, rows, [recorded], key.__eq__)
        row = model.combine(rows[key]) if rows.get(key) else None
        value = getattr(row, field) if field and row is not None else row
        if value != before:
            yield Step(recorded, value)
        before = value


def _of_one_append(stored: Sequence[StoredEvent], mark: Mark) -> Iterator[StoredEvent]:
    """The event of the mark and those before it of the same command, which stand side by side."""
    if not stored or stored[-1].event_id != mark.event_id:
        return
    command = _command_of(stored[-1])
    yield from takewhile(lambda event: _command_of(event) == command, reversed(stored))


def _command_of(stored: StoredEvent) -> str:
    """Of metadata that need not be known otherwise."""
    return msgspec.json.decode(stored.metadata, type=_Commanded).command_id


def _applied_by(at: Token, recorded: Recorded) -> bool:
    mark = at.marks.get((recorded.context, recorded.lane))
    return mark is not None and recorded.position <= mark.position
