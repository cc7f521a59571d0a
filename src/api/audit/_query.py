"""How history is shown: the whole envelope, and the stored data, byte for byte as JSON."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from api._operation import Operation, header, operation
from api.audit.ports import History, HistoryEvent
from api.problems import UNAVAILABLE, Kind, Refusals
from domain.values import NotFound

MEDIA_TYPE: Final = "application/json"


class UnknownStream(NotFound):
    """There is no such stream."""


class UnknownEvent(NotFound):
    """There is no such event."""


REFUSALS: Final[Refusals] = {
    UnknownStream: Kind("unknown_stream", 404),
    UnknownEvent: Kind("unknown_event", 404),
}


class EventActor(BaseModel):
    type: Literal["customer", "staff", "service", "gateway", "auditor", "system"]
    id: str


class Event(BaseModel):
    """`data` is what was stored; its shape follows from `type`."""

    position: int
    stream: str
    version: int
    event_id: str
    type: str
    context: str
    lane: int
    recorded_at: datetime
    occurred_at: datetime
    actor: EventActor
    command_id: str
    correlation_id: str
    causation_id: str | None = None
    trace_id: str | None = None
    data: dict[str, Any]


def router() -> APIRouter:
    return APIRouter(route_class=Operation)


def query(
    name: str, *, summary: str, answer: type[BaseModel], refusals: Iterable[type[NotFound]]
) -> dict[str, Any]:
    """The arguments of a query's route."""
    return operation(
        name,
        summary=summary,
        scope="history:read",
        answer=answer,
        problems=[UNAVAILABLE, *(REFUSALS[refusal] for refusal in refusals)],
        parameters=[header("traceparent", "W3C Trace Context.")],
    )


async def _history_of(request: Request) -> History:
    history: History = request.app.state.history
    return history


Log = Annotated[History, Depends(_history_of)]


def rendered(event: HistoryEvent) -> bytes:
    """An `Event` as JSON. The data goes in as it is stored: parsing it might change a number's form."""
    envelope = {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "event_id": event.event_id,
        "type": event.type,
        "context": event.context,
        "lane": event.lane,
        "recorded_at": event.recorded_at,
        **json.loads(event.metadata),
    }
    return to_json(envelope)[:-1] + b',"data":' + event.data + b"}"


def answered(**members: object) -> Response:
    """The members as JSON; a list of bytes is one of values that are JSON already."""
    written = [
        to_json(name) + b":" + (b"[" + b",".join(value) + b"]" if isinstance(value, list) else to_json(value))
        for name, value in members.items()
    ]
    return json_response(b"{" + b",".join(written) + b"}")


def json_response(content: bytes) -> Response:
    return Response(content, 200, {"Cache-Control": "private, no-store"}, MEDIA_TYPE)
