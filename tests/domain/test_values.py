import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from domain import values
from domain.values import CURRENCY_EXPONENT, FieldError, InvalidFields, Money, category_of, matches

AMOUNTS = st.integers(-(10**15), 10**15)


@pytest.mark.parametrize(
    ("currency", "places"), [("EUR", 2), ("JPY", 0), ("ISK", 0), ("KWD", 3), ("TND", 3), ("XCG", 2)]
)
def test_a_currency_knows_its_decimal_places(currency: str, places: int) -> None:
    assert CURRENCY_EXPONENT[currency] == places


def test_currencies_are_three_capital_letters_and_funds_are_none() -> None:
    assert all(matches("[A-Z]{3}", code) for code in CURRENCY_EXPONENT)
    assert not {"XAU", "XXX", "XTS", "CHE", "UYI"} & CURRENCY_EXPONENT.keys()


@sampled(AMOUNTS, AMOUNTS, st.integers(0, 999))
def test_money_adds_and_multiplies_exactly(one: int, other: int, qty: int) -> None:
    assert Money(one, "EUR") + Money(other, "EUR") == Money(one + other, "EUR")
    assert Money(one, "EUR").times(qty) == sum((Money(one, "EUR") for _ in range(qty)), Money(0, "EUR"))


def test_currencies_never_mix() -> None:
    with pytest.raises(ValueError, match="EUR and USD do not add up"):
        Money(1, "EUR") + Money(1, "USD")


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (values.SKU_PATTERN, ["A1", "MUG.L_2-X"], ["A", "mug", "-MUG", "MUG@BER", "M" * 65, "MUG\n", "MÜG"]),
        (values.SLUG_PATTERN, ["a", "blue-mug", "a" * 120], ["", "Blue", "a_b", "a" * 121, "a\n"]),
        (values.LOCATION_PATTERN, ["B", "BER-2_X"], ["", "ber", "-BER", "B" * 33, "BER@", "BER\n"]),
        (values.LANG_PATTERN, ["de", "gsw", "de-CH-1996"], ["", "d", "de_CH", "german", "de-"]),
        (
            values.ID_PATTERN,
            ["019ca6b2-0c00-7abc-8def-0123456789ab"],
            ["019CA6B2-0C00-7ABC-8DEF-0123456789AB", "019ca6b20c007abc8def0123456789ab", ""],
        ),
    ],
)
def test_patterns_take_the_whole_value_or_nothing(pattern: str, good: list[str], bad: list[str]) -> None:
    assert [value for value in good if not matches(pattern, value)] == []
    assert [value for value in bad if matches(pattern, value)] == []


def test_a_stock_stream_names_one_sku_and_one_place() -> None:
    # Neither pattern has an @, so that `stock-{sku}@{location}` is never ambiguous.
    assert not matches(values.SKU_PATTERN, "MUG@BER")
    assert not matches(values.LOCATION_PATTERN, "BER@2")


def test_the_category_of_a_stream_ends_at_the_first_dash() -> None:
    assert category_of("stock-MUG-L@BER-2") == "stock"


def test_the_docstring_of_a_refusal_is_its_message_on_one_line() -> None:
    refusal = InvalidFields((FieldError("/qty", "too_small", "at least 1"),))
    assert str(refusal) == "Some fields of the command are not valid; `errors` lists every one of them."
