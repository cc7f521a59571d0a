"""Reading a request's body: bounded in size, time and depth, and strict JSON."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from starlette.requests import Request

from api.problems import (
    BODY_TIMEOUT,
    BODY_TOO_LARGE,
    INVALID_FIELDS,
    MALFORMED_JSON,
    MAX_ERRORS,
    UNSUPPORTED_MEDIA_TYPE,
    Refused,
)
from domain.values import FieldError

MAX_BODY_BYTES: Final = 2**20
MAX_DEPTH: Final = 16
BODY_SECONDS: Final = 10.0
"""How long a client may take to send a body."""


async def read_json(request: Request) -> tuple[bytes, Any]:
    """The body and its JSON value; an empty body is an empty object."""
    raw = await _read(request)
    if not raw:
        return b"{}", {}
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise Refused(UNSUPPORTED_MEDIA_TYPE, "The body must be application/json, in UTF-8.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(UNSUPPORTED_MEDIA_TYPE, "A content encoding is not supported.")
    return raw, parsed(raw)


def parsed(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """`malformed_json`, or `invalid_fields` for texts that cannot be stored."""
    value = _loaded(raw)
    errors = [error for error, _ in zip(_unstorable(value), range(MAX_ERRORS), strict=False)]
    if errors:
        raise Refused(INVALID_FIELDS, "Some texts cannot be stored.", errors=errors)
    return value


async def _read(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:
                raise _too_large()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
    except TimeoutError:
        detail = f"The body took longer than {BODY_SECONDS:.0f} seconds."
        raise Refused(BODY_TIMEOUT, detail, headers={"Connection": "close"}) from None
    return bytes(body)


def _too_large() -> Refused:
    return Refused(BODY_TOO_LARGE, f"A body has at most {MAX_BODY_BYTES} bytes.")


def _loaded(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise Refused(MALFORMED_JSON, "The JSON is nested too deeply.") from None
    except ValueError as error:  # also of UTF-8, of numbers with thousands of digits, of the hooks
        raise Refused(MALFORMED_JSON, f"The body is not JSON: {_reason(error)}.") from None


def _reason(error: ValueError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"{error.msg} at line {error.lineno}, column {error.colno}"
        case UnicodeDecodeError():
            return f"byte {error.start} is not UTF-8"
        case _:
            return str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unstorable(value: Any) -> Iterator[FieldError]:  # noqa: ANN401 - any JSON value
    """Texts that PostgreSQL or UTF-8 cannot hold: with a NUL or half of a surrogate pair."""
    waiting = [(value, "", 1)]
    while waiting:
        item, pointer, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Refused(MALFORMED_JSON, f"The JSON is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(item, str) and not _storable(item):
            yield FieldError(pointer, "invalid_text", "holds a NUL or half of a surrogate pair")
        elif isinstance(item, list):
            waiting += [(element, f"{pointer}/{index}", depth + 1) for index, element in enumerate(item)]
        elif isinstance(item, dict):
            if not all(map(_storable, item)):
                yield FieldError(pointer, "invalid_text", "a name holds a NUL or half of a surrogate pair")
            waiting += [
                (element, f"{pointer}/{escaped(name)}", depth + 1)
                for name, element in item.items()
                if _storable(name)
            ]


def _storable(text: str) -> bool:
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def escaped(token: str) -> str:
    """A reference token of a JSON pointer (RFC 6901)."""
    return token.replace("~", "~0").replace("/", "~1")
