from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given as sampled
from hypothesis import strategies as st
from tests.domain.conftest import Given

from domain import price
from domain.price import PRICE, PriceBackdated, PriceSet
from domain.values import FieldError, InvalidFields

T0 = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def asked(amount_minor: int = 1990, *, at: datetime = T0, **facts: Any) -> dict[str, Any]:
    return {
        "event_id": "e1",
        "product_id": "p1",
        "variant_id": "v1",
        "currency": "EUR",
        "amount_minor": amount_minor,
        "list_amount_minor": None,
        "effective_from": None,
        "reason": None,
        "at": at,
    } | facts


def euros(amount_minor: int, since: datetime, **facts: Any) -> PriceSet:
    return PriceSet("e1", "p1", "v1", "EUR", amount_minor, since, **facts)


def test_a_price_is_in_force_from_now_unless_told_otherwise(given: type[Given]) -> None:
    given(PRICE).when(price.set_price, **asked(1990)).then(euros(1990, T0))
    later = asked(1990, effective_from=T0 + DAY)
    given(PRICE).when(price.set_price, **later).then(euros(1990, T0 + DAY))


def test_a_price_says_what_it_was_reduced_from_and_why(given: type[Given]) -> None:
    facts: dict[str, Any] = {"list_amount_minor": 2490, "reason": "spring sale"}
    given(PRICE).when(price.set_price, **asked(1990, **facts)).then(euros(1990, T0, **facts))


def test_a_price_is_never_backdated(given: type[Given]) -> None:
    before = asked(effective_from=T0 - timedelta(microseconds=1))
    given(PRICE).when(price.set_price, **before).then(PriceBackdated())


def test_a_price_never_begins_before_one_set_for_later(given: type[Given]) -> None:
    scheduled = given(PRICE, euros(1990, T0 + DAY))
    scheduled.when(price.set_price, **asked(1790)).then(PriceBackdated())
    same_instant = asked(1790, effective_from=T0 + DAY)
    scheduled.when(price.set_price, **same_instant).then(euros(1790, T0 + DAY))


def test_currencies_do_not_stand_in_each_others_way(given: type[Given]) -> None:
    dollars = PriceSet("e1", "p1", "v1", "USD", 2190, T0)
    given(PRICE, euros(1990, T0 + DAY)).when(price.set_price, **asked(2190, currency="USD")).then(dollars)


def test_every_wrong_field_is_named(given: type[Given]) -> None:
    given(PRICE).when(price.set_price, **asked(1990, currency="EURO", list_amount_minor=1989)).then(
        InvalidFields(
            (
                FieldError("/currency", "unknown_currency", "EURO is not an ISO 4217 currency"),
                FieldError("/list_amount_minor", "below_amount", "the list price is below the price"),
            )
        )
    )


def test_a_list_price_may_equal_the_price(given: type[Given]) -> None:
    given(PRICE).when(price.set_price, **asked(1990, list_amount_minor=1990)).then(
        euros(1990, T0, list_amount_minor=1990)
    )


def test_a_price_is_in_force_from_its_very_instant_until_the_next_one(given: type[Given]) -> None:
    first, second = euros(1990, T0), euros(1790, T0 + DAY)
    prices = given(PRICE, first, second).state
    just = timedelta(microseconds=1)
    assert prices.in_force("EUR", T0 - just) is None
    assert prices.in_force("EUR", T0) == first
    assert prices.in_force("EUR", T0 + DAY - just) == first
    assert prices.in_force("EUR", T0 + DAY) == second
    assert prices.in_force("USD", T0 + DAY) is None


HOURS = st.integers(0, 20)
CURRENCIES = st.sampled_from(["EUR", "USD", "JPY"])


@sampled(st.lists(st.tuples(CURRENCIES, HOURS, st.none() | HOURS), max_size=25), CURRENCIES, HOURS)
def test_the_price_in_force_is_the_last_that_was_accepted_of_those_begun(
    requests: list[tuple[str, int, int | None]], currency: str, moment: int
) -> None:
    """A request is its currency, the hours that pass before it, and the hour it shall begin, or None: now."""
    state = PRICE.initial
    now = 0
    accepted: list[tuple[str, int, int]] = []
    for number, (asked_in, passed, begins) in enumerate(requests):
        now += passed
        since = None if begins is None else T0 + timedelta(hours=begins)
        at = T0 + timedelta(hours=now)
        refused = begins is not None and begins < now
        start = now if begins is None else begins
        refused |= any(other > start for code, other, _ in accepted if code == asked_in)
        facts = asked(number, currency=asked_in, effective_from=since, at=at)
        try:
            events = price.set_price(state, **facts)
        except PriceBackdated:
            assert refused
            continue
        assert not refused
        accepted.append((asked_in, start, number))
        for event in events:
            state = PRICE.evolve(state, event)
    begun = [number for code, start, number in accepted if code == currency and start <= moment]
    found = state.in_force(currency, T0 + timedelta(hours=moment))
    assert (found.amount_minor if found else None) == (begun[-1] if begun else None)
