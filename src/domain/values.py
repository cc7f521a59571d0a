"""What the nouns share: refusals, money, patterns and limits, and the shape of an aggregate.

Refusals are raised, never recorded; the docstring of each is its message and its fields are its facts:

    Rejected
    ├── NotFound              (one subclass a noun)
    ├── InvalidFields         several fields at once, each with its own code
    └── …                     the situation, beside the decision that meets it
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, Protocol, TypeVar

MAX_AMOUNT_MINOR: Final = 10**15
MAX_LINE_QTY: Final = 999
MAX_STOCK_QTY: Final = 2**31 - 1
MAX_SOLD_QTY: Final = 2**63 - 1
"""Of a line that was sold elsewhere."""
MAX_ORDER_LINES: Final = 200

SKU_PATTERN: Final = r"^[A-Z0-9][A-Z0-9._-]{1,63}$"
SLUG_PATTERN: Final = r"^[a-z0-9-]{1,120}$"
LOCATION_PATTERN: Final = r"^[A-Z0-9][A-Z0-9_-]{0,31}$"
LANG_PATTERN: Final = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"
ID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

_ISO_4217: Final = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC
CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR
JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD
NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_EXPONENTS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
}
CURRENCY_EXPONENT: Final[dict[str, int]] = dict.fromkeys(_ISO_4217.split(), 2) | {
    code: exponent for exponent, codes in _EXPONENTS.items() for code in codes.split()
}
"""Decimal places of the minor unit, by ISO 4217 code."""


class Rejected(Exception):
    """The command was refused."""

    @property
    def message(self) -> str:
        return " ".join((type(self).__doc__ or type(self).__name__).split())

    def __str__(self) -> str:
        return self.message


class NotFound(Rejected):
    """There is no such thing."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: `pointer` is a JSON pointer into the command's body, `code` is snake case."""

    pointer: str
    code: str
    detail: str


@dataclass(eq=False)
class InvalidFields(Rejected):
    """Some fields of the command are not valid; `errors` lists every one of them."""

    errors: tuple[FieldError, ...]


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the minor unit of its ISO 4217 currency."""

    amount_minor: int
    currency: str

    def __add__(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} do not add up")
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def times(self, qty: int) -> "Money":
        return Money(self.amount_minor * qty, self.currency)


class Event(Protocol):
    """A fact. `TYPE` is its stored name, `noun.verbed.vN`: a literal that outlives every rename in Python."""

    TYPE: ClassVar[str]


S = TypeVar("S")
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S, E]):
    """A kind of stream: its category, the state before its first event, and its fold.

    `evolve` is total and never judges: what was recorded has happened.
    """

    category: str
    initial: S
    evolve: Callable[[S, E], S]

    def stream(self, ident: str) -> str:
        return f"{self.category}-{ident}"


def category_of(stream: str) -> str:
    return stream.partition("-")[0]


def matches(pattern: str, value: str) -> bool:
    return re.fullmatch(pattern, value) is not None
