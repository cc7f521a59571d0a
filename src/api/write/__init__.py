"""The write door: commands."""

from typing import Final

from fastapi import APIRouter, FastAPI

from api._app import PREFIX, make_app
from api.ports import Surroundings
from api.write._command import REFUSALS
from api.write.bulk import PATH, bulk_router
from api.write.locations import locations
from api.write.orders import orders
from api.write.prices import prices
from api.write.products import products
from api.write.reservations import reservations
from api.write.stock import stock
from commands.shop import Shop

TITLE: Final = "Tallybook: the write door"
COMMANDS: Final[tuple[APIRouter, ...]] = (products, prices, locations, stock, reservations, orders)
ROUTERS: Final[tuple[APIRouter, ...]] = (*COMMANDS, bulk_router(COMMANDS))
REQUEST_SECONDS: Final = 30.0
"""More than a command may try, and its append may wait."""


def create_app(shop: Shop, around: Surroundings, *, read_url: str) -> FastAPI:
    return make_app(
        TITLE,
        ROUTERS,
        REFUSALS,
        around,
        request_seconds=REQUEST_SECONDS,
        streamed={PREFIX + PATH},
        shop=shop,
        read_url=read_url.rstrip("/"),
    )
