"""The stock of one SKU at one location. Stream `stock-{sku}@{location}`.

`available = on_hand - reserved - committed`. A reservation is `held → {committed, released, expired}`; one
that is overdue counts as held until `ReservationExpired` is recorded, and a decision that needs its stock
records that first: correctness never depends on a timer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Final, Literal, NamedTuple, assert_never

from domain.values import MAX_STOCK_QTY, Aggregate, FieldError, InvalidFields, Rejected

MIN_TTL: Final = timedelta(seconds=60)
MAX_TTL: Final = timedelta(days=31)
NOTE_THRESHOLD: Final = 100
"""An adjustment of more units than this needs a note."""


AdjustmentReason = Literal["count", "shrinkage", "damage", "found", "correction"]
ReleaseReason = Literal["customer", "order_cancelled", "payment_failed", "superseded"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a receipt refers to."""

    type: Literal["purchase", "return", "transfer", "initial"]
    id: str


@dataclass(frozen=True, slots=True)
class Holder:
    type: Literal["cart", "order"]
    id: str


class Item(NamedTuple):
    """Whose stock it is and where."""

    sku: str
    location: str
    product_id: str
    variant_id: str


@dataclass(frozen=True, slots=True)
class StockFact:
    """The ids that every stock event carries to the rows it feeds: the fields of `Item`."""

    sku: str
    location: str
    product_id: str
    variant_id: str


@dataclass(frozen=True, slots=True)
class StockReceived(StockFact):
    TYPE: ClassVar[str] = "stock.received.v1"

    qty: int
    reference: Reference


@dataclass(frozen=True, slots=True)
class StockAdjusted(StockFact):
    TYPE: ClassVar[str] = "stock.adjusted.v1"

    delta: int
    reason: AdjustmentReason
    note: str | None = None
    counted_on_hand: int | None = None


@dataclass(frozen=True, slots=True)
class StockReserved(StockFact):
    """`available_after` is frozen by the decision and equals the fold at this event."""

    TYPE: ClassVar[str] = "stock.reserved.v1"

    reservation_id: str
    qty: int
    holder: Holder
    expires_at: datetime
    available_after: int


@dataclass(frozen=True, slots=True)
class ReservationReleased(StockFact):
    TYPE: ClassVar[str] = "reservation.released.v1"

    reservation_id: str
    qty: int
    holder: Holder
    reason: ReleaseReason


@dataclass(frozen=True, slots=True)
class ReservationExpired(StockFact):
    TYPE: ClassVar[str] = "reservation.expired.v1"

    reservation_id: str
    qty: int
    holder: Holder
    expired_at: datetime


@dataclass(frozen=True, slots=True)
class ReservationCommitted(StockFact):
    TYPE: ClassVar[str] = "reservation.committed.v1"

    reservation_id: str
    order_id: str
    line_id: str
    qty: int


@dataclass(frozen=True, slots=True)
class CommitmentReleased(StockFact):
    TYPE: ClassVar[str] = "commitment.released.v1"

    order_id: str
    line_id: str
    qty: int
    reason: ReleaseReason


@dataclass(frozen=True, slots=True)
class StockDepleted(StockFact):
    TYPE: ClassVar[str] = "stock.depleted.v1"

    available: int


@dataclass(frozen=True, slots=True)
class StockReplenished(StockFact):
    TYPE: ClassVar[str] = "stock.replenished.v1"

    available: int


StockEvent = (
    StockReceived
    | StockAdjusted
    | StockReserved
    | ReservationReleased
    | ReservationExpired
    | ReservationCommitted
    | CommitmentReleased
    | StockDepleted
    | StockReplenished
)


@dataclass(frozen=True, slots=True)
class Reservation:
    reservation_id: str
    qty: int
    holder: Holder
    expires_at: datetime


class Stock(NamedTuple):
    """`held` by reservation id, `commitments` (units) by (order id, line id); `item` is None before all."""

    item: Item | None = None
    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    held: Mapping[str, Reservation] = {}
    commitments: Mapping[tuple[str, str], int] = {}

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved - self.committed


def item_of(event: StockFact) -> Item:
    return Item(event.sku, event.location, event.product_id, event.variant_id)


