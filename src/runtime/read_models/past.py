"""Queries as of an earlier position: the rows are folded anew from the log, and the same query reads them.

Which rows may matter is known from what holds of them for ever, say their keys; the streams that feed them
stand in their parts. So a question about the past of a few rows reads the streams of these, and no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, LiteralString, TypeVar

from domain.envelope import Mark, Recorded, Token
from domain.values import category_of
from projections.ports import Answer, Ask, BeyondTheLog, ReadModel, TooMuchHistory, Versioned
from runtime.log.reading import BATCH_EVENTS, LogReader, StoredEvent
from runtime.read_models.builds import Lane
from runtime.read_models.folding import Parts, contexts_of, every, fold
from runtime.read_models.rows import PostgresRows

MAX_ROWS: Final = 10_000
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
            _, build = await self._rows.parts(model, "false", {}, applied, limit=1)
            rows = await self._all(model, marks)
        else:
            names, build = await self._rows.parts(model, ever, parameters, applied, limit=MAX_ROWS + 1)
            rows = await self._of(model, names, ask.as_of)
        combined = [row for parts in rows.values() if parts and (row := model.combine(parts)) is not None]
        found = await self._rows.among(model, combined, where, parameters)
        return Answer(tuple(Versioned(row, ask.as_of) for row in found), at, build)

    async def _of(
        self, model: ReadModel[Any], names: Mapping[str, Sequence[str]], as_of: int
    ) -> Mapping[str, Parts]:
        """The parts of these rows at a position."""
        if len(names) > MAX_ROWS:
            raise TooMuchHistory
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
        left = MAX_EVENTS
        for (context, lane), mark in marks.items():
            after = 0
            while page := await self._reader.read_lane(
                context, lane, after=after, upto=mark.position, limit=BATCH_EVENTS
            ):
                left -= len(page)
                if left < 0 or len(rows) > MAX_EVENTS:
                    raise TooMuchHistory
                fold(model, rows, self._decoded(model, page), every)
                after = page[-1].position
        return rows

    def _decoded(self, model: ReadModel[Any], events: Iterable[StoredEvent]) -> Iterable[Recorded]:
        return (self._reader.decode(stored) for stored in events if category_of(stored.stream) in model.folds)
