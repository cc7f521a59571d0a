import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest
from tests.commands.conftest import STAFF, T0, House, WatchedLog

from commands import _states
from commands._states import InFlight, NotLoaded, States, Streams
from commands.ports import (
    Append,
    Appended,
    Known,
    LogUnavailable,
    NewEvent,
    NoSnapshots,
    Snapshots,
    StaleVersion,
)
from domain.envelope import NOTHING, Metadata, Recorded, Tip
from domain.location import LocationRegistered
from domain.price import PRICE
from domain.sku import SKU
from domain.stock import STOCK
from domain.values import Aggregate
from runtime.ids import FixedClock

pytestmark = pytest.mark.anyio

MUG = "stock-MUG@MAIN"


def on_hand(states: States) -> int:
    known = states.get(MUG)
    assert known is not None
    return int(known.state.on_hand)


async def test_what_is_loaded_is_the_fold_of_the_stream_and_its_tip(house: House) -> None:
    await house.sells("MUG", qty=5)
    states = States(house.log, NoSnapshots())
    await states.load({MUG: STOCK, "stock-CUP@MAIN": STOCK})
    known, nothing = states.get(MUG), states.get("stock-CUP@MAIN")
    assert known is not None
    assert nothing is not None
    assert known.state == house.stock("MUG")
    assert (known.tip.version, known.tip.event_id) == (2, house.log.recorded[-1].event_id)
    assert (nothing.state, nothing.tip, nothing.occurred_at) == (STOCK.initial, NOTHING, None)


async def test_loading_again_brings_what_is_new_only(house: House) -> None:
    await house.sells("MUG", qty=5)
    states = States(house.log, NoSnapshots())
    await states.load({MUG: STOCK})
    await house.receives("MUG", 3)
    await states.load({MUG: STOCK})
    assert house.log.read[-1] == {MUG: 1}, "from its last event on, to see that it is still there"
    assert on_hand(states) == 8


async def test_loads_that_cross_leave_the_fold_of_the_stream(house: House) -> None:
    await house.sells("MUG", qty=5)
    states = States(house.log, NoSnapshots())

    async def forgetful() -> None:
        await asyncio.sleep(0)
        states.forget([MUG])

    await states.load({MUG: STOCK})
    await house.receives("MUG", 1)
    await asyncio.gather(states.load({MUG: STOCK}), forgetful(), states.load({MUG: STOCK}))
    known = states.get(MUG)
    # Either all of it, or nothing of it, which the first append finds out; never a part.
    if known is not None and known.tip != NOTHING:
        assert known.state == house.stock("MUG")
    await states.load({MUG: STOCK})
    assert on_hand(states) == 6


async def test_the_least_recently_used_states_go_first(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_states, "MAX_STATES", 2)
    states = States(house.log, NoSnapshots())
    for sku in ("A1", "B1"):
        await states.load({f"sku-{sku}": SKU})
    states.get("sku-A1")
    await states.load({"sku-C1": SKU})
    assert states.get("sku-B1") is None
    assert states.get("sku-A1") is not None
    assert states.get("sku-C1") is not None


async def test_a_decision_asks_for_all_it_expects_at_once(house: House) -> None:
    states = States(house.log, NoSnapshots())
    streams = Streams(states, house.clock, None)
    streams.expect(SKU, ["A1", "B1"])
    with pytest.raises(NotLoaded) as missing:
        streams.read(PRICE, "v1")
    assert missing.value.streams == {"sku-A1": SKU, "sku-B1": SKU, "price-v1": PRICE}
    await states.load(missing.value.streams)
    assert streams.read(PRICE, "v1") == PRICE.initial


async def test_a_decision_does_not_ask_for_what_is_known(house: House) -> None:
    states = States(house.log, NoSnapshots())
    await states.load({"sku-A1": SKU})
    streams = Streams(states, house.clock, None)
    streams.expect(SKU, ["A1", "B1"])
    with pytest.raises(NotLoaded) as missing:
        streams.read(PRICE, "v1")
    assert missing.value.streams == {"sku-B1": SKU, "price-v1": PRICE}


async def test_what_was_expected_and_not_read_has_no_tip(house: House) -> None:
    states = States(house.log, NoSnapshots())
    await states.load({"sku-A1": SKU, "sku-B1": SKU})
    streams = Streams(states, house.clock, None)
    streams.expect(SKU, ["A1", "B1"])
    streams.read(SKU, "A1")
    assert {name: known.tip for name, known in streams.known.items()} == {"sku-A1": NOTHING}


