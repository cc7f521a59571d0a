"""What a policy is: a reaction to events, and perhaps a timer of its own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from commands.shop import Shop
from domain.envelope import Recorded


@dataclass(frozen=True, slots=True)
class Timer:
    """What an event says of the timer of its stream: due then, or (None) not waiting any more."""

    stream: str
    due_at: datetime | None


def no_timer(_recorded: Recorded) -> Timer | None:
    return None


async def never_fires(_shop: Shop, _scheduled: Recorded) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Policy:
    """A process manager. It sees every event, in log order, at least once; each step has effect once.

    - `react` starts the command that an event calls for, if any.
    - `timer` is the fold of the policy's own events into timers.
    - `fire` acts on the event that set a due timer; False leaves the timer standing.
    """

    name: str
    react: Callable[[Shop, Recorded], Awaitable[object] | None]
    timer: Callable[[Recorded], Timer | None] = no_timer
    fire: Callable[[Shop, Recorded], Awaitable[bool]] = never_fires
