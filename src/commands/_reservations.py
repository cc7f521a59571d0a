"""Reserving several stock items at once: all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from commands._states import Streams
from commands._stock_items import stock_id, stock_of, stock_stream
from commands._transact import First, Writes
from domain import stock
from domain.stock import STOCK, Holder, InsufficientStock, Item, Shortage, StockEvent
from domain.values import FieldError, InvalidFields

MAX_EXPIRIES: Final = 350
"""How many overdue reservations one append may expire: leaves room for three events for each of 200 lines."""


@dataclass(frozen=True, slots=True)
class Wanted:
    item: Item
    qty: int


def refuse_twice(items: Sequence[tuple[str, str]], pointer: str) -> None:
    """`InvalidFields` where a (SKU, location) stands twice in the list at `pointer`."""
    errors = [
        FieldError(f"{pointer}/{index}", "duplicate_item", f"{code} at {place} stands here twice")
        for index, (code, place) in enumerate(items)
        if (code, place) in items[:index]
    ]
    if errors:
        raise InvalidFields(tuple(errors))


def reserved(
    streams: Streams,
    wanted: Sequence[Wanted],
    *,
    reservation_id: str,
    holder: Holder,
    expires_at: datetime,
    at: datetime,
) -> Writes | First:
    """The reservation of all items, or `InsufficientStock` with every shortage."""
    if first := expiries_first(streams, wanted, at):
        return first
    writes: dict[str, list[StockEvent]] = {}
    shortages: list[Shortage] = []
    for want in wanted:
        try:
            writes[_stream(want.item)] = stock.reserve(
                _stock(streams, want.item),
                item=want.item,
                reservation_id=reservation_id,
                holder=holder,
                qty=want.qty,
                expires_at=expires_at,
                at=at,
            )
        except InsufficientStock as short:
            shortages.extend(short.shortages)
    if shortages:
        raise InsufficientStock(tuple(shortages))
    return writes


def expiries_first(streams: Streams, wanted: Sequence[Wanted], at: datetime) -> First | None:
    """If more than `MAX_EXPIRIES` overdue reservations are in the way: expire so many, and decide again.

    Not where that would not give enough stock: a refusal leaves nothing behind.
    """
    left = MAX_EXPIRIES
    overdue: dict[str, list[StockEvent]] = {}
    first: First | None = None
    for want in wanted:
        state = _stock(streams, want.item)
        expiries = stock.overdue(state, qty=want.qty, at=at)
        if state.available + sum(event.qty for event in expiries) < want.qty:
            return None
        if not expiries:
            continue
        overdue[_stream(want.item)] = stock.noting_edges(state, [*expiries[:left]], want.item)
        if len(expiries) > left:
            first = first or First({**overdue})
        left = max(left - len(expiries), 0)
    return first


def expect_stock(streams: Streams, items: Sequence[tuple[str, str]]) -> None:
    streams.expect(STOCK, [stock_id(code, place) for code, place in items])


def _stock(streams: Streams, item: Item) -> stock.Stock:
    return stock_of(streams, item.sku, item.location)


def _stream(item: Item) -> str:
    return stock_stream(item.sku, item.location)
