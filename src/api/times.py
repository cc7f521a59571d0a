"""Times in requests: RFC 3339, and nothing that only looks like one."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def _timestamp(given: object) -> datetime:
    try:
        if isinstance(given, str) and _RFC_3339.fullmatch(given):
            return datetime.fromisoformat(given).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("wrong_timestamp", "This is not an RFC 3339 time with at most 6 decimals")


Timestamp = Annotated[
    datetime,
    BeforeValidator(_timestamp),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
