"""`up` on a PostgreSQL and a broker that somebody else runs: it starts neither, and serves all the same."""

import asyncio
import json
from collections.abc import Callable

import pytest
from house import client_of, free_port_base, house_in, new_home

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "either_broker", ["embedded", pytest.param("apache", marks=pytest.mark.heavy)], indirect=True
)
async def test_a_house_on_services_of_ones_own(new_database: Callable[[], str], either_broker: str) -> None:
    services = {
        "TALLYBOOK_DATABASE_URL": new_database(),
        "TALLYBOOK_READ_DATABASE_URL": new_database(),
        "TALLYBOOK_KAFKA_BOOTSTRAP_SERVERS": either_broker,
    }
    with new_home() as home:
        starting = house_in(home, "--port-base", str(free_port_base()), **services)
        house = await asyncio.to_thread(starting.__enter__)
        try:
            running = {record["name"] for record in json.loads((home / "processes.json").read_text())}
            doors, workers = (
                {"write-api", "read-api", "audit-api"},
                {"relay", "projector", "policies", "verifier"},
            )
            assert running == doors | workers | {"cache"}
            async with client_of(house) as client:
                product = await client.product("OWN-1", qty=3)
                placed = await client.order("OWN-1")
                assert placed.status_code == 201, placed.text
                seen = await client.get("customer", f"/orders/{placed.json()['order_id']}", after=placed)
                assert seen.json()["status"] == "placed"
                shown = await client.get("customer", f"/products/{product}", after=placed)
                assert shown.json()["variants"][0]["stock"] == [{"location": "DEPOT", "available": 2}]
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)
