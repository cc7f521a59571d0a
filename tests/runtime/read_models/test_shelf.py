"""Rows on a shelf are as they were put there, in PostgreSQL's order, and leave nothing behind."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.price import PriceSet
from runtime.read_models.shelf import KEYS_AT_ONCE, Shelf

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.lists(st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers()), max_size=8), max_size=5))
def test_the_last_that_was_put_is_what_is_there(puts: list[dict[str, dict[str, int]]]) -> None:
    expected: dict[str, dict[str, int]] = {}
    with Shelf.open() as shelf:
        for rows in puts:
            shelf.put(rows)
            expected |= rows
            assert shelf.take([*expected, "absent\1"]) == expected
        assert list(shelf.in_order()) == sorted(expected.items(), key=lambda row: row[0].encode())


def test_more_keys_than_one_look_up_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = {f"k{number}": {"price-v1": PriceSet} for number in range(3 * KEYS_AT_ONCE)}
    with Shelf.open() as shelf:
        shelf.put(rows)
        assert shelf.take(rows) == rows
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
