import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.commands.conftest import T0, House

from commands import _states
from commands._states import NotLoaded, States, Streams
from commands.ports import NoSnapshots, StaleVersion
from domain.envelope import NOTHING
from domain.price import PRICE
from domain.sku import SKU
from domain.stock import STOCK

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
    assert house.log.read[-1] == {MUG: 2}
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
    assert known.then([replace(received, metadata=earlier)]).occurred_at == T0


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
