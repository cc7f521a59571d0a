"""What was stored once is read for ever."""

import json
from dataclasses import field, fields, make_dataclass
from datetime import datetime
from typing import Any, get_type_hints

import pytest
from jsonschema import Draft202012Validator, ValidationError
from pydantic import TypeAdapter
from tests.contracts import write_event_contract as contract

from domain import EVENTS
from domain.stock import StockReserved
from runtime import codec
from runtime.asyncapi import schema_of

NAMES = sorted(EVENTS)


def stored_schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(contract.schema_path(name).read_text())
    return {key: value for key, value in schema.items() if key not in ("$schema", "title")}


def stored_sample(name: str) -> bytes:
    return contract.sample_path(name).read_bytes().removesuffix(b"\n")


def test_every_event_has_a_contract_and_every_contract_an_event() -> None:
    expected = {path for name in NAMES for path in (contract.schema_path(name), contract.sample_path(name))}
    found = set(contract.FOLDER.iterdir())
    assert sorted(path.name for path in expected - found) == [], "`make event-contracts` writes them"
    assert sorted(path.name for path in found - expected) == [], "an event that was stored is never given up"


@pytest.mark.parametrize("name", NAMES)
def test_todays_event_still_reads_what_its_first_release_stored(name: str) -> None:
    assert contract.differences(stored_schema(name), schema_of(EVENTS[name])) == []
    sample = json.loads(stored_sample(name))
    Draft202012Validator(stored_schema(name)).validate(sample)
    Draft202012Validator(schema_of(EVENTS[name])).validate(sample)


@pytest.mark.parametrize("name", NAMES)
def test_the_codec_reads_the_sample_and_writes_the_same_bytes(name: str) -> None:
    sample = stored_sample(name)
    event = codec.decode(name, sample)
    assert event == TypeAdapter(EVENTS[name]).validate_json(sample), "two readers agree"
    again = _known_then(json.loads(codec.encode(event)), json.loads(sample))
    assert json.dumps(again, separators=(",", ":"), ensure_ascii=False).encode() == sample


def _known_then(now: Any, then: Any) -> Any:
    """Without the fields that have come since."""
    if isinstance(now, dict):
        return {key: _known_then(value, then[key]) for key, value in now.items() if key in then}
    if isinstance(now, list):
        return [_known_then(*pair) for pair in zip(now, then, strict=True)]
    return now


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_fills_every_field_its_schema_knows(name: str) -> None:
    assert json.loads(stored_sample(name)).keys() == stored_schema(name)["properties"].keys()


def changed(**changes: Any) -> type[Any]:
    """`StockReserved` with other fields: a type, a (type, default), or None for a field taken away."""
    hints = {f.name: hint for f in fields(StockReserved) if (hint := get_type_hints(StockReserved)[f.name])}
    made = [(name, hint) for name, hint in (hints | changes).items() if hint and not isinstance(hint, tuple)]
    optional = [(name, hint[0], hint[1]) for name, hint in changes.items() if isinstance(hint, tuple)]
    return make_dataclass("Changed", [*made, *optional], frozen=True)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"qty": None}, ["/properties/qty is gone", "/required: qty"]),
        (
            {"qty": None, "quantity": int},
            ["/properties/qty is gone", "/required: qty", "/required: quantity"],
        ),
        ({"note": str}, ["/required: note"]),
        ({"qty": str}, ["/properties/qty/type was integer, is string"]),
        ({"expires_at": str}, ["/properties/expires_at/format is gone"]),
        ({"qty": (int, field(default=1))}, ["/properties/qty/default came", "/required: qty"]),
    ],
)
def test_a_field_that_goes_changes_or_is_demanded_breaks_the_contract(
    changes: dict[str, Any], found: list[str]
) -> None:
    now = schema_of(changed(**changes))
    assert sorted(contract.differences(stored_schema("stock.reserved.v1"), now)) == sorted(found)


def test_a_field_that_is_lost_is_refused_by_the_schema() -> None:
    sample = json.loads(stored_sample("stock.reserved.v1"))
    del sample["qty"]
    with pytest.raises(ValidationError, match="'qty' is a required property"):
        Draft202012Validator(stored_schema("stock.reserved.v1")).validate(sample)


def test_a_field_that_comes_as_optional_breaks_nothing() -> None:
    later = changed(note=(str | None, field(default=None)), seen_at=(datetime | None, field(default=None)))
    now = schema_of(later)
    assert contract.differences(stored_schema("stock.reserved.v1"), now) == []
    Draft202012Validator(now).validate(json.loads(stored_sample("stock.reserved.v1")))


def test_a_change_inside_a_nested_value_breaks_the_contract() -> None:
    old = stored_schema("order.placed.v1")
    now = json.loads(json.dumps(old))
    del now["properties"]["lines"]["items"]["properties"]["title"]
    assert contract.differences(old, now) == ["/properties/lines/items/properties/title is gone"]


def test_a_contract_that_exists_is_never_written_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contract, "FOLDER", tmp_path)
    contract.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(EVENTS)
    contract.schema_path(NAMES[0]).write_text("as it was")
    contract.sample_path(NAMES[0]).unlink()
    contract.main()
    assert capsys.readouterr().out == ""
    assert contract.schema_path(NAMES[0]).read_text() == "as it was"
