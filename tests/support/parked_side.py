"""One worker's and one operator's deeds on a read side, step by step."""

from fresh_fold import differing_rows, stored_rows
from history import received, stock_of
from read_side import ReadSide

from domain.envelope import Recorded
from projections.ports import Omitted
from projections.stock_availability import STOCK_AVAILABILITY, StockAvailability
from runtime.messages import delivery_of, message_of
from runtime.read_models import builds
from runtime.read_models.folding import Model, contexts_of
from runtime.read_models.lanes import FoldedLane, Sources
from runtime.read_models.lanes import deliver as deliver_to
from runtime.read_models.parked import Parked, omitted_of, parked_streams
from runtime.read_models.resuming import resume
from runtime.read_models.tables import Table

UNKNOWN = "00000000-0000-7000-8000-0000000000ff"
"""No event's id."""


async def lanes_of(side: ReadSide, model: Model) -> dict[builds.Lane, FoldedLane]:
    """Its lanes, from where the stored checkpoints are; each call is another worker."""
    table, incarnation = Table(model), await side.reader.incarnation()
    async with side.pool.connection() as connection:
        await builds.create(connection, table, await side.reader.lanes(), incarnation)
        marks = await builds.marks_of(connection, table.build)
    sources = Sources(side.reader, side.pool, incarnation)
    return {lane: FoldedLane(sources, table, lane, mark) for lane, mark in marks.items()}


async def catch_up(side: ReadSide, model: Model) -> None:
    """By one worker, to the head of every lane."""
    heads = await side.reader.heads()
    for place, lane in (await lanes_of(side, model)).items():
        if place in heads:
            await lane.catch_up(heads[place].position)


async def parked(side: ReadSide) -> list[Parked]:
    async with side.pool.connection() as connection:
        return await parked_streams(connection)


async def omitted(side: ReadSide, model: Model) -> Omitted:
    async with side.pool.connection() as connection:
        return await omitted_of(connection, Table(model))


async def differing(side: ReadSide, model: Model, without: Omitted | None = None) -> list[str]:
    """From a fold by the model's own folds, without what the build says that it leaves out."""
    async with side.pool.connection() as connection:
        left_out = await omitted_of(connection, Table(model)) if without is None else without
        return await differing_rows(side.reader, connection, model, left_out)


async def retried(side: ReadSide, model: Model) -> list[Parked | None]:
    async with side.pool.connection() as connection:
        return [
            await resume(connection, side.reader, Table(model), one)
            for one in await parked_streams(connection)
        ]


async def on_hand(side: ReadSide) -> dict[str, int]:
    async with side.pool.connection() as connection:
        rows = await stored_rows(connection, STOCK_AVAILABILITY)
    return {key: row.on_hand for key, row in rows.items() if isinstance(row, StockAvailability)}


async def received_by(side: ReadSide, item_number: int, *quantities: int) -> list[Recorded]:
    """One event each."""
    return [
        (await side.writer.append((stock_of(item_number), received(item_number, qty))))[0]
        for qty in quantities
    ]


async def deliver(side: ReadSide, model: Model, copies: int = 1) -> None:
    """All of the log that concerns the model, as it comes through Kafka, to one worker."""
    incarnation = await side.reader.incarnation()
    lanes = await lanes_of(side, model)
    for event in await side.reader.read(0):
        if event.context in contexts_of(model):
            arrived = [delivery_of(message_of(event, incarnation)) for _ in range(copies)]
            await deliver_to({lanes[event.context, event.lane]: arrived})
