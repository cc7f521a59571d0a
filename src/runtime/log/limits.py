"""What no append may pass, whichever log it is given to."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from commands.ports import MAX_EVENTS_PER_APPEND, MAX_STREAMS_PER_APPEND, Append, Item, NewEvent
from domain import CONTEXTS
from domain.envelope import NO_EVENT
from domain.values import ID_PATTERN, category_of
from runtime.lanes import REMEMBERED

MAX_STREAM_CHARS: Final = 120
MAX_TAG_CHARS: Final = 120
MAX_TAGS: Final = 32
"""Of an event, and of an item."""
MAX_ITEMS: Final = 32
"""Of a query, and of all conditions of an append."""
MAX_VERSION: Final = 2**63 - 1
DIGEST_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 32

_is_id: Final = re.compile(ID_PATTERN).fullmatch


def check(append: Append) -> None:
    """ValueError for an append that no log takes: the caller's mistake, not a refusal."""
    if len(append.tips) > MAX_STREAMS_PER_APPEND or len(append.events) > MAX_EVENTS_PER_APPEND:
        raise ValueError(f"an append of {len(append.tips)} streams and {len(append.events)} events")
    for stream, tip in append.tips.items():
        _check_stream(stream)
        if not 0 <= tip.version <= MAX_VERSION or not _is_id(tip.event_id):
            raise ValueError(f"{tip} is not the tip of a stream")
    for new in append.events:
        _check_event(append, new)
    if append.conditions:
        if any(not condition.query for condition in append.conditions):
            raise ValueError("a condition has at least one item")
        for condition in append.conditions:
            _check_position(condition.after)
        check_query([item for condition in append.conditions for item in condition.query])
    if append.digest is not None and (
        len(append.digest) != DIGEST_BYTES or len(append.fingerprint or b"") != FINGERPRINT_BYTES
    ):
        raise ValueError("a digest has 16 bytes and comes with a fingerprint of 32")


@lru_cache(REMEMBERED)
def _check_stream(name: str) -> None:
    if len(name) > MAX_STREAM_CHARS or category_of(name) not in CONTEXTS or not _is_storable(name):
        raise ValueError(f"{name!r} is not the name of a stream")


def _check_event(append: Append, new: NewEvent) -> None:
    if new.stream not in append.tips:
        raise ValueError(f"an event for {new.stream}, which has no tip")
    if not _is_id(new.event_id) or new.event_id == NO_EVENT:
        raise ValueError(f"{new.event_id!r} is not the id of an event: a UUID, in lower case")
    if new.tags:
        _check_tags(new.tags)


def check_query(query: Sequence[Item], after: int = 0, limit: int = 1) -> None:
    """ValueError for one that no log answers."""
    _check_position(after)
    if not 1 <= limit <= MAX_VERSION:
        raise ValueError(f"at most {limit} events")
    if not 1 <= len(query) <= MAX_ITEMS or any(len(item.types) > MAX_TAGS for item in query):
        raise ValueError(f"1 to {MAX_ITEMS} items, of {MAX_TAGS} types each at most")
    for item in query:
        _check_tags(item.tags)
        _check_tags(item.types)


def _check_position(position: int) -> None:
    if not 0 <= position <= MAX_VERSION:
        raise ValueError(f"{position} is no position")


def _check_tags(tags: Collection[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{len(tags)} tags, {MAX_TAGS} at most")
    for tag in tags:
        if not 1 <= len(tag) <= MAX_TAG_CHARS or not _is_storable(tag):
            raise ValueError(f"{tag!r} is not a tag or a type: 1 to {MAX_TAG_CHARS} characters")


def _is_storable(name: str) -> bool:
    """Whether PostgreSQL can hold it: no NUL, no half of a surrogate pair."""
    if "\0" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
