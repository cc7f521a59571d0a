"""Random histories of one stock item, against a shelf that is counted by hand."""

from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from domain import stock
from domain.stock import (
    STOCK,
    CommitmentReleased,
    Holder,
    InsufficientStock,
    Item,
    Reference,
    ReservationCommitted,
    ReservationExpired,
    ReservationReleased,
    Shortage,
    Stock,
    StockAdjusted,
    StockBelowReserved,
    StockDepleted,
    StockEvent,
    StockReceived,
    StockReplenished,
    StockReserved,
    UnknownReservation,
)
from domain.values import Rejected

T0 = datetime(2026, 3, 1, tzinfo=UTC)
MUG = Item("MUG", "BER", "p1", "v1")
DELIVERY = Reference("purchase", "po-1")
QTY = st.integers(1, 12)
MINUTES = st.integers(0, 15)


@dataclass
class Claim:
    qty: int
    until: datetime


class Shelf(RuleBasedStateMachine):
    """A reservation `r-n` is held by the order `o-n`, which has one line here."""

    reservations: Bundle[int] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.state: Stock = STOCK.initial
        self.now = T0
        self.count = 0
        self.on_hand = 0
        self.live: dict[str, Claim] = {}
        self.ended: list[str] = []
        self.bound: dict[str, int] = {}

    @property
    def free(self) -> int:
        return self.on_hand - sum(claim.qty for claim in self.live.values()) - sum(self.bound.values())

    @property
    def overdue(self) -> list[tuple[datetime, str]]:
        return sorted((claim.until, ident) for ident, claim in self.live.items() if claim.until <= self.now)

    @property
    def obtainable(self) -> int:
        return self.free + sum(self.live[ident].qty for _, ident in self.overdue)

    def decide(self, decision: Any, **facts: Any) -> list[StockEvent] | Rejected:
        before = deepcopy(self.state)
        outcomes: list[Any] = []
        for _ in range(2):
            try:
                outcomes.append(decision(self.state, **facts))
            except Rejected as refusal:
                outcomes.append(refusal)
        assert self.state == before, "a decision changes no state"
        first, again = outcomes
        if isinstance(first, Rejected):
            assert (type(first), vars(first)) == (type(again), vars(again))
        else:
            assert first == again
            self.record(first)
        decided: list[StockEvent] | Rejected = first
        return decided

    def record(self, events: list[StockEvent]) -> None:
        was = self.free
        for event in events:
            assert stock.item_of(event) == MUG
            self.apply(event)
            self.state = STOCK.evolve(self.state, event)
            self.adds_up()
        edges = [event for event in events if isinstance(event, StockDepleted | StockReplenished)]
        if was > 0 >= self.free:
            assert edges == [StockDepleted(*MUG, self.free)]
        elif was <= 0 < self.free:
            assert edges == [StockReplenished(*MUG, self.free)]
        else:
            assert edges == []

    def apply(self, event: StockEvent) -> None:
        match event:
            case StockReceived():
                self.on_hand += event.qty
            case StockAdjusted():
                self.on_hand += event.delta
            case StockReserved():
                assert event.reservation_id not in {*self.live, *self.ended}
                self.live[event.reservation_id] = Claim(event.qty, event.expires_at)
                assert event.available_after == self.free
            case ReservationReleased() | ReservationExpired() | ReservationCommitted():
                claim = self.live.pop(event.reservation_id)
                assert event.qty == claim.qty
                self.ended.append(event.reservation_id)
                if isinstance(event, ReservationExpired):
                    assert claim.until <= event.expired_at == self.now
                if isinstance(event, ReservationCommitted):
                    self.bound[event.order_id] = claim.qty
            case CommitmentReleased():
                assert self.bound.pop(event.order_id) == event.qty
            case StockDepleted() | StockReplenished():
                pass

    def oldest_and_no_more_than_needed(self, events: list[StockEvent], need: int, before: "Shelf") -> None:
        expired = [event.reservation_id for event in events if isinstance(event, ReservationExpired)]
        assert expired == [ident for _, ident in before.overdue[: len(expired)]]
        if expired:
            last = before.live[expired[-1]].qty
            freed = sum(before.live[ident].qty for ident in expired)
            assert before.free + freed - last < need, "one less would not have been enough"

    def remembered(self) -> "Shelf":
        before = Shelf.__new__(Shelf)
        before.now, before.on_hand = self.now, self.on_hand
        before.live, before.bound = dict(self.live), dict(self.bound)
        return before

    @invariant()
    def adds_up(self) -> None:
        assert self.state.available == self.free >= 0
        assert (self.state.on_hand, self.state.committed) == (self.on_hand, sum(self.bound.values()))
        assert min(self.state.on_hand, self.state.reserved, self.state.committed) >= 0
        assert self.state.held.keys() == self.live.keys()
        assert len(self.ended) == len(set(self.ended)), "each reservation ends once"

    @rule(minutes=MINUTES)
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(qty=QTY)
    def receive(self, qty: int) -> None:
        events = self.decide(stock.receive, item=MUG, qty=qty, reference=DELIVERY)
        assert isinstance(events, list)
        assert events[0] == StockReceived(*MUG, qty, DELIVERY)

    @rule(delta=st.integers(-12, 6).filter(bool))
    def adjust(self, delta: int) -> None:
        before = self.remembered()
        facts = {"item": MUG, "delta": delta, "counted": None, "reason": "found", "note": None}
        outcome = self.decide(stock.adjust, **facts, at=self.now)
        if before.obtainable + delta < 0 and delta < 0:
            assert isinstance(outcome, StockBelowReserved)
            assert (outcome.on_hand, outcome.available) == (before.on_hand, before.obtainable)
        else:
            assert isinstance(outcome, list)
            self.oldest_and_no_more_than_needed(outcome, -delta, before)

    @rule(target=reservations, qty=QTY, minutes=MINUTES)
    def reserve(self, qty: int, minutes: int) -> int:
        before = self.remembered()
        self.count += 1
        outcome = self.decide(
            stock.reserve,
            item=MUG,
            reservation_id=f"r-{self.count}",
            holder=Holder("order", f"o-{self.count}"),
            qty=qty,
            expires_at=self.now + timedelta(minutes=minutes),
            at=self.now,
        )
        self.enough_or_refused(outcome, qty, before)
        return self.count

    def enough_or_refused(self, outcome: list[StockEvent] | Rejected, qty: int, before: "Shelf") -> None:
        if qty > before.obtainable:
            assert isinstance(outcome, InsufficientStock)
            assert outcome.shortages == (Shortage("MUG", qty, before.obtainable, "BER"),)
        else:
            assert isinstance(outcome, list)
            self.oldest_and_no_more_than_needed(outcome, qty, before)

    @rule(number=reservations)
    def expire(self, number: int) -> None:
        due = f"r-{number}" in {ident for _, ident in self.overdue}
        outcome = self.decide(stock.expire, reservation_id=f"r-{number}", at=self.now)
        assert isinstance(outcome, list)
        assert bool(outcome) == due

    @rule(number=reservations, own=st.booleans())
    def release(self, number: int, own: bool) -> None:
        held = f"r-{number}" in self.live
        holder = Holder("order" if own else "cart", f"o-{number}")
        outcome = self.decide(stock.release, reservation_id=f"r-{number}", holder=holder, reason="customer")
        assert isinstance(outcome, list if held and own else UnknownReservation)

    @rule(number=reservations, qty=QTY)
    def commit(self, number: int, qty: int) -> None:
        if f"o-{number}" in self.bound:
            return  # an order is confirmed once: domain/order.py
        before = self.remembered()
        self.count += 1
        outcome = self.decide(
            stock.commit,
            item=MUG,
            reservation_id=f"r-{number}",
            retake_id=f"again-{self.count}",
            order_id=f"o-{number}",
            line_id="l1",
            qty=qty,
            at=self.now,
        )
        if f"r-{number}" in before.live:
            assert isinstance(outcome, list)
            assert len(outcome) == 1
        else:
            self.enough_or_refused(outcome, qty, before)

    @rule(number=consumes(reservations))
    def free_what_a_cancelled_order_has(self, number: int) -> None:
        holds = f"r-{number}" in self.live or f"o-{number}" in self.bound
        outcome = self.decide(stock.free, reservation_id=f"r-{number}", order_id=f"o-{number}", line_id="l1")
        assert isinstance(outcome, list)
        assert bool(outcome) == holds
        assert f"r-{number}" not in self.live
        assert f"o-{number}" not in self.bound


TestShelf = Shelf.TestCase
TestShelf.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
