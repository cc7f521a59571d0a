"""The shape of a read model, and what its queries need of the world.

A read model is a pure fold. Its row is made of *parts*, each written by one stream only, so that any
interleaving of the streams gives the same row; `combine` makes the queryable columns from the parts. Or it is
a counter: each part is a sum over a lane's events, and each event contributes on its own account. The
runtime does everything else: tables, checkpoints, locks, revisions, rebuilding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, LiteralString, Protocol, TypeVar, dataclass_transform

from domain.envelope import Recorded, Token
from domain.values import NotFound, Rejected

Row = TypeVar("Row")
T = TypeVar("T")
Fold = Callable[[Any, Recorded], Any] | Callable[[Any, Recorded, str], Any]


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a part or a row: a dataclass with slots that is frozen to the type checker alone.

    Making one that is frozen at run time takes three times as long, and a fold does little else.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass(frozen=True, slots=True)
class ReadModel(Generic[Row]):
    """How a read model is folded and stored.

    - `row`: a `record`, one column a field (str, int, bool, datetime; anything else is stored as
      jsonb); its first field is the key.
    - `folds`: for each stream category that feeds it, the fold of that category's part:
      `evolve(part | None, recorded) -> part`. A part is a `record`. It names its class in the
      return annotation. A fold looks nothing up and never judges.
    - `counter`: a part sums up what the events of a category and lane contribute to the row, in any order:
      `add(part | None, recorded, key) -> part`.
    - `keys`: the keys of the rows an event feeds; bounded, and from the event alone.
    - `combine`: the row from its parts by stream name, or None while there is nothing to show yet.
    - `indexes`: the column lists of the secondary indexes.
    - `texts`: the columns whose words are looked for; a query asks `to_tsvector('simple', column) @@ …`.
    - `cached`: its rows are so wide that it is worth asking a cache for them, by key and revision.
    - `edition`: raised by hand when `keys`, a fold or `combine` changes its meaning: a new build.
    """

    name: str
    row: type[Row]
    folds: Mapping[str, Fold]
    keys: Callable[[Recorded], Iterable[str]]
    combine: Callable[[Mapping[str, Any]], Row | None]
    counter: bool = False
    indexes: tuple[tuple[str, ...], ...] = ()
    texts: tuple[str, ...] = ()
    edition: int = 1
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Versioned(Generic[Row]):
    """A row and its revision, which every write raises."""

    row: Row
    revision: int


class Placed(Protocol):
    """An event, decoded or not, and where it stands in the log."""

    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def event_id(self) -> str: ...


Event = TypeVar("Event", bound=Placed)


@dataclass(frozen=True, slots=True)
class Omitted:
    """What the rows of a build leave out of the log: whoever folds it again leaves out the same.

    - `parked`: streams whose events are left out from a position on, until a fold takes them.
    - `skipped`: the positions of single events, by their ids, which are left out for ever.
    """

    parked: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    def holds(self, event: Placed) -> bool:
        return self.is_parked(event) or event.event_id in self.skipped

    def is_parked(self, event: Placed) -> bool:
        first = self.parked.get(event.stream)
        return first is not None and event.position >= first

    def out_of(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events that are left."""
        if not self.parked and not self.skipped:
            return iter(events)
        return (event for event in events if not self.holds(event))


@dataclass(frozen=True, slots=True)
class Answer(Generic[Row]):
    """Rows and the vector they hold at, both from one snapshot. `build` names the tables they came from.

    `omitted`: what these tables leave out, as of the same snapshot.
    """

    rows: tuple[Versioned[Row], ...]
    at: Token
    build: str
    omitted: Omitted = field(default_factory=Omitted)


class NotYetApplied(Rejected):
    """What you wait for is not applied yet; ask again."""


@dataclass(eq=False)
class StreamParked(Rejected):
    """What you wrote is not shown here until the shop has mended how it reads the stream."""

    stream: str


@dataclass(eq=False)
class BeyondTheLog(Rejected):
    """Nothing is recorded there yet."""

    head: int


class UnknownRow(NotFound):
    """No event has fed such a row."""


class TooMuchHistory(Rejected):
    """The answer would take more history than is looked into for one question."""


class TooManyWaiting(Rejected):
    """As many queries wait for read models as may; ask again, or wait for less."""


class ForeignToken(Rejected):
    """The consistency token belongs to another history of this shop."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The consistency a query asks for: after which token, waiting how long.

    `as_of`: as it was when the log had come to this position; `after` plays no part then.
    """

    after: Token | None = None
    wait_s: float = 0.0
    as_of: int | None = None


class Rows(Protocol):
    """The read models as queries see them."""

    async def select(
        self,
        model: ReadModel[Row],
        where: LiteralString,
        parameters: Mapping[str, object],
        ask: Ask,
        *,
        ever: LiteralString | None = None,
    ) -> Answer[Row]:
        """The rows that satisfy `where` (and what may follow it: order by, limit).

        Waits, as `ask` says, until the model has applied all of its token that concerns it, else
        raises `NotYetApplied`; `ForeignToken` if the token is of another incarnation; `StreamParked` if what
        was written under it is of a stream that the model has parked; `TooManyWaiting`.

        `ever`: what holds today of every row that has satisfied `where` at any time, so that only the past
        of these is looked into. Without it all of history is, as far as that goes: `TooMuchHistory`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """An event that changed a row: what it is from then on, or one field of it; None where there is none."""

    recorded: Recorded
    value: Any


class Past(Protocol):
    """Where the log was at a time, and what led to a row."""

    async def position_at(self, at: datetime) -> int:
        """Of the last event recorded until then, 0 before the first. `BeyondTheLog` after the newest."""
        ...

    async def must_reach(self, position: int) -> None:
        """`BeyondTheLog` where there is no event at the position yet."""
        ...

    async def explain(
        self, model: ReadModel[Any], key: str, field: str | None, ask: Ask
    ) -> tuple[Sequence[Step], Token]:
        """Every event that changed the row, or one field of it, in the log's order; and where that holds.

        None for a row there never was. Waits and refuses as `Rows.select` does. `TooMuchHistory`.
        """
        ...
