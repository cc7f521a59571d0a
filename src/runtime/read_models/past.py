"""Queries as of an earlier position: the rows are folded anew from the log, and the same query reads them.

Which rows may matter is known from what holds of them for ever, say their keys; the streams that feed them
stand in their parts. So a question about the past of a few rows reads the streams of these, and no other.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, LiteralString, TypeVar

from domain.envelope import Mark, Recorded, Token
from domain.values import category_of
from projections.ports import Answer, Ask, BeyondTheLog, ReadModel, Step, TooMuchHistory, Versioned
from runtime.log.reading import BATCH_EVENTS, LogReader, StoredEvent
from runtime.read_models.builds import Lane
from runtime.read_models.folding import Parts, contexts_of, fold, keys_of
from runtime.read_models.rows import PostgresRows

MAX_ROWS: Final = 10_000
"""Of which the streams are looked up; where more may matter, all of the contexts is read."""
MAX_EVENTS: Final = 200_000

Row = TypeVar("Row")


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
            return await self._rows.select(model, where, parameters, ask)
        heads = await self._reader.heads(ask.as_of)
        marks = {lane: mark for lane, mark in heads.items() if lane[0] in contexts_of(model)}
        at = Token(await self._reader.incarnation(), marks)
        applied = Ask(at, ask.wait_s)  # what the rows of today say of those of then, they must have seen
        if ever is None or model.counter:
            _, _, build = await self._rows.parts(model, "false", {}, applied, limit=1)
            rows = await self._all(model, marks)
        else:
            names, _, build = await self._rows.parts(model, ever, parameters, applied, limit=MAX_ROWS + 1)
            few = len(names) <= MAX_ROWS
            rows = await (self._of(model, names, ask.as_of) if few else self._all(model, marks))
        combined = [row for parts in rows.values() if parts and (row := model.combine(parts)) is not None]
        found = await self._rows.among(model, combined, where, parameters)
        return Answer(tuple(Versioned(row, ask.as_of) for row in found), at, build)

    async def explain(
        self, model: ReadModel[Any], key: str, field: str | None, ask: Ask
    ) -> tuple[Sequence[Step], Token]:
        applied = ask
        if ask.as_of is not None:
            heads = await self._reader.heads(ask.as_of)
            marks = {lane: mark for lane, mark in heads.items() if lane[0] in contexts_of(model)}
            applied = Ask(Token(await self._reader.incarnation(), marks), ask.wait_s)
        names, at, _ = await self._rows.parts_of(model, key, applied)
        if applied.after is not None and ask.as_of is not None:
            at = applied.after
        if not names:
            return [], at
        events = await self._that_feed(model, key, names[key], at)
        return list(_steps(model, key, field, events)), at

    async def _that_feed(
        self, model: ReadModel[Any], key: str, parts: Sequence[str], at: Token
    ) -> list[Recorded]:
        """The events behind a row, in the order of the log, as far as each lane has come."""
        events: list[Recorded] = []
        if model.counter:
            async for page in self._pages(at.marks):
                events += (one for one in self._decoded(model, page) if key in keys_of(model, one))
        else:
            upto = max((mark.position for mark in at.marks.values()), default=0)
            stored = await self._reader.read_streams(sorted(parts), upto=upto, limit=MAX_EVENTS + 1)
            if len(stored) > MAX_EVENTS:
                raise TooMuchHistory
            events = [one for one in self._decoded(model, stored) if _applied_by(at, one)]
        return sorted(events, key=lambda recorded: recorded.position)

    async def _of(
        self, model: ReadModel[Any], names: Mapping[str, Sequence[str]], as_of: int
    ) -> Mapping[str, Parts]:
        """The parts of these rows at a position."""
        streams = sorted({name for parts in names.values() for name in parts})
        events = await self._reader.read_streams(streams, upto=as_of, limit=MAX_EVENTS + 1)
        if len(events) > MAX_EVENTS:
            raise TooMuchHistory
        rows: dict[str, Parts] = {}
        fold(model, rows, self._decoded(model, events), names.__contains__)
        return rows

    async def _all(self, model: ReadModel[Any], marks: Mapping[Lane, Mark]) -> Mapping[str, Parts]:
        """The parts of every row there was at these marks."""
        rows: dict[str, Parts] = {}
        async for page in self._pages(marks):
            fold(model, rows, self._decoded(model, page))
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


def _applied_by(at: Token, recorded: Recorded) -> bool:
    mark = at.marks.get((recorded.context, recorded.lane))
    return mark is not None and recorded.position <= mark.position
