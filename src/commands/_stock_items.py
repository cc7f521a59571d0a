"""Whose stock is it, and where? What every command on stock reads first."""

from collections.abc import Sequence

from commands._states import Streams
from domain import location, sku
from domain.location import LOCATION
from domain.sku import SKU
from domain.stock import STOCK, Item, Stock


def item_at(streams: Streams, code: str, place: str) -> Item:
    """The item of a known SKU at a known location, else `UnknownSku` or `UnknownLocation`."""
    expect_items(streams, [(code, place)])
    product_id, variant_id = sku.owner(streams.read(SKU, code), sku=code)
    location.must_exist(streams.read(LOCATION, place), location=place)
    return Item(code, place, product_id, variant_id)


def expect_items(streams: Streams, items: Sequence[tuple[str, str]]) -> None:
    streams.expect(SKU, [code for code, _ in items])
    streams.expect(LOCATION, [place for _, place in items])


def stock_of(streams: Streams, code: str, place: str) -> Stock:
    return streams.read(STOCK, stock_id(code, place))


def stock_id(code: str, place: str) -> str:
    return f"{code}@{place}"


def stock_stream(code: str, place: str) -> str:
    return STOCK.stream(stock_id(code, place))
