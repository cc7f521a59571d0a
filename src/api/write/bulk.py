"""Many commands in one request: a line of JSON in, a line of JSON out for each, in their order.

Results go out while commands still come in. At most `WINDOW` commands are under way; while they are, and
while nobody reads their results, no more is read: the client's own sending slows down.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api._app import PREFIX, answer_to
from api._operation import WITH_BODY, Operation, operation
from api.bodies import MAX_BODY_BYTES, parsed
from api.problems import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    INVALID_FIELDS,
    OVERLOADED,
    TIMED_OUT,
    UNSUPPORTED_MEDIA_TYPE,
    Refused,
)
from api.write._command import (
    CORRELATION,
    TRACEPARENT,
    CommandCall,
    Said,
    call_of,
    must_be_key,
    must_match,
    router,
)
from api.write._fields import Fields
from domain.values import FieldError

PATH: Final = "/commands"
MEDIA_TYPE: Final = "application/x-ndjson"
WINDOW: Final = 256
"""The commands of one request that are under way at once."""
MAX_REQUESTS: Final = 8
"""The requests of this kind at once."""
MAX_LINE_BYTES: Final = MAX_BODY_BYTES
SILENCE_SECONDS: Final = 60.0
"""How long the client may send nothing, or read nothing."""
COMMAND_SECONDS: Final = 30.0
STREAM: Final[Mapping[str, Any]] = {"x-stream": True}
HEADERS: Final = {"etag": "etag", "consistency_token": "consistency-token", "location": "location"}

logger = logging.getLogger(__name__)


class Line(Fields):
    """`command` is its operationId; what stands in its path is a field of the body, beside the others."""

    command: str
    idempotency_key: str | None = None
    if_match: str | None = None
    body: dict[str, Any] = Field(default_factory=dict)


class Result(BaseModel):
    """`line` counts from 1. `status` and `body` are those of the command sent alone, perhaps a problem.

    The others are its headers, where it has them; `replayed`: the effect was there before.
    """

    line: int
    status: int
    etag: str | None = None
    consistency_token: str | None = None
    location: str | None = None
    replayed: bool = False
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Known:
    """A command as a line names it: with the fields of its body, and beside them those of its path."""

    name: str
    path: str
    scope: str
    needs_if_match: bool
    in_path: type[BaseModel]
    body: type[BaseModel]
    endpoint: Callable[..., Awaitable[Response]]

    @classmethod
    def of(cls, route: Operation) -> "_Known":
        extra = route.openapi_extra or {}
        hints = {name: each.annotation for name, each in inspect.signature(route.endpoint).parameters.items()}
        in_path: dict[str, Any] = {
            name: (hint, ...) for name, hint in hints.items() if f"{{{name}}}" in route.path
        }
        name = route.operation_id or route.name
        return cls(
            name=name,
            path=PREFIX + route.path,
            scope=extra["x-scope"],
            needs_if_match=extra["x-if-match"],
            in_path=create_model(name, **in_path),
            body=hints["body"],
            endpoint=route.endpoint,
        )


@dataclass(frozen=True, slots=True)
class _Command:
    """`aggregate`: the path of what it acts on; None for what is new."""

    endpoint: Callable[..., Awaitable[Response]]
    in_path: Mapping[str, Any]
    body: BaseModel
    call: CommandCall
    aggregate: str | None

    async def answer(self) -> Response:
        return await self.endpoint(body=self.body, call=self.call, **self.in_path)


def bulk_router(routers: Iterable[APIRouter]) -> APIRouter:
    """The route that takes every command of these routers."""
    routes = [route for each in routers for route in each.routes if isinstance(route, Operation)]
    known = {command.name: command for command in map(_Known.of, routes)}
    running = asyncio.Semaphore(MAX_REQUESTS)
    made = router()

    @made.post(
        PATH,
        **operation(
            "SendCommands",
            summary="Many commands at once: a line of JSON in, a line of JSON out for each, in their order",
            scope="commands:send",
            answer=Result,
            problems=WITH_BODY,
            parameters=[CORRELATION, TRACEPARENT],
            **STREAM,
        ),
    )
    async def send_commands(request: Request) -> Response:
        """Those on one aggregate, named in their paths, one after the other; all others together."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != MEDIA_TYPE:
            raise Refused(UNSUPPORTED_MEDIA_TYPE, f"The body must be {MEDIA_TYPE}.")
        if running.locked():
            raise Refused(OVERLOADED, f"At most {MAX_REQUESTS} requests of this kind at once.")
        return _Results(_Flight(request, known), running)

    return made


class _Results(Response):
    """Sent while the body still comes; starlette's own streams would take its messages for a disconnect."""

    def __init__(self, flight: "_Flight", running: asyncio.Semaphore) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._flight = flight
        self._running = running

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._running:
            reading = asyncio.create_task(self._flight.read(), name="read commands")
            try:
                await asyncio.sleep(0)  # asked for the body first, the server answers `Expect: 100-continue`
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for results in self._flight.results():
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await send({"type": "http.response.body", "body": results, "more_body": True})
                await reading
                await send({"type": "http.response.body", "body": b""})
            except (ClientDisconnect, TimeoutError) as gone:
                logger.info("nobody reads the results of commands any more: %r", gone)
            finally:
                reading.cancel()
                await asyncio.wait({reading})
                await self._flight.leave()