def evolve(state: Stock, event: StockEvent) -> Stock:
    match event:
        case StockReceived():
            return state._replace(item=item_of(event), on_hand=state.on_hand + event.qty)
        case StockAdjusted():
            return state._replace(item=item_of(event), on_hand=state.on_hand + event.delta)
        case StockReserved():
            held = Reservation(event.reservation_id, event.qty, event.holder, event.expires_at)
            return state._replace(
                reserved=state.reserved + event.qty, held={**state.held, event.reservation_id: held}
            )
        case ReservationReleased() | ReservationExpired():
            return _no_longer_held(state, event.reservation_id, event.qty)
        case ReservationCommitted():
            line = (event.order_id, event.line_id)
            return _no_longer_held(state, event.reservation_id, event.qty)._replace(
                committed=state.committed + event.qty,
                commitments={**state.commitments, line: state.commitments.get(line, 0) + event.qty},
            )
        case CommitmentReleased():
            line = (event.order_id, event.line_id)
            left = {**state.commitments, line: state.commitments.get(line, 0) - event.qty}
            kept = {line: qty for line, qty in left.items() if qty}
            return state._replace(committed=state.committed - event.qty, commitments=kept)
        case StockDepleted() | StockReplenished():
            return state
        case _:
            assert_never(event)


def _no_longer_held(state: Stock, reservation_id: str, qty: int) -> Stock:
    held = {ident: held for ident, held in state.held.items() if ident != reservation_id}
    return state._replace(reserved=state.reserved - qty, held=held)


STOCK = Aggregate("stock", Stock(), evolve)


@dataclass(frozen=True, slots=True)
class Shortage:
    """`available` counts what overdue reservations would free."""

    sku: str
    requested: int
    available: int
    location: str


@dataclass(eq=False)
class InsufficientStock(Rejected):
    """There is not enough stock."""

    shortages: tuple[Shortage, ...]


@dataclass(eq=False)
class StockBelowReserved(Rejected):
    """The adjustment would take stock that is reserved or committed, or that is not there."""

    on_hand: int
    available: int


class StockLimit(Rejected):
    """Stock on hand would pass 2,147,483,647 units."""


@dataclass(eq=False)
class UnknownReservation(Rejected):
    """No such reservation is held here."""

    reservation_id: str


def receive(state: Stock, *, item: Item, qty: int, reference: Reference) -> list[StockEvent]:
    if state.on_hand + qty > MAX_STOCK_QTY:
        raise StockLimit
    return noting_edges(state, [StockReceived(*item, qty, reference)], item)


def adjust(
    state: Stock,
    *,
    item: Item,
    delta: int | None,
    counted: int | None,
    reason: AdjustmentReason,
    note: str | None,
    at: datetime,
) -> list[StockEvent]:
    """Either by `delta` or to the `counted` units on hand, after expiring what is overdue and in the way."""
    change = change_on_hand(state, delta=delta, counted=counted)
    if abs(change) > NOTE_THRESHOLD and not note:
        raise InvalidFields((FieldError("/note", "note_required", f"more than {NOTE_THRESHOLD} units"),))
    if state.on_hand + change > MAX_STOCK_QTY:
        raise StockLimit
    expired = overdue(state, qty=-change, at=at)
    available = state.available + sum(event.qty for event in expired)
    if available + change < 0:
        raise StockBelowReserved(state.on_hand, available)
    return noting_edges(state, [*expired, StockAdjusted(*item, change, reason, note, counted)], item)


def change_on_hand(state: Stock, *, delta: int | None, counted: int | None) -> int:
    """The units by which an adjustment by `delta` or to `counted` changes what is on hand."""
    if delta == 0 and counted is None:
        raise InvalidFields((FieldError("/delta", "out_of_range", "an adjustment by nothing"),))
    if delta is not None and counted is None:
        return delta
    if counted is not None and delta is None:
        return counted - state.on_hand
    raise InvalidFields((FieldError("/delta", "delta_or_counted", "give either delta or counted"),))


