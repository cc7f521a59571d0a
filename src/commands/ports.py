"""What the commands need of the world: the log, a clock, ids, and the rules of the house."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from domain.envelope import Actor, Metadata, Recorded, Tip
from domain.values import Aggregate, Event, Rejected

MAX_STREAMS_PER_APPEND = 1_024
MAX_EVENTS_PER_APPEND = 1_000


class NewEvent(NamedTuple):
    """`tags` are what conditions can find it by: 1 to 120 characters each, say `customer:0190…`."""

    stream: str
    event_id: str
    event: Event
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Item:
    """The events of any of these types (none named: of any type) that carry all of these tags."""

    types: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Condition:
    """Does not hold if an event after position `after` matches any of `query` (at least one item)."""

    query: tuple[Item, ...]
    after: int


class Append(NamedTuple):
    """All of it or nothing of it.

    `tips` names every stream the decision read or writes; `events` are in order, versions follow from the
    tips. No events is a refusal: it holds only if the tips do. `digest` (16 bytes) recognises a repeat,
    `fingerprint` (32 bytes) tells whether the repeat says the same; both None where nothing can repeat.
    `conditions` are those of the Dynamic Consistency Boundary specification (dcb.events).
    """

    tips: Mapping[str, Tip]
    events: Sequence[NewEvent]
    metadata: Metadata
    digest: bytes | None
    fingerprint: bytes | None
    conditions: Sequence[Condition] = ()


class Appended(NamedTuple):
    """The events as recorded, in order, at consecutive positions; none for a refusal whose tips held."""

    events: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A tip is not the tip any more, or a condition does not hold: decide again."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """This very request has had its effect: `count` events from `first_position`."""

    first_position: int
    count: int


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The digest is bound to another request."""


Verdict = Appended | Conflict | Duplicate | Mismatch


class Log(Protocol):
    """The log as writers see it.

    Raises `LogFull` before anything is queued, `OutcomeUnknown` when the connection broke while
    committing, `LogUnavailable` when nothing was done; ValueError for an append that no log takes: limits
    passed, names that cannot be stored, an event id that the log has already.
    """

    @property
    def incarnation(self) -> str: ...

    async def append(self, append: Append) -> Verdict: ...

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        """The events of each stream after the given version (0: all), all read in one snapshot.

        Every stream asked for is a key, also one that does not exist.
        """
        ...

    async def read_positions(self, first_position: int, count: int) -> Sequence[Recorded]: ...

    async def read_query(
        self, query: Sequence[Item], *, after: int = 0, limit: int
    ) -> tuple[Sequence[Recorded], int]:
        """The first `limit` events after a position that match any of the items, in order.

        And up to which position that is all: what a condition decided on them may name as its `after`.
        """
        ...


class LogFull(Exception):
    """Too many appends are waiting; nothing was queued."""


class LogUnavailable(Exception):
    """The log cannot be reached; nothing was done."""


class OutcomeUnknown(Exception):
    """The connection broke while committing; the same request sent again finds out."""


class Known(NamedTuple):
    """The state of a stream after its event at `tip`; `occurred_at` is the latest time that led to it."""

    aggregate: Aggregate[Any, Any]
    tip: Tip
    state: Any
    occurred_at: datetime | None

    def after(self, tip: Tip, event: Event, occurred_at: datetime) -> "Known":
        latest = max(occurred_at, self.occurred_at) if self.occurred_at else occurred_at
        return Known(self.aggregate, tip, self.aggregate.evolve(self.state, event), latest)

    def then(self, events: Sequence[Recorded]) -> "Known":
        """After events that follow."""
        if not events:
            return self
        state, evolve = self.state, self.aggregate.evolve
        for recorded in events:
            state = evolve(state, recorded.event)
        times = [recorded.metadata.occurred_at for recorded in events]
        latest = max([self.occurred_at, *times] if self.occurred_at else times)
        return Known(self.aggregate, Tip(events[-1].version, events[-1].event_id), state, latest)


class Snapshots(Protocol):
    """States of long streams, so that loading one need not begin at its first event: only a cache."""

    async def read(self, streams: Mapping[str, Aggregate[Any, Any]]) -> Mapping[str, Known]:
        """Those there are, for this code's states, with tips that the log agrees with."""
        ...

    def offer(self, stream: str, known: Known) -> None:
        """A settled state that may be kept. Never waits, and may do nothing."""
        ...


class NoSnapshots:
    async def read(self, _streams: Mapping[str, Aggregate[Any, Any]]) -> Mapping[str, Known]:
        return {}

    def offer(self, _stream: str, _known: Known) -> None:
        return


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware UTC."""
        ...


class Ids(Protocol):
    def new(self) -> str:
        """A UUIDv7 in its canonical text form."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """The house's settings that decisions take as facts."""

    default_currency: str = "EUR"
    default_language: str = "en"
    default_location: str = "MAIN"
    reservation_ttl: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Issued:
    """How a command was issued.

    `if_match` is the version the caller has seen, None where it may not matter; `digest` and `fingerprint`
    as in `Append`; `causation_id` is an event's id, set by policies.
    """

    actor: Actor
    command_id: str
    correlation_id: str
    digest: bytes
    fingerprint: bytes
    causation_id: str | None = None
    trace_id: str | None = None
    if_match: int | None = None


class Receipt(NamedTuple):
    """What a command wrote. `replayed`: it had been written before, by the same request."""

    events: tuple[Recorded, ...]
    replayed: bool


@dataclass(eq=False)
class StaleVersion(Rejected):
    """The aggregate has changed since the version named in If-Match."""

    current_version: int


class KeyReused(Rejected):
    """This idempotency key was used for another request."""


class Contended(Rejected):
    """Too many others are changing the same things; nothing was done, try again."""


async def nowhere(_point: str) -> None:
    """The hook of a process that neither pauses nor crashes at named points."""


Reached = Callable[[str], Awaitable[None]]
