import json
from datetime import timedelta
from typing import Any

import pytest
from doors import T0, Doors, order_of

from api.audit.events import MAX_CAUSES
from commands.policies import when_reservation_expired_cancel_order
from commands.ports import Append, NewEvent
from domain.envelope import NOTHING, Actor, Metadata
from domain.location import LocationRegistered

pytestmark = pytest.mark.anyio

ID = "0198c0de-0000-7000-8000-00000000beef"
ENVELOPE = {
    "position",
    "stream",
    "version",
    "event_id",
    "type",
    "context",
    "lane",
    "recorded_at",
    "occurred_at",
    "actor",
    "command_id",
    "correlation_id",
    "causation_id",
    "trace_id",
    "data",
}


async def history(doors: Doors, stream: str, **more: str | int) -> dict[str, Any]:
    answer = await doors.audit.send("GET", f"/streams/{stream}", role="auditor", params=more)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def test_a_stream_is_read_page_by_page(doors: Doors) -> None:
    await doors.write.product("PAGED")
    for _ in range(5):
        body = {"qty": 1, "reference": {"type": "initial", "id": "x"}}
        await doors.write.done("/stock/PAGED@MAIN/receive", body)
    whole = await history(doors, "stock-PAGED@MAIN")
    assert whole["next"] is None
    events = whole["events"]
    assert [event["version"] for event in events] == [1, 2, 3, 4, 5, 6]
    page, walked = await history(doors, "stock-PAGED@MAIN", limit=2), []
    while page["next"]:
        walked += page["events"]
        page = (await doors.audit.send("GET", page["next"].removeprefix("/v1"))).json()
    assert walked + page["events"] == events


async def test_an_event_shows_its_whole_envelope_and_the_stored_bytes(doors: Doors) -> None:
    await doors.write.product("SHOWN", qty=1)
    placed = await doors.write.done("/orders", order_of("SHOWN"), role="customer")
    event_id = placed.json()["events"][0]["event_id"]
    answer = await doors.audit.send("GET", f"/events/{event_id}", role="auditor")
    event = answer.json()
    assert set(event) == ENVELOPE
    assert event["type"] == "order.placed.v1"
    assert event["actor"] == {"type": "customer", "id": "customer"}
    assert event["causation_id"] is None
    assert {name: event[name] for name in ("stream", "version", "position")} == {
        name: placed.json()["events"][0][name] for name in ("stream", "version", "position")
    }
    stored = await doors.reader.event(event_id)
    assert stored is not None
    assert answer.content.endswith(b'"data":' + stored.data + b"}")
    assert event["data"] == json.loads(stored.data)
    assert answer.headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/streams/order-nobody", 404, "unknown_stream"),
        (f"/events/{ID}", 404, "unknown_event"),
        (f"/events/{ID}/causes", 404, "unknown_event"),
        ("/events/no-id", 422, "invalid_fields"),
        ("/streams/nonsense", 422, "invalid_fields"),
        (f"/streams/{'a-' + 'b' * 119}", 422, "invalid_fields"),
        ("/streams/order-nobody?limit=0", 422, "invalid_fields"),
        ("/streams/order-nobody?limit=201", 422, "invalid_fields"),
        ("/streams/order-nobody?after_version=-1", 422, "invalid_fields"),
        ("/streams/order-nobody?after_version=9223372036854775808", 422, "invalid_fields"),
        ("/streams/order-nobody?limit=1&limit=2", 400, "repeated_parameter"),
        ("/streams/order-nobody?offset=1", 400, "unknown_parameter"),
    ],
)
async def test_what_is_not_there_is_a_problem(doors: Doors, path: str, status: int, code: str) -> None:
    refused = await doors.audit.send("GET", path)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_the_end_of_a_stream_is_an_empty_page(doors: Doors) -> None:
    await doors.write.product("ENDED", qty=1)
    assert (await history(doors, "stock-ENDED@MAIN", after_version=99))["events"] == []


async def test_the_causes_of_an_event_lead_to_what_began_it(doors: Doors) -> None:
    await doors.write.product("CAUSED", qty=1)
    forgotten = (await doors.write.done("/orders", order_of("CAUSED"))).json()
    doors.write.clock.advance(timedelta(minutes=11))
    taken = (await doors.write.done("/orders", order_of("CAUSED"))).json()
    expired = next(event for event in taken["events"] if event["type"] == "reservation.expired.v1")
    (recorded,) = await doors.log.read_positions(expired["position"], 1)
    reaction = when_reservation_expired_cancel_order.react(doors.write.shop, recorded)
    assert reaction is not None
    await reaction
    cancelled = (await history(doors, f"order-{forgotten['order_id']}"))["events"][-1]
    assert cancelled["actor"] == {"type": "service", "id": "when_reservation_expired_cancel_order"}
    answer = await doors.audit.send("GET", f"/events/{cancelled['event_id']}/causes", role="auditor")
    chain = answer.json()
    assert [event["type"] for event in chain["events"]] == ["order.cancelled.v1", "reservation.expired.v1"]
    assert chain["events"][0]["causation_id"] == chain["events"][1]["event_id"] == expired["event_id"]
    assert chain["next"] is None


async def test_a_long_chain_of_causes_goes_on_elsewhere(doors: Doors) -> None:
    ids = [doors.write.shop.ids.new() for _ in range(MAX_CAUSES + 2)]
    for number, event_id in enumerate(ids):
        code = f"CHAIN-{number}"
        cause = ids[number - 1] if number else None
        await doors.log.append(
            Append(
                tips={f"location-{code}": NOTHING},
                events=[NewEvent(f"location-{code}", event_id, LocationRegistered(code, code, "DE"))],
                metadata=Metadata(T0, Actor("service", "chain"), ids[0], ids[0], causation_id=cause),
                digest=None,
                fingerprint=None,
            )
        )
    first = (await doors.audit.send("GET", f"/events/{ids[-1]}/causes")).json()
    assert [event["event_id"] for event in first["events"]] == ids[:1:-1]
    rest = (await doors.audit.send("GET", first["next"].removeprefix("/v1"))).json()
    assert [event["event_id"] for event in rest["events"]] == ids[1::-1]
    assert rest["next"] is None
