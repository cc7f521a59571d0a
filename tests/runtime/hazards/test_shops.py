"""Hazards of decisions, through the commands: processes of one shop on the log in PostgreSQL."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import pytest
from tests.runtime.hazards.recorders import TALLYBOOK
from tests.runtime.hazards.stage import DOOMED, HELD, WAIT_S, Stage, prepare, stage_of

from commands import _states
from commands.add_variant import AddVariant, add_variant
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.draft_product import DraftProduct, draft_product
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.ports import Append, Appended, Issued, Known, Receipt, Rules, Verdict
from commands.publish_product import PublishProduct, publish_product
from commands.register_location import RegisterLocation, register_location
from commands.set_price import SetPrice, set_price
from commands.shop import Shop
from domain.envelope import Actor, Tip
from domain.product import ProductDrafted, VariantAdded
from domain.stock import STOCK, InsufficientStock, Stock, StockAdjusted
from domain.values import Aggregate, Money
from runtime.ids import SystemClock, Uuid7s
from runtime.log.postgres import PostgresLog

pytestmark = pytest.mark.anyio

PRICE: Final = 100


class Offered:
    """Snapshots that keep everything they are offered, and are asked for it."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, Known]] = []

    async def read(self, streams: Mapping[str, Aggregate[Any, Any]]) -> Mapping[str, Known]:
        return {name: known for name, known in self.offered if name in streams}

    def offer(self, stream: str, known: Known) -> None:
        self.offered.append((stream, known))


class Process:
    """A shop on a log of its own. `appends`: how many decisions have been about to be appended."""

    def __init__(self, stage: Stage, log: PostgresLog) -> None:
        self.log = log
        self.snapshots = Offered()
        self.appends = 0
        self._stage = stage
        self._ids = Uuid7s()
        self.shop = Shop(
            log=log,
            clock=SystemClock(),
            ids=self._ids,
            digest_key=b"k" * 32,
            rules=Rules(),
            reached=self._reached,
            snapshots=self.snapshots,
        )

    async def _reached(self, _point: str) -> None:
        self.appends += 1

    def issued(self) -> Issued:
        number = next(_numbers).to_bytes(16)
        return Issued(
            Actor("staff", "s1"), self._ids.new(), self._ids.new(), digest=number, fingerprint=2 * number
        )

    async def adjusts(
        self, sku: str, *, delta: int | None = None, counted: int | None = None, note: str = ""
    ) -> Receipt:
        command = AdjustStock(sku, "MAIN", "found", delta, counted, note or None)
        return await adjust_stock(self.shop, self.issued(), command)

    async def orders(self, sku: str, customer: str = "c1") -> Receipt:
        command = PlaceOrder(customer, (WantedLine(sku, 1),), "EUR", Money(PRICE, "EUR"))
        return await place_order(self.shop, self.issued(), command)

    async def sells(self, sku: str, *, qty: int = 0) -> None:
        drafted = await draft_product(
            self.shop, self.issued(), DraftProduct(sku.lower(), {"en": sku}, "standard")
        )
        [product] = [r.event.product_id for r in drafted.events if isinstance(r.event, ProductDrafted)]
        added = await add_variant(self.shop, self.issued(), AddVariant(product, sku, {}, 100))
        [variant] = [r.event.variant_id for r in added.events if isinstance(r.event, VariantAdded)]
        await set_price(self.shop, self.issued(), SetPrice(product, variant, "EUR", amount_minor=PRICE))
        await publish_product(self.shop, self.issued(), PublishProduct(product))
        if qty:
            await self.adjusts(sku, delta=qty)

    async def starts(self, command: Awaitable[Receipt]) -> asyncio.Task[Receipt]:
        """Returns when it has been decided and queued."""
        before = self.appends
        task = asyncio.ensure_future(command)

        async def decided() -> bool:
            return self.appends > before

        await self._stage.until_true(decided)
        await asyncio.sleep(0)
        return task

    async def stock(self, sku: str) -> Stock:
        """A fold of what the log has."""
        name = STOCK.stream(f"{sku}@MAIN")
        state = STOCK.initial
        for recorded in (await self.log.read_streams({name: 0}))[name]:
            event: Any = recorded.event
            state = STOCK.evolve(state, event)
        return state


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def tallybook_url(new_database_of_module: Callable[[], str]) -> str:
    url = new_database_of_module()
    asyncio.run(prepare(TALLYBOOK, url))
    return url


@pytest.fixture
async def stage(tallybook_url: str) -> AsyncIterator[Stage]:
    async with stage_of(TALLYBOOK, tallybook_url) as stage:
        yield stage


@pytest.fixture
async def processes(stage: Stage) -> AsyncIterator[tuple[Process, Process]]:
    async with PostgresLog.open(stage.url) as one, PostgresLog.open(stage.url) as other:
        first = Process(stage, one)
        await register_location(first.shop, first.issued(), RegisterLocation("MAIN", "Main", "DE"))
        yield first, Process(stage, other)


async def ends(task: asyncio.Task[Receipt]) -> Receipt | BaseException:
    async with asyncio.timeout(WAIT_S):
        [ended] = await asyncio.gather(task, return_exceptions=True)
    return ended


async def test_nobody_is_refused_on_stale_state(stage: Stage, processes: tuple[Process, Process]) -> None:
    await a_buyer_comes_as_a_delivery_does(stage, *processes)


