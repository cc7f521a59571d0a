"""The write door's bulk entrance, as a client sees it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from runtime.importing.steps import Command
from runtime.process import CannotStart

MAX_COMMANDS: Final = 250
"""In one request; fewer than the door takes before somebody reads its answers."""
ANSWER_S: Final = 60.0
PATIENCE_S: Final = 60.0
"""How long nothing may get through."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
WORTH_TELLING_S: Final = 8 * FIRST_PAUSE_S
"""The pause before which whoever waits is told why."""

logger = logging.getLogger(__name__)


class Result(msgspec.Struct, frozen=True):
    """`body`: the command's answer, or its problem."""

    line: int
    status: int
    body: dict[str, Any]

    @property
    def done(self) -> bool:
        return self.status < 300  # noqa: PLR2004 - what HTTP calls successful


_results: Final = msgspec.json.Decoder(Result)


class Unreachable(CannotStart):
    """The write door takes nothing."""


@dataclass(frozen=True, slots=True)
class BulkDoor:
    client: httpx.AsyncClient

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, token: str) -> AsyncIterator["BulkDoor"]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_S) as client:
            yield cls(client)

    async def send(self, commands: Sequence[Command]) -> list[Result]:
        """Each one's last answer; what may succeed later is sent again, with its key. `Unreachable`."""
        answers: dict[int, Result] = {}
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + PATIENCE_S, FIRST_PAUSE_S
        while True:
            left = [number for number in range(len(commands)) if _may_succeed(answers.get(number))]
            if not left:
                return [answers[number] for number in range(len(commands))]
            trouble = "it answers that it cannot just now"
            try:
                async for result in self._sent([commands[number] for number in left]):
                    answers[left[result.line - 1]] = result
            except httpx.TransportError as error:
                trouble = repr(error)
            still = [number for number in left if _may_succeed(answers.get(number))]
            if len(still) < len(left):
                deadline, pause = clock() + PATIENCE_S, FIRST_PAUSE_S
            elif clock() > deadline:
                raise Unreachable(f"nothing gets through to {self.client.base_url}: {trouble}")
            if still:
                if pause == WORTH_TELLING_S:
                    logger.warning(
                        "%s does not answer as it should, trying again: %s", self.client.base_url, trouble
                    )
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _sent(self, commands: Sequence[Command]) -> AsyncIterator[Result]:
        lines = msgspec.json.Encoder().encode_lines(commands)
        async with self.client.stream("POST", "/v1/commands", content=lines) as answer:
            if answer.is_server_error:
                return  # overloaded, or starting: later
            if answer.is_error:
                raise Unreachable(f"{self.client.base_url} answers: {(await answer.aread()).decode()}")
            async for line in answer.aiter_lines():
                yield _results.decode(line)


def _may_succeed(result: Result | None) -> bool:
    return result is None or (not result.done and bool(result.body.get("retryable")))
