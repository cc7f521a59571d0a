"""The envelope of every event: who, when, why, and where it stands in the log."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from domain.values import Event

ActorType = Literal["customer", "staff", "service", "gateway", "auditor", "system"]
NO_EVENT: Final = "00000000-0000-0000-0000-000000000000"
"""The event id in the tip of a stream that does not exist."""


@dataclass(frozen=True, slots=True)
class Actor:
    type: ActorType
    id: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """`occurred_at` is aware UTC; `causation_id` is the id of the event that made a policy act."""

    occurred_at: datetime
    actor: Actor
    command_id: str
    correlation_id: str
    causation_id: str | None = None
    trace_id: str | None = None


class Recorded(NamedTuple):
    """An event as it stands in the log: `version` counts from 1 in its stream, `position` in the log."""

    position: int
    stream: str
    version: int
    event_id: str
    context: str
    lane: int
    event: Event
    metadata: Metadata
    recorded_at: datetime

    @property
    def type(self) -> str:
        return self.event.TYPE


class Tip(NamedTuple):
    """The last event of a stream that a decision has seen. Version 0 with `NO_EVENT`: must not exist."""

    version: int
    event_id: str


NOTHING: Final = Tip(0, NO_EVENT)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one lane of one context has been applied: the last event's position and id."""

    position: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """A vector of marks, by (context, lane), of one incarnation of the log.

    In a question: what the answer must have seen. In an answer: where it holds. `seen`: it is of an answer to
    a question, so its marks say how far that had come, not what anybody wrote.
    """

    incarnation: str
    marks: Mapping[tuple[str, int], Mark]
    seen: bool = False
