"""What this process knows of streams, and what one decision has read of it."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

from commands.ports import Clock, Known, Log, LogUnavailable, NewEvent, Snapshots, StaleVersion
from domain.envelope import NOTHING, Tip
from domain.values import Aggregate, Event

MAX_STATES: Final = 50_000
MAX_LOADED: Final = 500
"""How many streams are read at once."""
LOADS_AT_ONCE: Final = 2
SNAPSHOT_EVERY: Final = 100
"""How many versions lie between two snapshots of a stream, at least."""

S = TypeVar("S")
E = TypeVar("E", bound=Event)


class _Line:
    """A stream ahead of the log: what it will be when all that is in flight for it has been committed."""

    __slots__ = ("broken", "followers", "known", "pending")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.pending = 0
        self.followers: set[InFlight] = set()
        self.broken = False


class InFlight:
    """An append that is queued or sent: the lines it was decided on, and what it will leave of its own.

    `leaves`: of each stream the line, the state it will be in, and its version before.
    """

    __slots__ = ("follows", "leaves")

    def __init__(self) -> None:
        self.follows: list[_Line] = []
        self.leaves: dict[str, tuple[_Line, Known, int]] = {}


class States:
    """Settled states, all of it durable, in a bounded cache, least recently used out first.

    And ahead of them the speculative ones, for as long as something is in flight. Both may be wrong about
    the log: every decision's tips are checked when it is appended. When an append fails, so will all that was
    decided on what it would have left; what they left is forgotten at once, so nothing more is decided on it.
    """

    def __init__(self, log: Log, snapshots: Snapshots) -> None:
        self._log = log
        self._snapshots = snapshots
        self._settled: OrderedDict[str, Known] = OrderedDict()
        self._ahead: dict[str, _Line] = {}
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._wanted: dict[str, Aggregate[Any, Any]] = {}
        self._turns = asyncio.Semaphore(LOADS_AT_ONCE)
        self._readers: set[asyncio.Task[None]] = set()

    def get(self, stream: str) -> Known | None:
        """What the next decision builds on."""
        line = self._ahead.get(stream)
        if line is not None:
            return line.known
        settled = self._settled.get(stream)
        if settled is not None:
            self._settled.move_to_end(stream)
        return settled

    def speculates(self, streams: Iterable[str]) -> bool:
        """Whether a decision on these streams builds on something in flight."""
        return any(name in self._ahead for name in streams)

    def moved_on(self, tips: Mapping[str, Tip]) -> bool:
        """Whether other tips than these are known by now."""
        return any((known := self.get(name)) is None or known.tip != tip for name, tip in tips.items())

    async def load(self, streams: Mapping[str, Aggregate[Any, Any]]) -> None:
        """Bring the settled states up to the log. What is being read already is waited for.

        What several commands want is read together, as their appends are written. `LogUnavailable`, or what
        the codec or a fold refuses.
        """
        loaded = {self._loading.get(name) or self._want(name, kind) for name, kind in streams.items()}
        await asyncio.wait(loaded)  # not cancelled with one who waits: others wait too
        for each in loaded:
            failed = each.exception()
            if isinstance(failed, LogUnavailable):
                raise LogUnavailable(str(failed)) from failed  # one each: who raises it adds to its traceback
            if failed:
                raise failed

    def _want(self, name: str, aggregate: Aggregate[Any, Any]) -> asyncio.Future[None]:
        if len(self._wanted) % MAX_LOADED == 0:
            reading = asyncio.create_task(self._load_wanted(), name="load streams")
            self._readers.add(reading)
            reading.add_done_callback(self._readers.discard)
        self._wanted[name] = aggregate
        loaded = self._loading[name] = asyncio.get_running_loop().create_future()
        return loaded

    async def _load_wanted(self) -> None:
        """Those that have waited longest; a stream that cannot be read is no other's trouble."""
        async with self._turns:
            wanted = dict(islice(self._wanted.items(), MAX_LOADED))
            for name in wanted:
                del self._wanted[name]
            failed = await self._failure_of(wanted) if wanted else None
            for name, aggregate in wanted.items():
                alone = failed and not isinstance(failed, LogUnavailable) and len(wanted) > 1
                failure = await self._failure_of({name: aggregate}) if alone else failed
                loaded = self._loading.pop(name)
                if failure:
                    loaded.set_exception(failure)
                    loaded.exception()  # who waits for it raises it; perhaps nobody does any more
                else:
                    loaded.set_result(None)

    async def _failure_of(self, streams: Mapping[str, Aggregate[Any, Any]]) -> BaseException | None:
        reading = asyncio.create_task(self._load(streams))
        await asyncio.wait({reading})
        return reading.exception()

    async def _load(self, streams: Mapping[str, Aggregate[Any, Any]]) -> None:
        unknown = {name: aggregate for name, aggregate in streams.items() if name not in self._settled}
        begun = dict(await self._snapshots.read(unknown)) if unknown else {}
        for name, aggregate in streams.items():
            if name not in begun:
                begun[name] = self._settled.get(name) or _unwritten(aggregate)
        if replaced := await self._bring_up(begun):
            self.forget(replaced)
            await self._bring_up({name: _unwritten(streams[name]) for name in replaced})

    async def _bring_up(self, begun: Mapping[str, Known]) -> list[str]:
        """Fold and settle what follows; the streams that cannot, because the log is none that they are of.

        Each is read from its own last event on: a log that was restored to an earlier point has another one
        of this version, or none, and what follows that must not be folded onto what we know.
        """
        news = await self._log.read_streams(
            {name: max(known.tip.version - 1, 0) for name, known in begun.items()}
        )
        replaced = []
        for name, known in begun.items():
            events = news[name]
            if known.tip.version:
                if not events or events[0].event_id != known.tip.event_id:
                    replaced.append(name)
                    continue
                events = events[1:]
            self._settle(name, known.then(events), since=known.tip.version)
        return replaced

    def admit(
        self, read: Mapping[str, Known], events: Iterable[tuple[NewEvent, Tip]], occurred_at: datetime
    ) -> InFlight:
        """An append that is about to be queued: what it writes is known from now on, ahead of the log."""
        flight = InFlight()
        for name in read:
            if (line := self._ahead.get(name)) is not None:
                line.followers.add(flight)
                flight.follows.append(line)
        left: dict[str, Known] = {}
        for new, tip in events:
            known = left.get(new.stream) or read.get(new.stream)
            if known is not None:
                left[new.stream] = known.after(tip, new.event, occurred_at)
        for name, known in left.items():
            if self.get(name) is read[name]:  # else it has moved on since it was read
                line = self._ahead.setdefault(name, _Line(known))
                line.known = known
                line.pending += 1
                flight.leaves[name] = (line, known, read[name].tip.version)
        return flight

    def landed(self, flight: InFlight) -> None:
        """It is in the log."""
        self._end(flight)
        for name, (line, known, version_before) in flight.leaves.items():
            if line.pending == 0 and self._ahead.get(name) is line:
                del self._ahead[name]
            self._settle(name, known, since=version_before)

    def lost(self, flight: InFlight) -> None:
        """It is not in the log, or nobody knows: what follows it is broken."""
        self._end(flight)
        broken = [flight]
        while broken:
            for name, (line, _, _) in broken.pop().leaves.items():
                if not line.broken:
                    line.broken = True
                    if self._ahead.get(name) is line:
                        del self._ahead[name]
                    broken += line.followers

    def forget(self, streams: Iterable[str]) -> None:
        """Their settled states: they turned out to be wrong."""
        for name in streams:
            self._settled.pop(name, None)

    def _end(self, flight: InFlight) -> None:
        for line in flight.follows:
            line.followers.discard(flight)
        for line, _, _ in flight.leaves.values():
            line.pending -= 1

    def _settle(self, name: str, known: Known, *, since: int) -> None:
        """Remember a state that the log has, unless a newer one is known; `since`: a version before it."""
        settled = self._settled.get(name)
        if settled is None or settled.tip.version <= known.tip.version:
            self._settled[name] = known
        self._settled.move_to_end(name)
        while len(self._settled) > MAX_STATES:
            self._settled.popitem(last=False)
        if known.tip.version // SNAPSHOT_EVERY > since // SNAPSHOT_EVERY:
            self._snapshots.offer(name, known)