async def test_the_time_of_a_decision_is_never_before_what_it_has_read(house: House) -> None:
    house.clock.advance(timedelta(hours=1))
    await house.sells("MUG", qty=5)
    house.clock.advance(timedelta(hours=-1))
    states = States(house.log, NoSnapshots())
    await states.load({MUG: STOCK, "sku-A1": SKU})
    streams = Streams(states, house.clock, None)
    assert streams.at == T0
    streams.read(SKU, "A1")
    assert streams.at == T0
    streams.read(STOCK, "MUG@MAIN")
    assert streams.at == T0 + timedelta(hours=1)


async def test_an_event_dated_before_the_one_it_follows_does_not_turn_time_back(house: House) -> None:
    await house.sells("MUG", qty=5)
    states = States(house.log, NoSnapshots())
    await states.load({MUG: STOCK})
    known = states.get(MUG)
    assert known is not None
    received = house.log.recorded[-2]
    earlier = replace(received.metadata, occurred_at=T0 - timedelta(hours=1))
    assert known.then([received._replace(metadata=earlier)]).occurred_at == T0


async def test_if_match_is_the_version_of_one_stream(house: House) -> None:
    await house.sells("MUG", qty=5)
    states = States(house.log, NoSnapshots())
    await states.load({MUG: STOCK})
    for if_match in (None, 2):
        streams = Streams(states, house.clock, if_match)
        streams.read(STOCK, "MUG@MAIN")
        streams.must_match(STOCK, "MUG@MAIN")
    streams = Streams(states, house.clock, 1)
    streams.read(STOCK, "MUG@MAIN")
    with pytest.raises(StaleVersion) as stale:
        streams.must_match(STOCK, "MUG@MAIN")
    assert stale.value.current_version == 2


# A stream whose state is what it was told, in order: whatever is mixed up shows.
TALE: Final[Aggregate[tuple[str, ...], LocationRegistered]] = Aggregate(
    "location", (), lambda state, event: (*state, event.name)
)


class Offered(NoSnapshots):
    def __init__(self) -> None:
        self.offered: list[tuple[str, int]] = []

    def offer(self, stream: str, known: Known) -> None:
        self.offered.append((stream, known.tip.version))


class Desk:
    """A process that decides nothing: it admits what it is told, and says what became of it."""

    def __init__(self, house: House, snapshots: Snapshots | None = None) -> None:
        self.house = house
        self.states = States(house.log, snapshots or NoSnapshots())
        self.flights: dict[str, tuple[InFlight, Append]] = {}

    async def knows(self, *names: str) -> None:
        await self.states.load({TALE.stream(name): TALE for name in names})

    def tale(self, name: str) -> Sequence[str]:
        known = self.states.get(TALE.stream(name))
        assert known is not None
        assert known.tip.version == len(known.state)
        state: Sequence[str] = known.state
        return state

    def sends(self, title: str, *, reads: str = "", writes: str) -> None:
        """An append that was decided on what is known of some streams, each named by a letter."""
        read: dict[str, Known] = {}
        for name in map(TALE.stream, dict.fromkeys(reads + writes)):
            known = self.states.get(name)
            assert known is not None
            read[name] = known
        tips = {name: known.tip for name, known in read.items()}
        tip = dict(tips)
        events = []
        for name in map(TALE.stream, writes):
            new = NewEvent(name, self.house.ids.new(), LocationRegistered("L", title, "DE"))
            tip[name] = Tip(tip[name].version + 1, new.event_id)
            events.append((new, tip[name]))
        ids = self.house.ids
        append = Append(
            tips, [new for new, _ in events], Metadata(T0, STAFF, ids.new(), ids.new()), None, None
        )
        self.flights[title] = (self.states.admit(read, events, T0), append)

    async def lands(self, title: str) -> None:
        flight, append = self.flights.pop(title)
        assert isinstance(await self.house.log.append(append), Appended)
        self.states.landed(flight)

    def loses(self, title: str) -> None:
        self.states.lost(self.flights.pop(title)[0])

    def rests(self) -> bool:
        """Nothing is ahead, and nobody follows anything."""
        return not self.states._ahead


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house)


