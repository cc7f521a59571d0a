import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from house import Client, House, client_of, free_port_base, house_in


@pytest.fixture(scope="session")
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="tallybook-house-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        with house_in(
            Path(directory) / "home", "--port-base", str(free_port_base()), "--write-apis", "2"
        ) as house:
            yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    async with client_of(house) as client:
        yield client
