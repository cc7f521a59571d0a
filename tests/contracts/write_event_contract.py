"""Write the contract of every event that has none yet: `python tests/contracts/write_event_contract.py`.

A contract is a JSON Schema and a sample, as stored by the release that introduced the event. Contracts are
append-only: what was stored once is read for ever, so one that exists is never written again.
"""

import json
import sys
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from domain import EVENTS
from runtime import codec
from runtime.asyncapi import schema_of

FOLDER: Final = Path(__file__).parent / "events"
MOMENT: Final = datetime(2026, 3, 1, 9, 30, 0, 1, tzinfo=UTC)
WORDS: Final = {
    "barcode": "4012345678901",
    "country": "DE",
    "currency": "EUR",
    "location": "BER-2",
    "order_no": "01JN8B4C00ABCDEF",
    "price_list": "wholesale",
    "sku": "MUG.BLUE-L",
    "slug": "blue-mug",
}


def schema_path(name: str) -> Path:
    return FOLDER / f"{name}.schema.json"


def sample_path(name: str) -> Path:
    return FOLDER / f"{name}.sample.json"


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """What keeps `new` from reading what was stored under `old`. A new field is none if it is optional."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{at}/{key} is gone" for key in old if key not in new]
        came = [f"{at}/{key} came" for key in new if key not in old and not _optional_field(key, at, new)]
        both = [key for key in old if key in new]
        return gone + came + [d for key in both for d in differences(old[key], new[key], f"{at}/{key}")]
    if at.endswith("/required"):
        return [f"{at}: {name}" for name in sorted({*old} ^ {*new})]
    return [] if old == new else [f"{at} was {old}, is {new}"]


def _optional_field(key: str, at: str, new: dict[str, Any]) -> bool:
    # Whether it may be absent is told, once more, by the difference of the lists of required fields.
    return at.endswith("/properties") and isinstance(new[key], dict)


def sample_of(event: type[Any]) -> Any:
    """An instance with every field filled, and none with its default."""
    hints = get_type_hints(event)
    return event(**{field.name: _value(field.name, hints[field.name]) for field in fields(event)})


def _value(name: str, hint: Any) -> Any:
    parts = [part for part in get_args(hint) if part is not type(None)]
    if is_dataclass(hint):
        return sample_of(hint)  # type: ignore[arg-type]  # an annotation names a class, never an instance
    if get_origin(hint) is Literal:
        return parts[0]
    if get_origin(hint) is tuple:
        return (_value(name, parts[0]),)
    if get_origin(hint) is dict:
        return {"en": _value(name, parts[1])}
    if parts:
        return _value(name, parts[0])
    plain = {str: _word(name), int: 7, bool: False, datetime: MOMENT}
    return plain[hint]


def _word(name: str) -> str:
    if name == "id" or name.endswith("_id"):
        return f"019ca6b2-0c00-7000-8000-{name.encode().hex():0<12.12}"
    return WORDS.get(name, f"{name} – Größe 42")


def write(name: str) -> list[Path]:
    event = EVENTS[name]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **schema_of(event)}
    schema_path(name).write_text(json.dumps(schema, indent=2) + "\n")
    sample_path(name).write_bytes(codec.encode(sample_of(event)) + b"\n")
    return [schema_path(name), sample_path(name)]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in EVENTS:
        if not schema_path(name).exists() and not sample_path(name).exists():
            sys.stdout.writelines(f"{path}\n" for path in write(name))


if __name__ == "__main__":
    main()