async def test_the_next_decision_builds_on_what_is_in_flight(desk: Desk) -> None:
    await desk.knows("A", "B")
    desk.sends("first", writes="A")
    assert desk.states.speculates([TALE.stream("B"), TALE.stream("A")])
    assert not desk.states.speculates([TALE.stream("B")])
    desk.sends("second", writes="AA")
    assert (desk.tale("A"), desk.tale("B")) == (("first", "second", "second"), ())
    await desk.lands("first")
    assert desk.tale("A") == ("first", "second", "second")
    await desk.lands("second")
    assert desk.tale("A") == ("first", "second", "second")
    assert desk.rests()
    await desk.knows("A")
    assert desk.tale("A") == ("first", "second", "second")


async def test_what_is_lost_takes_all_that_followed_it_along_and_nothing_else(desk: Desk) -> None:
    await losing_one_breaks_all_that_follow(desk)


async def test_an_epoch_that_breaks_its_own_streams_only_is_noticed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(states: States, flight: InFlight) -> None:
        states._end(flight)
        for name, (line, *_) in flight.leaves.items():
            line.broken = True
            if states._ahead.get(name) is line:
                del states._ahead[name]

    monkeypatch.setattr(States, "lost", lost)
    with pytest.raises(AssertionError):
        await losing_one_breaks_all_that_follow(desk)


async def losing_one_breaks_all_that_follow(desk: Desk) -> None:
    """The first writes S; others read S and write T, read T and write U, read U and write nothing."""
    await desk.knows("S", "T", "U", "V", "W")
    desk.sends("apart", writes="V")
    desk.sends("first", reads="V", writes="S")
    desk.sends("second", reads="S", writes="T")
    desk.sends("third", reads="T", writes="U")
    desk.sends("refusal", reads="U", writes="")
    desk.sends("beside", reads="V", writes="W")
    assert [desk.tale(name) for name in "STUVW"] == [
        ("first",),
        ("second",),
        ("third",),
        ("apart",),
        ("beside",),
    ]
    desk.loses("first")
    assert [desk.tale(name) for name in "STUVW"] == [(), (), (), ("apart",), ("beside",)]
    # Decided again: a new line, which the end of the old ones leaves alone.
    desk.sends("again", reads="T", writes="S")
    for title in ("second", "third", "refusal"):
        desk.loses(title)
    await desk.lands("apart")
    await desk.lands("beside")
    assert [desk.tale(name) for name in "STUVW"] == [("again",), (), (), ("apart",), ("beside",)]
    await desk.lands("again")
    assert desk.rests()


async def test_the_loss_of_one_that_only_follows_leaves_what_it_followed(desk: Desk) -> None:
    await desk.knows("S", "T")
    desk.sends("first", writes="S")
    desk.sends("second", reads="S", writes="T")
    desk.loses("second")
    assert (desk.tale("S"), desk.tale("T")) == (("first",), ())
    await desk.lands("first")
    assert desk.rests()


async def test_a_circle_of_followers_breaks_as_a_whole(desk: Desk) -> None:
    await desk.knows("S", "T")
    desk.sends("first", writes="S")
    desk.sends("second", reads="S", writes="T")
    desk.sends("third", reads="T", writes="S")
    desk.loses("first")
    assert (desk.tale("S"), desk.tale("T")) == ((), ())
    desk.loses("second")
    desk.loses("third")
    assert desk.rests()


async def test_one_that_lands_although_its_line_was_broken_is_known(desk: Desk) -> None:
    """Nobody knew whether the first was committed; the second, which followed it, proves that it was."""
    await desk.knows("S")
    desk.sends("first", writes="S")
    desk.sends("second", writes="S")
    assert isinstance(await desk.house.log.append(desk.flights["first"][1]), Appended)
    desk.loses("first")
    assert desk.tale("S") == ()
    await desk.lands("second")
    assert desk.tale("S") == ("first", "second")
    assert desk.rests()


async def test_lines_and_their_followers_are_let_go(desk: Desk) -> None:
    await desk.knows("S", "T")
    desk.sends("first", writes="S")
    desk.sends("second", reads="S", writes="T")
    desk.sends("third", reads="ST", writes="")
    lines = [desk.states._ahead[TALE.stream(name)] for name in "ST"]
    assert [len(line.followers) for line in lines] == [2, 1]
    await desk.lands("first")
    assert TALE.stream("S") not in desk.states._ahead
    desk.loses("third")
    await desk.lands("second")
    assert [(line.followers, line.pending) for line in lines] == [(set(), 0), (set(), 0)]
    assert desk.rests()


