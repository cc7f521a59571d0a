"""A writer of the log as a process of its own, and the handle by which a test drives it.

As a program (argument: the URL of the log): a JSON object a line in, each with an `id` and what to `do`; for
each a line with its `id` and its `verdict` when it comes, in whatever order. It ends when its input does.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from commands.adjust_stock import AdjustStock, adjust_stock
from commands.ports import (
    Append,
    Appended,
    Conflict,
    Contended,
    Duplicate,
    Issued,
    KeyReused,
    LogFull,
    LogUnavailable,
    Mismatch,
    NewEvent,
    OutcomeUnknown,
    Receipt,
    Rules,
)
from commands.receive_stock import ReceiveStock, receive_stock
from commands.reserve_stock import ReservedItem, ReserveStock, reserve_stock
from commands.shop import Shop
from domain.envelope import Actor, Metadata, Recorded, Tip
from domain.location import LocationRegistered
from domain.sku import SkuClaimed
from domain.stock import Holder, InsufficientStock, Reference, StockBelowReserved
from domain.values import Event
from runtime.ids import SystemClock, Uuid7s
from runtime.log import queue
from runtime.log.postgres import PostgresLog

PLACE: Final = "MAIN"
REFERENCE: Final = Reference("initial", "count")
MAX_WAITING: Final = "LOG_WORKER_MAX_WAITING"
"""Environment variable: how many appends may wait in this process, instead of the log's own limit."""
LINE_BYTES: Final = 2**22
START_S: Final = 30.0
STOP_S: Final = 20.0

Said = dict[str, Any]


