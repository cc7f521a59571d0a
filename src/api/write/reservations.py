from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import Path
from pydantic import Field
from starlette.responses import Response

from api.write._answers import Written, answered, first
from api.write._command import Call, command, router
from api.write._fields import Fields, Id, Items, LocationCode, Sku, StockQty
from commands.release_reservation import ReleaseReservation, release_reservation
from commands.reserve_stock import ReservedItem, ReserveStock, reserve_stock
from domain.location import UnknownLocation
from domain.sku import UnknownSku
from domain.stock import (
    MAX_TTL,
    MIN_TTL,
    Holder,
    InsufficientStock,
    ReservationExpired,
    ReservationReleased,
    StockDepleted,
    StockReplenished,
    StockReserved,
    UnknownReservation,
)
from domain.values import InvalidFields

reservations = router()

Ttl = Annotated[int, Field(strict=True, ge=int(MIN_TTL.total_seconds()), le=int(MAX_TTL.total_seconds()))]


class HolderFields(Fields):
    type: Literal["cart", "order"]
    id: Id

    def holder(self) -> Holder:
        return Holder(self.type, self.id)


class ItemFields(Fields):
    """`location` left out: the house's default."""

    sku: Sku
    qty: StockQty
    location: LocationCode | None = None


class NewReservation(Fields):
    """All items or none, for `ttl_s` seconds."""

    holder: HolderFields
    items: Items[ItemFields]
    ttl_s: Ttl = 600


class ReservationAnswer(Written):
    reservation_id: str
    expires_at: datetime


class StockItemFields(Fields):
    sku: Sku
    location: LocationCode


class Release(Fields):
    """`items`: every stock item to release."""

    holder: HolderFields
    items: Items[StockItemFields]


class ReleaseAnswer(Written):
    reservation_id: str


@reservations.post(
    "/reservations",
    **command(
        "ReserveStock",
        summary="Reserve units of several stock items, all of them or none",
        scope="reservations:write",
        answer=ReservationAnswer,
        events=(StockReserved, ReservationExpired, StockDepleted),
        refusals=(UnknownSku, UnknownLocation, InsufficientStock, InvalidFields),
        created=True,
    ),
)
async def reserve(body: NewReservation, call: Call) -> Response:
    items = tuple(ReservedItem(item.sku, item.qty, item.location) for item in body.items)
    wanted = ReserveStock(body.holder.holder(), items, timedelta(seconds=body.ttl_s))
    receipt = await reserve_stock(call.shop, call.issued, wanted)
    reserved = first(receipt, StockReserved)
    facts = {"reservation_id": reserved.reservation_id, "expires_at": reserved.expires_at}
    return answered(call, receipt, ReservationAnswer, facts, created=True)


@reservations.post(
    "/reservations/{reservation_id}/release",
    **command(
        "ReleaseReservation",
        summary="Give reserved units back",
        scope="reservations:write",
        answer=ReleaseAnswer,
        events=(ReservationReleased, StockReplenished),
        refusals=(UnknownReservation, InvalidFields),
    ),
)
async def release(reservation_id: Annotated[Id, Path()], body: Release, call: Call) -> Response:
    items = tuple((item.sku, item.location) for item in body.items)
    wanted = ReleaseReservation(reservation_id, body.holder.holder(), items)
    receipt = await release_reservation(call.shop, call.issued, wanted)
    return answered(call, receipt, ReleaseAnswer, {"reservation_id": reservation_id})
