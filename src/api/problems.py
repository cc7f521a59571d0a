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
TYPE_PREFIX: Final = "urn:tallybook:problem:"
MEMBERS: Final = frozenset({"type", "title", "status", "detail", "code", "retryable", "trace_id"})
"""What every problem has; no fact may be named so."""
MAX_ERRORS: Final = 1_000
"""How many wrong fields one problem lists."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`retry_after_s`: the same request may succeed so many seconds later; None: waiting does not help."""

    code: str
    status: int
    retry_after_s: int | None = None

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


INVALID_CONSISTENCY_TOKEN: Final = Kind("invalid_consistency_token", 400)
INVALID_IDEMPOTENCY_KEY: Final = Kind("invalid_idempotency_key", 400)
INVALID_IF_MATCH: Final = Kind("invalid_if_match", 400)
MALFORMED_JSON: Final = Kind("malformed_json", 400)
MISSING_IDEMPOTENCY_KEY: Final = Kind("missing_idempotency_key", 400)
REPEATED_HEADER: Final = Kind("repeated_header", 400)
REPEATED_PARAMETER: Final = Kind("repeated_parameter", 400)
UNKNOWN_PARAMETER: Final = Kind("unknown_parameter", 400)
UNAUTHENTICATED: Final = Kind("unauthenticated", 401)
FORBIDDEN: Final = Kind("forbidden", 403)
NOT_FOUND: Final = Kind("not_found", 404)
METHOD_NOT_ALLOWED: Final = Kind("method_not_allowed", 405)
BODY_TIMEOUT: Final = Kind("body_timeout", 408, retry_after_s=1)
BODY_TOO_LARGE: Final = Kind("body_too_large", 413)
UNSUPPORTED_MEDIA_TYPE: Final = Kind("unsupported_media_type", 415)
INVALID_FIELDS: Final = Kind("invalid_fields", 422)
IF_MATCH_REQUIRED: Final = Kind("if_match_required", 428)
INTERNAL_ERROR: Final = Kind("internal_error", 500)
OVERLOADED: Final = Kind("overloaded", 503, retry_after_s=1)
TIMED_OUT: Final = Kind("timed_out", 503, retry_after_s=1)
UNAVAILABLE: Final = Kind("unavailable", 503, retry_after_s=2)

Refusals = Mapping[type[Exception], Kind]

DOMAIN_REFUSALS: Final[Refusals] = {
    location.LocationTaken: Kind("location_taken", 409),
    location.UnknownLocation: Kind("unknown_location", 404),
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
