"""The whole history from any position on: to its end as it is now, or for ever."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, get_args

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from api._operation import header, operation
from api.audit._feeding import NDJSON, SERVER_SENT, Feed, for_ever, lines, server_sent, until
from api.audit._query import Event, Log, router
from api.audit.ports import Filter, History, Index
from api.audit.streams import MAX_STREAM_CHARS, STREAM_PATTERN
from api.problems import (
    INVALID_FEED_POSITION,
    INVALID_FIELDS,
    OVERLOADED,
    TIMED_OUT,
    UNAVAILABLE,
    Refused,
)
from api.times import Timestamp
from domain import CONTEXTS
from domain.envelope import ActorType
from domain.values import ID_PATTERN, FieldError

PATH: Final = "/feed"
MAX_FEEDS: Final = 16
FIND_SECONDS: Final = 20.0
"""For finding where a feed begins and ends, by times if it must be."""
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
RESOLUTION: Final = timedelta(microseconds=1)
MAX_POSITION: Final = 2**63 - 1
MAX_POSITION_DIGITS: Final = 19
MAX_ACTOR_CHARS: Final = 300
ACTOR_PATTERN: Final = rf"^({'|'.join(get_args(ActorType))}):.+$"
TYPE_PATTERN: Final = r"^[a-z_]+\.[a-z_]+\.v[0-9]+$"
MAX_TYPE_CHARS: Final = 100
WORD_PATTERN: Final = r"^[a-z_]+$"

feeds = router()


@dataclass(frozen=True, slots=True)
class Asked:
    """`first` and `last`: the recorded times between which the events lie, both included."""

    wanted: Filter
    after: int
    limit: int | None
    first: datetime | None
    last: datetime | None


async def _asked(
    *,
    after: Annotated[int, Query(ge=0, le=MAX_POSITION)] = 0,
    limit: Annotated[int | None, Query(ge=1, le=MAX_POSITION)] = None,
    context: Annotated[str | None, Query(pattern=WORD_PATTERN)] = None,
    category: Annotated[str | None, Query(pattern=WORD_PATTERN)] = None,
    type_: Annotated[str | None, Query(alias="type", pattern=TYPE_PATTERN, max_length=MAX_TYPE_CHARS)] = None,
    stream: Annotated[str | None, Query(pattern=STREAM_PATTERN, max_length=MAX_STREAM_CHARS)] = None,
    actor: Annotated[str | None, Query(pattern=ACTOR_PATTERN, max_length=MAX_ACTOR_CHARS)] = None,
    correlation: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    first: Annotated[Timestamp | None, Query(alias="from")] = None,
    last: Annotated[Timestamp | None, Query(alias="to")] = None,
) -> Asked:
    _must_be_known("context", context, CONTEXTS.values())
    _must_be_known("category", category, CONTEXTS)
    actor_type, _, actor_id = (actor or "").partition(":")
    wanted = Filter(context, category, type_, stream, (actor_type, actor_id) if actor else None, correlation)
    return Asked(wanted, after, limit, first, last)


_operation: Final[dict[str, Any]] = operation(
    "feed",
    summary="The whole history from any position on, as lines of JSON or as server-sent events",
    scope="history:read",
    answer=Event,
    problems=[UNAVAILABLE, INVALID_FEED_POSITION],
    parameters=[
        header("Accept", f"{NDJSON} ends at the head; {SERVER_SENT} goes on for ever."),
        header("Last-Event-ID", "The position to go on after; it counts more than `after`."),
        header("traceparent", "W3C Trace Context."),
    ],
    answer_headers={"As-Of-Position": "The position that lines of JSON go up to."},
)


_operation["responses"][200]["content"] = {
    NDJSON: {"schema": {"$ref": "#/components/schemas/Event"}},
    SERVER_SENT: {"schema": {"type": "string"}},
}
del _operation["responses"][200]["model"]


@feeds.get(PATH, response_class=Response, **_operation)
async def feed_of(request: Request, log: Log, asked: Annotated[Asked, Depends(_asked)]) -> Response:
    """An event a line, or an event with its position as its id."""
    live = _is_live(request)
    if live:
        _must_have_no_end(asked)
    try:
        async with asyncio.timeout(FIND_SECONDS):
            head = await log.head()
            after = await _beginning(log, asked, _resumed(request, asked.after), head)
            upto = head if asked.last is None else min(await log.position_at(asked.last), head)
    except TimeoutError:
        raise Refused(TIMED_OUT, f"No answer within {FIND_SECONDS:.0f} seconds.") from None
    running: asyncio.Semaphore = request.app.state.feeds
    if running.locked():
        raise Refused(OVERLOADED, f"At most {MAX_FEEDS} feeds at once.")
    index: Index = request.app.state.index
    if live:
        return Feed(server_sent(for_ever(log, index, asked.wanted, after, head)), SERVER_SENT, {}, running)
    chunks = lines(until(log, index, asked.wanted, after, upto), asked.limit)
    return Feed(chunks, NDJSON, {"As-Of-Position": str(upto)}, running)


def _is_live(request: Request) -> bool:
    """The first of the two that the client takes; lines for one that takes anything."""
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    types = [each.partition(";")[0].strip() for each in accepted]
    return next((each for each in types if each in {NDJSON, SERVER_SENT}), NDJSON) == SERVER_SENT


def _must_have_no_end(asked: Asked) -> None:
    for name, value in (("limit", asked.limit), ("to", asked.last)):
        if value is not None:
            _refuse(name, "Server-sent events go on for ever.")


def _must_be_known(name: str, value: str | None, known: Collection[str]) -> None:
    if value is not None and value not in known:
        _refuse(name, f"One of {', '.join(sorted(set(known)))}.")


def _refuse(name: str, detail: str) -> None:
    error = FieldError(f"/{name}", "not_allowed", detail)
    raise Refused(INVALID_FIELDS, "Some fields of the request are not valid.", errors=[error])


def _resumed(request: Request, after: int) -> int:
    said = request.headers.get("last-event-id")
    if said is None:
        return after
    if not (said.isascii() and said.isdigit() and len(said) <= MAX_POSITION_DIGITS):
        raise Refused(INVALID_FEED_POSITION, "The Last-Event-ID is no position.")
    return int(said)


async def _beginning(log: History, asked: Asked, after: int, head: int) -> int:
    if after > head:
        raise Refused(INVALID_FEED_POSITION, f"The log ends at position {head}.", head=head)
    if asked.first is None:
        return after
    return max(after, await log.position_at(max(asked.first, EARLIEST) - RESOLUTION))
