"""Where in the log are the events of a type, by an actor, of a correlation? One row an event.

It leads to events and is none of them: whoever finds one here reads it in the log. What explains a row is the
event itself, `GET /v1/events/{event_id}` at the audit door.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import LiteralString

from domain import CONTEXTS
from domain.envelope import Recorded
from domain.values import category_of
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class IndexedEvent:
    """`actor` is `type:id`. The row is its own part: one event makes it."""

    event_id: str
    position: int
    type: str
    category: str
    actor: str
    correlation_id: str


def evolve(_part: IndexedEvent | None, recorded: Recorded) -> IndexedEvent:
    actor = recorded.metadata.actor
    return IndexedEvent(
        event_id=recorded.event_id,
        position=recorded.position,
        type=recorded.type,
        category=category_of(recorded.stream),
        actor=f"{actor.type}:{actor.id}",
        correlation_id=recorded.metadata.correlation_id,
    )


def keys(recorded: Recorded) -> Iterable[str]:
    yield recorded.event_id


def combine(parts: Mapping[str, IndexedEvent]) -> IndexedEvent | None:
    return next(iter(parts.values()), None)


EVENT_INDEX = ReadModel(
    name="event_index",
    row=IndexedEvent,
    folds=dict.fromkeys(CONTEXTS, evolve),
    keys=keys,
    combine=combine,
    indexes=(
        ("type", "position"),
        ("category", "position"),
        ("actor", "position"),
        ("correlation_id", "position"),
    ),
)


@dataclass(frozen=True, slots=True)
class IndexFilter:
    """All that are said must hold. `actor` is `type:id`."""

    type: str | None = None
    category: str | None = None
    actor: str | None = None
    correlation_id: str | None = None


async def indexed(
    rows: Rows, wanted: IndexFilter, ask: Ask, *, after: int, upto: int, limit: int
) -> Answer[IndexedEvent]:
    """The first `limit` events after one position, up to another, in the order of the log."""
    ever: LiteralString = "position > %(after)s and position <= %(upto)s"
    parameters: dict[str, object] = {"after": after, "upto": upto, "limit": limit}
    if wanted.type is not None:
        ever += " and type = %(type)s"
        parameters["type"] = wanted.type
    if wanted.category is not None:
        ever += " and category = %(category)s"
        parameters["category"] = wanted.category
    if wanted.actor is not None:
        ever += " and actor = %(actor)s"
        parameters["actor"] = wanted.actor
    if wanted.correlation_id is not None:
        ever += " and correlation_id = %(correlation_id)s"
        parameters["correlation_id"] = wanted.correlation_id
    where = ever + " order by position limit %(limit)s"
    return await rows.select(EVENT_INDEX, where, parameters, ask, ever=ever)
