"""How a request becomes a question, and an answer a response."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import APIRouter, Depends, Query
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from api import consistency, etags
from api._operation import Operation, header, operation
from api.auth import Scope
from api.problems import (
    DOMAIN_REFUSALS,
    INVALID_AS_OF,
    INVALID_CONSISTENCY_TOKEN,
    OVERLOADED,
    UNAVAILABLE,
    Kind,
    Refusals,
    Refused,
)
from api.times import Timestamp
from domain.envelope import Token
from domain.values import Rejected
from projections import ports
from projections.ports import Answer, Ask, Past, Rows

Row = TypeVar("Row")

ALWAYS_REFUSED: Final[Refusals] = {
    ports.NotYetApplied: Kind("not_yet_applied", 425, retry_after_s=1),
    ports.StreamParked: Kind("stream_parked", 425),
    ports.ForeignToken: Kind("foreign_token", 409),
    ports.BeyondTheLog: Kind("beyond_the_log", 422),
    ports.TooManyWaiting: OVERLOADED,
    ports.TooMuchHistory: Kind("too_much_history", 422),
}
REFUSALS: Final[Refusals] = {
    **DOMAIN_REFUSALS,
    **ALWAYS_REFUSED,
    ports.UnknownRow: Kind("unknown_row", 404),
}

REVALIDATED: Final = "private, max-age=0, must-revalidate"
NOT_STORED: Final = "private, no-store"
IMMUTABLE: Final = "private, max-age=31536000, immutable"
"""Of the past, which does not change."""
AS_OF: Final = "As the answer was at this time, by what had been recorded until then (RFC 3339)."
AS_OF_POSITION: Final = "As the answer was when the log had come to this position."

_PARAMETERS: Final = (
    header(consistency.HEADER, "From an answer: wait until this answer's effect is seen."),
    header(
        "Prefer",
        f"`wait=<seconds>`: how long to wait for the token, {consistency.DEFAULT_WAIT_S} if not said, "
        f"at most {consistency.MAX_WAIT_S}.",
    ),
    header("If-None-Match", "An ETag: 304 if the answer is still the same."),
    header("traceparent", "W3C Trace Context."),
)
_ANSWER_HEADERS: Final = {
    "ETag": "For If-None-Match here; the write door's If-Match takes the field `version`.",
    consistency.HEADER: "The positions at which the answer holds.",
    "As-Of-Position": "The position that a question about the past came to.",
}


def router() -> APIRouter:
    return APIRouter(route_class=Operation)


def query(
    name: str,
    *,
    summary: str,
    scope: Scope,
    answer: type[Any],
    refusals: Iterable[type[Rejected]] = (),
    problems: Iterable[Kind] = (),
) -> dict[str, Any]:
    """The arguments of a query's route."""
    kinds = [
        *problems,
        INVALID_CONSISTENCY_TOKEN,
        INVALID_AS_OF,
        UNAVAILABLE,
        *ALWAYS_REFUSED.values(),
        *(REFUSALS[refusal] for refusal in refusals),
    ]
    arguments = operation(
        name,
        summary=summary,
        scope=scope,
        answer=answer,
        problems=kinds,
        parameters=_PARAMETERS,
        answer_headers=_ANSWER_HEADERS,
    )
    arguments["responses"][304] = {"description": "Still what If-None-Match names."}
    return arguments


@dataclass(frozen=True, slots=True)
class QueryCall:
    rows: Rows
    past: Past
    ask: Ask
    if_none_match: str | None


async def _call_of(
    request: Request,
    as_of: Annotated[Timestamp | None, Query(description=AS_OF)] = None,
    as_of_position: Annotated[int | None, Query(ge=0, lt=2**63, description=AS_OF_POSITION)] = None,
) -> QueryCall:
    headers = request.headers
    token = headers.get(consistency.HEADER)
    ask = Ask()
    if token is not None:
        prefer = ",".join(headers.getlist("prefer"))
        ask = Ask(consistency.decode(token), consistency.wait_of(prefer))
    past: Past = request.app.state.past
    ask = replace(ask, as_of=await _position(past, as_of, as_of_position))
    given = headers.getlist("if-none-match")
    return QueryCall(request.app.state.rows, past, ask, ",".join(given) if given else None)


async def _position(past: Past, at: datetime | None, position: int | None) -> int | None:
    if at is not None and position is not None:
        raise Refused(INVALID_AS_OF, "Either as_of or as_of_position.")
    if position is not None:
        await past.must_reach(position)
        return position
    return await past.position_at(at) if at is not None else None


Call = Annotated[QueryCall, Depends(_call_of)]


class Rendering(Generic[Row]):
    """How one shape of answer becomes JSON."""

    def __init__(self, shape: type[Any], *, cache: str) -> None:
        self._adapter = TypeAdapter(shape)
        self._cache = cache

    def answered(self, call: QueryCall, answer: Answer[Row], keys: Sequence[str], value: object) -> Response:
        """`keys`: of the answer's rows, in their order. 304 if the caller has this already."""
        revisions = [row.revision for row in answer.rows]
        etag = etags.of_rows(answer.build, zip(keys, revisions, strict=True))
        return responded(
            call, partial(self._adapter.dump_json, value), etag=etag, cache=self._cache, at=answer.at
        )


def responded(call: QueryCall, content: Callable[[], bytes], *, etag: str, cache: str, at: Token) -> Response:
    """What `content` makes, in JSON; 304 if the caller has this already."""
    headers = {"ETag": etag, "Cache-Control": cache, consistency.HEADER: consistency.encode(at)}
    if call.ask.as_of is not None:
        headers["As-Of-Position"] = str(call.ask.as_of)
        if cache != NOT_STORED:
            headers["Cache-Control"] = IMMUTABLE
    if not etags.none_match(call.if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(content(), 200, headers, "application/json")
