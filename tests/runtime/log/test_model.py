"""Two writer processes on few streams, against a log that does one thing after the other (log_model.py).

Hypothesis draws the steps. What a step does depends on what the writers were told; what it draws does not.
"""

import asyncio
import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import pytest
from cutting_proxy import LATE_S, CuttingProxy, Direction, proxy_to
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from log_model import Attempt, History, Row, check
from log_worker import MAX_WAITING, PLACE, LogWorker, Said
from psycopg import sql

from domain.envelope import NOTHING, Tip
from runtime.codec import decode, decode_metadata
from runtime.ids import Uuid7s
from runtime.log.postgres import ROLE
from runtime.migrate import migrate
from runtime.postgres import Connection, connect

T = TypeVar("T")
Basis = Literal["seen", "fresh", "old", "in flight"]
"""What an append's tips are: the last its process was told, the log's, older ones, or those it just sent."""

PLACES: Final = f"location-{PLACE}"
"""Every command on stock reads it; so appends to it make commands decide again."""
STREAMS: Final = ("location-A", "location-B", "location-C", PLACES)
SKUS: Final = ("MUG", "CUP", "JUG")
KEPT: Final = ("settings", "incarnations", "writers", "migrations")
"""Tables of the log that an example leaves as they are; the others it finds empty."""
FEW_WAITING: Final = "12"
BURST: Final = 20
LOCK: Final = "select pg_advisory_lock(2047, 1)"
"""What every batch must have: while a test has it, nothing is committed."""
SETTLED_S: Final = 30.0
PATIENCE_S: Final = 0.05
SENT_AGAIN_S: Final = 3.0
"""How long a writer may take to find out what it lost; else it is only asked whether it tells the truth."""
QUICK_SEED: Final = 22
MANY_EXAMPLES: Final = 100
MANY_STEPS: Final = 40
SEED: Final = "TALLYBOOK_MODEL_SEED"

PROCESS = st.integers(0, 1)
WHICH = st.integers(0, 999)
BASIS: st.SearchStrategy[Basis] = st.sampled_from(["seen", "fresh", "old", "in flight"])
DIRECTION: st.SearchStrategy[Direction] = st.sampled_from(["requests", "answers"])
SKU = st.sampled_from(SKUS)
QTY = st.integers(1, 9)
FAULTS: Final = (
    "cut",
    "cut after some bytes",
    "hold back",
    "cut, and keep what is held back",
    "let through what is held back",
    "end all sessions",
    "hold the lock",
    "free the lock",
)
ORDER: st.SearchStrategy[Said] = st.one_of(
    st.builds(lambda sku, qty: {"do": "receive", "sku": sku, "qty": qty}, SKU, QTY),
    st.builds(
        lambda qtys, brief: {"do": "reserve", "items": list(qtys.items()), "brief": brief},
        st.dictionaries(SKU, QTY, min_size=1, max_size=2),
        st.sampled_from([False, False, True]),
    ),
    st.builds(lambda sku, qty: {"do": "adjust", "sku": sku, "delta": -qty}, SKU, QTY),
    st.builds(lambda sku, qty: {"do": "adjust", "sku": sku, "counted": qty}, SKU, QTY),
)
"""A command on stock, as log_worker.py takes it."""
ORDERS = st.lists(ORDER, max_size=8)


@dataclass(frozen=True)
class Draft:
    """An append to come. It writes nothing: a refusal. `once`: it has a digest."""

    process: int
    writes: list[str]
    reads: list[str]
    basis: Basis
    reads_basis: Basis
    once: bool


