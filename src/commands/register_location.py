from dataclasses import dataclass

from commands._states import Streams
from commands._transact import Writes, transact
from commands.ports import Issued, Receipt
from commands.shop import Shop
from domain import location
from domain.location import LOCATION


@dataclass(frozen=True, slots=True)
class RegisterLocation:
    """`location` is the code by which it is named everywhere; `country` is ISO 3166-1 alpha-2."""

    location: str
    name: str
    country: str


async def register_location(shop: Shop, issued: Issued, command: RegisterLocation) -> Receipt:
    def decide(streams: Streams) -> Writes:
        return {
            LOCATION.stream(command.location): location.register(
                streams.read(LOCATION, command.location),
                location=command.location,
                name=command.name,
                country=command.country,
            )
        }

    return await transact(shop, issued, decide)
