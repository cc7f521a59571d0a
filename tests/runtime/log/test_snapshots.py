"""Snapshots save reading; the log alone says what is true."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_tools import T0, Appends
from prometheus_client import Counter
from wire import wire_to

from commands import _states
from commands._states import States
from commands._transact import transact
from commands.ports import (
    Appended,
    Issued,
    Known,
    Log,
    LogUnavailable,
    NewEvent,
    NoSnapshots,
    Rules,
    Snapshots,
)
from commands.shop import Shop
from domain import stock
from domain.envelope import NOTHING, Actor, Recorded, Tip
from domain.stock import (
    STOCK,
    Holder,
    Item,
    Reference,
    ReservationCommitted,
    Stock,
    StockEvent,
    StockReceived,
    StockReserved,
)
from domain.values import Aggregate, Rejected
from runtime import postgres
from runtime.ids import FixedClock, Uuid7s
from runtime.log import snapshots
from runtime.log.memory import MemoryLog
from runtime.log.postgres import PostgresLog
from runtime.log.snapshots import Row, SnapshotStore
from runtime.postgres import Connection, connect
from runtime.state_codec import encode_state

pytestmark = pytest.mark.anyio

MUG: Final = "stock-MUG@MAIN"
CUP: Final = "stock-CUP@MAIN"
ITEM: Final = Item("MUG", "MAIN", "p1", "v1")
DELIVERY: Final = Reference("purchase", "po-1")
WAIT_S: Final = 10.0


class CountingLog(PostgresLog):
    """Remembers how many events it has read of streams."""

    events_read = 0

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found = await super().read_streams(after)
        self.events_read += sum(map(len, found.values()))
        return found


class Counted:
    """What a counter has counted since."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._before = self._value()

    def _value(self) -> int:
        [metric] = self._counter.collect()
        return int(next(sample.value for sample in metric.samples if sample.name.endswith("_total")))

    def __call__(self) -> int:
        return self._value() - self._before


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PAUSE_S", 0.01)
    monkeypatch.setattr(snapshots, "RETRY_S", 0.01)


@pytest.fixture
def url(log_url: str) -> str:
    """An empty log without a snapshot."""
    with psycopg.connect(log_url) as owner:
        owner.execute("truncate log.snapshots")
    return log_url


@pytest.fixture
async def owner(url: str) -> AsyncIterator[Connection]:
    async with connect(url, "postgres") as connection:
        yield connection


@pytest.fixture
async def log(url: str) -> AsyncIterator[CountingLog]:
    async with CountingLog.open(url) as log:
        assert isinstance(log, CountingLog)
        yield log


@pytest.fixture
async def store(url: str) -> AsyncIterator[SnapshotStore]:
    async with SnapshotStore.open(url) as store:
        yield store


class Streamer:
    """Appends stock's events: a delivery of one unit, and every tenth time a reservation of one."""

    def __init__(self, log: Log, appends: Appends) -> None:
        self._log = log
        self._appends = appends
        self._tips: dict[str, Tip] = {}

    async def grows(self, name: str, events: int) -> None:
        """By at most 1,000."""
        tip = self._tips.get(name, NOTHING)
        new = [
            NewEvent(name, self._appends.ids.new(), _event(tip.version + number))
            for number in range(1, events + 1)
        ]
        append = self._appends.of(name)._replace(tips={name: tip}, events=new)
        verdict = await self._log.append(append)
        assert isinstance(verdict, Appended)
        last = verdict.events[-1]
        self._tips[name] = Tip(last.version, last.event_id)


def _event(version: int) -> StockReceived | StockReserved:
    if version % 10:
        return StockReceived(*ITEM, 1, DELIVERY)
    return StockReserved(*ITEM, f"r{version}", 1, Holder("cart", f"c{version}"), T0, version)


@pytest.fixture
def streamer(log: CountingLog, appends: Appends) -> Streamer:
    return Streamer(log, appends)


class Process:
    """A shop of its own, and commands that write to one item's stock."""

    def __init__(self, log: Log, kept: Snapshots) -> None:
        self._ids = Uuid7s()
        self.shop = Shop(
            log=log, clock=FixedClock(T0), ids=self._ids, digest_key=b"k" * 32, rules=Rules(), snapshots=kept
        )

    async def does(self, name: str, decide: Callable[[Stock], Sequence[StockEvent]]) -> None:
        ident = name.removeprefix("stock-")
        digest = UUID(self._ids.new()).bytes
        issued = Issued(Actor("staff", "s1"), self._ids.new(), self._ids.new(), digest, 2 * digest)
        await transact(self.shop, issued, lambda streams: {name: decide(streams.read(STOCK, ident))})


