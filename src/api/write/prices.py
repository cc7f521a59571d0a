from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from api.times import Timestamp
from api.write._answers import WrittenAggregate, answered, first
from api.write._command import Call, command, router
from api.write._fields import Currency, Fields, Id, Line, Price
from commands.set_price import SetPrice, set_price
from domain import price, product
from domain.price import PriceSet
from domain.values import InvalidFields

prices = router()


class NewPrice(Fields):
    """A gross unit price in minor units, in force from `effective_from`, or from now."""

    product_id: Id
    currency: Currency
    amount_minor: Price
    list_amount_minor: Price | None = None
    effective_from: Timestamp | None = None
    reason: Line | None = None


class PriceAnswer(WrittenAggregate):
    product_id: str
    variant_id: str
    price_event_id: str


@prices.post(
    "/prices/{variant_id}/set",
    **command(
        "SetPrice",
        summary='Set a variant\'s price in a currency; If-Match is "0" while it has none',
        scope="prices:write",
        answer=PriceAnswer,
        events=(PriceSet,),
        refusals=(product.UnknownProduct, product.UnknownVariant, price.PriceBackdated, InvalidFields),
        if_match=True,
    ),
)
async def set_(variant_id: Annotated[Id, Path()], body: NewPrice, call: Call) -> Response:
    receipt = await set_price(call.shop, call.issued, SetPrice(variant_id=variant_id, **body.model_dump()))
    facts = {
        "product_id": body.product_id,
        "variant_id": variant_id,
        "price_event_id": first(receipt, PriceSet).event_id,
    }
    return answered(call, receipt, PriceAnswer, facts, aggregate=price.PRICE)
