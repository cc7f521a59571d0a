"""How many requests at once, and for how long: the outer layer of every door."""

import asyncio
import re
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.ports import Surroundings
from api.problems import OVERLOADED, TIMED_OUT, problem

MAX_REQUESTS: Final = 1_000
UNLIMITED: Final = frozenset({"/healthz", "/readyz", "/metrics"})
UNMATCHED: Final = "unmatched"
"""The operation of a request that no route takes."""

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


class Admission:
    """Refuses early what it cannot serve, ends what takes too long, and tells the telemetry of all of it.

    `streamed`: paths that go on for as long as something moves, and see to that themselves.

    A request that is ended has only stopped waiting: an append under way goes on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        around: Surroundings,
        seconds: float,
        streamed: Collection[str] = (),
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._app = app
        self._around = around
        self._seconds = seconds
        self._streamed = streamed
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNLIMITED:
            await self._app(scope, receive, send)
            return
        trace_id = _trace_id(scope) or self._around.new_id().replace("-", "")
        state = scope.setdefault("state", {})
        state["trace_id"], state["operation"] = trace_id, UNMATCHED
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        loop = asyncio.get_running_loop()
        began = loop.time()
        self._around.telemetry.began()
        self._running += 1
        try:
            if self._running > self._max_requests:
                refusal = problem(OVERLOADED, "Too many requests at once.", trace_id=trace_id)
                await refusal(scope, receive, watched)
                return
            seconds = None if scope["path"] in self._streamed else self._seconds
            async with asyncio.timeout(seconds) as limit:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if not limit.expired() or status:
                raise
            detail = f"No answer within {self._seconds:.0f} seconds; the outcome is unknown."
            await problem(TIMED_OUT, detail, trace_id=trace_id)(scope, receive, watched)
        finally:
            self._running -= 1
            self._around.telemetry.ended(state["operation"], status or 500, loop.time() - began)


def _trace_id(scope: Scope) -> str | None:
    """The trace that `traceparent` (W3C Trace Context) names."""
    found = _TRACEPARENT.fullmatch(Headers(scope=scope).get("traceparent", ""))
    return found[1] if found else None