def three_units(_: Stock) -> Sequence[StockEvent]:
    return [_event(1), _event(2), _event(3)]


async def loaded(log: Log, kept: Snapshots, *names: str) -> list[Known]:
    """What a process that has just begun makes of the streams."""
    states = States(log, kept)
    found = []
    for name in names:
        await states.load({name: STOCK})
        found.append(states.get(name))
    return [known for known in found if known]


async def agree_with_the_log(log: Log, kept: Snapshots, *names: str) -> None:
    assert await loaded(log, kept, *names) == await loaded(log, NoSnapshots(), *names)


async def versions(owner: Connection) -> dict[str, int]:
    found = await owner.execute("select stream, version from log.snapshots order by stream")
    return dict(await found.fetchall())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.005)


async def kept(owner: Connection, expected: Mapping[str, int]) -> None:
    async def are_there() -> bool:
        return await versions(owner) == expected

    await until(are_there)


async def test_a_long_stream_is_loaded_from_its_snapshot_and_the_events_since(
    log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(MUG, 950)
    [whole] = await loaded(log, store, MUG)
    await kept(owner, {MUG: 950})
    await streamer.grows(MUG, 50)
    before, read = log.events_read, Counted(snapshots.READ)
    [known] = await loaded(log, store, MUG)
    assert (log.events_read - before, read()) == (1 + 50, 1), "its own event, and those since"
    assert (whole.tip.version, known.tip.version) == (950, 1000)
    await agree_with_the_log(log, store, MUG)


async def test_a_process_that_writes_leaves_at_most_100_events_to_read(
    log: CountingLog, store: SnapshotStore, owner: Connection
) -> None:
    """Three events an append, so that most multiples of a hundred are passed in the middle of one."""
    process = Process(log, store)
    for _ in range(72):
        await process.does(MUG, three_units)
    await kept(owner, {MUG: 201})
    before = log.events_read
    [known] = await loaded(log, store, MUG)
    assert (known.tip.version, log.events_read - before) == (216, 1 + 15)


async def test_short_streams_have_no_snapshot(
    log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(CUP, 99)
    await streamer.grows(MUG, 100)
    await loaded(log, store, CUP, MUG)
    await kept(owner, {MUG: 100})


POISONS: Final[Mapping[str, str]] = {
    "of other code": "fingerprint = sha256(fingerprint)",
    "beyond the log": "version = version + 1",
    "of an earlier event": "version = version - 1",
    "of another history": "event_id = gen_random_uuid()",
    "empty": "state = ''",
    "cut": "state = substr(state, 1, length(state) - 1)",
    "longer": "state = state || '\\x00'",
    "one bit": "state = set_bit(state, 8 * length(state) - 1, 1 - get_bit(state, 8 * length(state) - 1))",
    "without its checksum": "state = substr(state, 17)",
    "another stream's state": f"state = (select state from log.snapshots where stream = '{CUP}')",
    "another stream's, whole": (
        "(version, event_id, occurred_at, state) ="
        f" (select version, event_id, occurred_at, state from log.snapshots where stream = '{CUP}')"
    ),
    "an older state as a newer one's": (
        f"(version, event_id) = (select version, event_id from log.events where stream = '{MUG}'"
        " and version = 150)"
    ),
    "of another time": "occurred_at = occurred_at + interval '1 year'",
}


@pytest.mark.parametrize("poison", POISONS)
async def test_a_snapshot_that_is_not_what_was_kept_is_ignored(
    poison: str, log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(MUG, 120)
    await streamer.grows(CUP, 110)
    await loaded(log, store, MUG, CUP)
    await kept(owner, {MUG: 120, CUP: 110})
    await streamer.grows(MUG, 60)
    poisoned = await owner.execute(
        f"update log.snapshots set {POISONS[poison]} where stream = '{MUG}'".encode()
    )
    assert poisoned.rowcount == 1
    ignored, read = Counted(snapshots.IGNORED), Counted(snapshots.READ)
    assert (await store.read({MUG: STOCK, CUP: STOCK})).keys() == {CUP}
    assert (ignored(), read()) == (1, 1)
    await agree_with_the_log(log, store, MUG, CUP)
    await kept(owner, {MUG: 180, CUP: 110})
    assert (await store.read({MUG: STOCK, CUP: STOCK})).keys() == {MUG, CUP}
    await agree_with_the_log(log, store, MUG, CUP)


async def test_bytes_that_were_never_a_state_are_ignored_and_told_once(
    log: CountingLog,
    store: SnapshotStore,
    streamer: Streamer,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await streamer.grows(MUG, 100)
    with monkeypatch.context() as planted:
        planted.setattr(snapshots, "encode_state", lambda _: b"\xc1")
        await loaded(log, store, MUG)
        await kept(owner, {MUG: 100})
    for _ in range(3):
        assert await store.read({MUG: STOCK}) == {}
    await agree_with_the_log(log, store, MUG)
    assert [record.message for record in caplog.records if "damaged" in record.message] == [
        f"a snapshot of {MUG} is damaged: MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)"
    ]


@pytest.mark.parametrize(
    "replaced",
    [
        f"update log.events set event_id = gen_random_uuid() where stream = '{MUG}' and version = 120",
        f"delete from log.events where stream = '{MUG}' and version > 110",
    ],
)
async def test_a_snapshot_of_a_history_that_was_given_up_is_ignored(
    replaced: str, log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(MUG, 120)
    await loaded(log, store, MUG)
    await kept(owner, {MUG: 120})
    await owner.execute(replaced.encode())
    ignored = Counted(snapshots.IGNORED)
    assert await store.read({MUG: STOCK}) == {}
    assert ignored() == 1
    await agree_with_the_log(log, store, MUG)


@pytest.mark.parametrize(
    "strange", ["version = 900", "fingerprint = sha256(fingerprint)", "event_id = gen_random_uuid()"]
)
async def test_what_the_code_or_the_log_disagrees_with_gives_way_whatever_its_version(
    strange: str, log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    """After a restore, a stream is shorter than its snapshot, until nobody knows when."""
    await streamer.grows(MUG, 100)
    [known] = await loaded(log, store, MUG)
    await kept(owner, {MUG: 100})
    await owner.execute(f"update log.snapshots set {strange}".encode())
    assert await store.read({MUG: STOCK}) == {}
    await loaded(log, store, MUG)

    async def is_replaced() -> bool:
        return await store.read({MUG: STOCK}) == {MUG: known}

    await until(is_replaced)


async def test_deleting_all_snapshots_changes_nothing(
    log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    for name, events in ((MUG, 330), (CUP, 120)):
        await streamer.grows(name, events)
    before = await loaded(log, store, MUG, CUP)
    await kept(owner, {MUG: 330, CUP: 120})
    assert await loaded(log, store, MUG, CUP) == before
    await owner.execute("delete from log.snapshots")
    assert await loaded(log, store, MUG, CUP) == before


async def test_a_process_that_dies_before_its_snapshots_are_written_costs_a_replay_only(
    url: str, log: CountingLog, streamer: Streamer, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PAUSE_S", 60.0)
    await streamer.grows(MUG, 250)
    async with SnapshotStore.open(url) as dying:
        [known] = await loaded(log, dying, MUG)
    assert await versions(owner) == {}
    async with SnapshotStore.open(url) as next_one:
        assert await loaded(log, next_one, MUG) == [known]


async def test_of_two_processes_the_newer_snapshot_stays(
    url: str, log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    names = [f"stock-S{number:02}@MAIN" for number in range(30)]
    older: dict[str, Known] = {}
    newer: dict[str, Known] = {}
    for name in names:
        await streamer.grows(name, 100)
        [older[name]] = await loaded(log, NoSnapshots(), name)
        await streamer.grows(name, 100)
        [newer[name]] = await loaded(log, NoSnapshots(), name)
    async with SnapshotStore.open(url, "tallybook_policies") as other:
        written = Counted(snapshots.WRITTEN)
        for number, name in enumerate(names):
            one, two = (store, other) if number % 2 else (other, store)
            one.offer(name, older[name])
            two.offer(name, newer[name])
        await kept(owner, dict.fromkeys(names, 200))
        for name in reversed(names):
            store.offer(name, older[name])
            other.offer(name, older[name])
        other.offer(MUG, older[names[0]]._replace(tip=Tip(1, Uuid7s().new())))
        store.offer(CUP, older[names[0]]._replace(tip=Tip(1, Uuid7s().new())))
        await kept(owner, {MUG: 1, CUP: 1} | dict.fromkeys(names, 200))
        assert len(names) + 2 <= written() <= 2 * len(names) + 2
    assert await store.read(dict.fromkeys(names, STOCK)) == newer


async def test_a_later_offer_takes_the_place_of_an_earlier_one_and_too_many_are_dropped(
    log: CountingLog,
    store: SnapshotStore,
    streamer: Streamer,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "MAX_WAITING", 1)
    await streamer.grows(MUG, 1)
    [first] = await loaded(log, NoSnapshots(), MUG)
    await streamer.grows(MUG, 1)
    [second] = await loaded(log, NoSnapshots(), MUG)
    dropped, written = Counted(snapshots.DROPPED), Counted(snapshots.WRITTEN)
    for known in (first, second, first):
        store.offer(MUG, known)
    store.offer(CUP, first)
    await kept(owner, {MUG: 2})
    async with asyncio.timeout(5):
        while not written():  # it is counted after it can be seen
            await asyncio.sleep(0.01)
    assert (written(), dropped()) == (1, 1)


async def test_a_stream_that_is_offered_while_its_batch_is_made_costs_the_others_nothing(
    log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    for name in (MUG, CUP):
        await streamer.grows(name, 1)
    [mug, cup] = await loaded(log, NoSnapshots(), MUG, CUP)
    dropped = Counted(snapshots.DROPPED)
    store.offer(CUP, cup)
    for _ in range(3_000):
        store.offer(MUG, mug)
        await asyncio.sleep(0)
    await kept(owner, {MUG: 1, CUP: 1})
    assert dropped() == 0


async def test_a_state_that_is_too_large_is_not_kept_nor_encoded_again(
    log: CountingLog,
    store: SnapshotStore,
    streamer: Streamer,
    owner: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "MAX_STATE_BYTES", 500)
    encoded: list[object] = []

    def encode(state: object) -> bytes:
        encoded.append(state)
        return encode_state(state)

    monkeypatch.setattr(snapshots, "encode_state", encode)
    await streamer.grows(MUG, 200)
    await streamer.grows(CUP, 9)
    [large], [small] = await loaded(log, NoSnapshots(), MUG), await loaded(log, NoSnapshots(), CUP)
    dropped = Counted(snapshots.DROPPED)
    for version in (1, 2):
        store.offer(MUG, large)
        store.offer(CUP, small._replace(tip=small.tip._replace(version=version)))
        await kept(owner, {CUP: version})
    assert dropped() == 2
    assert encoded.count(large.state) == 1


async def test_a_state_that_cannot_be_kept_stops_no_other(
    log: CountingLog, store: SnapshotStore, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(MUG, 9)
    [known] = await loaded(log, NoSnapshots(), MUG)
    dropped = Counted(snapshots.DROPPED)
    store.offer(CUP, known._replace(state=known.state._replace(on_hand=2**70)))
    store.offer(MUG, known)
    await kept(owner, {MUG: 9})
    assert dropped() == 1


async def test_without_a_database_there_are_no_snapshots_and_no_trouble(
    free_port: Callable[[], int],
    log: CountingLog,
    streamer: Streamer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(snapshots, "READ_S", 0.2)
    monkeypatch.setattr(snapshots, "WRITE_S", 0.2)
    await streamer.grows(MUG, 100)
    dropped = Counted(snapshots.DROPPED)
    async with SnapshotStore.open(f"postgresql://postgres@127.0.0.1:{free_port()}/none") as away:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert len(await loaded(log, away, MUG)) == 1
        assert loop.time() - began < 1
        assert await away.read({MUG: STOCK}) == {}

        async def given_up() -> bool:
            return dropped() == 1

        await until(given_up)
        assert await away.read({MUG: STOCK}) == {}
    told = [record.message.partition(":")[0] for record in caplog.records if "snapshots" in record.message]
    assert told == ["snapshots cannot be read", "snapshots cannot be written"]


async def test_a_cut_connection_costs_a_replay_and_what_waits_is_written_afterwards(
    url: str, log: CountingLog, streamer: Streamer, owner: Connection
) -> None:
    await streamer.grows(MUG, 150)
    async with wire_to(url) as (wire, through), SnapshotStore.open(through) as store:
        await loaded(log, store, MUG)
        await kept(owner, {MUG: 150})
        assert (await store.read({MUG: STOCK})).keys() == {MUG}
        await wire.down()
        await streamer.grows(MUG, 100)
        await agree_with_the_log(log, store, MUG)
        await wire.up()
        await agree_with_the_log(log, store, MUG)
        await kept(owner, {MUG: 250})
        await agree_with_the_log(log, store, MUG)


class Kept:
    """Snapshots that are there at once: the rows, without a database."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    async def read(self, streams: Mapping[str, Aggregate[Any, Any]]) -> Mapping[str, Known]:
        return {name: self.rows[name].known(kind) for name, kind in streams.items() if name in self.rows}

    def offer(self, stream: str, known: Known) -> None:
        self.rows[stream] = Row.of(stream, known)


def act(state: Stock, action: str, number: int) -> Sequence[StockEvent]:
    """A command of the stock, on whatever it is."""
    held = min(state.held, default="")
    try:
        match action:
            case "receive":
                return stock.receive(state, item=ITEM, qty=number, reference=DELIVERY)
            case "reserve":
                return stock.reserve(
                    state,
                    item=ITEM,
                    reservation_id=f"r{number}-{len(state.held)}",
                    holder=Holder("order", "o1"),
                    qty=number,
                    expires_at=T0,
                    at=T0,
                )
            case "release":
                return stock.release(
                    state, reservation_id=held, holder=Holder("order", "o1"), reason="customer"
                )
            case _:
                return [ReservationCommitted(*ITEM, held, "o1", f"l{number}", state.held[held].qty)]
    except (Rejected, KeyError):
        return []


actions = st.tuples(
    st.integers(0, 1),
    st.sampled_from([MUG, CUP]),
    st.sampled_from(["receive", "reserve", "release", "commit"]),
    st.integers(1, 3),
)


@pytest.mark.parametrize("states", [1, 50])
def test_whatever_was_done_loading_from_snapshots_is_the_fold_of_all(
    states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that act at once, sometimes replaced by new ones; a snapshot at every second version."""
    monkeypatch.setattr(_states, "SNAPSHOT_EVERY", 2)
    monkeypatch.setattr(_states, "MAX_STATES", states)
    used = 0

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.lists(actions, min_size=1, max_size=4), st.booleans()), max_size=8))
    def is_the_fold_of_all(rounds: list[tuple[list[tuple[int, str, str, int]], bool]]) -> None:
        async def run() -> int:
            log, kept = MemoryLog(FixedClock(T0)), Kept()
            processes = [Process(log, kept), Process(log, kept)]
            for at_once, replaced in rounds:
                await asyncio.gather(
                    *(
                        processes[process].does(name, partial(act, action=action, number=number))
                        for process, name, action, number in at_once
                    )
                )
                await agree_with_the_log(log, kept, MUG, CUP)
                if replaced:
                    processes[0] = Process(log, kept)
            return len(kept.rows)

        nonlocal used
        used += asyncio.run(run())

    is_the_fold_of_all()
    assert used


async def test_states_that_are_evicted_and_loaded_again_while_others_fly(
    log: CountingLog, store: SnapshotStore, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_states, "SNAPSHOT_EVERY", 2)
    monkeypatch.setattr(_states, "MAX_STATES", 1)

    async def all_are_kept() -> bool:
        return (await versions(owner)).keys() == set(names)

    names = [f"stock-S{number}@MAIN" for number in range(4)]
    processes = [Process(log, store) for _ in range(2)]
    read = Counted(snapshots.READ)
    for _ in range(5):
        await asyncio.gather(
            *(process.does(name, three_units) for name in names for process in processes for _ in range(2))
        )
        await until(all_are_kept)
    assert read()
    await agree_with_the_log(log, store, *names[:1])
    for name in names:
        [known] = await loaded(log, NoSnapshots(), name)
        assert known.tip.version == 5 * 2 * 2 * 3


async def test_a_log_that_is_away_too_is_told_as_such(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "POOL_WAIT_S", 0.5)
    monkeypatch.setattr(snapshots, "READ_S", 0.2)
    async with (
        wire_to(url) as (wire, through),
        PostgresLog.open(through) as log,
        SnapshotStore.open(through) as store,
    ):
        await wire.down()
        with pytest.raises(LogUnavailable):
            await loaded(log, store, MUG)


async def test_a_table_in_use_holds_up_neither_loading_for_long_nor_the_end(
    url: str, log: CountingLog, streamer: Streamer, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "STATEMENT_TIMEOUT", "200ms")
    await streamer.grows(MUG, 100)
    loop = asyncio.get_running_loop()
    async with owner.transaction(), AsyncExitStack() as stack:
        await owner.execute("lock table log.snapshots in access exclusive mode")
        store = await stack.enter_async_context(SnapshotStore.open(url))
        began = loop.time()
        assert len(await loaded(log, store, MUG)) == 1
        await asyncio.sleep(0.1)
        await stack.aclose()
        assert loop.time() - began < 2
    assert await versions(owner) == {}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("tallybook_writer", {"SELECT", "INSERT", "UPDATE"}),
        ("tallybook_policies", {"SELECT", "INSERT", "UPDATE"}),
        ("tallybook_reader", set()),
        ("tallybook_relay", set()),
        ("tallybook_projector", set()),
    ],
)
async def test_only_who_decides_keeps_snapshots(role: str, may: set[str], owner: Connection) -> None:
    asked = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
    found = await owner.execute(
        "select p from unnest(%s::text[]) as p where has_table_privilege(%s, 'log.snapshots', p)",
        (asked, role),
    )
    assert {privilege for (privilege,) in await found.fetchall()} == may
