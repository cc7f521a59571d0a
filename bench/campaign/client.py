"""A client that behaves: sends a command until it is answered, each time under the same key."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import httpx
from uuid_utils import uuid7

from bench.campaign.house import House
from bench.campaign.ledger import Effect, Fate, Ledger, Place, Told
from bench.campaign.recovery import Silence

ANSWER_S: Final = 1.0
"""Then it is sent again, to the other door."""
GIVE_UP_S: Final = 60.0
PAUSE_S: Final = 0.05
IMPATIENT_SHARE: Final = 0.02
"""Of commands, so many are let go without waiting for the answer, and sent again."""
IMPATIENT_S: Final = 0.004
REPEATED_SHARE: Final = 0.05
"""Of acknowledged commands, so many are sent once more."""
CONNECTIONS: Final = 200
CHECK_S: Final = 0.25
"""Between looks whether a write door that did not answer is ready again."""
TOO_EARLY: Final = 425
MISSING: Final = 404


@dataclass(frozen=True, slots=True)
class Command:
    role: str
    path: str
    body: Mapping[str, object]
    effect: Effect
    if_match: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The last one, if any came."""

    fate: Fate
    body: Mapping[str, Any]
    token: str = ""
    etag: str = ""


class Client:
    """`answers`: of the doors, what went through and how long nothing did."""

    def __init__(self, house: House, chance: random.Random) -> None:
        self.house = house
        self.ledger = Ledger()
        self.writes, self.reads = Silence(monotonic()), Silence(monotonic())
        self.sent = self.lost = self.late_reads = 0
        self._chance = chance
        self._down: set[str] = set()
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._http = httpx.AsyncClient(timeout=ANSWER_S, limits=limits, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, command: Command) -> Answer:
        """Until it is known what became of it, for a minute at most; the ledger has it then."""
        key, answer = str(uuid7()), Answer("unknown", {})
        try:
            answer = await self._until_answered(command, key)
        finally:
            places = (Place(one["position"], one["event_id"]) for one in answer.body.get("events", ()))
            self.ledger.told.append(Told(command.effect, answer.fate, tuple(places)))
        if answer.fate == "acknowledged" and self._chance.random() < REPEATED_SHARE:
            await self._repeat(command, key, answer)
        return answer

    async def _until_answered(self, command: Command, key: str) -> Answer:
        until, unanswered = monotonic() + GIVE_UP_S, False
        while monotonic() < until:
            hurried = self._chance.random() < IMPATIENT_SHARE
            response = await self._post(command, key, IMPATIENT_S if hurried else ANSWER_S)
            if response is None:
                unanswered = True
            elif not _is_passing(response):
                return _answer(response, unanswered=unanswered)
            await asyncio.sleep(self._chance.uniform(0, PAUSE_S))
        return Answer("unknown", {})

    async def _repeat(self, command: Command, key: str, first: Answer) -> None:
        response = await self._post(command, key, ANSWER_S)
        if response is None or _is_passing(response):
            return
        if response.json() != first.body or response.headers.get("Idempotency-Replayed") != "true":
            self.ledger.changed_answers += 1

    async def _post(self, command: Command, key: str, seconds: float) -> httpx.Response | None:
        """None: without an answer."""
        doors = self.house.write_urls
        url = self._chance.choice([one for one in doors if one not in self._down] or doors)
        headers = self._headers(command.role) | {"Idempotency-Key": key}
        if command.if_match is not None:
            headers["If-Match"] = command.if_match
        self.sent += 1
        try:
            async with asyncio.timeout(seconds):
                response = await self._http.post(
                    f"{url}/v1{command.path}", json=command.body, headers=headers
                )
        except (httpx.TransportError, TimeoutError):
            self.lost += 1
            if seconds == ANSWER_S:
                self._down.add(url)
            return None
        if response.is_server_error:
            self._down.add(url)
        else:
            self.writes.answered(monotonic())
        return response

    async def balance(self) -> None:
        """Until cancelled: finds out which write doors are ready again, as a load balancer does."""
        while True:
            await asyncio.gather(*(self._up_again(url) for url in tuple(self._down)))
            await asyncio.sleep(CHECK_S)

    async def _up_again(self, url: str) -> None:
        with suppress(httpx.TransportError):
            if (await self._http.get(f"{url}/readyz")).is_success:
                self._down.discard(url)

    async def get(self, role: str, path: str, token: str, wait_s: int) -> httpx.Response | None:
        """What has seen the token's write; None: no answer, or too early for one."""
        headers = self._headers(role) | {"Consistency-Token": token, "Prefer": f"wait={wait_s}"}
        try:
            async with asyncio.timeout(wait_s + ANSWER_S):
                response = await self._http.get(f"{self.house.door_of(role)}/v1{path}", headers=headers)
        except (httpx.TransportError, TimeoutError):
            return None
        if response.is_success:
            self.reads.answered(monotonic())
            return response
        if response.status_code == MISSING:
            self.ledger.stale_reads += 1
        self.late_reads += response.status_code == TOO_EARLY
        return None

    async def told_by(self, name: str) -> str:
        """A process's figures; empty where it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_S):
                return (await self._http.get(self.house.metrics_url(name))).text
        except (httpx.TransportError, TimeoutError):
            return ""

    def _headers(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.house.settings.tokens[role]}"}


def _is_passing(response: httpx.Response) -> bool:
    """An answer that says: later."""
    return response.is_error and bool(response.json().get("retryable"))


def _answer(response: httpx.Response, *, unanswered: bool) -> Answer:
    if response.is_success:
        headers = response.headers
        return Answer("acknowledged", response.json(), headers["Consistency-Token"], headers.get("ETag", ""))
    return Answer("unknown" if unanswered else "refused", response.json())
