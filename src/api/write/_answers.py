"""A command's answer, rendered from the events it wrote: a repeat renders the same."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.responses import Response

from api import consistency, etags
from api.write._command import CommandCall
from commands.ports import Receipt
from domain.envelope import Mark, Token
from domain.values import Aggregate, category_of

E = TypeVar("E")


class WrittenEvent(BaseModel):
    """`version` counts in the stream, `position` in the log."""

    event_id: str
    type: str
    stream: str
    version: int
    position: int


class Written(BaseModel):
    events: list[WrittenEvent]


class WrittenAggregate(Written):
    """`version`: of the aggregate's stream, for the next command's If-Match."""

    version: int


def first(receipt: Receipt, event: type[E]) -> E:
    """The first event of this type that the command wrote."""
    return next(recorded.event for recorded in receipt.events if isinstance(recorded.event, event))


def answered(
    call: CommandCall,
    receipt: Receipt,
    answer: type[Written],
    facts: Mapping[str, object],
    *,
    aggregate: Aggregate[Any, Any] | None = None,
    read_at: str | None = None,
    created: bool = False,
) -> Response:
    """`facts`: the answer's own fields; `aggregate`: whose version counts; `read_at`: its path there."""
    headers = {
        "Cache-Control": "no-store",
        consistency.HEADER: consistency.encode(_token(call, receipt)),
        "Correlation-Id": receipt.events[0].metadata.correlation_id,
    }
    if receipt.replayed:
        headers["Idempotency-Replayed"] = "true"
    if read_at is not None:
        headers["Location"] = f"{call.read_url}/v1{read_at}"
    if aggregate is not None:
        version = _version(receipt, aggregate)
        facts = {**facts, "version": version}
        headers["ETag"] = etags.of_version(version)
    events = [
        WrittenEvent(
            event_id=recorded.event_id,
            type=recorded.type,
            stream=recorded.stream,
            version=recorded.version,
            position=recorded.position,
        )
        for recorded in receipt.events
    ]
    body = answer.model_validate({**facts, "events": events}).model_dump_json()
    return Response(body, 201 if created else 200, headers, "application/json")


def _version(receipt: Receipt, aggregate: Aggregate[Any, Any]) -> int:
    return max(
        recorded.version for recorded in receipt.events if category_of(recorded.stream) == aggregate.category
    )


def _token(call: CommandCall, receipt: Receipt) -> Token:
    marks: Mapping[tuple[str, int], Mark] = {
        (recorded.context, recorded.lane): Mark(recorded.position, recorded.event_id)
        for recorded in receipt.events
    }
    return Token(call.shop.log.incarnation, marks)
