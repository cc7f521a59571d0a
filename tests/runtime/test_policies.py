"""The policies on a real log: they follow it, keep time, and have effect once however often they run."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from commands.add_variant import AddVariant, add_variant
from commands.draft_product import DraftProduct, draft_product
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.policies import POLICIES
from commands.ports import Issued, Rules
from commands.publish_product import PublishProduct, publish_product
from commands.receive_stock import ReceiveStock, receive_stock
from commands.register_location import RegisterLocation, register_location
from commands.requests import digest, fingerprint
from commands.set_price import SetPrice, set_price
from commands.shop import Shop
from domain.envelope import Actor
from domain.product import ProductDrafted, VariantAdded
from domain.stock import Reference
from domain.values import Money
from runtime.ids import FixedClock, Uuid7s
from runtime.log.postgres import PostgresLog
from runtime.log.reading import LogReader
from runtime.migrate import migrate
from runtime.policies import ROLE, PolicyRunner
from runtime.policy_store import Checkpoint, HistoryChanged, PolicyStore
from runtime.postgres import Pool, connect, open_pool

pytestmark = pytest.mark.anyio

T0 = datetime(2026, 3, 1, tzinfo=UTC)
KEY = b"k" * 32
WAIT_SECONDS = 15.0


@dataclass
class Machine:
    url: str
    clock: FixedClock
    shop: Shop
    reader: LogReader
    pool: Pool

    def issued(self, key: str) -> Issued:
        return Issued(
            Actor("staff", "s1"),
            self.shop.ids.new(),
            self.shop.ids.new(),
            digest(KEY, "staff:s1", key),
            fingerprint(KEY, "POST", "/", key),
        )

    async def sells(self, sku: str, qty: int) -> None:
        drafted = await draft_product(
            self.shop, self.issued(f"draft {sku}"), DraftProduct(sku.lower(), {"en": sku}, "standard")
        )
        [product] = [event.event for event in drafted.events if isinstance(event.event, ProductDrafted)]
        added = await add_variant(
            self.shop, self.issued(f"add {sku}"), AddVariant(product.product_id, sku, {}, 1)
        )
        [variant] = [event.event for event in added.events if isinstance(event.event, VariantAdded)]
        await set_price(
            self.shop,
            self.issued(f"price {sku}"),
            SetPrice(product.product_id, variant.variant_id, "EUR", 100),
        )
        await publish_product(self.shop, self.issued(f"publish {sku}"), PublishProduct(product.product_id))
        await register_location(self.shop, self.issued("main"), RegisterLocation("MAIN", "Main", "DE"))
        await receive_stock(
            self.shop,
            self.issued(f"receive {sku}"),
            ReceiveStock(sku, "MAIN", qty, Reference("initial", "1")),
        )

    async def orders(self, sku: str, key: str) -> None:
        command = PlaceOrder("c1", (WantedLine(sku, 1),), "EUR", Money(100, "EUR"))
        await place_order(self.shop, self.issued(key), command)

    async def types(self) -> Counter[str]:
        return Counter(event.type for event in await self.reader.read(0))

    async def until(self, type_: str, count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.types())[type_] < count:
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def policies(self) -> AsyncIterator[None]:
        """One process of policies, with a log connection and states of its own."""
        async with AsyncExitStack() as stack:
            log = await stack.enter_async_context(PostgresLog.open(self.url, ROLE))
            shop = Shop(log=log, clock=self.clock, ids=Uuid7s(), digest_key=KEY, rules=Rules())
            store = PolicyStore(self.pool, log.incarnation)
            runners = [PolicyRunner(policy, shop, self.reader, store) for policy in POLICIES]
            tasks = [
                asyncio.create_task(work)
                for runner in runners
                for work in (runner.follow(), runner.keep_time())
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)


@pytest.fixture
async def machine(new_database: Callable[[], str]) -> AsyncIterator[Machine]:
    url = new_database()
    await migrate(url, "log")
    clock = FixedClock(T0)
    async with (
        PostgresLog.open(url) as log,
        LogReader.open(url) as reader,
        open_pool(url, ROLE, size=4) as pool,
    ):
        shop = Shop(log=log, clock=clock, ids=Uuid7s(), digest_key=KEY, rules=Rules())
        yield Machine(url, clock, shop, reader, pool)


async def test_an_order_that_is_not_confirmed_in_time_gives_its_stock_back(machine: Machine) -> None:
    await machine.sells("MUG", 5)
    async with machine.policies():
        await machine.orders("MUG", "first")
        await machine.until("expiry.scheduled.v1", 1)
        assert (await machine.types())["reservation.expired.v1"] == 0
        machine.clock.advance(timedelta(minutes=10))
        await machine.until("order.cancelled.v1", 1)
        await machine.until("expiry.settled.v1", 1)
        await machine.until("lapse.settled.v1", 1)
    types = await machine.types()
    assert types["reservation.expired.v1"] == types["order.cancelled.v1"] == 1


async def test_two_processes_have_the_effect_of_one(machine: Machine) -> None:
    await machine.sells("MUG", 50)
    async with machine.policies(), machine.policies():
        for number in range(10):
            await machine.orders("MUG", f"order {number}")
        await machine.until("expiry.scheduled.v1", 10)
        machine.clock.advance(timedelta(minutes=10))
        await machine.until("order.cancelled.v1", 10)
        await machine.until("expiry.settled.v1", 10)
        await machine.until("lapse.settled.v1", 10)
    types = await machine.types()
    assert {types[name] for name in ("expiry.scheduled.v1", "reservation.expired.v1")} == {10}
    assert {types[name] for name in ("order.cancelled.v1", "lapse.settled.v1")} == {10}


async def test_begun_again_at_an_old_checkpoint_it_repeats_itself_without_effect(machine: Machine) -> None:
    await machine.sells("MUG", 5)
    await machine.orders("MUG", "first")
    async with machine.policies():
        await machine.until("expiry.scheduled.v1", 1)
        machine.clock.advance(timedelta(minutes=10))
        await machine.until("lapse.settled.v1", 1)
        await machine.until("expiry.settled.v1", 1)
    before = await machine.types()
    async with connect(machine.url, ROLE) as connection:
        await connection.execute("delete from policies.checkpoint")
    async with machine.policies():
        await machine.orders("MUG", "second")
        await machine.until("expiry.scheduled.v1", 2)
    after = await machine.types()
    assert after - before == Counter({"order.placed.v1": 1, "stock.reserved.v1": 1, "expiry.scheduled.v1": 1})


async def test_a_timer_is_gone_once_it_fired(machine: Machine) -> None:
    await machine.sells("MUG", 5)
    async with machine.policies():
        await machine.orders("MUG", "first")
        await machine.until("expiry.scheduled.v1", 1)
        machine.clock.advance(timedelta(minutes=10))
        await machine.until("expiry.settled.v1", 1)
        async with connect(machine.url, ROLE) as connection, asyncio.timeout(WAIT_SECONDS):
            while await (await connection.execute("select from policies.timers")).fetchone() is not None:
                await asyncio.sleep(0.02)


async def test_of_two_that_move_one_checkpoint_one_loses(machine: Machine) -> None:
    await machine.sells("MUG", 5)
    store = PolicyStore(machine.pool, machine.shop.log.incarnation)
    begun = await store.checkpoint("p")
    [first, second] = await machine.reader.read(0, 2)
    one = Checkpoint(begun.incarnation, first.position, first.event_id)
    two = Checkpoint(begun.incarnation, second.position, second.event_id)
    assert await store.advance("p", begun, two, [])
    assert not await store.advance("p", begun, one, [])
    assert await store.checkpoint("p") == two


async def test_a_checkpoint_that_the_log_does_not_have_is_refused(machine: Machine) -> None:
    await machine.sells("MUG", 5)
    store = PolicyStore(machine.pool, machine.shop.log.incarnation)
    begun = await store.checkpoint("p")
    assert await store.advance("p", begun, Checkpoint(begun.incarnation, 3, machine.shop.ids.new()), [])
    with pytest.raises(HistoryChanged, match="restore the log"):
        await store.checkpoint("p")