def _unwritten(aggregate: Aggregate[Any, Any]) -> Known:
    return Known(aggregate, NOTHING, aggregate.initial, None)


class NotLoaded(Exception):
    """A decision reads streams that this process does not know yet."""

    def __init__(self, streams: Mapping[str, Aggregate[Any, Any]]) -> None:
        super().__init__(", ".join(streams))
        self.streams = streams


class Streams:
    """What one decision reads."""

    def __init__(self, states: States, clock: Clock, if_match: int | None) -> None:
        self._states = states
        self._now = clock.now()
        self._if_match = if_match
        self._read: dict[str, Known] = {}
        self._expected: dict[str, Aggregate[Any, Any]] = {}

    def expect(self, aggregate: Aggregate[S, E], idents: Sequence[str]) -> None:
        """Streams that will be read: what is missing of them is loaded in one go with the next one."""
        self._expected |= {aggregate.stream(ident): aggregate for ident in idents}

    def read(self, aggregate: Aggregate[S, E], ident: str) -> S:
        name = aggregate.stream(ident)
        known = self._states.get(name)
        if known is None:
            wanted = {**self._expected, name: aggregate}
            raise NotLoaded({key: kind for key, kind in wanted.items() if self._states.get(key) is None})
        self._read[name] = known
        state: S = known.state
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
    def known(self) -> Mapping[str, Known]:
        """All that was read."""
        return self._read