def overdue(state: Stock, *, qty: int, at: datetime) -> list[ReservationExpired]:
    """The expiries that a decision about `qty` units must record first: the oldest, and no more than needed.

    They may still be too few; then there is not enough stock.
    """
    expired: list[ReservationExpired] = []
    missing = qty - state.available
    if missing <= 0:
        return expired
    for held in sorted(state.held.values(), key=lambda held: (held.expires_at, held.reservation_id)):
        if missing <= 0 or held.expires_at > at:
            break
        expired.append(_expired(state, held, at))
        missing -= held.qty
    return expired


def reserve(
    state: Stock,
    *,
    item: Item,
    reservation_id: str,
    holder: Holder,
    qty: int,
    expires_at: datetime,
    at: datetime,
) -> list[StockEvent]:
    """Reserve `qty` units, after expiring what is overdue and needed."""
    expired = overdue(state, qty=qty, at=at)
    available = state.available + sum(event.qty for event in expired)
    if qty > available:
        raise InsufficientStock((Shortage(item.sku, qty, available, item.location),))
    reserved = StockReserved(*item, reservation_id, qty, holder, expires_at, available - qty)
    return noting_edges(state, [*expired, reserved], item)


def release(state: Stock, *, reservation_id: str, holder: Holder, reason: ReleaseReason) -> list[StockEvent]:
    held = _held(state, reservation_id, holder)
    item = _item(state)
    return noting_edges(
        state, [ReservationReleased(*_item(state), reservation_id, held.qty, held.holder, reason)], item
    )


def expire(state: Stock, *, reservation_id: str, at: datetime) -> list[StockEvent]:
    """Record the expiry of a held reservation that is overdue; nothing to record if it is not both."""
    held = state.held.get(reservation_id)
    if held is None or held.expires_at > at:
        return []
    return noting_edges(state, [_expired(state, held, at)], _item(state))


def commit(
    state: Stock,
    *,
    item: Item,
    reservation_id: str,
    retake_id: str,
    order_id: str,
    line_id: str,
    qty: int,
    at: datetime,
) -> list[StockEvent]:
    """Bind an order's reserved units to its line.

    One that is overdue but still held has kept its stock. One that has expired is taken again under
    `retake_id`, if there is stock.
    """
    holder = Holder("order", order_id)
    taken: list[StockEvent] = []
    if reservation_id not in state.held:
        reservation_id = retake_id
        taken = reserve(
            state, item=item, reservation_id=retake_id, holder=holder, qty=qty, expires_at=at, at=at
        )
    held = _held(fold(state, taken), reservation_id, holder)
    return [*taken, ReservationCommitted(*item, reservation_id, order_id, line_id, held.qty)]


def free(state: Stock, *, reservation_id: str, order_id: str, line_id: str) -> list[StockEvent]:
    """Give back what a cancelled order holds here: its reservation, or what is committed to its line."""
    if reservation_id in state.held:
        holder = Holder("order", order_id)
        return release(state, reservation_id=reservation_id, holder=holder, reason="order_cancelled")
    qty = state.commitments.get((order_id, line_id), 0)
    if not qty:
        return []
    item = _item(state)
    freed = CommitmentReleased(*item, order_id, line_id, qty, "order_cancelled")
    return noting_edges(state, [freed], item)


def fold(state: Stock, events: Iterable[StockEvent]) -> Stock:
    for event in events:
        state = evolve(state, event)
    return state


def noting_edges(state: Stock, events: list[StockEvent], item: Item) -> list[StockEvent]:
    """The events, and after them whether the last unit went or the first one came."""
    after = fold(state, events).available
    if state.available > 0 >= after:
        return [*events, StockDepleted(*item, after)]
    if state.available <= 0 < after:
        return [*events, StockReplenished(*item, after)]
    return events


def _held(state: Stock, reservation_id: str, holder: Holder) -> Reservation:
    held = state.held.get(reservation_id)
    if held is None or held.holder != holder:
        raise UnknownReservation(reservation_id)
    return held


def _item(state: Stock) -> Item:
    if state.item is None:
        raise AssertionError("stock that is held or committed has been received")
    return state.item


def _expired(state: Stock, held: Reservation, at: datetime) -> ReservationExpired:
    return ReservationExpired(*_item(state), held.reservation_id, held.qty, held.holder, at)
