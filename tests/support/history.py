"""A small shop's history, plausible and from a seed, and somebody to write it into a log."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from commands.ports import Append, Appended, Log, NewEvent
from domain.envelope import NOTHING, Actor, Metadata, Recorded, Tip
from domain.order import OrderCancelled, OrderConfirmed, OrderLine, OrderPlaced
from domain.price import PriceSet
from domain.product import ProductDrafted, ProductPublished, VariantAdded
from domain.stock import Holder, Item, Reference, ReservationReleased, StockReceived, StockReserved
from domain.values import Event, Money

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDER_SHARE, RESERVE_SHARE = 0.3, 0.5
SYSTEM = Actor("system", "test")

Facts = list[tuple[str, Event]]


def uuid_of(kind: int, number: int) -> str:
    """An id that is the same in every run."""
    return str(UUID(int=kind << 96 | 7 << 76 | 1 << 63 | number))


class Writer:
    """Appends events to any streams, remembering their tips; one writer a log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tips: dict[str, Tip] = {}
        self._written = 0

    async def append(
        self, *facts: tuple[str, Event], actor: Actor = SYSTEM, correlation_id: str | None = None
    ) -> tuple[Recorded, ...]:
        events = []
        for stream, event in facts:
            self._written += 1
            events.append(NewEvent(stream, uuid_of(1, self._written), event))
        verdict = await self._log.append(
            Append(
                tips={stream: self._tips.get(stream, NOTHING) for stream, _ in facts},
                events=events,
                metadata=Metadata(
                    NOON + timedelta(seconds=self._written),
                    actor,
                    command_id=uuid_of(2, self._written),
                    correlation_id=correlation_id or uuid_of(2, self._written),
                ),
                digest=None,
                fingerprint=None,
            )
        )
        assert isinstance(verdict, Appended), verdict
        for recorded in verdict.events:
            self._tips[recorded.stream] = Tip(recorded.version, recorded.event_id)
        return verdict.events


def item(number: int) -> Item:
    return Item(f"SKU{number}", "MAIN", f"p{number // 2}", f"v{number}")


def stock_of(number: int) -> str:
    return f"stock-SKU{number}@MAIN"


def history(seed: int, appends: int, items: int = 6) -> Iterator[Facts]:
    """The facts of each append: a catalogue, stock for all of it, then reservations and orders at random."""
    yield from _catalogue(items)
    chance = random.Random(seed)  # noqa: S311 - a history, not a secret
    for number in range(appends):
        item_number, drawn = chance.randrange(items), chance.random()
        if drawn < ORDER_SHARE:
            yield from _order(number, item(item_number), chance)
        elif drawn < RESERVE_SHARE:
            holder = Holder("cart", f"c{number}")
            reserved = StockReserved(
                *item(item_number), f"r{number}", 1, holder, NOON + timedelta(hours=1), available_after=0
            )
            released = ReservationReleased(*item(item_number), f"r{number}", 1, holder, "customer")
            yield [(stock_of(item_number), reserved)]
            yield [(stock_of(item_number), released)]
        else:
            yield [(stock_of(item_number), received(item_number, chance.randint(1, 9)))]


def received(item_number: int, qty: int) -> StockReceived:
    return StockReceived(*item(item_number), qty, Reference("initial", "i"))


def _catalogue(items: int) -> Iterator[Facts]:
    for number in range(items):
        sku, _, product_id, variant_id = item(number)
        drafted = ProductDrafted(product_id, f"slug-{product_id}", {"en": "Mug", "de": "Becher"}, "standard")
        variant = VariantAdded(product_id, variant_id, sku, {"size": str(number)}, 300)
        price = PriceSet(uuid_of(3, number), product_id, variant_id, "EUR", 1000 + number, NOON)
        product = f"product-{product_id}"
        yield [*([] if number % 2 else [(product, drafted)]), (product, variant)]
        yield [(f"price-{variant_id}", price)]
        yield [(stock_of(number), received(number, 1000))]
        if number % 2:
            yield [(product, ProductPublished(product_id, NOON))]


def _order(number: int, of: Item, chance: random.Random) -> Iterator[Facts]:
    order_id, qty = f"o{number}", chance.randint(1, 5)
    line = OrderLine("l1", of.product_id, of.variant_id, of.sku, "Mug", of.location, qty, 1000, uuid_of(3, 0))
    until = NOON + timedelta(hours=1)
    placed = OrderPlaced(
        order_id,
        f"NO{number}",
        "customer",
        "EUR",
        (line,),
        Money(qty * 1000, "EUR"),
        f"r{number}",
        until,
    )
    reserved = StockReserved(*of, f"r{number}", qty, Holder("order", order_id), until, available_after=0)
    yield [(f"stock-{of.sku}@{of.location}", reserved), (f"order-{order_id}", placed)]
    if chance.random() < ORDER_SHARE:
        yield [(f"order-{order_id}", OrderCancelled(order_id, "customer", "customer:c"))]
    else:
        yield [(f"order-{order_id}", OrderConfirmed(order_id, until))]
