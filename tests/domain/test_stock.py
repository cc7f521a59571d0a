from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.domain.conftest import Given

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
    StockAdjusted,
    StockBelowReserved,
    StockDepleted,
    StockLimit,
    StockReceived,
    StockReplenished,
    StockReserved,
    UnknownReservation,
)
from domain.values import MAX_STOCK_QTY, FieldError, InvalidFields

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOON, LATER = NOW + timedelta(minutes=10), NOW + timedelta(minutes=20)
MUG = Item("MUG", "BER", "p1", "v1")
O1, O2, CART = Holder("order", "o1"), Holder("order", "o2"), Holder("cart", "c1")
DELIVERY = Reference("purchase", "po-1")


def received(qty: int) -> StockReceived:
    return StockReceived(*MUG, qty, DELIVERY)


def held(ident: str, qty: int, after: int, holder: Holder = O1, until: datetime = SOON) -> StockReserved:
    return StockReserved(*MUG, ident, qty, holder, until, after)


def expired(ident: str, qty: int, at: datetime, holder: Holder = O1) -> ReservationExpired:
    return ReservationExpired(*MUG, ident, qty, holder, at)


def reservation(ident: str, qty: int, at: datetime = NOW, holder: Holder = O1) -> dict[str, Any]:
    return {
        "item": MUG,
        "reservation_id": ident,
        "holder": holder,
        "qty": qty,
        "expires_at": at + timedelta(minutes=10),
        "at": at,
    }


def adjustment(**facts: Any) -> dict[str, Any]:
    return {"item": MUG, "delta": None, "counted": None, "reason": "count", "note": None, "at": NOW} | facts


def commitment(qty: int = 2, at: datetime = NOW) -> dict[str, Any]:
    return {
        "item": MUG,
        "reservation_id": "r1",
        "retake_id": "r9",
        "order_id": "o1",
        "line_id": "l1",
        "qty": qty,
        "at": at,
    }


FREED = {"reservation_id": "r1", "order_id": "o1", "line_id": "l1"}
COMMITTED = ReservationCommitted(*MUG, "r1", "o1", "l1", 2)


def test_the_first_receipt_replenishes_and_the_next_does_not(given: type[Given]) -> None:
    facts = {"item": MUG, "qty": 5, "reference": DELIVERY}
    given(STOCK).when(stock.receive, **facts).then(received(5), StockReplenished(*MUG, 5))
    given(STOCK, received(1)).when(stock.receive, **facts).then(received(5))


def test_stock_on_hand_has_a_limit(given: type[Given]) -> None:
    full = given(STOCK, received(MAX_STOCK_QTY - 1))
    full.when(stock.receive, item=MUG, qty=1, reference=DELIVERY).then(received(1))
    full.when(stock.receive, item=MUG, qty=2, reference=DELIVERY).then(StockLimit())
    full.when(stock.adjust, **adjustment(delta=2)).then(StockLimit())


def test_stock_is_adjusted_by_a_difference_or_to_a_count(given: type[Given]) -> None:
    five = given(STOCK, received(5))
    five.when(stock.adjust, **adjustment(delta=-2, reason="damage")).then(
        StockAdjusted(*MUG, -2, "damage", None, None)
    )
    five.when(stock.adjust, **adjustment(counted=7)).then(StockAdjusted(*MUG, 2, "count", None, 7))
    five.when(stock.adjust, **adjustment(counted=5)).then(StockAdjusted(*MUG, 0, "count", None, 5))
    five.when(stock.adjust, **adjustment(counted=0)).then(
        StockAdjusted(*MUG, -5, "count", None, 0), StockDepleted(*MUG, 0)
    )


@pytest.mark.parametrize("facts", [{}, {"delta": 1, "counted": 6}, {"delta": 0, "counted": 0}])
def test_an_adjustment_says_one_of_difference_and_count(given: type[Given], facts: dict[str, int]) -> None:
    error = FieldError("/delta", "delta_or_counted", "give either delta or counted")
    given(STOCK, received(5)).when(stock.adjust, **adjustment(**facts)).then(InvalidFields((error,)))


def test_an_adjustment_by_nothing_is_refused(given: type[Given]) -> None:
    error = FieldError("/delta", "out_of_range", "an adjustment by nothing")
    given(STOCK, received(5)).when(stock.adjust, **adjustment(delta=0)).then(InvalidFields((error,)))


