"""Every operation of every door, as every role: nobody does what the role's scopes do not allow."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from doors import DOCUMENTS, Doors

from api.auth import SCOPES, Role

pytestmark = pytest.mark.anyio

IN_PATHS: Mapping[str, str] = {"sku": "ROLE-1", "location": "NOWHERE", "stream": "order-nobody"}
ID = "0198c0de-0000-7000-8000-00000000beef"
OPERATIONS = [
    (door, method, path, operation)
    for door, document in DOCUMENTS.items()
    for path, operations in document["paths"].items()
    for method, operation in operations.items()
]


def named(value: Any) -> str:
    return f"{value[0]}-{value[3]['operationId']}"


@pytest.mark.parametrize("role", [*SCOPES, None])
@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
async def test_a_role_gets_as_far_as_its_scopes(
    doors: Doors, operation: tuple[str, str, str, dict[str, Any]], role: Role | None
) -> None:
    door, method, path, said = operation
    filled = re.sub(r"\{(\w+)\}", lambda found: IN_PATHS.get(found[1], ID), path).removeprefix("/v1")
    head = await doors.reader.head()
    caller = {"write": doors.write, "read": doors.read, "audit": doors.audit}[door]
    answer = await caller.send(method.upper(), filled, role)
    code = answer.json()["code"] if answer.is_error else None
    if role is None:
        assert (answer.status_code, code) == (401, "unauthenticated")
    elif said["x-scope"] in SCOPES[role]:
        assert answer.status_code not in {401, 403}
    else:
        assert (answer.status_code, code, answer.json()["scope"]) == (403, "forbidden", said["x-scope"])
    assert await doors.reader.head() == head


@pytest.mark.parametrize("door", DOCUMENTS)
async def test_the_token_of_another_house_opens_nothing(doors: Doors, door: str) -> None:
    caller = {"write": doors.write, "read": doors.read, "audit": doors.audit}[door]
    path = next(iter(DOCUMENTS[door]["paths"])).removeprefix("/v1")
    method = next(iter(DOCUMENTS[door]["paths"][f"/v1{path}"])).upper()
    headers = {"Authorization": "Bearer token-of-another-house"}
    answer = await caller.send(method, re.sub(r"\{\w+\}", ID, path), None, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