class _Flight:
    """The commands of one request, from their lines to their results."""

    def __init__(self, request: Request, known: Mapping[str, _Known]) -> None:
        self._request = request
        self._known = known
        self._room = asyncio.Semaphore(WINDOW)
        self._flying: deque[asyncio.Task[bytes]] = deque()
        self._latest: dict[str, asyncio.Task[bytes]] = {}
        self._changed = asyncio.Event()
        self._ended = False

    async def read(self) -> None:
        """Begin every command as its line comes. ClientDisconnect if the client goes away."""
        number = 0
        try:
            async for line in self._lines():
                number += 1
                if line is None:
                    await self._room.acquire()
                    detail = f"A line has at most {MAX_LINE_BYTES} bytes."
                    self._fly(self._refuse(number, Refused(BODY_TOO_LARGE, detail)))
                elif line.strip():
                    await self._room.acquire()
                    self._begin(number, line)
        except Refused as broken:  # there is no next line
            await self._room.acquire()
            self._fly(self._refuse(number + 1, broken))
        finally:
            self._ended = True
            self._changed.set()

    async def results(self) -> AsyncIterator[bytes]:
        """As many as there are, in the order of their lines."""
        while self._flying or not self._ended:
            self._changed.clear()
            if not self._flying:
                await self._changed.wait()
                continue
            await asyncio.wait({self._flying[0]})
            done = []
            while self._flying and self._flying[0].done():
                done.append(self._flying.popleft().result())
                self._room.release()
            yield b"".join(done)

    async def leave(self) -> None:
        """Stop waiting for what is under way; its effects come about all the same."""
        for task in self._flying:
            task.cancel()
        if self._flying:
            await asyncio.wait({*self._flying})

    async def _lines(self) -> AsyncIterator[bytes | None]:
        """None for one that is longer than allowed, of which nothing is kept."""
        rest, lost = b"", False
        chunks = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                detail = f"Nothing came for {SILENCE_SECONDS:.0f} seconds."
                raise Refused(BODY_TIMEOUT, detail) from None
            if chunk is None:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield None if lost or len(line) > MAX_LINE_BYTES else line
                lost = False
            if len(rest) > MAX_LINE_BYTES:
                rest, lost = b"", True
        yield None if lost else rest

    def _begin(self, number: int, line: bytes) -> None:
        try:
            command = self._command(line)
        except (Refused, RequestValidationError) as refused:
            self._fly(self._refuse(number, refused))
            return
        aggregate = command.aggregate
        previous = self._latest.get(aggregate) if aggregate else None
        task = self._fly(self._run(number, command, previous))
        if aggregate:
            self._latest[aggregate] = task
            task.add_done_callback(lambda done: self._forget(aggregate, done))

    def _forget(self, aggregate: str, done: asyncio.Task[bytes]) -> None:
        if self._latest.get(aggregate) is done:
            del self._latest[aggregate]

    def _fly(self, work: Coroutine[Any, Any, bytes]) -> asyncio.Task[bytes]:
        task = asyncio.create_task(work, name="a command of many")
        self._flying.append(task)
        self._changed.set()
        return task

    def _command(self, raw: bytes) -> _Command:
        (line,) = _validated((Line, parsed(raw)))
        known = self._known.get(line.command)
        if known is None:
            error = FieldError("/command", "not_allowed", "There is no such command.")
            raise Refused(INVALID_FIELDS, "Some fields of the line are not valid.", errors=[error])
        self._request.state.principal.require(known.scope)
        key = must_be_key(line.idempotency_key)
        if_match = must_match(line.if_match) if known.needs_if_match else None
        names = known.in_path.model_fields
        said = {name: value for name, value in line.body.items() if name not in names}
        placed = {name: value for name, value in line.body.items() if name in names}
        in_path, body = _validated((known.in_path, placed), (known.body, said))
        parameters = in_path.model_dump()
        path = known.path.format(**parameters)
        call = call_of(self._request, Said(known.name, path, said), key=key, if_match=if_match)
        return _Command(known.endpoint, parameters, body, call, path if names else None)

    async def _run(self, number: int, command: _Command, previous: asyncio.Task[bytes] | None) -> bytes:
        if previous:
            await asyncio.wait({previous})
        answering = asyncio.ensure_future(command.answer())
        try:
            await asyncio.wait({answering}, timeout=COMMAND_SECONDS)
            if not answering.done():
                detail = f"No answer within {COMMAND_SECONDS:.0f} seconds; the outcome is unknown."
                return await self._refuse(number, Refused(TIMED_OUT, detail))
            failed = answering.exception()
            if isinstance(failed, Exception):
                return await self._refuse(number, failed)
            return _result(number, answering.result())
        finally:
            answering.cancel()

    async def _refuse(self, number: int, refused: Exception) -> bytes:
        return _result(number, await answer_to(self._request, refused))


def _validated(*given: tuple[type[BaseModel], object]) -> list[Any]:
    """An instance of each model from its value. RequestValidationError with all that is wrong with any."""
    made, errors = [], []
    for model, value in given:
        try:
            made.append(model.model_validate(value))
        except ValidationError as invalid:
            errors += [
                {**error, "loc": ("body", *error["loc"])} for error in invalid.errors(include_url=False)
            ]
    if errors:
        raise RequestValidationError(errors)
    return made


def _result(number: int, answer: Response) -> bytes:
    """A line of `Result`; the body's bytes are those of the command sent alone."""
    headers = answer.headers
    about: dict[str, object] = {"line": number, "status": answer.status_code}
    about |= {field: headers[name] for field, name in HEADERS.items() if name in headers}
    if "idempotency-replayed" in headers:
        about["replayed"] = True
    return to_json(about)[:-1] + b',"body":' + bytes(answer.body) + b"}\n"
