from tests.domain.conftest import Given

from domain import location
from domain.location import LOCATION, LocationRegistered, LocationTaken, UnknownLocation

BERLIN = LocationRegistered("BER", "Berlin", "DE")


def test_a_location_is_registered_under_a_free_code(given: type[Given]) -> None:
    given(LOCATION).when(location.register, location="BER", name="Berlin", country="DE").then(BERLIN)


def test_a_code_is_registered_once_for_ever(given: type[Given]) -> None:
    again = {"location": "BER", "name": "Bergen", "country": "NO"}
    given(LOCATION, BERLIN).when(location.register, **again).then(LocationTaken("BER"))


def test_only_a_registered_location_exists(given: type[Given]) -> None:
    given(LOCATION).when(location.must_exist, location="BER").then(UnknownLocation("BER"))
    assert given(LOCATION, BERLIN).when(location.must_exist, location="BER").outcome is None


def test_streams_of_locations_are_named_by_their_code() -> None:
    assert LOCATION.stream("BER") == "location-BER"
