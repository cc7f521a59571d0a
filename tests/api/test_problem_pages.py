"""The type of a problem leads to a page that says what it means."""

import pytest
from doors import DOCUMENTS, Caller, Doors

from api.problems import OWN_KINDS

pytestmark = pytest.mark.anyio


def caller(doors: Doors, door: str) -> Caller:
    return {"write": doors.write, "read": doors.read, "audit": doors.audit}[door]


@pytest.mark.parametrize("door", ["write", "read", "audit"])
async def test_every_code_that_a_door_promises_has_a_page(doors: Doors, door: str) -> None:
    codes = {
        code
        for operations in DOCUMENTS[door]["paths"].values()
        for operation in operations.values()
        for code in operation["x-problems"]
    }
    assert len(codes) > 10
    for code in codes | {"not_found", "method_not_allowed"}:
        page = await caller(doors, door).http.get(f"/problems/{code}")
        assert page.status_code == 200, code
        title, meaning, status = page.text.strip().split("\n\n")
        assert title.endswith(f"({code})")
        assert meaning.endswith((".", "?"))
        assert status.startswith("HTTP status ")


async def test_the_type_of_a_problem_is_resolved_at_the_door_that_answered(doors: Doors) -> None:
    refused = await doors.write.post("/stock/NOPE@MAIN/receive", {"qty": 1, "reference": REFERENCE})
    page = await doors.write.http.get(refused.url.join(refused.json()["type"]))
    assert page.status_code == 200
    assert "There is no such SKU." in page.text
    assert "HTTP status 404. Waiting alone does not help" in page.text
    assert page.headers["Cache-Control"] == "public, max-age=3600"


async def test_a_code_that_nobody_answers_with_has_no_page(doors: Doors) -> None:
    page = await doors.read.http.get("/problems/nonsense")
    assert (page.status_code, page.json()["code"]) == (404, "not_found")
    assert (await doors.read.http.get("/problems/insufficient")).status_code == 404


def test_the_doors_own_kinds_say_what_they_mean() -> None:
    assert [kind.code for kind in OWN_KINDS if not kind.meaning.endswith(".")] == []


REFERENCE = {"type": "initial", "id": "x"}
