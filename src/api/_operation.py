"""An operation of a door: what its OpenAPI document says of it is what its route enforces."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

from fastapi import params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Scope, Tokens
from api.bodies import read_json
from api.problems import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    FORBIDDEN,
    INTERNAL_ERROR,
    INVALID_FIELDS,
    MALFORMED_JSON,
    MEDIA_TYPE,
    OVERLOADED,
    REPEATED_HEADER,
    REPEATED_PARAMETER,
    TIMED_OUT,
    UNAUTHENTICATED,
    UNKNOWN_PARAMETER,
    UNSUPPORTED_MEDIA_TYPE,
    Kind,
    Refused,
)

ALWAYS: Final = (
    UNKNOWN_PARAMETER,
    REPEATED_PARAMETER,
    REPEATED_HEADER,
    UNAUTHENTICATED,
    FORBIDDEN,
    INVALID_FIELDS,
    INTERNAL_ERROR,
    OVERLOADED,
    TIMED_OUT,
)
WITH_BODY: Final = (MALFORMED_JSON, BODY_TIMEOUT, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)
SINGLE: Final = (
    "authorization",
    "consistency-token",
    "content-type",
    "correlation-id",
    "idempotency-key",
    "if-match",
    "last-event-id",
)
"""Headers of which a second one would have to be ignored."""

Parameter = Mapping[str, Any]


def header(name: str, description: str, *, required: bool = False, pattern: str | None = None) -> Parameter:
    schema = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def operation(
    name: str,
    *,
    summary: str,
    scope: Scope,
    answer: type[Any],
    status: int = 200,
    problems: Iterable[Kind],
    parameters: Sequence[Parameter] = (),
    answer_headers: Mapping[str, str] | None = None,
    **extra: object,
) -> dict[str, Any]:
    """The arguments of a route: its name, its answer, and the closed list of its problems by status."""
    by_code = {kind.code: kind for kind in (*ALWAYS, *problems)}
    kinds = sorted(by_code.values(), key=lambda kind: (kind.status, kind.code))
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in (answer_headers or {}).items()
    }
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": answer, "headers": headers, "description": "Done."}
    }
    for kind in kinds:
        codes = [other.code for other in kinds if other.status == kind.status]
        responses[kind.status] = {
            "description": ", ".join(codes),
            "content": {
                MEDIA_TYPE: {
                    "schema": {
                        "allOf": [
                            {"$ref": "#/components/schemas/Problem"},
                            {"properties": {"code": {"enum": codes}}},
                        ]
                    }
                }
            },
        }
    return {
        "operation_id": name,
        "summary": summary,
        "status_code": status,
        "response_model": None,
        "responses": responses,
        "openapi_extra": {
            "x-scope": scope,
            "x-problems": [kind.code for kind in kinds],
            "parameters": [*parameters],
            **extra,
        },
    }


class _WithBody(Request):
    """A request whose JSON body has been read already."""

    def __init__(self, request: Request, raw: bytes, value: Any) -> None:  # noqa: ANN401 - any JSON value
        super().__init__(request.scope, request.receive)
        self._body = raw
        self._json = value


class Operation(APIRoute):
    """Authenticates, authorises and reads the body, in this order, before anything is validated.

    What is streamed reads its body by itself.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        validated = super().get_route_handler()
        extra = self.openapi_extra or {}
        allowed = {
            parameter.alias: _is_list(parameter.field_info.annotation)
            for parameter in get_flat_params(self.dependant)
            if isinstance(parameter.field_info, params.Query)
        }

        async def guarded(request: Request) -> Response:
            request.state.operation = self.operation_id
            _refuse_repeated_headers(request)
            tokens: Tokens = request.app.state.tokens
            principal = tokens.principal(request.headers.get("authorization"))
            principal.require(extra["x-scope"])
            request.state.principal = principal
            request.state.needs_if_match = extra.get("x-if-match", False)
            _refuse_unknown_parameters(request, allowed)
            if request.method == "POST" and not extra.get("x-stream", False):
                raw, value = await read_json(request)
                request.state.body = value
                request = _WithBody(request, raw, value)
            return await validated(request)

        return guarded


def _is_list(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is list


def _refuse_repeated_headers(request: Request) -> None:
    for name in SINGLE:
        if len(request.headers.getlist(name)) > 1:
            raise Refused(REPEATED_HEADER, f"The header {name} stands here more than once.", header=name)


def _refuse_unknown_parameters(request: Request, allowed: Mapping[str, bool]) -> None:
    for name in request.query_params:
        if name not in allowed:
            raise Refused(UNKNOWN_PARAMETER, "There is no such query parameter.", parameter=name)
        if not allowed[name] and len(request.query_params.getlist(name)) > 1:
            raise Refused(REPEATED_PARAMETER, f"{name} stands here more than once.", parameter=name)


class WrongField(BaseModel):
    """`pointer`: a JSON pointer into the body; a path or query parameter stands beside its fields."""

    pointer: str
    code: str
    detail: str


class Problem(BaseModel):
    """RFC 9457. Further members are the facts that the code promises."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    trace_id: str
    errors: list[WrongField] = []