def test_an_adjustment_of_more_than_100_units_needs_a_note(given: type[Given]) -> None:
    plenty = given(STOCK, received(500))
    error = FieldError("/note", "note_required", "more than 100 units")
    plenty.when(stock.adjust, **adjustment(delta=-101)).then(InvalidFields((error,)))
    plenty.when(stock.adjust, **adjustment(counted=601, note="")).then(InvalidFields((error,)))
    plenty.when(stock.adjust, **adjustment(delta=-100)).then(StockAdjusted(*MUG, -100, "count"))
    plenty.when(stock.adjust, **adjustment(delta=-101, note="flood")).then(
        StockAdjusted(*MUG, -101, "count", "flood")
    )


def test_an_adjustment_never_takes_what_is_reserved_or_committed_or_not_there(given: type[Given]) -> None:
    given(STOCK, received(1)).when(stock.adjust, **adjustment(delta=-2)).then(StockBelowReserved(1, 1))
    given(STOCK, received(5), held("r1", 2, 3)).when(stock.adjust, **adjustment(delta=-4)).then(
        StockBelowReserved(5, 3)
    )
    given(STOCK, received(5), held("r1", 2, 3), COMMITTED).when(stock.adjust, **adjustment(counted=1)).then(
        StockBelowReserved(5, 3)
    )


def test_an_overdue_reservation_does_not_keep_stock_from_being_written_off(given: type[Given]) -> None:
    shelf = given(STOCK, received(3), held("r1", 1, 2), held("r2", 2, 0, until=LATER))
    shelf.when(stock.adjust, **adjustment(delta=-1, at=NOW)).then(StockBelowReserved(3, 0))
    shelf.when(stock.adjust, **adjustment(counted=2, at=SOON)).then(
        expired("r1", 1, SOON), StockAdjusted(*MUG, -1, "count", None, 2)
    )
    shelf.when(stock.adjust, **adjustment(counted=1, at=SOON)).then(StockBelowReserved(3, 1))


def test_a_reservation_says_how_much_is_left(given: type[Given]) -> None:
    given(STOCK, received(5)).when(stock.reserve, **reservation("r1", 2)).then(held("r1", 2, 3))


def test_the_last_unit_depletes(given: type[Given]) -> None:
    given(STOCK, received(5)).when(stock.reserve, **reservation("r1", 5)).then(
        held("r1", 5, 0), StockDepleted(*MUG, 0)
    )


def test_what_is_not_there_is_not_reserved(given: type[Given]) -> None:
    given(STOCK).when(stock.reserve, **reservation("r1", 1)).then(
        InsufficientStock((Shortage("MUG", 1, 0, "BER"),))
    )
    given(STOCK, received(5), held("r1", 2, 3)).when(stock.reserve, **reservation("r2", 4)).then(
        InsufficientStock((Shortage("MUG", 4, 3, "BER"),))
    )


def test_an_overdue_reservation_gives_way_but_only_from_its_very_instant(given: type[Given]) -> None:
    taken = given(STOCK, received(2), held("r1", 2, 0))
    just_before = SOON - timedelta(microseconds=1)
    taken.when(stock.reserve, **reservation("r2", 1, just_before, O2)).then(
        InsufficientStock((Shortage("MUG", 1, 0, "BER"),))
    )
    taken.when(stock.reserve, **reservation("r2", 2, SOON, O2)).then(
        expired("r1", 2, SOON), held("r2", 2, 0, O2, SOON + timedelta(minutes=10))
    )


def test_the_oldest_give_way_first_and_no_more_than_needed(given: type[Given]) -> None:
    shelf = given(
        STOCK, received(4), held("r1", 2, 2, until=LATER), held("r2", 1, 1), held("r3", 1, 0)
    )  # overdue in the order r2, r3, r1
    until = LATER + timedelta(minutes=10)
    shelf.when(stock.reserve, **reservation("r4", 2, LATER, O2)).then(
        expired("r2", 1, LATER), expired("r3", 1, LATER), held("r4", 2, 0, O2, until)
    )
    shelf.when(stock.reserve, **reservation("r4", 3, LATER, O2)).then(
        expired("r2", 1, LATER),
        expired("r3", 1, LATER),
        expired("r1", 2, LATER),
        held("r4", 3, 1, O2, until),
        StockReplenished(*MUG, 1),
    )


