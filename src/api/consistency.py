"""`Consistency-Token` and `Prefer: wait`: how a reader asks to see what it wrote."""

import base64
import binascii
import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.problems import INVALID_CONSISTENCY_TOKEN, Refused
from domain.envelope import Mark, Token
from domain.values import ID_PATTERN

HEADER: Final = "Consistency-Token"
MAX_TOKEN_CHARS: Final = 16_384
MAX_MARKS: Final = 256
MAX_WAIT_S: Final = 30
DEFAULT_WAIT_S: Final = 5

_WAIT: Final = re.compile(r'(?:^|,)\s*wait\s*=\s*"?(\d{1,6})"?\s*(?:;[^,]*)?(?=,|$)', re.IGNORECASE)


class _Wire(BaseModel):
    """`i`: the incarnation; `m`: (context, lane, position, event id) of each mark; `s`: seen, not written."""

    model_config = ConfigDict(strict=True, extra="forbid")

    i: Annotated[str, Field(pattern=ID_PATTERN)]
    m: Annotated[
        list[
            tuple[
                Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")],
                Annotated[int, Field(ge=0, lt=2**15)],
                Annotated[int, Field(ge=0, lt=2**63)],
                Annotated[str, Field(pattern=ID_PATTERN)],
            ]
        ],
        Field(max_length=MAX_MARKS),
    ]
    s: bool = False


def encode(token: Token) -> str:
    marks = [
        (context, lane, mark.position, mark.event_id)
        for (context, lane), mark in sorted(token.marks.items())
        if mark.position
    ]
    wire = _Wire(i=token.incarnation, m=marks, s=token.seen).model_dump_json(exclude_defaults=True).encode()
    return base64.urlsafe_b64encode(wire).decode().rstrip("=")


def decode(text: str) -> Token:
    """`invalid_consistency_token` for anything that `encode` does not make."""
    padded = text[:MAX_TOKEN_CHARS] + "=" * (-len(text) % 4)
    try:
        wire = _Wire.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValidationError, ValueError):
        raise Refused(
            INVALID_CONSISTENCY_TOKEN, "The consistency token is not one that this shop gave out."
        ) from None
    marks = {(context, lane): Mark(position, event) for context, lane, position, event in wire.m}
    return Token(wire.i, marks, seen=wire.s)


def wait_of(prefer: str | None) -> float:
    """The seconds that `Prefer: wait=<s>` (RFC 7240) asks for, at most 30; 5 where it says nothing."""
    found = _WAIT.search(prefer or "")
    return float(min(int(found[1]), MAX_WAIT_S) if found else DEFAULT_WAIT_S)