class Served:
    """The log of the process, a shop on it, and the callers that wait."""

    def __init__(self, log: PostgresLog) -> None:
        self._log = log
        self._shop = self._new_shop()
        self._callers: dict[int, asyncio.Task[None]] = {}

    def _new_shop(self) -> Shop:
        return Shop(log=self._log, clock=SystemClock(), ids=Uuid7s(), digest_key=b"k" * 32, rules=Rules())

    async def until_the_end(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            asked = json.loads(line)
            match asked["do"]:
                case "cancel":
                    if caller := self._callers.get(asked["caller"]):
                        caller.cancel()
                case "forget":
                    self._shop = self._new_shop()
                    answer({"id": asked["id"], "verdict": "forgotten"})
                case _:
                    caller = asyncio.create_task(self._serve(asked))
                    self._callers[asked["id"]] = caller
                    caller.add_done_callback(partial(self._served, asked["id"]))
        for caller in self._callers.values():
            caller.cancel()
        await asyncio.gather(*self._callers.values(), return_exceptions=True)

    def _served(self, number: int, caller: asyncio.Task[None]) -> None:
        del self._callers[number]
        if caller.cancelled():  # maybe before it began
            answer({"id": number, "verdict": "cancelled"})

    async def _serve(self, asked: Said) -> None:
        try:
            verdict = await self._done(asked)
        except LogFull:
            verdict = {"verdict": "full"}
        except LogUnavailable as away:
            verdict = {"verdict": "unavailable", "why": str(away)}
        except OutcomeUnknown as lost:
            verdict = {"verdict": "unknown", "why": str(lost)}
        except InsufficientStock as short:
            verdict = {
                "verdict": "short",
                "shortages": [[each.sku, each.requested, each.available] for each in short.shortages],
            }
        except StockBelowReserved as below:
            verdict = {"verdict": "below", "on_hand": below.on_hand, "available": below.available}
        except Contended:
            verdict = {"verdict": "contended"}
        except KeyReused:
            verdict = {"verdict": "mismatch"}
        except Exception as fault:  # noqa: BLE001 - told to the test, which knows no excuse for it
            verdict = {"verdict": "fault", "why": repr(fault)}
        answer({"id": asked["id"], **verdict})

    async def _done(self, asked: Said) -> Said:
        match asked["do"]:
            case "append":
                return told(await self._log.append(append_of(asked)))
            case "read":
                found = await self._log.read_streams(dict.fromkeys(asked["streams"], 0))
                tips = {
                    stream: [events[-1].version, events[-1].event_id]
                    for stream, events in found.items()
                    if events
                }
                return {"verdict": "read", "tips": tips}
            case _:
                return told(await command(self._shop, asked))


def append_of(asked: Said) -> Append:
    return Append(
        tips={stream: Tip(*tip) for stream, tip in asked["tips"].items()},
        events=[NewEvent(stream, event_id, event_for(stream)) for stream, event_id in asked["events"]],
        metadata=Metadata(
            datetime.now(UTC), Actor("system", "test"), asked["command_id"], asked["command_id"]
        ),
        digest=bytes.fromhex(asked["digest"]) if asked["digest"] else None,
        fingerprint=bytes.fromhex(asked["fingerprint"]) if asked["digest"] else None,
    )


def event_for(stream: str) -> Event:
    category, _, ident = stream.partition("-")
    if category == "sku":
        return SkuClaimed(ident, f"product-of-{ident}", f"variant-of-{ident}")
    return LocationRegistered(ident, "Lager ä", "DE")


async def command(shop: Shop, asked: Said) -> Receipt:
    issued = Issued(
        actor=Actor("staff", "test"),
        command_id=asked["command_id"],
        correlation_id=asked["command_id"],
        digest=bytes.fromhex(asked["digest"]),
        fingerprint=bytes.fromhex(asked["fingerprint"]),
    )
    match asked["do"]:
        case "receive":
            return await receive_stock(
                shop, issued, ReceiveStock(asked["sku"], PLACE, asked["qty"], REFERENCE)
            )
        case "adjust":
            change = {"delta": asked.get("delta"), "counted": asked.get("counted")}
            return await adjust_stock(
                shop, issued, AdjustStock(asked["sku"], PLACE, "count", **change, note="tried")
            )
        case "reserve":
            items = tuple(ReservedItem(sku, qty, PLACE) for sku, qty in asked["items"])
            ttl = timedelta(microseconds=1) if asked["brief"] else None
            return await reserve_stock(
                shop, issued, ReserveStock(Holder("cart", asked["command_id"]), items, ttl)
            )
        case unknown:
            raise ValueError(f"there is no {unknown}")


def told(verdict: Appended | Conflict | Duplicate | Mismatch | Receipt) -> Said:
    match verdict:
        case Appended(events):
            return {"verdict": "appended", "events": recorded(events)}
        case Conflict():
            return {"verdict": "conflict"}
        case Duplicate(first, count):
            return {"verdict": "duplicate", "first": first, "count": count}
        case Mismatch():
            return {"verdict": "mismatch"}
        case Receipt(events, replayed):
            return {"verdict": "replayed" if replayed else "appended", "events": recorded(events)}


def recorded(events: Sequence[Recorded]) -> list[list[Any]]:
    return [[each.position, each.stream, each.version, each.event_id] for each in events]


def answer(said: Said) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    if limit := os.environ.get(MAX_WAITING):
        if not hasattr(queue, "MAX_WAITING"):
            raise AttributeError("the queue's limit has another name now")
        queue.MAX_WAITING = int(limit)  # type: ignore[misc] # a constant, but not of this process
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with AsyncExitStack() as stack:
        await Served(await opened(url, stack)).until_the_end(lines)


async def opened(url: str, stack: AsyncExitStack) -> PostgresLog:
    """It may begin while the test is cutting connections."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                return await stack.enter_async_context(PostgresLog.open(url))
            except LogUnavailable:
                await asyncio.sleep(0.05)


class LogWorker:
    """The process as a test has it. `heard` is called with each answer; so is a fault if it ends untold."""

    def __init__(self, url: str, errors: Path, heard: Callable[["LogWorker", Said], Awaitable[None]]) -> None:
        self._url = url
        self._errors = errors
        self._heard = heard
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._expected_end = False

    async def start(self, environment: Mapping[str, str]) -> None:
        """Returns at once; what is sent is served when it is ready."""
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                self._url,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                limit=LINE_BYTES,
            )
        self._listening = asyncio.create_task(self._listen())

    def send(self, *asked: Said) -> None:
        """In one piece: all of it arrives at the same time, as soon as the process is ready."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(json.dumps(each).encode() + b"\n" for each in asked))

    async def kill(self) -> None:
        assert self._process is not None
        self._expected_end = True
        self._process.kill()
        await self._gone()

    async def stop(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._expected_end = True
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise
        finally:
            await self._gone()

    async def _gone(self) -> None:
        assert self._process is not None
        assert self._listening is not None
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # killed in the middle of a word
            said = json.loads(line)
            await self._heard(self, said)
        if not self._expected_end:
            errors = self._errors.read_text(errors="replace")[-2_000:]
            await self._heard(self, {"id": 0, "verdict": "fault", "why": f"it ended by itself: {errors}"})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
