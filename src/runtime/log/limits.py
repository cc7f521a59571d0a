"""What no append may pass, whichever log it is given to."""

from typing import Final

from commands.ports import MAX_EVENTS_PER_APPEND, MAX_STREAMS_PER_APPEND, Append
from domain import CONTEXTS
from domain.values import category_of

MAX_STREAM_CHARS: Final = 120
DIGEST_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 32


def check(append: Append) -> None:
    """ValueError for an append that no log takes: the caller's mistake, not a refusal."""
    if len(append.tips) > MAX_STREAMS_PER_APPEND or len(append.events) > MAX_EVENTS_PER_APPEND:
        raise ValueError(f"an append of {len(append.tips)} streams and {len(append.events)} events")
    for stream in append.tips:
        if len(stream) > MAX_STREAM_CHARS or category_of(stream) not in CONTEXTS:
            raise ValueError(f"{stream} is not the name of a stream")
    for new in append.events:
        if new.stream not in append.tips:
            raise ValueError(f"an event for {new.stream}, which has no tip")
    if append.digest is not None and (
        len(append.digest) != DIGEST_BYTES or len(append.fingerprint or b"") != FINGERPRINT_BYTES
    ):
        raise ValueError("a digest has 16 bytes and comes with a fingerprint of 32")