async def test_what_is_in_flight_survives_eviction(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_states, "MAX_STATES", 1)
    await desk.knows("A")
    desk.sends("first", writes="A")
    await desk.knows("B")
    assert desk.tale("A") == ("first",)
    desk.sends("second", writes="A")
    desk.loses("second")
    assert desk.states.get(TALE.stream("A")) is None, "it has to be loaded again"
    await desk.lands("first")
    assert desk.tale("A") == ("first",)
    assert desk.states.get(TALE.stream("B")) is None


async def test_a_load_neither_turns_back_nor_hides_what_is_in_flight(desk: Desk) -> None:
    await desk.knows("A")
    desk.sends("first", writes="A")
    desk.sends("second", writes="A")
    loading = asyncio.create_task(desk.knows("A"))
    await asyncio.sleep(0)
    await desk.lands("first")
    await loading
    assert desk.tale("A") == ("first", "second")
    loading = asyncio.create_task(desk.knows("A"))
    await desk.lands("second")
    await loading
    assert desk.tale("A") == ("first", "second")


async def test_a_decision_that_was_overtaken_is_not_built_upon(desk: Desk) -> None:
    await desk.knows("A")
    name = TALE.stream("A")
    read = desk.states.get(name)
    assert read is not None
    desk.sends("quicker", writes="A")
    new = NewEvent(name, desk.house.ids.new(), LocationRegistered("L", "too late", "DE"))
    too_late = desk.states.admit({name: read}, [(new, Tip(1, new.event_id))], T0)
    assert desk.tale("A") == ("quicker",)
    desk.states.lost(too_late)
    assert desk.tale("A") == ("quicker",)
    await desk.lands("quicker")
    assert desk.rests()


async def test_a_stream_written_unread_is_not_known_ahead(desk: Desk) -> None:
    await desk.knows("A")
    new = NewEvent(TALE.stream("A"), desk.house.ids.new(), LocationRegistered("L", "unread", "DE"))
    flight = desk.states.admit({}, [(new, Tip(1, new.event_id))], T0)
    assert desk.tale("A") == ()
    desk.states.landed(flight)
    assert desk.rests()


async def test_a_snapshot_is_offered_when_a_multiple_is_passed_and_only_of_what_landed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_states, "SNAPSHOT_EVERY", 4)
    offered = Offered()
    desk = Desk(house, offered)
    await desk.knows("A")
    for number in range(5):
        desk.sends(f"{number}", writes="AAA")
        if number == 4:
            desk.loses("4")
        else:
            await desk.lands(f"{number}")
    name = TALE.stream("A")
    assert offered.offered == [(name, 6), (name, 9), (name, 12)]
    await Desk(house, offered).knows("A")
    assert offered.offered[3:] == [(name, 12)]


