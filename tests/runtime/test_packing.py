"""Arrays packed by hand: PostgreSQL reads in them what was packed, and what it answers is unpacked."""

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import pq

from runtime import packing
from runtime.log.pipeline import BINARY

SMALL = st.integers(-(2**15), 2**15 - 1)
MIDDLE = st.integers(-(2**31), 2**31 - 1)
BIG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
NOW = datetime(2026, 11, 25, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-11)))
Read = Callable[[str, bytes | None], bytes | None]

read_many = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def read(new_database_of_module: Callable[[], str]) -> Iterator[Read]:
    """What a query of one value gives, in binary form, for one parameter in binary form."""
    with psycopg.connect(new_database_of_module(), autocommit=True) as connection:

        def of(query: str, parameter: bytes | None) -> bytes | None:
            result = connection.pgconn.exec_params(
                query.encode(), [parameter], param_formats=[BINARY], result_format=BINARY
            )
            assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
            return result.get_value(0, 0)

        yield of


def as_read(read: Read, type_: str, packed: bytes) -> Any:
    """The elements as PostgreSQL sees them; it counts them from 1, in one dimension."""
    text = "encode(e, 'hex')" if type_ == "bytea" else "e"
    found = read(
        f"select json_build_array(array_dims(a),"
        f" array(select {text} from unnest(a) with ordinality as u (e, n) order by n))::text"
        f" from (values ($1::{type_}[])) as v (a)",
        packed,
    )
    assert found is not None
    dimensions, elements = json.loads(found)
    assert dimensions == (f"[1:{len(elements)}]" if elements else None)
    return elements


@pytest.mark.parametrize(
    ("type_", "pack", "element"),
    [
        ("smallint", packing.smallints, SMALL),
        ("integer", packing.integers, MIDDLE),
        ("bigint", packing.bigints, BIG),
        ("text", packing.texts, TEXT),
        ("uuid", packing.uuids, st.uuids().map(str)),
    ],
)
def test_what_is_packed_is_what_is_read(
    read: Read, type_: str, pack: Callable[[list[Any]], bytes], element: st.SearchStrategy[Any]
) -> None:
    @read_many
    @given(st.lists(element, max_size=40))
    def same(values: list[Any]) -> None:
        packed = pack(values)
        assert as_read(read, type_, packed) == values
        assert read(f"select $1::{type_}[]", packed) == packed  # to the byte as PostgreSQL would write it

    same()


@pytest.mark.parametrize(
    ("type_", "pack", "element", "as_json"),
    [
        ("text", packing.texts, TEXT, str),
        ("bigint", packing.wide_numbers, BIG, int),
        ("boolean", packing.booleans, st.booleans(), bool),
        (
            "timestamptz",
            packing.times,
            st.just(NOW)
            | st.integers(-(10**9), 10**10).map(lambda ms: datetime.fromtimestamp(ms / 1e3, UTC)),
            lambda at: at,
        ),
        ("jsonb", packing.documents, st.dictionaries(TEXT, TEXT | SMALL).map(json.dumps), json.loads),
    ],
)
def test_what_may_be_missing_is_read_as_it_was_packed(
    read: Read,
    type_: str,
    pack: Callable[[list[Any]], bytes],
    element: st.SearchStrategy[Any],
    as_json: Callable[[Any], Any],
) -> None:
    @read_many
    @given(st.lists(st.none() | element, max_size=40))
    def same(values: list[Any]) -> None:
        found = as_read(read, type_, pack(values))
        if type_ == "timestamptz":
            found = [None if at is None else datetime.fromisoformat(at) for at in found]
        assert found == [None if value is None else as_json(value) for value in values]

    same()


@read_many
@given(st.lists(st.none() | st.binary(), max_size=40))
def test_blobs_may_be_missing(read: Read, values: list[bytes | None]) -> None:
    packed = packing.blobs(values)
    assert as_read(read, "bytea", packed) == [None if value is None else value.hex() for value in values]


@read_many
@given(st.sampled_from(["smallint", "integer", "bigint"]), st.lists(st.none() | SMALL, max_size=40))
def test_numbers_that_postgresql_wrote_are_read(read: Read, type_: str, values: list[int | None]) -> None:
    written = read(
        f"select array(select e::{type_} from json_array_elements_text(convert_from($1, 'UTF8')::json)"
        " with ordinality as u (e, n) order by n)",
        json.dumps(values).encode(),
    )
    assert written is not None
    assert packing.numbers(written) == [value or 0 for value in values]


@given(st.lists(SMALL), st.lists(MIDDLE), st.lists(BIG))
def test_what_was_packed_is_unpacked(small: list[int], middle: list[int], big: list[int]) -> None:
    assert packing.numbers(packing.smallints(small)) == small
    assert packing.numbers(packing.integers(middle)) == middle
    assert packing.numbers(packing.bigints(big)) == big


def test_what_does_not_fit_is_not_packed() -> None:
    for pack, beyond in ((packing.smallints, 2**15), (packing.integers, 2**31), (packing.bigints, 2**63)):
        for value in (beyond, -beyond - 1):
            with pytest.raises(struct.error):
                pack([0, value])
    with pytest.raises(UnicodeEncodeError):
        packing.texts(["\ud800"])
    with pytest.raises(ValueError, match="fromhex"):
        packing.uuids(["not-a-uuid"])
