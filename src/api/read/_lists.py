"""Lists, page by page: a cursor names the last row of a page, and belongs to one question."""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

import msgspec
from fastapi import Query

from api.problems import INVALID_CURSOR, Refused

MAX_ROWS: Final = 200
MAX_CURSOR_CHARS: Final = 1_024
_HASH_BYTES: Final = 9

At = TypeVar("At")

Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR_CHARS)]
DEFAULT_LIMIT: Final = 50


def cursor_of(question: object, key: str) -> str:
    """`question`: the list's name and filters, whatever msgspec encodes; `key`: of the page's last row."""
    return base64.urlsafe_b64encode(_hashed(question) + key.encode()).decode().rstrip("=")


def key_of(question: object, cursor: str | None) -> str:
    """The key behind which the page begins, "" for the first. `invalid_cursor`, as another list's is."""
    if cursor is None:
        return ""
    try:
        named = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = named[_HASH_BYTES:].decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        key = ""
    if not key or "\0" in key or named[:_HASH_BYTES] != _hashed(question):
        raise Refused(INVALID_CURSOR, "The cursor is not one that this list gave for this very question.")
    return key


def key_at(at: object, ident: str) -> str:
    """The key of a row in a list that is sorted by something, then by id."""
    return f"{at}/{ident}"


def place_of(key: str, read: Callable[[str], At]) -> tuple[At, str] | None:
    """What `key_at` made a key of, None for the first page; `invalid_cursor` for a key it did not make."""
    if not key:
        return None
    at, _, ident = key.rpartition("/")
    try:
        return read(at), ident
    except ValueError:
        raise Refused(INVALID_CURSOR, "The cursor is not one that this list gave.") from None


def _hashed(question: object) -> bytes:
    return hashlib.sha256(msgspec.json.encode(question)).digest()[:_HASH_BYTES]
