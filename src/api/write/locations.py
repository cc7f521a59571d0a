from starlette.responses import Response

from api.write._answers import WrittenAggregate, answered
from api.write._command import Call, command, router
from api.write._fields import Country, Fields, Line, LocationCode
from commands.register_location import RegisterLocation, register_location
from domain.location import LOCATION, LocationRegistered, LocationTaken

locations = router()


class NewLocation(Fields):
    """`location` is the code by which it is named everywhere; `country` is ISO 3166-1 alpha-2."""

    location: LocationCode
    name: Line
    country: Country


class LocationAnswer(WrittenAggregate):
    location: str


@locations.post(
    "/locations",
    **command(
        "RegisterLocation",
        summary="Register a place that holds stock",
        scope="locations:write",
        answer=LocationAnswer,
        events=(LocationRegistered,),
        refusals=(LocationTaken,),
        created=True,
    ),
)
async def register(body: NewLocation, call: Call) -> Response:
    receipt = await register_location(call.shop, call.issued, RegisterLocation(**body.model_dump()))
    facts = {"location": body.location}
    return answered(call, receipt, LocationAnswer, facts, aggregate=LOCATION, created=True)
