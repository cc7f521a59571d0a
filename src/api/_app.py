"""What the three doors share: how an app is put together, and how anything that goes wrong is answered."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from api._operation import Problem
from api.bodies import escaped
from api.heads import HeadAsGet
from api.limits import Admission
from api.ports import Bearable, Surroundings
from api.problem_pages import pages
from api.problems import (
    INTERNAL_ERROR,
    INVALID_FIELDS,
    MAX_ERRORS,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    Refusals,
    Refused,
    facts_of,
    first_line,
    problem,
)
from domain.values import FieldError, Rejected

logger = logging.getLogger(__name__)

PREFIX: Final = "/v1"
READY_SECONDS: Final = 2.0

_HTTP_KINDS: Final = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}
_FIELD_CODES: Final = {
    "extra_forbidden": "unknown_field",
    "missing": "missing",
    "literal_error": "not_allowed",
    "enum": "not_allowed",
    "string_pattern_mismatch": "wrong_pattern",
    "string_too_short": "too_short",
    "too_short": "too_short",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "int_parsing_size": "out_of_range",
    "unknown_currency": "unknown_currency",
    "wrong_timestamp": "wrong_timestamp",
}
"""The code of a wrong field, by pydantic's type of error; any other is `wrong_type`."""


def make_app(
    title: str,
    routers: Iterable[APIRouter],
    refusals: Refusals,
    around: Surroundings,
    *,
    request_seconds: float,
    streamed: Collection[str] = (),
    **state: object,
) -> FastAPI:
    """`refusals`: every exception a command or a query of this door may raise. `state`: the door's ports.

    `streamed`: paths that answer for longer than `request_seconds`.
    """
    app = FastAPI(
        title=title,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,  # bodies.read_json has seen to it
        middleware=[
            Middleware(HeadAsGet),
            Middleware(Admission, around=around, seconds=request_seconds, streamed=streamed),
        ],
        exception_handlers={
            **dict.fromkeys((Rejected, *refusals), _refusal_handler(refusals)),
            Refused: _refused,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )
    app.state.tokens = around.tokens
    for name, value in state.items():
        setattr(app.state, name, value)
    included = list(routers)
    for router in included:
        app.include_router(router, prefix=PREFIX)
    app.include_router(_health(around))
    app.include_router(pages(refusals))
    vars(app)["openapi"] = cache(lambda: document(title, included))
    return app


def document(title: str, routers: Iterable[APIRouter]) -> dict[str, Any]:
    """The OpenAPI document of a door."""
    app = FastAPI()
    for router in routers:
        app.include_router(router, prefix=PREFIX)
    made = get_openapi(title=title, version="1", routes=app.routes)
    problems = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components = made["components"]
    components["schemas"] |= {**problems.pop("$defs"), "Problem": problems}
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"bearer": []}]
    return made


async def answer_to(request: Request, error: Exception) -> Response:
    """What the door answers to an exception, as its handlers say; each knows what it is given."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers:
            response: Response = await handlers[kind](request, error)
            return response
    raise error


def _health(around: Surroundings) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz")
    async def readyz() -> Response:
        try:
            async with asyncio.timeout(READY_SECONDS):
                wrong = await around.ready()
        except TimeoutError:
            wrong = {"door": f"no answer within {READY_SECONDS:.0f} seconds"}
        ready = all(reason is None or isinstance(reason, Bearable) for reason in wrong.values())
        checks = {name: reason or "well" for name, reason in wrong.items()}
        status = "ready" if ready else "not ready"
        return JSONResponse({"status": status, "checks": checks}, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        content, media_type = around.telemetry.exposition()
        return Response(content, media_type=media_type)

    return router


def _trace_id(request: Request) -> str:
    trace_id: str = request.state.trace_id
    return trace_id


def _refusal_handler(refusals: Refusals) -> Callable[[Request, Any], Coroutine[Any, Any, Response]]:
    async def handle(request: Request, refusal: Exception) -> Response:
        kind = next((refusals[base] for base in type(refusal).__mro__ if base in refusals), None)
        if kind is None:
            return await _unexpected(request, refusal)
        if kind.status >= INTERNAL_ERROR.status:
            logger.warning("%s: %s", kind.code, refusal)
        detail = refusal.message if isinstance(refusal, Rejected) else first_line(type(refusal))
        return problem(kind, detail, trace_id=_trace_id(request), facts=facts_of(refusal))

    return handle


async def _refused(request: Request, refused: Refused) -> Response:
    return problem(
        refused.kind,
        refused.detail,
        trace_id=_trace_id(request),
        facts=refused.facts,
        headers=refused.headers,
    )


async def _invalid(request: Request, invalid: RequestValidationError) -> Response:
    errors = [
        FieldError(_pointer(error["loc"]), _FIELD_CODES.get(error["type"], "wrong_type"), error["msg"])
        for error in invalid.errors()[:MAX_ERRORS]
    ]
    return problem(
        INVALID_FIELDS,
        "Some fields of the request are not valid.",
        trace_id=_trace_id(request),
        facts={"errors": errors},
    )


def _pointer(loc: tuple[str | int, ...]) -> str:
    """A JSON pointer into the body; a path or query parameter stands beside its fields."""
    return "".join(f"/{escaped(str(token))}" for token in loc[1:] if token != "[key]")  # noqa: S105 - pydantic's word for a mapping's key


async def _http_error(request: Request, error: HTTPException) -> Response:
    kind = _HTTP_KINDS.get(error.status_code, INTERNAL_ERROR)
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return problem(kind, f"{error.detail}.", trace_id=_trace_id(request), headers=headers)


async def _gone(_request: Request, _disconnect: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s failed, trace %s", request.state.operation, _trace_id(request), exc_info=error)
    return problem(INTERNAL_ERROR, "This should not have happened.", trace_id=_trace_id(request))
