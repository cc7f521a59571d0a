"""What this process knows of streams, and what one decision has read of it."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from commands.ports import Clock, Log, StaleVersion
from domain.envelope import NOTHING, Recorded, Tip
from domain.values import Aggregate, Event

MAX_STATES: Final = 50_000

S = TypeVar("S")
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Settled:
    """The state of a stream after its event at `tip`, all of it durable."""

    aggregate: Aggregate[Any, Any]
    tip: Tip
    state: Any
    occurred_at: datetime | None

    def after(self, recorded: Recorded) -> "Settled":
        happened = recorded.metadata.occurred_at
        return Settled(
            self.aggregate,
            Tip(recorded.version, recorded.event_id),
            self.aggregate.evolve(self.state, recorded.event),
            max(happened, self.occurred_at) if self.occurred_at else happened,
        )


class States:
    """A bounded cache of settled states, least recently used out first.

    It may be behind the log: every decision's tips are checked when it is appended.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: OrderedDict[str, Settled] = OrderedDict()

    def get(self, stream: str) -> Settled | None:
        settled = self._known.get(stream)
        if settled is not None:
            self._known.move_to_end(stream)
        return settled

    async def load(self, streams: Mapping[str, Aggregate[Any, Any]]) -> None:
        """Bring the streams up to the log."""
        after = {name: known.tip.version if (known := self._known.get(name)) else 0 for name in streams}
        news = await self._log.read_streams(after)
        for name, aggregate in streams.items():
            self._known.setdefault(name, Settled(aggregate, NOTHING, aggregate.initial, None))
            self.advance(news.get(name, ()))
        while len(self._known) > MAX_STATES:
            self._known.popitem(last=False)

    def moved_on(self, tips: Mapping[str, Tip]) -> bool:
        """Whether other tips than these are known by now."""
        return any((known := self._known.get(name)) is None or known.tip != tip for name, tip in tips.items())

    def advance(self, events: Iterable[Recorded]) -> None:
        """Apply events that follow what is known; those known already, or too far ahead, are passed over."""
        for recorded in events:
            known = self._known.get(recorded.stream)
            if known is not None and recorded.version == known.tip.version + 1:
                self._known[recorded.stream] = known.after(recorded)

    def forget(self, streams: Iterable[str]) -> None:
        for name in streams:
            self._known.pop(name, None)


class NotLoaded(Exception):
    """A decision reads streams that this process does not know yet."""

    def __init__(self, streams: Mapping[str, Aggregate[Any, Any]]) -> None:
        super().__init__(", ".join(streams))
        self.streams = streams


class Streams:
    """What one decision reads. Its tips are those of every stream that was read."""

    def __init__(self, states: States, clock: Clock, if_match: int | None) -> None:
        self._states = states
        self._now = clock.now()
        self._if_match = if_match
        self._read: dict[str, Settled] = {}
        self._expected: dict[str, Aggregate[Any, Any]] = {}

    def expect(self, aggregate: Aggregate[S, E], idents: Sequence[str]) -> None:
        """Streams that will be read: what is missing of them is loaded in one go with the next one."""
        self._expected |= {aggregate.stream(ident): aggregate for ident in idents}

    def read(self, aggregate: Aggregate[S, E], ident: str) -> S:
        name = aggregate.stream(ident)
        settled = self._states.get(name)
        if settled is None:
            wanted = {**self._expected, name: aggregate}
            raise NotLoaded({key: kind for key, kind in wanted.items() if self._states.get(key) is None})
        self._read[name] = settled
        state: S = settled.state
        return state

    def must_match(self, aggregate: Aggregate[S, E], ident: str) -> None:
        """`StaleVersion` if If-Match names another version than that of this stream, read before."""
        version = self._read[aggregate.stream(ident)].tip.version
        if self._if_match is not None and version != self._if_match:
            raise StaleVersion(version)

    @property
    def at(self) -> datetime:
        """The time of the decision: never before what it has read. Ask after the last read."""
        return max([self._now, *(known.occurred_at for known in self._read.values() if known.occurred_at)])

    @property
    def aggregates(self) -> Mapping[str, Aggregate[Any, Any]]:
        return {name: settled.aggregate for name, settled in self._read.items()}

    @property
    def tips(self) -> dict[str, Tip]:
        return {name: settled.tip for name, settled in self._read.items()}
