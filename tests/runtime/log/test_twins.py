"""The same appends to the log in PostgreSQL and to its twin in memory: the same verdicts, the same events."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_tools import T0, Appends, tip

from commands.ports import Append, Appended, Condition, Duplicate, Item, Log, Verdict
from domain.envelope import NOTHING, Recorded, Tip
from domain.location import LocationRegistered
from domain.stock import Reference, StockReceived
from runtime.ids import FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate

Knowledge = Literal["settled", "after those before", "nothing", "another event", "a version ahead"]


@dataclass(frozen=True)
class Step:
    """An append: streams by number, tags and types by letter. `knows`: what its tips are taken from."""

    writes: tuple[int, ...]
    reads: tuple[int, ...]
    knows: Knowledge
    digest: int | None
    fingerprint: int
    tags: frozenset[str]
    type: str
    conditions: tuple["Forbidden", ...]


@dataclass(frozen=True)
class Forbidden:
    """A condition, `behind` so many of the events that were there when its append was made."""

    items: tuple[tuple[frozenset[str], frozenset[str]], ...]
    behind: int

    def made(self, run: int, head: int) -> Condition:
        query = tuple(
            Item(frozenset(TYPES[type_] for type_ in types), frozenset(f"{run}:{tag}" for tag in tags))
            for types, tags in self.items
        )
        return Condition(query, max(0, head - self.behind))


RECEIVED = StockReceived("MUG", "BER", "p", "v", 1, Reference("initial", "i"))
TYPES = {"r": LocationRegistered.TYPE, "s": RECEIVED.TYPE}
STREAMS = st.integers(0, 3)
LETTERS = st.frozensets(st.sampled_from("xyz"), max_size=2)
FORBIDDEN = st.builds(
    Forbidden,
    st.lists(
        st.tuples(st.frozensets(st.sampled_from("rs"), max_size=1), LETTERS), min_size=1, max_size=2
    ).map(tuple),
    st.integers(-2, 4),
)
STEP = st.builds(
    Step,
    st.lists(STREAMS, max_size=3).map(tuple),
    st.lists(STREAMS, max_size=2).map(tuple),
    st.sampled_from(
        ["settled"] * 3 + ["after those before"] * 3 + ["nothing", "another event", "a version ahead"]
    ),
    st.none() | st.integers(0, 4),
    st.sampled_from([0] * 4 + [1]),
    LETTERS,
    st.sampled_from("rrs"),
    st.just(()) | st.lists(FORBIDDEN, max_size=2).map(tuple),
)
AT_ONCE = st.lists(STEP, min_size=1, max_size=6)


class Twins:
    def __init__(self, postgres: Log) -> None:
        self._postgres = postgres
        self._runs = count()
        self._appends = Appends()
        self._wrong = self._appends.ids.new()
        self._head = 0

    async def agree(self, history: list[list[Step]]) -> None:
        memory, run = MemoryLog(FixedClock(T0)), next(self._runs)
        tips: dict[str, Tip] = {}
        begin = self._head
        for steps in history:
            appends = self._made(steps, run, dict(tips), self._head - begin)
            told = await asyncio.gather(
                *(self._postgres.append(_shifted(append, begin)) for append in appends)
            )
            told_by_twin = await asyncio.gather(*(memory.append(append) for append in appends))
            assert [_plain(verdict, begin) for verdict in told] == [
                _plain(verdict, 0) for verdict in told_by_twin
            ]
            for verdict in told:
                if isinstance(verdict, Appended):
                    tips |= {event.stream: tip(event) for event in verdict.events}
                    self._head += len(verdict.events)
            for append in appends:
                await self._find_the_same(memory, append.conditions, begin)
        there = await self._postgres.read_positions(begin + 1, 1_000)
        in_twin = await memory.read_positions(1, 1_000)
        assert [_where(event, begin) for event in there] == [_where(event, 0) for event in in_twin]
        after = {_name(run, number): number for number in range(4)}
        by_stream, by_stream_in_twin = (
            await self._postgres.read_streams(after),
            await memory.read_streams(after),
        )
        assert {
            stream: [_where(event, begin) for event in events] for stream, events in by_stream.items()
        } == {stream: [_where(event, 0) for event in events] for stream, events in by_stream_in_twin.items()}

    async def _find_the_same(self, memory: Log, conditions: Sequence[Condition], begin: int) -> None:
        for condition in conditions:
            for limit in (1, 1_000):
                after = condition.after
                found, upto = await self._postgres.read_query(
                    condition.query, after=begin + after, limit=limit
                )
                of_twin, upto_of_twin = await memory.read_query(condition.query, after=after, limit=limit)
                assert [_where(event, begin) for event in found] == [_where(event, 0) for event in of_twin]
                assert upto - begin == upto_of_twin

    def _made(self, steps: list[Step], run: int, settled: dict[str, Tip], head: int) -> list[Append]:
        """Tips "after those before" suppose that every append before it succeeds."""
        expected = dict(settled)
        made = []
        for step in steps:
            written = [_name(run, number) for number in step.writes]
            known = expected if step.knows == "after those before" else settled
            tips = {
                name: known.get(name, NOTHING) for name in [*written, *(_name(run, n) for n in step.reads)]
            }
            match step.knows:
                case "nothing":
                    tips = dict.fromkeys(tips, NOTHING)
                case "another event":
                    tips = {name: tip._replace(event_id=self._wrong) for name, tip in tips.items()}
                case "a version ahead":
                    tips = {name: tip._replace(version=tip.version + 1) for name, tip in tips.items()}
                case "settled" | "after those before":
                    pass
            append = self._appends.of(
                *written,
                tips=tips,
                digest=None if step.digest is None else f"{run:015}{step.digest}".encode(),
                fingerprint=None if step.digest is None else bytes([step.fingerprint]) * 32,
                tags=[f"{run}:{tag}" for tag in step.tags],
                conditions=[forbidden.made(run, head) for forbidden in step.conditions],
            )
            if step.type == "s":
                append = append._replace(events=[new._replace(event=RECEIVED) for new in append.events])
            for new in append.events:
                expected[new.stream] = Tip(expected.get(new.stream, NOTHING).version + 1, new.event_id)
            made.append(append)
        return made


def _name(run: int, number: int) -> str:
    return f"location-{run}-{number}"


def _shifted(append: Append, begin: int) -> Append:
    """For a log that had so many events before this history."""
    conditions = [replace(condition, after=condition.after + begin) for condition in append.conditions]
    return append._replace(conditions=conditions)


def _where(event: Recorded, begin: int) -> Any:
    return event._replace(position=event.position - begin, recorded_at=T0)


def _plain(verdict: Verdict, begin: int) -> Any:
    match verdict:
        case Appended(events):
            return [_where(event, begin) for event in events]
        case Duplicate(first, number):
            return (first - begin, number)
        case _:
            return verdict


def test_the_log_and_its_twin_agree(new_database: Callable[[], str]) -> None:
    url = new_database()
    with asyncio.Runner() as runner:
        runner.run(migrate(url, "log"))
        stack = AsyncExitStack()
        twins = Twins(runner.run(stack.enter_async_context(PostgresLog.open(url))))

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(AT_ONCE, min_size=1, max_size=6))
        def agree(history: list[list[Step]]) -> None:
            runner.run(twins.agree(history))

        try:
            agree()
        finally:
            runner.run(stack.aclose())
