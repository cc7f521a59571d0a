"""The documents of the doors are checked in, so that a change of the contract is a diff somebody reads."""

from pathlib import Path
from typing import Any

import pytest

from runtime.openapi import documents, main, written

DIRECTORY = Path(__file__).parent / "openapi"
DOORS = ("write", "read", "audit")
OPERATIONS: list[dict[str, Any]] = [
    operation
    for document in documents().values()
    for operations in document["paths"].values()
    for operation in operations.values()
]


@pytest.mark.parametrize("door", DOORS)
def test_the_document_is_the_one_checked_in(door: str) -> None:
    assert written(documents()[door]) == (DIRECTORY / f"{door}.json").read_text(), "make openapi"


def test_the_documents_are_written_where_one_says(tmp_path: Path) -> None:
    main(tmp_path / "new")
    assert sorted(path.stem for path in (tmp_path / "new").iterdir()) == sorted(DOORS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: str(operation["operationId"]))
def test_an_operation_says_its_scope_its_problems_and_its_events(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["x-scope"]
    by_status = {
        code
        for response in operation["responses"].values()
        if (content := response.get("content", {}).get("application/problem+json"))
        for code in content["schema"]["allOf"][1]["properties"]["code"]["enum"]
    }
    assert by_status == set(operation["x-problems"])
    headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
    assert ("Idempotency-Key" in headers) is bool(operation.get("x-events"))
    assert ("If-Match" in headers) is operation.get("x-if-match", False)
    assert "HTTPValidationError" not in str(operation)


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))
