"""The audit door: history."""

import asyncio
from typing import Final

from fastapi import APIRouter, FastAPI

from api._app import PREFIX, make_app
from api.audit._query import REFUSALS
from api.audit.events import events
from api.audit.feed import MAX_FEEDS, PATH, feeds
from api.audit.ports import History, Index
from api.audit.streams import streams
from api.ports import Surroundings
from api.problems import UNAVAILABLE

TITLE: Final = "Tallybook: the audit door"
ROUTERS: Final[tuple[APIRouter, ...]] = (streams, events, feeds)
REQUEST_SECONDS: Final = 20.0


def create_app(
    history: History, index: Index, around: Surroundings, *, unavailable: tuple[type[Exception], ...] = ()
) -> FastAPI:
    """`unavailable`: what `history` raises when it cannot be asked."""
    refusals = {**REFUSALS, **dict.fromkeys(unavailable, UNAVAILABLE)}
    return make_app(
        TITLE,
        ROUTERS,
        refusals,
        around,
        request_seconds=REQUEST_SECONDS,
        streamed={PREFIX + PATH},
        history=history,
        index=index,
        feeds=asyncio.Semaphore(MAX_FEEDS),
    )
