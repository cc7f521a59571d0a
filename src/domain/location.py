"""A place that holds stock, named by its code. Stream `location-{code}`."""

from dataclasses import dataclass
from typing import ClassVar

from domain.values import Aggregate, NotFound, Rejected


@dataclass(frozen=True, slots=True)
class LocationRegistered:
    TYPE: ClassVar[str] = "location.registered.v1"

    location: str
    name: str
    country: str


LocationEvent = LocationRegistered


@dataclass(frozen=True, slots=True)
class Location:
    registered: bool = False


def evolve(state: Location, event: LocationEvent) -> Location:  # noqa: ARG001 — the shape of every fold; being registered is all there is
    return Location(registered=True)


LOCATION = Aggregate("location", Location(), evolve)


@dataclass(eq=False)
class LocationTaken(Rejected):
    """A location with this code is registered already."""

    location: str


@dataclass(eq=False)
class UnknownLocation(NotFound):
    """There is no such location."""

    location: str


def register(state: Location, *, location: str, name: str, country: str) -> list[LocationEvent]:
    if state.registered:
        raise LocationTaken(location)
    return [LocationRegistered(location, name, country)]


def must_exist(state: Location, *, location: str) -> None:
    if not state.registered:
        raise UnknownLocation(location)
