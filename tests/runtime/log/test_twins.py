"""The same appends to the log in PostgreSQL and to its twin in memory: the same verdicts, the same events."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_tools import T0, Appends, tip

from commands.ports import Append, Appended, Duplicate, Log, Verdict
from domain.envelope import NOTHING, Recorded, Tip
from runtime.ids import FixedClock
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.migrate import migrate

Knowledge = Literal["settled", "after those before", "nothing", "another event", "a version ahead"]


@dataclass(frozen=True)
class Step:
    """An append: streams by number. `knows`: what its tips are taken from."""

    writes: tuple[int, ...]
    reads: tuple[int, ...]
    knows: Knowledge
    digest: int | None
    fingerprint: int


STREAMS = st.integers(0, 3)
STEP = st.builds(
    Step,
    st.lists(STREAMS, max_size=3).map(tuple),
    st.lists(STREAMS, max_size=2).map(tuple),
    st.sampled_from(
        ["settled"] * 3 + ["after those before"] * 3 + ["nothing", "another event", "a version ahead"]
    ),
    st.none() | st.integers(0, 4),
    st.sampled_from([0] * 4 + [1]),
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
            appends = self._made(steps, run, dict(tips))
            told = await asyncio.gather(*(self._postgres.append(append) for append in appends))
            told_by_twin = await asyncio.gather(*(memory.append(append) for append in appends))
            assert [_plain(verdict, begin) for verdict in told] == [
                _plain(verdict, 0) for verdict in told_by_twin
            ]
            for verdict in told:
                if isinstance(verdict, Appended):
                    tips |= {event.stream: tip(event) for event in verdict.events}
                    self._head += len(verdict.events)
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

    def _made(self, steps: list[Step], run: int, settled: dict[str, Tip]) -> list[Append]:
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
                    tips = {name: replace(tip, event_id=self._wrong) for name, tip in tips.items()}
                case "a version ahead":
                    tips = {name: replace(tip, version=tip.version + 1) for name, tip in tips.items()}
                case "settled" | "after those before":
                    pass
            append = self._appends.of(
                *written,
                tips=tips,
                digest=None if step.digest is None else f"{run:015}{step.digest}".encode(),
                fingerprint=None if step.digest is None else bytes([step.fingerprint]) * 32,
            )
            for new in append.events:
                expected[new.stream] = Tip(expected.get(new.stream, NOTHING).version + 1, new.event_id)
            made.append(append)
        return made


def _name(run: int, number: int) -> str:
    return f"location-{run}-{number}"


def _where(event: Recorded, begin: int) -> Any:
    return replace(event, position=event.position - begin, recorded_at=T0)


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
