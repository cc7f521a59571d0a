"""Refusals as problems (RFC 9457), each with a code of one closed list.

The table of a door maps every refusal that can reach it to a kind of problem; the refusal's docstring is the
problem's detail, its fields are the facts that stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

from domain import location, order, price, product, sku, slug, stock, values

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "/problems/"
"""At the door that answered (ADR 0012): api/problem_pages.py serves a page for each code."""
MEMBERS: Final = frozenset({"type", "title", "status", "detail", "code", "retryable", "trace_id"})
"""What every problem has; no fact may be named so."""
MAX_ERRORS: Final = 1_000
"""How many wrong fields one problem lists."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`retry_after_s`: the same request may succeed so many seconds later; None: waiting does not help.

    `meaning` is for people; empty where the kind is that of a refusal, whose docstring says it.
    """

    code: str
    status: int
    retry_after_s: int | None = None
    meaning: str = ""

    @property
    def title(self) -> str:
        return self.code.replace("_", " ").capitalize()


class Refused(Exception):
    """A door's own refusal, before or beside any command."""

    def __init__(
        self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **facts: object
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers or {}
        self.facts = facts


INVALID_CONSISTENCY_TOKEN: Final = Kind(
    "invalid_consistency_token",
    400,
    meaning="The Consistency-Token is not one that a door of this shop gave.",
)
INVALID_AS_OF: Final = Kind(
    "invalid_as_of", 400, meaning="A question is as of a time or as of a position, not both."
)
INVALID_CURSOR: Final = Kind(
    "invalid_cursor", 400, meaning="The cursor is not one that this list gave for this very question."
)
INVALID_FEED_POSITION: Final = Kind(
    "invalid_feed_position",
    400,
    meaning="`after`, or the Last-Event-ID, is beyond the end of the log or is no position.",
)
INVALID_IDEMPOTENCY_KEY: Final = Kind(
    "invalid_idempotency_key",
    400,
    meaning="The Idempotency-Key is too long, or holds characters that are not visible ones.",
)
INVALID_IF_MATCH: Final = Kind(
    "invalid_if_match", 400, meaning="If-Match is not the ETag of a command, nor a version in quotes."
)
MALFORMED_JSON: Final = Kind(
    "malformed_json", 400, meaning="The body is not JSON that can be read in one way only."
)
MISSING_IDEMPOTENCY_KEY: Final = Kind(
    "missing_idempotency_key", 400, meaning="Every command needs an Idempotency-Key."
)
REPEATED_HEADER: Final = Kind(
    "repeated_header",
    400,
    meaning="A header stands in the request twice, and one of them would have to be ignored.",
)
REPEATED_PARAMETER: Final = Kind(
    "repeated_parameter", 400, meaning="A query parameter stands in the request twice."
)
UNKNOWN_PARAMETER: Final = Kind(
    "unknown_parameter", 400, meaning="There is no such query parameter here; none is ignored."
)
UNAUTHENTICATED: Final = Kind("unauthenticated", 401, meaning="The bearer token is missing or is nobody's.")
FORBIDDEN: Final = Kind("forbidden", 403, meaning="The role of the bearer token may not do this.")
NOT_FOUND: Final = Kind("not_found", 404, meaning="There is nothing at this path.")
METHOD_NOT_ALLOWED: Final = Kind(
    "method_not_allowed", 405, meaning="What is at this path has other methods; Allow lists them."
)
BODY_TIMEOUT: Final = Kind("body_timeout", 408, retry_after_s=1, meaning="The body did not arrive in time.")
BODY_TOO_LARGE: Final = Kind("body_too_large", 413, meaning="The body is larger than this door takes.")
UNSUPPORTED_MEDIA_TYPE: Final = Kind(
    "unsupported_media_type", 415, meaning="The body has to be application/json."
)
INVALID_FIELDS: Final = Kind("invalid_fields", 422, meaning="Some fields are not valid; `errors` lists them.")
IF_MATCH_REQUIRED: Final = Kind(
    "if_match_required",
    428,
    meaning="The command changes what is there, and needs the version that the caller has seen in If-Match.",
)
INTERNAL_ERROR: Final = Kind(
    "internal_error", 500, meaning="The fault is the door's; its log has the trace id."
)
OVERLOADED: Final = Kind(
    "overloaded", 503, retry_after_s=1, meaning="The door has as many requests under way as it takes at once."
)
TIMED_OUT: Final = Kind(
    "timed_out",
    503,
    retry_after_s=1,
    meaning="The door gave no answer in time, and what became of the request is unknown.",
)
UNAVAILABLE: Final = Kind(
    "unavailable", 503, retry_after_s=2, meaning="What the door needs for the answer cannot be reached."
)

OWN_KINDS: Final = tuple(kind for kind in dict(vars()).values() if isinstance(kind, Kind))
"""Those that no refusal stands for."""

Refusals = Mapping[type[Exception], Kind]

DOMAIN_REFUSALS: Final[Refusals] = {
    location.LocationTaken: Kind("location_taken", 409),
    location.UnknownLocation: Kind("unknown_location", 404),
    order.OrderAlreadyImported: Kind("order_already_imported", 409),
    order.OrderNotOpen: Kind("order_not_open", 409),
    order.PriceChanged: Kind("price_changed", 409),
    order.UnknownOrder: Kind("unknown_order", 404),
    price.NoPrice: Kind("no_price", 409),
    price.PriceBackdated: Kind("price_backdated", 409),
    product.AlreadyPublished: Kind("already_published", 409),
    product.NoVariant: Kind("no_variant", 409),
    product.NotPublished: Kind("not_published", 409),
    product.OptionsTaken: Kind("options_taken", 409),
    product.TooManyVariants: Kind("too_many_variants", 409),
    product.UnknownProduct: Kind("unknown_product", 404),
    product.UnknownVariant: Kind("unknown_variant", 404),
    product.UnpricedVariants: Kind("unpriced_variants", 409),
    sku.SkuTaken: Kind("sku_taken", 409),
    sku.UnknownSku: Kind("unknown_sku", 404),
    slug.SlugTaken: Kind("slug_taken", 409),
    stock.InsufficientStock: Kind("insufficient_stock", 409),
    stock.StockBelowReserved: Kind("stock_below_reserved", 409),
    stock.StockLimit: Kind("stock_limit", 409),
    stock.UnknownReservation: Kind("unknown_reservation", 404),
    values.InvalidFields: INVALID_FIELDS,
}


def first_line(error: type[Exception]) -> str:
    """The first line of the error's docstring: what its kind means."""
    return (error.__doc__ or error.__name__).strip().partition("\n")[0]


def facts_of(refusal: Exception) -> dict[str, Any]:
    """The fields of a refusal, by name."""
    kind: type = type(refusal)
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    return {name: getattr(refusal, name) for name in names}


def problem(
    kind: Kind,
    detail: str,
    *,
    trace_id: str,
    facts: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    members = {
        "type": TYPE_PREFIX + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": kind.code,
        "retryable": kind.retry_after_s is not None,
        "trace_id": trace_id,
        **(facts or {}),
    }
    sent = {"Cache-Control": "no-store", **(headers or {})}
    if kind.retry_after_s is not None:
        sent["Retry-After"] = str(kind.retry_after_s)
    return Response(to_json(members), kind.status, sent, MEDIA_TYPE)
