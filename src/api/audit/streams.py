from typing import Annotated, Final

from fastapi import Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from api.audit._query import Event, Log, UnknownStream, answered, query, rendered, router

STREAM_PATTERN: Final = r"^[a-z]+-[A-Za-z0-9._@-]+$"
MAX_STREAM_CHARS: Final = 120
MAX_PAGE: Final = 200
PAGE: Final = 50

streams = router()


class StreamPage(BaseModel):
    """In order of version. `next`: where to go on, null at the end of what is there now."""

    stream: str
    events: list[Event]
    next: str | None


@streams.get(
    "/streams/{stream}",
    **query(
        "stream_history",
        summary="What happened in a stream",
        answer=StreamPage,
        refusals=(UnknownStream,),
    ),
)
async def history(
    stream: Annotated[str, Path(pattern=STREAM_PATTERN, max_length=MAX_STREAM_CHARS)],
    log: Log,
    after_version: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
) -> Response:
    events = await log.read_stream(stream, after_version=after_version, limit=limit)
    if not events and not after_version:
        raise UnknownStream
    following = f"/v1/streams/{stream}?after_version={events[-1].version}&limit={limit}" if events else None
    return answered(
        stream=stream,
        events=[rendered(event) for event in events],
        next=following if len(events) == limit else None,
    )