class SlowLog(WatchedLog):
    """Its reads end when they are told to, and fail while it is away."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock)
        self.go = asyncio.Event()
        self.away: Exception | None = None

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found = await super().read_streams(after)
        await self.go.wait()
        if self.away is not None:
            raise self.away
        return found


@pytest.fixture
async def slow(house: House) -> SlowLog:
    log = SlowLog(house.clock)
    house.log = log
    return log


async def test_many_who_need_a_stream_read_it_once(desk: Desk, slow: SlowLog) -> None:
    states = States(slow, NoSnapshots())
    waiting = [asyncio.create_task(states.load({"sku-A1": SKU, f"sku-B{n % 2}": SKU})) for n in range(10)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    waiting[7].cancel()
    await asyncio.sleep(0)
    slow.go.set()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for n, end in enumerate(ended) if n not in (0, 7)] == [type(None)] * 8
    assert sorted(name for after in slow.read for name in after) == ["sku-A1", "sku-B0", "sku-B1"]
    assert not states._loading


async def test_a_read_that_ends_late_does_not_turn_back_what_landed_meanwhile(
    slow: SlowLog, desk: Desk
) -> None:
    slow.go.set()
    await desk.knows("A")
    slow.go.clear()
    loading = asyncio.create_task(desk.knows("A"))
    while len(slow.read) < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    desk.sends("meanwhile", writes="A")
    await desk.lands("meanwhile")
    slow.go.set()
    await loading
    assert desk.tale("A") == ("meanwhile",)


async def test_a_read_that_fails_fails_all_who_wait_and_the_next_one_succeeds(
    house: House, slow: SlowLog
) -> None:
    states = States(slow, NoSnapshots())
    slow.away = LogUnavailable("away")
    waiting = [asyncio.create_task(states.load({"sku-A1": SKU})) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiting[1].cancel()
    slow.go.set()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [LogUnavailable, asyncio.CancelledError, LogUnavailable]
    assert ended[0] is not ended[2], "each adds to its own traceback"
    assert states.get("sku-A1") is None
    slow.away = None
    await states.load({"sku-A1": SKU})
    assert states.get("sku-A1") is not None


async def test_a_failed_read_that_nobody_waits_for_any_more_harms_nobody(house: House, slow: SlowLog) -> None:
    states = States(slow, NoSnapshots())
    slow.away = LogUnavailable("away")
    waiting = asyncio.create_task(states.load({"sku-A1": SKU}))
    await asyncio.sleep(0.01)
    waiting.cancel()
    slow.go.set()
    await asyncio.sleep(0.01)
    slow.away = None
    await states.load({"sku-A1": SKU})
    assert states.get("sku-A1") is not None


async def test_what_a_fold_or_the_codec_refuses_is_not_told_as_a_log_that_is_away(
    house: House, slow: SlowLog
) -> None:
    states = States(slow, NoSnapshots())
    slow.away = ValueError("no event of this code")
    slow.go.set()
    with pytest.raises(ValueError, match="no event of this code"):
        await states.load({"sku-A1": SKU})


async def test_what_many_want_is_read_together_and_never_too_much_at_once(
    slow: SlowLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_states, "MAX_LOADED", 50)
    states = States(slow, NoSnapshots())
    waiting = [asyncio.create_task(states.load({f"sku-A{n}": SKU})) for n in range(120)]
    await asyncio.sleep(0.01)
    assert [len(after) for after in slow.read] == [50, 50], "two reads at once"
    waiting += [asyncio.create_task(states.load({f"sku-B{n}": SKU})) for n in range(60)]
    await asyncio.sleep(0.01)
    assert len(slow.read) == 2
    slow.go.set()
    await asyncio.gather(*waiting)
    assert [len(after) for after in slow.read] == [50, 50, 50, 30]
    assert len({name for after in slow.read for name in after}) == 180
    assert not states._wanted
    assert not states._loading
    await states.load({"sku-C": SKU})
    assert states.get("sku-C") is not None


class OneBrokenStream(WatchedLog):
    """It holds an event that this code does not know."""

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        found = await super().read_streams(after)
        if "sku-BROKEN" in after:
            raise ValueError("no event of this code")
        return found


async def test_a_stream_that_cannot_be_read_is_no_others_trouble(house: House) -> None:
    states = States(OneBrokenStream(house.clock), NoSnapshots())
    loads = [states.load({name: SKU}) for name in ("sku-A", "sku-BROKEN", "sku-B")]
    ended = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(end) for end in ended] == [type(None), ValueError, type(None)]
    assert states.get("sku-A") is not None
    assert states.get("sku-B") is not None
    with pytest.raises(ValueError, match="no event of this code"):
        await states.load({"sku-BROKEN": SKU, "sku-A": SKU})


async def test_a_history_that_was_replaced_is_not_folded_onto_what_was_known(house: House) -> None:
    """The log was restored to an earlier point; the versions we know are others now, and more follow."""
    desk = Desk(house)
    await desk.knows("A", "B")
    for number, writes in enumerate(("A", "A", "B")):
        desk.sends(f"lost {number}", writes=writes)
        await desk.lands(f"lost {number}")
    house.log = WatchedLog(house.clock)
    other = Desk(house)
    await other.knows("A", "B")
    for number in range(3):
        other.sends(f"new {number}", writes="A")
        await other.lands(f"new {number}")
    desk.states._log = house.log
    await desk.knows("A", "B")
    assert desk.tale("A") == ("new 0", "new 1", "new 2")
    assert desk.tale("B") == ()
