"""How a repeated request is recognised: by keyed hashes, so that the log gives no key or body away."""

import hashlib
import hmac
import json
import re
from typing import Any, Final

from commands.ports import Issued
from domain.envelope import Actor, Recorded

DIGEST_BYTES: Final = 16
_TIME_BYTES: Final = 6
_UUID7: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)


def digest(key: bytes, principal: str, idempotency_key: str) -> bytes:
    """16 bytes for a principal's idempotency key: time-ordered where that is a UUIDv7, else all hash."""
    mac = _mac(key, b"request", principal.encode(), idempotency_key.encode())
    if _UUID7.fullmatch(idempotency_key):
        time = bytes.fromhex(idempotency_key.replace("-", ""))[:_TIME_BYTES]
        return time + mac[: DIGEST_BYTES - _TIME_BYTES]
    return mac[:DIGEST_BYTES]


def fingerprint(key: bytes, operation: str, path: str, body: Any) -> bytes:  # noqa: ANN401 — any JSON value
    """32 bytes for what a request says: its operation, path and body, whatever the order of its fields."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return _mac(key, b"body", operation.encode(), path.encode(), canonical.encode())


def step(key: bytes, policy: str, name: str, cause: Recorded) -> Issued:
    """How a policy issues the command of one step: its id follows from the step, so that once is enough.

    The id is shaped as a UUIDv7 of the causing event's time, so that requests stay ordered by time.
    """
    hashed = _mac(key, b"step", policy.encode(), name.encode(), cause.event_id.encode())
    command_id = shaped_as_uuid7(int(cause.event_id.replace("-", "")[: 2 * _TIME_BYTES], 16), hashed)
    return Issued(
        actor=Actor("service", policy),
        command_id=command_id,
        correlation_id=cause.metadata.correlation_id,
        causation_id=cause.event_id,
        trace_id=cause.metadata.trace_id,
        digest=digest(key, f"policy:{policy}", command_id),
        fingerprint=fingerprint(key, policy, name, cause.event_id),
    )


def shaped_as_uuid7(time_ms: int, hashed: bytes) -> str:
    """A UUIDv7 (RFC 9562) of a time since 1970 whose other bits are those of a hash, not random."""
    number = int.from_bytes(hashed[:DIGEST_BYTES])
    bits = time_ms << 80 | 0x7 << 76 | (number >> 64 & 0xFFF) << 64 | 0b10 << 62 | number & (1 << 62) - 1
    digits = f"{bits:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _mac(key: bytes, *fields: bytes) -> bytes:
    framed = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    return hmac.digest(key, framed, hashlib.sha256)
