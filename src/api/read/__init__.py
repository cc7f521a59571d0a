"""The read door: queries."""

from typing import Final

from fastapi import APIRouter, FastAPI

from api._app import make_app
from api.ports import Surroundings
from api.problems import UNAVAILABLE
from api.read._query import REFUSALS
from api.read.explain import explanations
from api.read.orders import orders
from api.read.products import products
from api.read.reports import reports
from api.read.stock import stock
from projections.ports import Past, Rows

TITLE: Final = "Tallybook: the read door"
ROUTERS: Final[tuple[APIRouter, ...]] = (products, stock, orders, reports, explanations)
REQUEST_SECONDS: Final = 40.0
"""More than a question may wait."""


def create_app(
    rows: Rows, past: Past, around: Surroundings, *, unavailable: tuple[type[Exception], ...] = ()
) -> FastAPI:
    """`unavailable`: what `rows` and `past` raise when they cannot be asked."""
    refusals = {**REFUSALS, **dict.fromkeys(unavailable, UNAVAILABLE)}
    return make_app(TITLE, ROUTERS, refusals, around, request_seconds=REQUEST_SECONDS, rows=rows, past=past)
