"""Random commands of several processes, interleaved before their appends, against a shop that is run by hand.

The shop by hand does one thing after the other, in the order of the log: whatever a command was told must be
what it would have been told there, at its place in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule
from tests.commands.conftest import DELIVERY, House, only

from commands.adjust_stock import AdjustStock, adjust_stock
from commands.cancel_order import CancelOrder, cancel_order
from commands.confirm_order import ConfirmOrder, confirm_order
from commands.place_order import PlaceOrder, WantedLine, place_order
from commands.ports import Append, Appended, Conflict, Duplicate, Issued, Receipt
from commands.receive_stock import ReceiveStock, receive_stock
from commands.set_price import SetPrice, set_price
from commands.shop import Shop
from domain.order import OrderCancelled, OrderConfirmed, OrderNotOpen, OrderPlaced, PriceChanged
from domain.price import PriceSet
from domain.stock import (
    CommitmentReleased,
    InsufficientStock,
    ReservationCommitted,
    ReservationExpired,
    ReservationReleased,
    StockAdjusted,
    StockBelowReserved,
    StockDepleted,
    StockFact,
    StockReceived,
    StockReplenished,
    StockReserved,
)
from domain.values import Money, Rejected

SKUS = ("MUG", "CUP", "JUG")
SKU = st.sampled_from(SKUS)
PROCESSES = 3
PROCESS = st.integers(0, PROCESSES - 1)
MANY = 3
"""Clients go away only while more than so many wait: else too few would ever be answered."""
TURNS = 40
"""Turns of the event loop after which every command is done, paused, or waiting for one that is."""

Outcome = Receipt | Rejected


@dataclass
class Claim:
    qty: int
    until: datetime


@dataclass
class Shelf:
    on_hand: int = 0
    price: int = 100
    live: dict[str, Claim] = field(default_factory=dict)
    bound: dict[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.on_hand - sum(claim.qty for claim in self.live.values()) - sum(self.bound.values())

    def obtainable(self, at: datetime) -> int:
        return self.free + sum(claim.qty for claim in self.live.values() if claim.until <= at)

    def apply(self, event: StockFact, at: datetime) -> None:
        match event:
            case StockReceived():
                self.on_hand += event.qty
            case StockAdjusted():
                self.on_hand += event.delta
            case StockReserved():
                assert event.holder.id not in self.live
                self.live[event.holder.id] = Claim(event.qty, event.expires_at)
                assert event.available_after == self.free
            case ReservationExpired():
                assert self.live.pop(event.holder.id).until <= at
            case ReservationReleased():
                assert self.live.pop(event.holder.id).qty == event.qty
            case ReservationCommitted():
                assert self.live.pop(event.order_id).qty == event.qty
                self.bound[event.order_id] = event.qty
            case CommitmentReleased():
                assert self.bound.pop(event.order_id) == event.qty
            case _:
                assert isinstance(event, StockDepleted | StockReplenished)


class ShopByHand:
    """Reservations and commitments by order."""

    def __init__(self) -> None:
        self.shelves = {sku: Shelf() for sku in SKUS}
        self.orders: dict[str, tuple[str, dict[str, int]]] = {}

    def refusal(self, command: Any, at: datetime) -> type[Rejected] | None:
        match command:
            case PlaceOrder():
                lines = {line.sku: line.qty for line in command.lines}
                total = sum(self.shelves[sku].price * qty for sku, qty in lines.items())
                seen = command.expected_total.amount_minor
                return self.short_of(lines, at) if total == seen else PriceChanged
            case ConfirmOrder(order_id):
                status, lines = self.orders[order_id]
                gone = {sku: qty for sku, qty in lines.items() if order_id not in self.shelves[sku].live}
                return self.short_of(gone, at) if status == "placed" else OrderNotOpen
            case CancelOrder(order_id):
                return OrderNotOpen if self.orders[order_id][0] == "cancelled" else None
            case AdjustStock():
                left = self.shelves[command.sku].obtainable(at) + (command.delta or 0)
                return StockBelowReserved if left < 0 else None
            case _:
                return None

    def short_of(self, lines: dict[str, int], at: datetime) -> type[Rejected] | None:
        short = any(self.shelves[sku].obtainable(at) < qty for sku, qty in lines.items())
        return InsufficientStock if short else None

    def apply(self, event: Any, at: datetime) -> None:
        match event:
            case OrderPlaced():
                self.orders[event.order_id] = "placed", {line.sku: line.qty for line in event.lines}
            case OrderConfirmed():
                self.orders[event.order_id] = "confirmed", self.orders[event.order_id][1]
            case OrderCancelled():
                self.orders[event.order_id] = "cancelled", self.orders[event.order_id][1]
            case StockFact():
                shelf = self.shelves[event.sku]
                shelf.apply(event, at)
                assert shelf.free >= 0, "never oversold, after every event"
            case _:
                assert isinstance(event, PriceSet)

    def settled(self, command: Any) -> bool:
        """Whether what the command asks for is so on every line."""
        match command:
            case ConfirmOrder(order_id):
                lines = self.orders[order_id][1]
                return all(self.shelves[sku].bound[order_id] == qty for sku, qty in lines.items())
            case CancelOrder(order_id):
                held = [{*self.shelves[sku].live, *self.shelves[sku].bound} for sku in SKUS]
                return not any(order_id in orders for orders in held)
            case _:
                return True


@dataclass(eq=False)
class Running:
    issued: Issued
    command: Any
    task: asyncio.Task[Outcome]


HANDLERS: dict[type, Callable[..., Awaitable[Receipt]]] = {
    PlaceOrder: place_order,
    ConfirmOrder: confirm_order,
    CancelOrder: cancel_order,
    ReceiveStock: receive_stock,
    AdjustStock: adjust_stock,
    SetPrice: set_price,
}


class Processes(RuleBasedStateMachine):
    orders: Bundle[str] = Bundle("orders")
    sent: Bundle[Running] = Bundle("sent")

    @initialize()
    def open_the_house(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.house = House()
        self.paused: list[asyncio.Event] = []
        self.shops = [self.shop() for _ in range(PROCESSES)]
        self.running: list[Running] = []
        self.by_hand = ShopByHand()
        self.told: dict[str, type[Rejected] | None] = {}
        self.bound: dict[bytes, tuple[int, int]] = {}
        for sku in SKUS:
            self.loop.run_until_complete(self.house.sells(sku, price=100, qty=6))
            self.by_hand.shelves[sku].on_hand = 6
        self.checked = len(self.house.log.given)

    def shop(self) -> Shop:
        async def reached(_point: str) -> None:
            go_on = asyncio.Event()
            self.paused.append(go_on)
            await go_on.wait()

        return self.house.shop(reached)

    def turn(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        self.follow_the_log()

    def send(self, process: int, command: Any, issued: Issued | None = None) -> Running:
        issued = issued or self.house.issued()
        shop = self.shops[process]

        async def outcome() -> Outcome:
            try:
                return await HANDLERS[type(command)](shop, issued, command)
            except Rejected as refusal:
                return refusal

        sent = Running(issued, command, self.loop.create_task(outcome()))
        self.running.append(sent)
        self.turn()
        return sent

    def follow_the_log(self) -> None:
        given = self.house.log.given[self.checked :]
        self.checked += len(given)
        for append, verdict in given:
            if isinstance(verdict, Appended):
                self.in_turn(append, verdict)
            elif isinstance(verdict, Duplicate):
                assert append.digest is not None
                assert self.bound[append.digest] == (verdict.first_position, verdict.count)
            else:
                assert isinstance(verdict, Conflict)

    def in_turn(self, append: Append, verdict: Appended) -> None:
        command = next(
            sent.command for sent in self.running if sent.issued.command_id == append.metadata.command_id
        )
        at = append.metadata.occurred_at
        expected = self.by_hand.refusal(command, at)
        assert bool(append.events) == bool(verdict.events)
        assert (expected is None) == bool(append.events), "refused exactly where the shop by hand refuses"
        self.told[append.metadata.command_id] = expected
        for new in append.events:
            self.by_hand.apply(new.event, at)
        if isinstance(command, SetPrice):
            sku = next(sku for sku, ids in self.house.variants.items() if ids[1] == command.variant_id)
            self.by_hand.shelves[sku].price = command.amount_minor
        if append.events:
            assert append.digest is not None
            assert append.digest not in self.bound, "one effect a request"
            assert self.by_hand.settled(command)
            self.bound[append.digest] = verdict.events[0].position, len(verdict.events)

    @rule(
        process=PROCESS,
        sku=SKU,
        act=st.sampled_from(["receive", "write_off", "reprice"]),
        by=st.integers(1, 4),
    )
    def keep_shop(self, process: int, sku: str, act: str, by: int) -> None:
        commands = {
            "receive": ReceiveStock(sku, "MAIN", by, DELIVERY),
            "write_off": AdjustStock(sku, "MAIN", "damage", delta=-by),
            "reprice": SetPrice(*self.house.variants[sku], "EUR", 200 if by == 1 else 100),
        }
        self.send(process, commands[act])

    @rule(
        target=sent,
        process=PROCESS,
        lines=st.dictionaries(SKU, st.integers(1, 5), min_size=1),
    )
    def order(self, process: int, lines: dict[str, int]) -> Running:
        total = sum(self.by_hand.shelves[sku].price * qty for sku, qty in lines.items())
        wanted = tuple(WantedLine(sku, qty) for sku, qty in lines.items())
        return self.send(process, PlaceOrder("c1", wanted, "EUR", Money(total, "EUR")))

    @rule(target=sent, process=PROCESS, again=sent)
    def send_again(self, process: int, again: Running) -> Running:
        issued = replace(again.issued, command_id=self.house.ids.new())
        return self.send(process, again.command, issued)

    @precondition(lambda self: self.by_hand.orders)
    @rule(target=sent, data=st.data(), process=PROCESS)
    def confirm(self, data: Any, process: int) -> Running:
        return self.send(process, ConfirmOrder(data.draw(st.sampled_from([*self.by_hand.orders]))))

    @precondition(lambda self: self.by_hand.orders)
    @rule(target=sent, data=st.data(), process=PROCESS)
    def cancel(self, data: Any, process: int) -> Running:
        return self.send(process, CancelOrder(data.draw(st.sampled_from([*self.by_hand.orders])), "customer"))

    @rule(minutes=st.integers(1, 11))
    def time_passes(self, minutes: int) -> None:
        self.house.clock.advance(timedelta(minutes=minutes))

    @precondition(lambda self: self.paused)
    @rule(data=st.data(), steps=st.integers(1, 10))
    def some_go_on(self, data: Any, steps: int) -> None:
        for _ in range(steps):
            if self.paused:
                self.paused.pop(data.draw(st.integers(0, len(self.paused) - 1))).set()
                self.turn()

    @rule()
    def all_come_to_an_end(self) -> None:
        while self.paused:
            self.paused.pop(0).set()
            self.turn()

    @precondition(lambda self: sum(not sent.task.done() for sent in self.running) > MANY)
    @rule(data=st.data())
    def a_client_goes_away(self, data: Any) -> None:
        data.draw(st.sampled_from([sent for sent in self.running if not sent.task.done()])).task.cancel()
        self.turn()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.everything_ends()
        finally:
            self.loop.close()

    def everything_ends(self) -> None:
        for _ in range(100 * len(self.running)):
            if all(sent.task.done() for sent in self.running):
                break
            if self.paused:
                self.paused.pop(0).set()
            self.turn()
        for sent in self.running:
            assert sent.task.done(), "nobody waits for ever"
            if not sent.task.cancelled():
                self.was_told_the_truth(sent, sent.task.result())
        log = self.house.log.recorded
        assert [recorded.position for recorded in log] == [*range(1, len(log) + 1)]
        for sku, shelf in self.by_hand.shelves.items():
            stock = self.house.stock(sku)
            assert (stock.available, stock.on_hand) == (shelf.free, shelf.on_hand)
            assert stock.committed == sum(shelf.bound.values())

    def was_told_the_truth(self, sent: Running, outcome: Outcome) -> None:
        if isinstance(outcome, Receipt):
            first, count = self.bound[sent.issued.digest]
            assert outcome.events == tuple(self.house.log.recorded[first - 1 : first - 1 + count])
            by = {recorded.metadata.command_id for recorded in outcome.events}
            assert outcome.replayed == (by != {sent.issued.command_id})
            if isinstance(sent.command, PlaceOrder):
                assert only(outcome, OrderPlaced).total == sent.command.expected_total
        else:
            assert self.told[sent.issued.command_id] is type(outcome)


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
