from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.commands.conftest import T0, House, only, ordered, written

from commands.cancel_order import CancelOrder, cancel_order
from commands.import_order import ImportOrder, SoldLine, import_order, imported_id
from domain.location import UnknownLocation
from domain.order import (
    ImportedLine,
    OrderAlreadyImported,
    OrderImported,
    OrderNotOpen,
    OrderStatus,
    order_no,
)
from domain.sku import UnknownSku
from domain.values import InvalidFields, Money

pytestmark = pytest.mark.anyio

SOLD_AT = datetime(2017, 1, 1, 11, 53, 26, 120, tzinfo=UTC)
SOLD = ImportOrder(
    source="till",
    source_order_id="31198570044",
    sold_at=SOLD_AT,
    customer_id="c1",
    location="MAIN",
    currency="USD",
    lines=(SoldLine("MUG", 89_638, 50), SoldLine("CUP", 0, 125, "A cup"), SoldLine("MUG", 1, -50)),
)


async def test_an_order_is_recorded_as_it_was_sold_and_when(house: House) -> None:
    await house.sells("MUG", qty=1)
    await house.sells("CUP", published=False)
    receipt = await import_order(house.shop(), house.issued(), SOLD)
    assert written(receipt) == ["order.imported.v1"]
    imported = only(receipt, OrderImported)
    assert imported.total == Money(125, "USD")
    assert imported.order_no == order_no(imported.order_id)
    assert (imported.source, imported.source_order_id) == ("till", "31198570044")
    mug, cup, back = imported.lines
    assert mug == ImportedLine("1", *house.variants["MUG"], "MUG", None, "MAIN", 89_638, 50)
    assert (cup.line_id, cup.sku, cup.qty, cup.title) == ("2", "CUP", 0, "A cup")
    assert back.amount_minor == -50
    (recorded,) = receipt.events
    assert recorded.metadata.occurred_at == SOLD_AT
    assert recorded.recorded_at >= T0
    assert house.stock("MUG").available == 1, "nothing is reserved"


async def test_it_is_imported_once_whatever_the_key(house: House) -> None:
    await house.sells("MUG")
    await house.sells("CUP")
    shop = house.shop()
    first = await import_order(shop, house.issued("key"), SOLD)
    repeat = await import_order(house.shop(), house.issued("key"), SOLD)
    assert (repeat.replayed, repeat.events) == (True, first.events)
    for again in (shop, house.shop()):
        with pytest.raises(OrderAlreadyImported):
            await import_order(again, house.issued(), replace(SOLD, lines=SOLD.lines[:1]))
    await import_order(shop, house.issued(), replace(SOLD, source="marketplace"))
    await import_order(shop, house.issued(), replace(SOLD, source_order_id="2"))


async def test_what_it_names_must_be_there(house: House) -> None:
    await house.sells("MUG")
    with pytest.raises(UnknownSku):
        await import_order(house.shop(), house.issued(), SOLD)
    with pytest.raises(UnknownLocation):
        await import_order(
            house.shop(), house.issued(), replace(SOLD, lines=SOLD.lines[:1], location="NOWHERE")
        )


async def test_nothing_was_sold_in_the_future_and_no_order_passes_the_limit(house: House) -> None:
    await house.sells("MUG")
    lines = (SoldLine("MUG", 1, 10**15), SoldLine("MUG", 1, 1))
    with pytest.raises(InvalidFields) as refused:
        await import_order(
            house.shop(), house.issued(), replace(SOLD, sold_at=T0 + timedelta(microseconds=1), lines=lines)
        )
    assert [(error.pointer, error.code) for error in refused.value.errors] == [
        ("/sold_at", "in_the_future"),
        ("/lines", "out_of_range"),
    ]
    await import_order(house.shop(), house.issued(), replace(SOLD, sold_at=T0, lines=lines[:1]))


async def test_what_is_completed_is_neither_confirmed_nor_cancelled(house: House) -> None:
    await house.sells("MUG")
    await house.sells("CUP")
    receipt = await import_order(house.shop(), house.issued(), SOLD)
    order_id = only(receipt, OrderImported).order_id
    with pytest.raises(OrderNotOpen) as refused:
        await cancel_order(house.shop(), house.issued(), CancelOrder(order_id, "customer"))
    assert refused.value.order_status is OrderStatus.COMPLETED


async def test_an_order_of_long_ago_does_not_turn_back_the_clock_of_others(house: House) -> None:
    await house.sells("MUG", qty=1)
    await house.sells("CUP")
    shop = house.shop()
    await import_order(shop, house.issued(), SOLD)
    order_id = await ordered(shop, house.issued(), ("MUG", 1), total=1990)
    (placed,) = (recorded for recorded in house.log.recorded if recorded.stream == f"order-{order_id}")
    assert placed.metadata.occurred_at == T0


def test_the_id_is_a_uuid7_of_the_time_and_names_the_order_of_the_source() -> None:
    ident = imported_id(SOLD)
    assert int(ident.replace("-", "")[:12], 16) == int(SOLD_AT.timestamp() * 1000)
    assert (ident[14], ident[19] in "89ab") == ("7", True)
    assert imported_id(replace(SOLD, customer_id="c2", lines=())) == ident
    others = {imported_id(replace(SOLD, source="x")), imported_id(replace(SOLD, source_order_id="x"))}
    assert len({ident, *others}) == 3
    before = replace(SOLD, sold_at=datetime(1969, 12, 31, tzinfo=UTC))
    assert imported_id(before).startswith("00000000-0000-7")
