"""How much of a SKU is available, and where? One row a stock item, keyed `{sku}@{location}`."""

from collections.abc import Iterable, Mapping, Sequence

from domain import stock
from domain.envelope import Recorded
from projections._stock_part import StockPart, evolve
from projections.ports import Answer, Ask, ReadModel, Rows, record


@record
class StockAvailability:
    """Units. `version` is the stock stream's."""

    id: str
    sku: str
    location: str
    product_id: str
    variant_id: str
    on_hand: int
    reserved: int
    committed: int
    available: int
    version: int


def keys(recorded: Recorded) -> Iterable[str]:
    match recorded.event:
        case stock.StockFact() as event:
            yield f"{event.sku}@{event.location}"
        case _:
            return


def combine(parts: Mapping[str, StockPart]) -> StockAvailability | None:
    for part in parts.values():
        return StockAvailability(
            id=f"{part.sku}@{part.location}",
            sku=part.sku,
            location=part.location,
            product_id=part.product_id,
            variant_id=part.variant_id,
            on_hand=part.on_hand,
            reserved=part.reserved,
            committed=part.committed,
            available=part.available,
            version=part.version,
        )
    return None


STOCK_AVAILABILITY = ReadModel(
    name="stock_availability",
    row=StockAvailability,
    folds={stock.STOCK.category: evolve},
    keys=keys,
    combine=combine,
    indexes=(("sku", "location"),),
)


async def availability_of(rows: Rows, skus: Sequence[str], ask: Ask) -> Answer[StockAvailability]:
    """Every location's stock of each SKU, by SKU and location."""
    return await rows.select(
        STOCK_AVAILABILITY,
        "sku = any(%(skus)s) order by sku, location",
        {"skus": list(skus)},
        ask,
        ever="sku = any(%(skus)s)",
    )
