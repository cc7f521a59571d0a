"""What every door needs of the machine room."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from api.auth import Tokens

NewId = Callable[[], str]


class Bearable(str):
    """What is wrong with a thing without which the door still answers, slower."""

    __slots__ = ()


Ready = Callable[[], Awaitable[Mapping[str, str | None]]]
"""What is wrong with each thing the door depends on, None where it is well. Never raises."""


class Telemetry(Protocol):
    def began(self) -> None: ...

    def ended(self, operation: str, status: int, seconds: float) -> None: ...

    def exposition(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its media type."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`new_id` makes UUIDv7s in their canonical text form."""

    tokens: Tokens
    new_id: NewId
    telemetry: Telemetry
    ready: Ready
