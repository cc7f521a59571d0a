"""A state that was kept is the state that was folded, for every noun."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import domain
from domain.stock import STOCK, Holder, Reservation, Stock
from runtime import state_codec
from runtime.state_codec import AGGREGATES, FINGERPRINTS, decode_state, encode_state, fingerprint_of

WHOLE = 10**15


def storable(value: Any) -> Any:
    """As the shop's own events have them: times aware, numbers that 64 bits hold."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC, fold=0)
    if isinstance(value, int) and not isinstance(value, bool):
        return value % WHOLE
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: storable(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, Mapping):
        return {key: storable(part) for key, part in value.items()}
    return tuple(map(storable, value)) if isinstance(value, tuple) else value


def test_every_noun_is_known_and_has_a_fingerprint_of_its_own() -> None:
    assert AGGREGATES.keys() == FINGERPRINTS.keys() == domain.UNIONS.keys()
    assert len(set(FINGERPRINTS.values())) == len(FINGERPRINTS)
    assert {len(fingerprint) for fingerprint in FINGERPRINTS.values()} == {32}


@pytest.mark.parametrize("category", domain.UNIONS)
def test_a_fold_of_any_events_is_read_as_it_was_kept(category: str) -> None:
    aggregate = AGGREGATES[category]
    events = get_args(domain.UNIONS[category]) or (domain.UNIONS[category],)
    any_event = st.one_of(*(st.from_type(event) for event in events)).map(storable)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(any_event, max_size=8), any_event)
    def read_as_it_was_kept(history: list[Any], next_event: Any) -> None:
        state = aggregate.initial
        for event in history:
            state = aggregate.evolve(state, event)
        again = decode_state(category, encode_state(state))
        assert again == state
        assert repr(again) == repr(state), "types, and the order in which things came, too"
        assert aggregate.evolve(again, next_event) == aggregate.evolve(state, next_event)

    read_as_it_was_kept()


def test_a_pair_that_names_a_line_and_a_microsecond_survive() -> None:
    held = Reservation("r", 2, Holder("order", "o"), datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC))
    state = Stock(held={"r": held}, commitments={("o", "l1"): 3, ("o", "l2"): 4})
    assert decode_state("stock", encode_state(state)) == state


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x80\x80", b"\x01", b"\x81\xa7on_hand\xa1x"])
def test_bytes_that_are_no_such_state_are_refused(stored: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_state("stock", stored)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Makes a module of a name and a text."""

    def make(name: str, text: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        made = importlib.import_module(name)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    return make


def test_another_fold_has_another_fingerprint(module: Callable[[str, str], ModuleType]) -> None:
    fold = "UNIT = {}\n\ndef evolve(state, event):\n    return replace(state, on_hand=state.on_hand + UNIT)\n"
    one, same, other = (
        fingerprint_of(replace(STOCK, evolve=module(name, fold.format(unit)).evolve))
        for name, unit in (("a_fold", 1), ("the_same_fold", 1), ("another_fold", 2))
    )
    assert one == same
    assert one != other


def test_other_values_have_another_fingerprint(
    module: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_codec, "values", module("other_values", "# other values\n"))
    assert fingerprint_of(STOCK) != FINGERPRINTS["stock"]


def test_another_edition_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fingerprint_of(STOCK) == FINGERPRINTS["stock"]
    monkeypatch.setattr(state_codec, "EDITION", state_codec.EDITION + 1)
    assert fingerprint_of(STOCK) != FINGERPRINTS["stock"]
