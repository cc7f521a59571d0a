import json
from typing import Annotated, Final

from fastapi import Path
from pydantic import BaseModel
from starlette.responses import Response

from api.audit._query import Event, Log, UnknownEvent, answered, json_response, query, rendered, router
from domain.values import ID_PATTERN

MAX_CAUSES: Final = 50

events = router()

EventId = Annotated[str, Path(pattern=ID_PATTERN)]


class Causes(BaseModel):
    """The event, what caused it, what caused that, and so on. `next`: where a long chain goes on."""

    events: list[Event]
    next: str | None


@events.get(
    "/events/{event_id}",
    **query("event", summary="One event", answer=Event, refusals=(UnknownEvent,)),
)
async def one(event_id: EventId, log: Log) -> Response:
    event = await log.event(event_id)
    if event is None:
        raise UnknownEvent
    return json_response(rendered(event))


@events.get(
    "/events/{event_id}/causes",
    **query(
        "causes_of_event",
        summary="An event and the chain of events that caused it",
        answer=Causes,
        refusals=(UnknownEvent,),
    ),
)
async def causes(event_id: EventId, log: Log) -> Response:
    chain: list[bytes] = []
    wanted: str | None = event_id
    while wanted is not None and len(chain) < MAX_CAUSES:
        event = await log.event(wanted)
        if event is None:
            raise UnknownEvent
        chain.append(rendered(event))
        wanted = json.loads(event.metadata).get("causation_id")
    return answered(events=chain, next=f"/v1/events/{wanted}/causes" if wanted is not None else None)