async def test_a_refusal_that_is_told_unchecked_is_noticed(
    stage: Stage, processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = PostgresLog.append

    async def append(log: PostgresLog, append: Append) -> Verdict:
        return await checked(log, append) if append.events else Appended(())

    monkeypatch.setattr(PostgresLog, "append", append)
    with pytest.raises(AssertionError, match="InsufficientStock"):
        await a_buyer_comes_as_a_delivery_does(stage, *processes)


async def a_buyer_comes_as_a_delivery_does(stage: Stage, one: Process, other: Process) -> None:
    """The delivery is about to be committed; another process, which has seen none, refuses the buyer."""
    await one.sells("MUG")
    with pytest.raises(InsufficientStock):
        await other.orders("MUG")
    await stage.shut_gate()
    delivery = await one.starts(one.adjusts("MUG", delta=1, note=HELD))
    await stage.at_gate()
    order = await other.starts(other.orders("MUG"))
    await stage.open_gate()
    assert isinstance(await ends(delivery), Receipt)
    told = await ends(order)
    assert isinstance(told, Receipt), repr(told)
    assert (await one.stock("MUG")).available == 0


async def test_nobody_is_refused_on_state_that_never_came(
    stage: Stage, processes: tuple[Process, Process]
) -> None:
    """The last unit goes to a buyer whose commit fails; the next was refused because of it."""
    one, _ = processes
    await one.sells("MUG", qty=1)
    await stage.shut_gate()
    lost = await one.starts(one.orders("MUG", customer=f"{HELD}-{DOOMED}"))
    await stage.at_gate()
    order = await one.starts(one.orders("MUG"))
    await stage.open_gate()
    assert isinstance(await ends(lost), ValueError)
    assert isinstance(await ends(order), Receipt)
    assert (await one.stock("MUG")).available == 0


async def test_nobody_is_told_of_success_that_follows_from_what_never_came(
    stage: Stage, processes: tuple[Process, Process]
) -> None:
    """A delivery's commit fails; an order was decided on it, and a second one on the state after that."""
    one, _ = processes
    await one.sells("MUG")
    await stage.shut_gate()
    lost = await one.starts(one.adjusts("MUG", delta=2, note=f"{HELD} {DOOMED}"))
    await stage.at_gate()
    orders = [await one.starts(one.orders("MUG")) for _ in range(2)]
    await stage.open_gate()
    assert isinstance(await ends(lost), ValueError)
    assert [type(await ends(order)) for order in orders] == [InsufficientStock] * 2
    assert (await one.stock("MUG")).on_hand == 0


async def test_a_version_decided_on_a_version_that_was_lost_is_decided_again(
    stage: Stage, processes: tuple[Process, Process]
) -> None:
    """Another process is about to write the very version on which two decisions in a row build here."""
    one, other = processes
    await one.sells("MUG", qty=5)
    await other.adjusts("MUG", delta=1)
    await one.adjusts("MUG", delta=-1)
    await stage.shut_gate()
    wins = await other.starts(other.adjusts("MUG", delta=1, note=HELD))
    await stage.at_gate()
    count = await one.starts(one.adjusts("MUG", counted=10))
    loss = await one.starts(one.adjusts("MUG", delta=-3))
    await stage.open_gate()
    for task in (wins, count, loss):
        assert isinstance(await ends(task), Receipt)
    on_hand = 0
    name = STOCK.stream("MUG@MAIN")
    history = (await one.log.read_streams({name: 0}))[name]
    assert [recorded.version for recorded in history] == [*range(1, len(history) + 1)]
    for recorded in history:
        event = recorded.event
        if isinstance(event, StockAdjusted):
            on_hand += event.delta
            assert event.counted_on_hand in (None, on_hand), "what was counted follows from what was there"


async def test_what_is_in_flight_is_not_evicted_not_snapshotted_and_not_read(
    stage: Stage, processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache too small for anything, a snapshot at every version, and a decision in flight meanwhile."""
    one, other = processes
    await one.sells("MUG", qty=1)
    await one.sells("CUP", qty=5)
    monkeypatch.setattr(_states, "MAX_STATES", 8)
    monkeypatch.setattr(_states, "SNAPSHOT_EVERY", 1)
    mug = STOCK.stream("MUG@MAIN")
    await stage.shut_gate()
    flying = await one.starts(one.adjusts("MUG", delta=1, note=HELD))
    await stage.at_gate()
    offered = len(one.snapshots.offered)
    await one.shop.states.load({STOCK.stream(f"{sku}@MAIN"): STOCK for sku in ("CUP", *map(str, range(20)))})
    assert mug not in {name for name, _ in one.snapshots.offered[offered:]}
    assert (await other.stock("MUG")).on_hand == 1
    follows = await one.starts(one.adjusts("MUG", counted=7))
    await stage.open_gate()
    first, second = await ends(flying), await ends(follows)
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (await one.stock("MUG")).on_hand == 7
    await _all_snapshots_agree(one)


async def test_no_snapshot_is_taken_of_what_never_came(
    stage: Stage, processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = processes
    await one.sells("MUG", qty=1)
    monkeypatch.setattr(_states, "SNAPSHOT_EVERY", 1)
    await stage.shut_gate()
    lost = await one.starts(one.adjusts("MUG", delta=1, note=f"{HELD} {DOOMED}"))
    await stage.at_gate()
    follows = await one.starts(one.adjusts("MUG", counted=7))
    await stage.open_gate()
    assert isinstance(await ends(lost), ValueError)
    assert isinstance(await ends(follows), Receipt)
    assert (await one.stock("MUG")).on_hand == 7
    await _all_snapshots_agree(one)


async def _all_snapshots_agree(process: Process) -> None:
    """Each is the fold of the log up to its tip."""
    assert process.snapshots.offered
    for name, known in process.snapshots.offered:
        history = (await process.log.read_streams({name: 0}))[name][: known.tip.version]
        assert known.tip == Tip(history[-1].version, history[-1].event_id)
        state = known.aggregate.initial
        for recorded in history:
            state = known.aggregate.evolve(state, recorded.event)
        assert known.state == state
