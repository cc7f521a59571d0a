"""The format of `tallybook import file`: NDJSON, a record a line, its `kind` first among equals.

What it names must have been named before: a product's SKUs by the lines of stock and orders, a location too.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from runtime.process import CannotStart

MAX_LINE_BYTES: Final = 2**20
MAX_SOURCE: Final = 32
"""Characters, as the write door has it."""


class Location(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="location", tag_field="kind"):
    """`country`: ISO 3166-1 alpha-2."""

    location: str
    name: str
    country: str


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    currency: str
    amount_minor: int


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sku: str
    options: dict[str, str] = {}
    weight_g: int = 0
    barcode: str | None = None
    price: Price | None = None


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="product", tag_field="kind"):
    """It stays a draft unless it is to be published; for that each variant needs a price."""

    slug: str
    title: dict[str, str]
    variants: list[Variant]
    tax_class: str = "standard"
    description: dict[str, str] = {}
    brand: str | None = None
    attributes: dict[str, str] = {}
    publish: bool = False


class Stock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stock", tag_field="kind"):
    """Units received; `id` tells one receipt of a SKU at a location from another."""

    id: str
    sku: str
    location: str
    qty: int


class SoldLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`amount_minor`, gross, is for all `qty` units."""

    sku: str
    qty: int
    amount_minor: int
    title: str | None = None


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="order", tag_field="kind"):
    """`id`: the order's where it was taken; `customer`: any name, the same for the same customer."""

    id: str
    sold_at: Annotated[datetime, msgspec.Meta(tz=True)]
    customer: str
    location: str
    currency: str
    lines: list[SoldLine]


Record = Location | Product | Stock | Order
_decoder: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


class Unreadable(CannotStart):
    """A file or a line of it that is not in the format."""


def source_of(path: Path, said: str | None) -> str:
    """What is said, or the file's name without its ending. Raises Unreadable."""
    source = path.stem if said is None else said
    if not 1 <= len(source) <= MAX_SOURCE:
        raise Unreadable(
            f"a source has 1 to {MAX_SOURCE} characters, and '{source[: MAX_SOURCE + 1]}' has {len(source)}: "
            "name another with --source"
        )
    return source


def records_in(path: Path) -> Iterator[tuple[str, Record]]:
    """Each with what it is called when it fails: `line 12`. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise Unreadable(f"{path}, line {number}: longer than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    yield f"line {number}", _decoded(path, number, line)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None


def count_in(path: Path) -> int:
    """How many records there are, all of them in the format. Raises Unreadable."""
    if path.exists() and not path.is_file():
        raise Unreadable(f"{path} cannot be read: it is no file")
    return sum(1 for _ in records_in(path))


def _decoded(path: Path, number: int, line: bytes) -> Record:
    try:
        return _decoder.decode(line.removeprefix(BOM_UTF8) if number == 1 else line)
    except msgspec.MsgspecError as wrong:
        raise Unreadable(f"{path}, line {number}: {wrong}") from None