DRAFTS = st.lists(
    st.builds(
        Draft,
        PROCESS,
        st.lists(st.sampled_from(STREAMS), max_size=3),
        st.lists(st.sampled_from(STREAMS), max_size=2),
        BASIS,
        BASIS,
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


class House:
    """What all examples share: a log, two processes that write it, a proxy for each."""

    def __init__(self, url: str, errors: Path) -> None:
        self.url = url
        self.errors = errors
        self.ids = Uuid7s()
        self.numbers = itertools.count(1)
        self.steps: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.heard: Callable[[LogWorker, Said], Awaitable[None]]
        self.workers: list[LogWorker] = []
        self.proxies: list[CuttingProxy] = []
        self.urls: list[str] = []
        self.owner: Connection
        self._jammer: Connection
        self._jammed = False
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        await migrate(self.url, "log")
        self.owner = await self._stack.enter_async_context(connect(self.url, "postgres"))
        self._jammer = await self._stack.enter_async_context(connect(self.url, "postgres"))
        for number in range(2):
            proxy, url = await self._stack.enter_async_context(proxy_to(self.url))
            self.proxies.append(proxy)
            self.urls.append(url)
            self.workers.append(await self._started(number, few_waiting=bool(number)))

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
        await self._stack.aclose()

    async def _started(self, number: int, *, few_waiting: bool) -> LogWorker:
        async def heard(worker: LogWorker, said: Said) -> None:
            await self.heard(worker, said)

        worker = LogWorker(self.urls[number], self.errors, heard)
        await worker.start({MAX_WAITING: FEW_WAITING} if few_waiting else {})
        return worker

    async def start_anew(self, number: int, *, few_waiting: bool) -> None:
        """The process is killed where it stands."""
        await self.workers[number].kill()
        self.workers[number] = await self._started(number, few_waiting=few_waiting)

    async def jam(self) -> None:
        """Nothing is committed until `free`."""
        if not self._jammed:
            await self._jammer.execute(LOCK)
            self._jammed = True

    async def free(self) -> None:
        if self._jammed:
            await self._jammer.execute("select pg_advisory_unlock_all()")
            self._jammed = False

    async def terminate(self) -> None:
        """The server ends every session of the writers."""
        await self.owner.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            (ROLE,),
        )

    async def head(self) -> int:
        found = await self.owner.execute("select coalesce(max(position), 0) from log.events")
        [(head,)] = await found.fetchall()
        return int(head)

    async def rows(self) -> list[Row]:
        found = await self.owner.execute(
            "select position, stream, version, event_id::text, type, data, metadata"
            " from log.events order by position"
        )
        rows = []
        for position, stream, version, event_id, kind, data, stored in await found.fetchall():
            metadata = decode_metadata(stored)
            event = decode(kind, data)
            rows.append(
                Row(position, stream, version, event_id, event, metadata.command_id, metadata.occurred_at)
            )
        return rows

    async def empty(self) -> None:
        """Once nothing is under way any more."""
        for proxy in self.proxies:
            await proxy.quiet()
        async with asyncio.timeout(SETTLED_S):
            while await self._writing():
                await asyncio.sleep(0.01)
        found = await self.owner.execute(
            "select tablename from pg_tables where schemaname = 'log' and tablename <> all (%s)",
            (list(KEPT),),
        )
        tables = [sql.Identifier("log", name) for (name,) in await found.fetchall()]
        await self.owner.execute(sql.SQL("truncate {}").format(sql.SQL(", ").join(tables)))

    async def _writing(self) -> bool:
        found = await self.owner.execute(
            "select from pg_stat_activity where datname = current_database() and state = 'active'"
            " and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        return found.rowcount > 0


class Writers(RuleBasedStateMachine):
    def __init__(self, house: House, runner: asyncio.Runner) -> None:
        super().__init__()
        self.house = house
        self._runner = runner
        self.house.heard = self._hear
        self.attempts: dict[int, Attempt] = {}
        self.history = History([])
        self.seen: tuple[dict[str, Tip], ...] = ({}, {})
        self._numbers = house.numbers
        self._turns = itertools.count(1)
        self._processes = [0, 1]
        self._faults: list[str] = []
        self._wrong = False
        self._forgotten: dict[int, asyncio.Event] = {}

    def run(self, name: str, doing: Coroutine[Any, Any, T]) -> T:
        self.house.steps[name] += 1
        try:
            return self._runner.run(self._then_check(doing))
        except AssertionError as wrong:  # it may never happen again, and then Hypothesis speaks of that
            sys.stdout.write(f"{name}: {wrong}\n")
            self._wrong = True
            raise

    async def _then_check(self, doing: Coroutine[Any, Any, T]) -> T:
        done = await doing
        await self._check()
        return done

    async def _check(self) -> None:
        assert not self._faults, self._faults
        attempts = [replace(attempt) for attempt in self.attempts.values()]
        self.history = check(await self.house.rows(), attempts)

    async def _hear(self, worker: LogWorker, said: Said) -> None:
        if said["verdict"] == "fault":
            self._faults.append(said["why"])
            return
        if said["verdict"] == "forgotten":
            self._forgotten[said["id"]].set()
            return
        turn, head = next(self._turns), await self.house.head()
        if said["verdict"] == "read":
            self.seen[self.house.workers.index(worker)].update(
                {stream: Tip(*tip) for stream, tip in said["tips"].items()}
            )
            return
        attempt = self.attempts.get(said["id"])
        if attempt is None:
            return
        attempt.verdict, attempt.told = said["verdict"], said
        attempt.answered_head, attempt.answered_turn = head, turn
        attempt.answered_at = datetime.now(UTC)
        kind = attempt.kind if attempt.kind != "append" or attempt.event_ids else "refusal"
        self.house.verdicts[f"{kind} {attempt.verdict}"] += 1
        if attempt.kind == "append" and worker in self.house.workers:
            known = self.seen[self.house.workers.index(worker)]
            for _, stream, version, event_id in said.get("events", ()):
                known[stream] = Tip(version, event_id)

    # What is sent

    async def _send(self, process: int, *asked: Said) -> list[Attempt]:
        head = await self.house.head()
        sent = []
        for each in asked:
            number, turn = next(self._numbers), next(self._turns)
            attempt = Attempt(number, self._processes[process], {**each, "id": number}, head, turn)
            self.attempts[number] = attempt
            sent.append(attempt)
        self.house.workers[process].send(*(attempt.asked for attempt in sent))
        return sent

    async def _answered(self, attempts: list[Attempt], seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while any(attempt.verdict == "waiting" for attempt in attempts) and not self._faults:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.001)
        return True

    def _append(
        self,
        process: int,
        writes: list[str],
        reads: list[str],
        basis: Basis,
        request: tuple[str, str] | None,
    ) -> Said:
        """`request`: its digest and fingerprint."""
        tips = {stream: self._tip(process, stream, basis) for stream in [*writes, *reads]}
        return {
            "do": "append",
            "command_id": self.house.ids.new(),
            "tips": {stream: [tip.version, tip.event_id] for stream, tip in tips.items()},
            "events": [[stream, self.house.ids.new()] for stream in writes],
            "digest": request[0] if request else None,
            "fingerprint": request[1] if request else None,
        }

    def _tip(self, process: int, stream: str, basis: Basis) -> Tip:
        match basis:
            case "seen":
                return self.seen[process].get(stream, NOTHING)
            case "fresh":
                return self.history.tip_at(stream, self.history.points[-1])
            case "old":
                return self.history.old_tips(stream)[-2:][0]
            case "in flight":
                return self._tip_in_flight(process, stream)

    def _tip_in_flight(self, process: int, stream: str) -> Tip:
        """What the stream ends with if the last append of this process to it is in the log."""
        for attempt in reversed(self.attempts.values()):
            if attempt.process == self._processes[process] and attempt.kind == "append":
                written = [event_id for name, event_id in attempt.event_ids if name == stream]
                if written and attempt.verdict in {"waiting", "appended"}:
                    return Tip(attempt.tips[stream].version + len(written), written[-1])
        return self._tip(process, stream, "seen")

    def _request(self) -> tuple[str, str]:
        return self.house.ids.new().replace("-", ""), self.house.ids.new().replace("-", "") * 2

    # Steps

    @initialize()
    def begin(self) -> None:
        self.run("begin", self._begin())

    async def _begin(self) -> None:
        await self._released()
        await self.house.empty()
        for number, worker in enumerate(self.house.workers):
            self._forgotten[-number] = asyncio.Event()
            worker.send({"id": -number, "do": "forget"})
        async with asyncio.timeout(SETTLED_S):
            for forgotten in self._forgotten.values():
                await forgotten.wait()
        streams = [PLACES, *(f"sku-{sku}" for sku in SKUS)]
        async with asyncio.timeout(SETTLED_S):
            while True:  # the last example may have left a process without a connection
                [first] = await self._send(0, self._append(0, streams, [], "fresh", None))
                await self._answered([first], SETTLED_S)
                await self._check()
                if self.history.effects:
                    return
                assert first.verdict in {"unavailable", "unknown"}, first
                await asyncio.sleep(0.02)

    @rule(drafts=DRAFTS, patient=st.booleans())
    def append(self, drafts: list[Draft], patient: bool) -> None:
        self.run("appends", self._append_all(drafts, patient))

    async def _append_all(self, drafts: list[Draft], patient: bool) -> None:
        sent = []
        for draft in drafts:
            request = self._request() if draft.once else None
            asked = self._append(draft.process, draft.writes, draft.reads, draft.basis, request)
            for stream in set(draft.reads) - set(draft.writes):
                tip = self._tip(draft.process, stream, draft.reads_basis)
                asked["tips"][stream] = [tip.version, tip.event_id]
            sent += await self._send(draft.process, asked)
        if patient:
            await self._answered(sent, PATIENCE_S)

    async def _sent(self, process: int, *asked: Said, patient: bool) -> None:
        sent = await self._send(process, *asked)
        if patient:
            await self._answered(sent, PATIENCE_S)

    @rule(process=PROCESS, then=st.sampled_from(["look", "settle"]))
    def rest(self, process: int, then: str) -> None:
        self.run(then, self._look(process) if then == "look" else self._settle())

    async def _look(self, process: int) -> None:
        self.house.workers[process].send({"id": next(self._numbers), "do": "read", "streams": list(STREAMS)})

    @rule(
        process=PROCESS,
        which=WHICH,
        writes=st.lists(st.sampled_from(STREAMS), max_size=2),
        basis=BASIS,
        same=st.booleans(),
    )
    def repeat(self, process: int, which: int, writes: list[str], basis: Basis, same: bool) -> None:
        sent = [each for each in self.attempts.values() if each.kind == "append" and each.digest]
        if sent:
            asked = self._one_of(sent, which).asked
            request = (asked["digest"], asked["fingerprint"] if same else self._request()[1])
            again = self._append(process, writes, [STREAMS[0]], basis, request)
            self.run(f"repeat {'the same' if same else 'another'}", self._sent(process, again, patient=True))

    def _one_of(self, sent: list[Attempt], which: int) -> Attempt:
        """Rather one that had its effect, if there is one."""
        effective = [each for each in sent if each.command_id in self.history.effects]
        return random.Random(which).choice(effective if effective and which % 4 else sent)  # noqa: S311 - drawn

    @rule(process=PROCESS, stream=st.sampled_from(STREAMS), chained=st.booleans(), patient=st.booleans())
    def burst(self, process: int, stream: str, chained: bool, patient: bool) -> None:
        asked = [self._append(process, [stream], [], "seen", self._request()) for _ in range(BURST)]
        if chained:
            for before, after in itertools.pairwise(asked):
                version, _ = before["tips"][stream]
                after["tips"][stream] = [version + 1, before["events"][0][1]]
        self.run("burst, chained" if chained else "burst", self._sent(process, *asked, patient=patient))

    @rule(mine=ORDERS, yours=ORDERS, patient=st.booleans())
    def trade(self, mine: list[Said], yours: list[Said], patient: bool) -> None:
        self.run("commands of both processes", self._trade(mine, yours, patient))

    async def _trade(self, mine: list[Said], yours: list[Said], patient: bool) -> None:
        sent = []
        for process, orders in enumerate((mine, yours)):
            sent += await self._send(process, *(self._order(order) for order in orders))
        if patient:
            await self._answered(sent, PATIENCE_S)

    def _order(self, order: Said, request: tuple[str, str] | None = None) -> Said:
        digest, fingerprint = request or self._request()
        return {**order, "command_id": self.house.ids.new(), "digest": digest, "fingerprint": fingerprint}

    @rule(process=PROCESS, which=WHICH, other=ORDER, same=st.booleans())
    def repeat_command(self, process: int, which: int, other: Said, same: bool) -> None:
        sent = [each for each in self.attempts.values() if each.kind != "append"]
        if sent:
            asked = self._one_of(sent, which).asked
            fingerprint = asked["fingerprint"] if same else self._request()[1]
            again = self._order(asked if same else other, (asked["digest"], fingerprint))
            name = f"repeat a command, {'the same' if same else 'another'}"
            self.run(name, self._sent(process, again, patient=True))

    # Faults

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        waiting = [each for each in self.attempts.values() if each.verdict == "waiting"]
        if waiting:
            self.run("cancel a caller", self._cancel(waiting[which % len(waiting)]))

    async def _cancel(self, attempt: Attempt) -> None:
        worker = self.house.workers[self._processes.index(attempt.process)]
        worker.send({"id": next(self._numbers), "do": "cancel", "caller": attempt.number})

    @rule(process=PROCESS, few_waiting=st.booleans(), now=st.sampled_from([False, False, True]))
    def kill(self, process: int, few_waiting: bool, now: bool) -> None:
        if now:  # seldom: to start one takes longer than all other steps of an example
            self.run("kill a process", self._kill(process, few_waiting))

    async def _kill(self, process: int, few_waiting: bool) -> None:
        await self.house.start_anew(process, few_waiting=few_waiting)
        for attempt in self.attempts.values():
            if attempt.process == self._processes[process] and attempt.verdict == "waiting":
                attempt.verdict = "lost"
        self._processes[process] = max(self._processes) + 1
        self.seen[process].clear()

    @rule(
        kind=st.sampled_from(FAULTS),
        process=PROCESS,
        direction=DIRECTION,
        count=st.integers(1, 6_000),
    )
    def fault(self, kind: str, process: int, direction: Direction, count: int) -> None:
        proxy = self.house.proxies[process]
        doing: Coroutine[Any, Any, None]
        match kind:
            case "cut":
                doing = self._at_once(proxy.cut)
            case "cut after some bytes":
                doing = self._at_once(proxy.cut_after, count, direction)
            case "hold back":
                doing = self._at_once(proxy.hold, direction)
            case "cut, and keep what is held back":
                doing = self._at_once(proxy.strand)
            case "let through what is held back":
                doing = self._at_once(proxy.release)
            case "end all sessions":
                doing = self.house.terminate()
            case "hold the lock":
                doing = self.house.jam()
            case _:
                doing = self.house.free()
        self.run(kind, doing)

    async def _at_once(self, act: Callable[..., None], *arguments: object) -> None:
        act(*arguments)
        await asyncio.sleep(0)

    @rule(
        process=PROCESS,
        writes=st.permutations(STREAMS),
        once=st.booleans(),
        when=st.sampled_from(["at the end", "before it is sent again", "before a chunk"]),
        chunk=st.integers(1, 12),
    )
    def late(self, process: int, writes: list[str], once: bool, when: str, chunk: int) -> None:
        """What was sent over a lost connection arrives after another has begun."""
        self.run(f"late, {when}", self._late(process, writes, once, when, chunk))

    async def _late(self, process: int, writes: list[str], once: bool, when: str, chunk: int) -> None:
        await self.house.free()
        proxy = self.house.proxies[process]
        *held_back, after = (
            self._append(process, [stream], [], "fresh", self._request() if once else None)
            for stream in writes
        )
        proxy.hold("requests")
        sent = await self._send(process, *held_back)
        await asyncio.sleep(LATE_S)
        proxy.strand()
        if when == "before it is sent again":
            proxy.deliver_before(writes[0].encode())
        elif when == "before a chunk":
            proxy.deliver_before(chunk)
        await self._answered(sent, SENT_AGAIN_S)
        sent = await self._send(process, after)
        await self._answered(sent, PATIENCE_S)
        proxy.release()
        await asyncio.sleep(LATE_S)

    async def _released(self) -> None:
        await self.house.free()
        for proxy in self.house.proxies:
            proxy.release()

    async def _settle(self) -> None:
        await self._released()
        await self._answered(list(self.attempts.values()), SETTLED_S)
        assert not self._faults, self._faults
        waiting = [attempt for attempt in self.attempts.values() if attempt.verdict == "waiting"]
        assert not waiting, f"{len(waiting)} were never answered, among them {waiting[0]}"

    def teardown(self) -> None:
        if self._wrong:
            return  # one failure is enough; the next example cleans up
        self.run("settle", self._settle())


@pytest.fixture
def house(
    new_database: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        house = House(new_database(), tmp_path / "workers.log")
        runner.run(house.open())
        yield lambda: Writers(house, runner)
        runner.run(house.close())
    with capsys.disabled():
        sys.stdout.write("\n" + lines_of(house.steps, "steps") + lines_of(house.verdicts, "answers"))


def lines_of(counted: Counter[str], of: str) -> str:
    each = ", ".join(f"{count} × {name}" for name, count in sorted(counted.items()))
    return f"  {counted.total()} {of}: {each}\n"


def try_steps(machine: Callable[[], Writers], number: int, examples: int, steps: int, *more: Phase) -> None:
    run_state_machine_as_test(
        cast("type[Writers]", seed(number)(machine)),  # it is called, no more
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate, *more),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_what_two_writers_are_told_could_have_happened_one_after_the_other(
    house: Callable[[], Writers],
) -> None:
    try_steps(house, QUICK_SEED, examples=14, steps=25)


@pytest.mark.heavy
@pytest.mark.timeout(1_800)
def test_so_it_could_with_many_more_steps(
    house: Callable[[], Writers], capsys: pytest.CaptureFixture[str]
) -> None:
    number = int(os.environ.get(SEED) or random.SystemRandom().randrange(2**32))
    with capsys.disabled():
        sys.stdout.write(f"\n  {SEED}={number}\n")
    try_steps(house, number, examples=MANY_EXAMPLES, steps=MANY_STEPS)
