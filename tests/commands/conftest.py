"""One log in memory and any number of shops on it, each of which knows only what it has loaded itself."""

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import pytest

from commands.add_variant import AddVariant, add_variant
from commands.draft_product import DraftProduct, draft_product
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.ports import Append, Appended, Issued, Reached, Receipt, Rules, Verdict, nowhere
from commands.publish_product import PublishProduct, publish_product
from commands.receive_stock import ReceiveStock, receive_stock
from commands.register_location import RegisterLocation, register_location
from commands.requests import digest, fingerprint
from commands.set_price import SetPrice, set_price
from commands.shop import Shop
from domain.envelope import Actor, Recorded
from domain.order import OrderPlaced
from domain.product import ProductDrafted, VariantAdded
from domain.stock import STOCK, Reference, Stock
from domain.values import Money
from runtime.ids import CountingIds, FixedClock
from runtime.log.memory import MemoryLog

T0: Final = datetime(2026, 3, 1, tzinfo=UTC)
KEY: Final = b"k" * 32
STAFF: Final = Actor("staff", "s1")
DELIVERY: Final = Reference("purchase", "po-1")

E = TypeVar("E")


class WatchedLog(MemoryLog):
    """Remembers what it was given, what it recorded of that, and what it was asked for."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock)
        self.given: list[tuple[Append, Verdict]] = []
        self.recorded: list[Recorded] = []
        self.read: list[Mapping[str, int]] = []
        self.answers = True

    async def append(self, append: Append) -> Verdict:
        verdict = await super().append(append)
        self.given.append((append, verdict))
        if isinstance(verdict, Appended):
            self.recorded += verdict.events
        if not self.answers:
            raise TimeoutError("the answer is lost")
        return verdict

    async def read_streams(self, after: Mapping[str, int]) -> Mapping[str, Sequence[Recorded]]:
        self.read.append(after)
        return await super().read_streams(after)


class House:
    def __init__(self) -> None:
        self.clock = FixedClock(T0)
        self.ids = CountingIds()
        self.log = WatchedLog(self.clock)
        self.requests = itertools.count(1)
        self.variants: dict[str, tuple[str, str]] = {}

    def shop(self, reached: Reached = nowhere) -> Shop:
        """Another process: it has loaded nothing yet."""
        return Shop(
            log=self.log, clock=self.clock, ids=self.ids, digest_key=KEY, rules=Rules(), reached=reached
        )

    def issued(self, key: str | None = None, body: Any = None, if_match: int | None = None) -> Issued:
        """A request of its own, unless its key is given."""
        key = key or f"request-{next(self.requests)}"
        return Issued(
            actor=STAFF,
            command_id=self.ids.new(),
            correlation_id=self.ids.new(),
            digest=digest(KEY, "staff:s1", key),
            fingerprint=fingerprint(KEY, "POST", "/somewhere", body if body is not None else key),
            if_match=if_match,
        )

    async def sells(self, sku: str, *, qty: int = 0, price: int = 1990, published: bool = True) -> None:
        """A product whose one variant is the SKU, with stock in MAIN."""
        shop = self.shop()
        if not self.variants:
            await register_location(shop, self.issued(), RegisterLocation("MAIN", "Main", "DE"))
        drafted = await draft_product(
            shop, self.issued(), DraftProduct(sku.lower(), {"en": sku.title()}, "standard")
        )
        product_id = only(drafted, ProductDrafted).product_id
        added = await add_variant(shop, self.issued(), AddVariant(product_id, sku, {}, 300))
        self.variants[sku] = product_id, only(added, VariantAdded).variant_id
        await self.prices(sku, price)
        if published:
            await publish_product(shop, self.issued(), PublishProduct(product_id))
        if qty:
            await self.receives(sku, qty)

    async def prices(self, sku: str, amount: int, currency: str = "EUR") -> Receipt:
        return await set_price(
            self.shop(), self.issued(), SetPrice(*self.variants[sku], currency, amount_minor=amount)
        )

    async def receives(self, sku: str, qty: int) -> Receipt:
        return await receive_stock(self.shop(), self.issued(), ReceiveStock(sku, "MAIN", qty, DELIVERY))

    def stock(self, sku: str, location: str = "MAIN") -> Stock:
        """A fresh fold of the item's stream."""
        name = STOCK.stream(f"{sku}@{location}")
        state = STOCK.initial
        events: list[Any] = [recorded.event for recorded in self.log.recorded if recorded.stream == name]
        for event in events:
            state = STOCK.evolve(state, event)
        return state


def only(receipt: Receipt, kind: type[E]) -> E:
    """The one event of this kind."""
    (event,) = (recorded.event for recorded in receipt.events if isinstance(recorded.event, kind))
    return event


def written(receipt: Receipt) -> list[str]:
    return [recorded.type for recorded in receipt.events]


def once(action: Callable[[], Awaitable[Any]]) -> Reached:
    """Runs the action where a command first stands before its append."""
    armed = [action]

    async def reached(_point: str) -> None:
        if armed:
            await armed.pop()()

    return reached


def wants(*lines: tuple[str, int], total: int, currency: str = "EUR") -> PlaceOrder:
    return PlaceOrder(
        "c1", tuple(WantedLine(sku, qty) for sku, qty in lines), currency, Money(total, currency)
    )


async def ordered(shop: Shop, issued: Issued, *lines: tuple[str, int], total: int) -> str:
    """The id of an order that was placed."""
    receipt = await place_order(shop, issued, wants(*lines, total=total))
    return only(receipt, OrderPlaced).order_id


@pytest.fixture
def house() -> House:
    return House()
