from collections.abc import AsyncIterator, Iterator

import pytest
from house import Client, House, client_of, free_port_base, house_in, new_home


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    with (
        new_home() as home,
        house_in(home, "--port-base", str(free_port_base()), "--write-apis", "2") as house,
    ):
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    async with client_of(house) as client:
        yield client


@pytest.fixture(params=["embedded", "apache"])
def kafka_option(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What starts a house on a broker of each kind."""
    if request.param == "apache":
        request.getfixturevalue("apache_kafka")  # says whether it can run here
    return "--kafka", request.param
