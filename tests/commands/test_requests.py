"""How a request is recognised when it comes again."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from commands.requests import digest, fingerprint, step
from domain.envelope import Actor, Metadata, Recorded
from domain.location import LocationRegistered

KEY = b"k" * 32
UUID7 = "019ca6b2-0c00-7abc-8def-0123456789ab"
CAUSE_ID = "019ca6b2-0c01-7abc-9def-0123456789ab"
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def cause(event_id: str = CAUSE_ID) -> Recorded:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    metadata = Metadata(at, Actor("staff", "s1"), "c1", "correlation", "before", "trace")
    event = LocationRegistered("BER", "Berlin", "DE")
    return Recorded(1, "location-BER", 1, event_id, "inventory", 0, event, metadata, at)


@sampled(TEXT, TEXT)
def test_a_digest_is_16_bytes_and_the_same_for_the_same_request(principal: str, key: str) -> None:
    assert len(digest(KEY, principal, key)) == 16
    assert digest(KEY, principal, key) == digest(KEY, principal, key)


@sampled(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
def test_digests_of_different_principals_or_keys_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (digest(KEY, *one) == digest(KEY, *other)) == (one == other)


def test_where_a_principal_ends_and_the_key_begins_matters() -> None:
    assert digest(KEY, "ab", "c") != digest(KEY, "a", "bc")


def test_the_digest_of_a_uuid7_begins_with_its_time() -> None:
    for key in (UUID7, UUID7.upper()):
        assert digest(KEY, "staff:s1", key)[:6].hex() == "019ca6b20c00"
    assert digest(KEY, "staff:s1", UUID7) != digest(KEY, "staff:s2", UUID7)
    assert digest(KEY, "staff:s1", UUID7)[6:] != digest(b"x" * 32, "staff:s1", UUID7)[6:]


@pytest.mark.parametrize(
    "key",
    [
        "019ca6b2-0c00-4abc-8def-0123456789ab",
        "019ca6b2-0c00-7abc-cdef-0123456789ab",
        "019ca6b20c007abc8def0123456789ab",
        UUID7 + "\n",
        " " + UUID7,
    ],
)
def test_the_digest_of_any_other_key_is_all_hash(key: str) -> None:
    assert digest(KEY, "staff:s1", key)[:6].hex() != "019ca6b20c00"


@sampled(JSON)
def test_a_fingerprint_is_32_bytes_whatever_the_order_of_fields(value: Any) -> None:
    body = {"a": value, "b": 1}
    found = fingerprint(KEY, "place_order", "/orders", body)
    assert len(found) == 32
    assert found == fingerprint(KEY, "place_order", "/orders", {"b": 1, "a": value})


@sampled(JSON, JSON)
def test_fingerprints_of_different_bodies_differ(one: Any, other: Any) -> None:
    same = fingerprint(KEY, "o", "/", one) == fingerprint(KEY, "o", "/", other)
    assert same == (repr(_ordered(one)) == repr(_ordered(other)))


def _ordered(value: Any) -> Any:
    """The value with its fields in order, so that its `repr` tells True from 1."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def test_a_fingerprint_covers_operation_and_path() -> None:
    found = {
        fingerprint(KEY, operation, path, {})
        for operation in ("confirm_order", "cancel_order")
        for path in ("/orders/1", "/orders/2")
    }
    assert len(found) == 4
    assert fingerprint(KEY, "o", "/", {}) != fingerprint(b"x" * 32, "o", "/", {})


def test_a_body_that_is_not_valid_unicode_has_a_fingerprint_all_the_same() -> None:
    # What JSON calls "\ud800" is a string to Python, but not one that UTF-8 can say.
    assert fingerprint(KEY, "o", "/", {"name": "\ud800"}) != fingerprint(KEY, "o", "/", {"name": "\ud801"})


def test_a_step_is_issued_under_the_same_id_however_often_it_is_tried() -> None:
    assert step(KEY, "policy", "cancel", cause()) == step(KEY, "policy", "cancel", cause())


@sampled(st.uuids(version=4), TEXT, TEXT)
def test_the_id_of_a_step_is_a_uuid7_of_its_causes_time(ident: UUID, policy: str, name: str) -> None:
    issued = step(KEY, policy, name, cause(str(ident)))
    command = UUID(issued.command_id)
    assert (command.version, command.variant) == (7, "specified in RFC 4122")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", issued.command_id)
    assert issued.command_id.replace("-", "")[:12] == ident.hex[:12]
    assert issued.digest[:6] == ident.bytes[:6]


def test_policies_steps_and_causes_have_ids_of_their_own() -> None:
    issued = [
        step(KEY, policy, name, cause(event_id))
        for policy in ("one", "other")
        for name in ("schedule", "settle")
        for event_id in (CAUSE_ID, UUID7)
    ]
    assert len({each.command_id for each in issued}) == 8
    assert len({each.digest for each in issued}) == 8
    assert len({each.fingerprint for each in issued}) == 8


def test_a_step_says_what_caused_it_and_belongs_to_the_same_story() -> None:
    issued = step(KEY, "policy", "cancel", cause())
    assert issued.actor == Actor("service", "policy")
    assert (issued.correlation_id, issued.causation_id, issued.trace_id) == ("correlation", CAUSE_ID, "trace")
    assert issued.if_match is None
