"""Which commands a record takes, one after the other, each with a key of its own that is always the same."""

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never

import msgspec

from commands.requests import shaped_as_uuid7
from runtime.importing.records import Location, Order, Product, Record, Stock

_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the bulk door."""

    command: str
    idempotency_key: str
    body: Mapping[str, Any]
    if_match: str | None = None


Steps = Generator[Command, Mapping[str, Any], None]
"""Yields commands, and is sent the answer to each."""


def steps_of(record: Record, source: str) -> Steps:
    """`source` tells what is imported from one place from what is imported from another."""
    match record:
        case Location():
            yield Command("RegisterLocation", _key(source, "location", record.location), _fields(record))
        case Product():
            yield from _product(record, source)
        case Stock():
            yield Command(
                "ReceiveStock",
                _key(source, "stock", record.sku, record.location, record.id),
                {
                    "sku": record.sku,
                    "location": record.location,
                    "qty": record.qty,
                    "reference": {"type": "initial", "id": record.id},
                },
            )
        case Order():
            yield Command(
                "ImportOrder",
                _key(source, "order", record.id, at=record.sold_at),
                {
                    "source": source,
                    "source_order_id": record.id,
                    "sold_at": record.sold_at,
                    "customer_id": _key(source, "customer", record.customer),
                    "location": record.location,
                    "currency": record.currency,
                    "lines": record.lines,
                },
            )
        case _:
            assert_never(record)


def _product(record: Product, source: str) -> Steps:
    def key(*step: str) -> str:
        return _key(source, "product", record.slug, *step)

    fields = _fields(record)
    del fields["variants"], fields["publish"]
    drafted = yield Command("DraftProduct", key("draft"), fields)
    product_id, version = drafted["product_id"], drafted["version"]
    for variant in record.variants:
        fields = {"product_id": product_id, **_fields(variant)}
        del fields["price"]
        added = yield Command("AddVariant", key("variant", variant.sku), fields, _tag(version))
        version = added["version"]
        if variant.price is not None:
            fields = {
                "product_id": product_id,
                "variant_id": added["variant_id"],
                **_fields(variant.price),
            }
            yield Command("SetPrice", key("price", variant.sku), fields, _tag(0))
    if record.publish:
        yield Command("PublishProduct", key("publish"), {"product_id": product_id}, _tag(version))


def _fields(record: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _tag(version: int) -> str:
    return f'"{version}"'


def _key(*names: str, at: datetime = _1970) -> str:
    """Shaped as a UUIDv7 of the record's own time, so that the index of keys grows at its end."""
    named = "\0".join(names).encode()
    return shaped_as_uuid7((at - _1970) // timedelta(milliseconds=1), hashlib.sha256(named).digest())
