import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import consistency
from api.problems import Refused
from domain.envelope import NO_EVENT, Mark, Token

IDS = st.uuids().map(str)
MARKS = st.dictionaries(
    st.tuples(st.sampled_from(["catalogue", "inventory", "orders"]), st.integers(0, 2**15 - 1)),
    st.builds(Mark, st.integers(1, 2**63 - 1), IDS),
    max_size=64,
)
ID = "0198c0de-0000-7000-8000-000000000001"


def of(wire: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(wire).encode()).decode().rstrip("=")


@given(st.builds(Token, IDS, MARKS))
def test_a_token_comes_back_as_it_was_and_fits_a_header(token: Token) -> None:
    text = consistency.encode(token)
    assert consistency.decode(text) == token
    assert len(text) <= consistency.MAX_TOKEN_CHARS
    assert text.isascii()
    assert "=" not in text


def test_a_lane_where_nothing_happened_is_left_out() -> None:
    token = Token(ID, {("orders", 0): Mark(0, NO_EVENT), ("orders", 1): Mark(7, ID)})
    assert consistency.decode(consistency.encode(token)) == Token(ID, {("orders", 1): Mark(7, ID)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "é",
        "a",
        of([]),
        of({"i": ID}),
        of({"i": "no-id", "m": []}),
        of({"i": ID, "m": [], "x": 1}),
        of({"i": ID, "m": [["orders", 0, -1, ID]]}),
        of({"i": ID, "m": [["orders", 0, 2**63, ID]]}),
        of({"i": ID, "m": [["orders", "0", 1, ID]]}),
        of({"i": ID, "m": [["orders", 0, 1.5, ID]]}),
        of({"i": ID, "m": [["orders", 2**15, 1, ID]]}),
        of({"i": ID, "m": [["orders'--", 0, 1, ID]]}),
        of({"i": ID, "m": [["orders", 0, 1, ID]] * 257}),
        of({"i": ID, "m": [["orders", 0, 1]]}),
        "A" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        consistency.decode(text)
    assert refused.value.kind.code == "invalid_consistency_token"


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_garbage_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises(Refused):
        consistency.decode(text)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 5),
        ("", 5),
        ("return=minimal", 5),
        ("wait=0", 0),
        ("wait=12", 12),
        ("Wait = 12", 12),
        ('wait="12"', 12),
        ("respond-async, wait=12; foo", 12),
        ("wait=12, wait=3", 12),
        ("wait=31", 30),
        ("wait=999999", 30),
        ("wait=-1", 5),
        ("wait=1.5", 5),
        ("await=9", 5),
        ("wait=²", 5),
    ],
)
def test_how_long_to_wait_is_a_preference_with_a_ceiling(prefer: str | None, seconds: int) -> None:
    assert consistency.wait_of(prefer) == seconds
