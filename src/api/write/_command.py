"""How a request becomes an issued command, and a command's refusals problems."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api._operation import WITH_BODY, Operation, header, operation
from api.auth import Principal, Scope
from api.etags import version_of
from api.problems import (
    DOMAIN_REFUSALS,
    IF_MATCH_REQUIRED,
    INVALID_IDEMPOTENCY_KEY,
    INVALID_IF_MATCH,
    MISSING_IDEMPOTENCY_KEY,
    Kind,
    Refusals,
    Refused,
)
from commands import ports
from commands.ports import Issued
from commands.requests import digest, fingerprint
from commands.shop import Shop
from domain.values import ID_PATTERN, Event, Rejected, matches

MAX_KEY_CHARS: Final = 255

ALWAYS_REFUSED: Final[Refusals] = {
    ports.KeyReused: Kind("idempotency_key_reused", 422),
    ports.Contended: Kind("contended", 409, retry_after_s=1),
    ports.LogFull: Kind("log_full", 503, retry_after_s=1),
    ports.LogUnavailable: Kind("log_unavailable", 503, retry_after_s=2),
    ports.OutcomeUnknown: Kind("outcome_unknown", 503, retry_after_s=1),
}
STALE: Final[Refusals] = {ports.StaleVersion: Kind("stale_version", 412)}
REFUSALS: Final[Refusals] = {**DOMAIN_REFUSALS, **ALWAYS_REFUSED, **STALE}

_KEY: Final = header(
    "Idempotency-Key",
    "1 to 255 visible characters, remembered for ever; a UUIDv7 is best, for its time keeps the index small.",
    required=True,
    pattern=r"^[\x20-\x7E]{1,255}$",
)
CORRELATION: Final = header("Correlation-Id", "A UUID that goes with the events; made up if missing.")
TRACEPARENT: Final = header("traceparent", "W3C Trace Context; the trace's id goes with the events.")
_IF_MATCH: Final = header(
    "If-Match", 'The version the caller has seen, as the ETag of a command or as "<version>".', required=True
)
_ANSWER_HEADERS: Final = {
    "Consistency-Token": "What a reader sends to see this effect.",
    "Correlation-Id": "Goes with the events.",
    "Idempotency-Replayed": "`true`: the effect was there before, by the same request.",
}


def router() -> APIRouter:
    return APIRouter(route_class=Operation)


def command(
    name: str,
    *,
    summary: str,
    scope: Scope,
    answer: type[Any],
    events: Iterable[type[Event]],
    refusals: Iterable[type[Rejected]],
    if_match: bool = False,
    created: bool = False,
) -> dict[str, Any]:
    """The arguments of a command's route. `if_match`: it acts on an aggregate of a certain version."""
    problems = [
        *WITH_BODY,
        MISSING_IDEMPOTENCY_KEY,
        INVALID_IDEMPOTENCY_KEY,
        *ALWAYS_REFUSED.values(),
        *(DOMAIN_REFUSALS[refusal] for refusal in refusals),
    ]
    parameters = [_KEY, CORRELATION, TRACEPARENT]
    if if_match:
        problems += [IF_MATCH_REQUIRED, INVALID_IF_MATCH, *STALE.values()]
        parameters.append(_IF_MATCH)
    return operation(
        name,
        summary=summary,
        scope=scope,
        answer=answer,
        status=201 if created else 200,
        problems=problems,
        parameters=parameters,
        answer_headers=_ANSWER_HEADERS,
        **{"x-events": [event.TYPE for event in events], "x-if-match": if_match},
    )


@dataclass(frozen=True, slots=True)
class CommandCall:
    """`read_url`: where the read door stands, for Location."""

    shop: Shop
    issued: Issued
    read_url: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a repeat must say again: `path` with the version of the interface, `body` any JSON value."""

    operation: str
    path: str
    body: Any


async def _call_of(request: Request) -> CommandCall:
    """Headers are judged here, before the fields of the body."""
    state = request.state
    key = must_be_key(request.headers.get("idempotency-key"))
    if_match = must_match(request.headers.get("if-match")) if state.needs_if_match else None
    said = Said(state.operation, request.url.path, state.body)
    return call_of(request, said, key=key, if_match=if_match)


def call_of(request: Request, said: Said, *, key: str, if_match: int | None) -> CommandCall:
    """A command of the request's principal, with its correlation and trace."""
    shop: Shop = request.app.state.shop
    principal: Principal = request.state.principal
    command_id = shop.ids.new()
    correlation_id = request.headers.get("correlation-id", "").lower()
    issued = Issued(
        actor=principal.actor,
        command_id=command_id,
        correlation_id=correlation_id if matches(ID_PATTERN, correlation_id) else command_id,
        trace_id=request.state.trace_id,
        digest=digest(shop.digest_key, principal.name, key),
        fingerprint=fingerprint(shop.digest_key, said.operation, said.path, said.body),
        if_match=if_match,
    )
    return CommandCall(shop, issued, request.app.state.read_url)


Call = Annotated[CommandCall, Depends(_call_of)]


def must_be_key(key: str | None) -> str:
    if not key:
        raise Refused(MISSING_IDEMPOTENCY_KEY, "Every command needs an Idempotency-Key.")
    if not re.fullmatch(rf"[\x20-\x7E]{{1,{MAX_KEY_CHARS}}}", key):
        detail = f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} visible ASCII characters."
        raise Refused(INVALID_IDEMPOTENCY_KEY, detail)
    return key


def must_match(given: str | None) -> int:
    if given is None:
        raise Refused(IF_MATCH_REQUIRED, "This command needs If-Match: the version you have seen.")
    return version_of(given)
