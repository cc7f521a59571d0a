from datetime import UTC, datetime
from typing import Any

from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import order
from domain.order import (
    ORDER,
    CurrentPrice,
    OrderCancelled,
    OrderConfirmed,
    OrderLine,
    OrderNotOpen,
    OrderPlaced,
    OrderStatus,
    PriceChanged,
    UnknownOrder,
)
from domain.values import Money, Rejected

AT = datetime(2026, 3, 1, tzinfo=UTC)
ORDER_ID = "019ca6b2-0c00-7abc-8def-0123456789ab"
MUGS = OrderLine("l1", "p1", "v1", "MUG", "Blue mug", "BER", 2, 1990, "e1")
PLATE = OrderLine("l2", "p2", "v2", "PLATE", "Plate", "BER", 1, 750, "e2")
LINES = (MUGS, PLATE)
TOTAL = Money(4730, "EUR")


def placement(expected_total: Money = TOTAL, lines: tuple[OrderLine, ...] = LINES) -> dict[str, Any]:
    return {
        "order_id": ORDER_ID,
        "customer_id": "c1",
        "currency": "EUR",
        "lines": lines,
        "expected_total": expected_total,
        "reservation_id": "r1",
        "expires_at": AT,
    }


PLACED = OrderPlaced(ORDER_ID, order.order_no(ORDER_ID), "c1", "EUR", LINES, TOTAL, "r1", AT)
CONFIRMED = OrderConfirmed(ORDER_ID, AT)
CANCELLED = OrderCancelled(ORDER_ID, "customer", "customer:c1")
CANCELLATION = {"order_id": ORDER_ID, "reason": "customer", "by": "customer:c1"}
CONFIRMATION = {"order_id": ORDER_ID, "at": AT}


def test_an_order_is_placed_at_the_total_the_customer_saw() -> None:
    assert order.place(**placement()) == [PLACED]


def test_an_order_at_another_total_is_told_the_prices_in_force(given: type[Given]) -> None:
    given(ORDER).when(lambda _state, **facts: order.place(**facts), **placement(Money(4729, "EUR"))).then(
        PriceChanged(Money(4729, "EUR"), TOTAL, (CurrentPrice("MUG", 2, 1990), CurrentPrice("PLATE", 1, 750)))
    )


def test_a_placed_order_is_confirmed_once(given: type[Given]) -> None:
    given(ORDER, PLACED).when(order.confirm, **CONFIRMATION).then(CONFIRMED)
    given(ORDER, PLACED, CONFIRMED).when(order.confirm, **CONFIRMATION).then(
        OrderNotOpen(OrderStatus.CONFIRMED)
    )


def test_an_order_is_cancelled_once_before_or_after_its_confirmation(given: type[Given]) -> None:
    given(ORDER, PLACED).when(order.cancel, **CANCELLATION).then(CANCELLED)
    given(ORDER, PLACED, CONFIRMED).when(order.cancel, **CANCELLATION).then(CANCELLED)
    gone = given(ORDER, PLACED, CANCELLED)
    gone.when(order.cancel, **CANCELLATION).then(OrderNotOpen(OrderStatus.CANCELLED))
    gone.when(order.confirm, **CONFIRMATION).then(OrderNotOpen(OrderStatus.CANCELLED))


def test_nothing_happens_to_an_order_that_was_never_placed(given: type[Given]) -> None:
    given(ORDER).when(order.confirm, **CONFIRMATION).then(UnknownOrder(ORDER_ID))
    given(ORDER).when(order.cancel, **CANCELLATION).then(UnknownOrder(ORDER_ID))


def test_an_order_number_is_the_time_and_the_last_bits_of_the_id_in_base_32() -> None:
    assert order.order_no("00000000-0000-7000-8000-000000000000") == "0" * 16
    assert order.order_no("ffffffff-ffff-7000-8000-0000ffffffff") == "Z" * 16
    assert order.order_no("00000000-0001-7fff-bfff-ffff00000000") == "0000000004000000"


MILLISECONDS = st.integers(0, 2**48 - 1)
LAST_BITS = st.integers(0, 2**32 - 1)
REST = st.integers(0, 2**42 - 1)


def uuid7(milliseconds: int, rest: int, last: int) -> str:
    random_a, random_b = rest >> 30, rest & (1 << 30) - 1
    digits = f"{milliseconds << 80 | 7 << 76 | random_a << 64 | 0b10 << 62 | random_b << 32 | last:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@sampled(st.tuples(MILLISECONDS, REST, LAST_BITS), st.tuples(MILLISECONDS, REST, LAST_BITS))
def test_order_numbers_are_16_digits_as_unique_and_as_ordered_as_the_ids(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    numbers = [order.order_no(uuid7(*one)), order.order_no(uuid7(*other))]
    for number in numbers:
        assert len(number) == 16
        assert set(number) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    told_apart = (one[0], one[2]), (other[0], other[2])
    assert (numbers[0] < numbers[1]) == (told_apart[0] < told_apart[1])
    assert (numbers[0] == numbers[1]) == (told_apart[0] == told_apart[1])


QTY = st.integers(1, 999)
AMOUNT = st.integers(1, 10**15)


@sampled(st.lists(st.tuples(QTY, AMOUNT), min_size=1, max_size=200), st.integers(-1, 1))
def test_the_total_is_the_sum_of_the_lines_to_the_minor_unit(items: list[tuple[int, int]], off: int) -> None:
    lines = tuple(
        OrderLine(f"l{n}", "p", "v", f"S{n}", "t", "BER", qty, amount, "e")
        for n, (qty, amount) in enumerate(items)
    )
    total = sum(qty * amount for qty, amount in items)
    try:
        (placed,) = order.place(**placement(Money(total + off, "EUR"), lines))
    except PriceChanged as refusal:
        assert off
        assert refusal.current_total == Money(total, "EUR")  # noqa: PT017 — both outcomes are right, by `off`
    else:
        assert not off
        assert isinstance(placed, OrderPlaced)
        assert (placed.total, placed.lines) == (Money(total, "EUR"), lines)


@sampled(st.lists(st.sampled_from(["confirm", "cancel"]), max_size=8))
def test_an_order_is_confirmed_at_most_once_and_ends_with_its_cancellation(steps: list[str]) -> None:
    state = ORDER.evolve(ORDER.initial, PLACED)
    accepted: list[str] = []
    for step in steps:
        try:
            decided = (
                order.confirm(state, order_id=ORDER_ID, at=AT)
                if step == "confirm"
                else order.cancel(state, order_id=ORDER_ID, reason="customer", by="customer:c1")
            )
        except Rejected:
            continue
        accepted.append(step)
        for event in decided:
            state = ORDER.evolve(state, event)
        assert (state.lines, state.reservation_id) == (LINES, "r1"), "what was sold never changes"
    until = steps.index("cancel") + 1 if "cancel" in steps else len(steps)
    assert accepted == [step for n, step in enumerate(steps[:until]) if step not in steps[:n]]
