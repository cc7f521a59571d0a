from typing import Annotated, Literal

from fastapi import Path
from starlette.responses import Response

from api.write._answers import WrittenAggregate, answered
from api.write._command import Call, command, router
from api.write._fields import (
    Fields,
    LocationCode,
    Note,
    Sku,
    StockCount,
    StockDelta,
    StockQty,
)
from commands.adjust_stock import AdjustStock, adjust_stock
from commands.receive_stock import ReceiveStock, receive_stock
from domain.location import UnknownLocation
from domain.sku import UnknownSku
from domain.stock import (
    STOCK,
    AdjustmentReason,
    Reference,
    StockAdjusted,
    StockBelowReserved,
    StockDepleted,
    StockLimit,
    StockReceived,
    StockReplenished,
)
from domain.values import InvalidFields

stock = router()

SkuInPath = Annotated[Sku, Path()]
LocationInPath = Annotated[LocationCode, Path()]


class ReferenceFields(Fields):
    """What a receipt refers to."""

    type: Literal["purchase", "return", "transfer", "initial"]
    id: Note


class Receipts(Fields):
    qty: StockQty
    reference: ReferenceFields


class Adjustment(Fields):
    """By `delta` units, or to `counted` units on hand: one of the two. `note` is due for large changes."""

    reason: AdjustmentReason
    delta: StockDelta | None = None
    counted: StockCount | None = None
    note: Note | None = None


class StockAnswer(WrittenAggregate):
    sku: str
    location: str


@stock.post(
    "/stock/{sku}@{location}/receive",
    **command(
        "ReceiveStock",
        summary="Receive units of a SKU at a location",
        scope="stock:write",
        answer=StockAnswer,
        events=(StockReceived, StockReplenished),
        refusals=(UnknownSku, UnknownLocation, StockLimit),
    ),
)
async def receive(sku: SkuInPath, location: LocationInPath, body: Receipts, call: Call) -> Response:
    reference = Reference(body.reference.type, body.reference.id)
    receipt = await receive_stock(call.shop, call.issued, ReceiveStock(sku, location, body.qty, reference))
    return answered(call, receipt, StockAnswer, {"sku": sku, "location": location}, aggregate=STOCK)


@stock.post(
    "/stock/{sku}@{location}/adjust",
    **command(
        "AdjustStock",
        summary="Correct the units on hand, with a reason",
        scope="stock:write",
        answer=StockAnswer,
        events=(StockAdjusted, StockDepleted, StockReplenished),
        refusals=(UnknownSku, UnknownLocation, StockLimit, StockBelowReserved, InvalidFields),
        if_match=True,
    ),
)
async def adjust(sku: SkuInPath, location: LocationInPath, body: Adjustment, call: Call) -> Response:
    wanted = AdjustStock(sku=sku, location=location, **body.model_dump())
    receipt = await adjust_stock(call.shop, call.issued, wanted)
    return answered(call, receipt, StockAnswer, {"sku": sku, "location": location}, aggregate=STOCK)