def test_a_shortage_counts_what_overdue_reservations_would_free(given: type[Given]) -> None:
    given(STOCK, received(3), held("r1", 2, 1)).when(stock.reserve, **reservation("r2", 4, SOON)).then(
        InsufficientStock((Shortage("MUG", 4, 3, "BER"),))
    )


def test_only_the_holder_releases_and_only_once(given: type[Given]) -> None:
    shelf = given(STOCK, received(2), held("r1", 2, 0))
    facts = {"reservation_id": "r1", "reason": "customer"}
    released = ReservationReleased(*MUG, "r1", 2, O1, "customer")
    shelf.when(stock.release, holder=O1, **facts).then(released, StockReplenished(*MUG, 2))
    shelf.when(stock.release, holder=CART, **facts).then(UnknownReservation("r1"))
    given(STOCK, received(2), held("r1", 2, 0), released).when(stock.release, holder=O1, **facts).then(
        UnknownReservation("r1")
    )


def test_the_timer_expires_what_is_overdue_and_still_held(given: type[Given]) -> None:
    shelf = given(STOCK, received(2), held("r1", 2, 0))
    shelf.when(stock.expire, reservation_id="r1", at=NOW).then()
    shelf.when(stock.expire, reservation_id="r1", at=SOON).then(
        expired("r1", 2, SOON), StockReplenished(*MUG, 2)
    )
    shelf.when(stock.expire, reservation_id="r2", at=SOON).then()


def test_a_held_reservation_is_committed_even_when_it_is_overdue(given: type[Given]) -> None:
    shelf = given(STOCK, received(2), held("r1", 2, 0))
    shelf.when(stock.commit, **commitment(at=NOW)).then(COMMITTED)
    shelf.when(stock.commit, **commitment(at=LATER)).then(COMMITTED)


def test_an_expired_reservation_is_taken_again_if_there_is_stock(given: type[Given]) -> None:
    gone = given(STOCK, received(2), held("r1", 2, 0), expired("r1", 2, SOON))
    gone.when(stock.commit, **commitment(at=LATER)).then(
        held("r9", 2, 0, until=LATER),
        StockDepleted(*MUG, 0),
        ReservationCommitted(*MUG, "r9", "o1", "l1", 2),
    )
    sold = given(STOCK, received(2), held("r1", 2, 0), expired("r1", 2, SOON), held("r2", 1, 1, O2, LATER))
    sold.when(stock.commit, **commitment(at=SOON)).then(InsufficientStock((Shortage("MUG", 2, 1, "BER"),)))


def test_taking_again_expires_what_is_overdue_of_others(given: type[Given]) -> None:
    others = given(STOCK, received(2), held("r1", 2, 0), expired("r1", 2, SOON), held("r2", 2, 0, O2, SOON))
    others.when(stock.commit, **commitment(at=LATER)).then(
        expired("r2", 2, LATER, O2),
        held("r9", 2, 0, until=LATER),
        ReservationCommitted(*MUG, "r9", "o1", "l1", 2),
    )


def test_another_holders_reservation_is_not_committed(given: type[Given]) -> None:
    given(STOCK, received(2), held("r1", 2, 0, O2)).when(stock.commit, **commitment()).then(
        UnknownReservation("r1")
    )


def test_a_cancelled_order_gives_back_what_is_held_or_committed_or_nothing(given: type[Given]) -> None:
    begun = (received(2), held("r1", 2, 0))
    given(STOCK, *begun).when(stock.free, **FREED).then(
        ReservationReleased(*MUG, "r1", 2, O1, "order_cancelled"), StockReplenished(*MUG, 2)
    )
    freed = CommitmentReleased(*MUG, "o1", "l1", 2, "order_cancelled")
    given(STOCK, *begun, COMMITTED).when(stock.free, **FREED).then(freed, StockReplenished(*MUG, 2))
    given(STOCK, *begun, COMMITTED, freed).when(stock.free, **FREED).then()
    given(STOCK, *begun, expired("r1", 2, SOON)).when(stock.free, **FREED).then()
    given(STOCK).when(stock.free, **FREED).then()


def test_available_is_what_is_on_hand_and_neither_reserved_nor_committed(given: type[Given]) -> None:
    state = given(STOCK, received(9), held("r1", 2, 7), COMMITTED, held("r2", 3, 4, O2)).state
    assert (state.on_hand, state.reserved, state.committed, state.available) == (9, 3, 2, 4)
