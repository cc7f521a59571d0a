"""What is stored is what was meant: names, times, texts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import domain
from domain.envelope import Actor, Metadata
from domain.location import LocationRegistered
from domain.order import OrderConfirmed
from runtime.codec import UnknownEvent, decode, decode_metadata, encode, encode_metadata

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAIVE = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - what must be refused
METADATA = Metadata(NOW, Actor("staff", "s"), "c", "r")


@dataclass(frozen=True, slots=True)
class Inner:
    at: datetime


@dataclass(frozen=True, slots=True)
class Timed:
    TYPE: ClassVar[str] = "timed.happened.v1"
    plain: datetime | None = None
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    by_name: Mapping[str, datetime] | None = None
    by_number: dict[int, tuple[Inner, ...]] | None = None
    some: frozenset[datetime] = frozenset()
    when: dict[datetime, str] | None = None


def timed(at: datetime) -> list[Timed]:
    return [
        Timed(plain=at),
        Timed(inner=Inner(at)),
        Timed(many=(Inner(NOW), Inner(at))),
        Timed(by_name={"a": NOW, "b": at}),
        Timed(by_number={1: (Inner(at),)}),
        Timed(some=frozenset({at})),
        Timed(when={at: "then"}),
    ]


@pytest.mark.parametrize("event", timed(NAIVE), ids=repr)
def test_a_time_without_a_zone_is_refused_wherever_it_stands(event: Timed) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        encode(event)


@pytest.mark.parametrize("event", timed(NOW), ids=repr)
def test_a_time_with_a_zone_is_taken_wherever_it_stands(event: Timed) -> None:
    assert msgspec.json.decode(encode(event), type=Timed) == event


def test_a_stored_time_without_a_zone_is_refused() -> None:
    event = OrderConfirmed("order", NOW)
    stored = encode(event)
    assert decode(OrderConfirmed.TYPE, stored) == event
    with pytest.raises(ValueError, match="no time zone"):
        decode(OrderConfirmed.TYPE, stored.replace(b"Z", b""))
    with pytest.raises(ValueError, match="no time zone"):
        encode_metadata(replace(METADATA, occurred_at=NAIVE))
    with pytest.raises(ValueError, match="no time zone"):
        decode_metadata(encode_metadata(METADATA).replace(b"00:00Z", b"00:00"))


def test_another_zone_is_the_same_moment() -> None:
    there = replace(METADATA, occurred_at=NOW.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert decode_metadata(encode_metadata(there)) == METADATA


def test_microseconds_are_kept() -> None:
    exact = replace(METADATA, occurred_at=NOW + timedelta(microseconds=123_456))
    assert decode_metadata(encode_metadata(exact)) == exact


def test_a_name_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnknownEvent, match=r"teapot\.boiled\.v1"):
        decode("teapot.boiled.v1", b"{}")


def test_a_field_that_a_later_release_added_is_passed_over() -> None:
    event = LocationRegistered("A", "Lager", "DE")
    later = encode(event)[:-1] + b',"colour":"red"}'
    assert decode(LocationRegistered.TYPE, later) == event


@pytest.mark.parametrize("stored", [b"", b"{}", b'{"location":1}', b"[]", b"null", b"\xff"])
def test_bytes_that_are_no_such_event_are_refused(stored: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        decode(LocationRegistered.TYPE, stored)


@given(st.text(st.sampled_from('\\u0\0n"é🐘') | st.characters(exclude_categories=["Cs"])))
def test_a_text_is_stored_exactly_unless_it_holds_a_nul(text: str) -> None:
    event = LocationRegistered("A", text, "DE")
    if "\0" in text:
        with pytest.raises(ValueError, match="NUL"):
            encode(event)
    else:
        assert decode(LocationRegistered.TYPE, encode(event)) == event


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode(LocationRegistered("A", "\ud83d", "DE"))


def test_every_event_of_the_domain_has_a_decoder() -> None:
    for name, event in domain.EVENTS.items():
        with pytest.raises((msgspec.ValidationError, UnknownEvent)) as refused:
            decode(name, b"7")
        assert not isinstance(refused.value, UnknownEvent), event
