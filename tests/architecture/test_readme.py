"""The tables of the README say what the code does."""

import re
from typing import Final

from tree import ROOT

from api.auth import SCOPES
from runtime.settings import Settings, variable_of
from runtime.up import Ports

README: Final = (ROOT / "README.md").read_text()
ROWS: Final = [line.strip("| ").split(" | ") for line in README.splitlines() if line.startswith("| ")]
MAY: Final = {
    "products:write": "draft and publish products, add variants",
    "prices:write": "set prices",
    "locations:write": "register locations",
    "stock:write": "receive and adjust stock",
    "reservations:write": "hold and release reservations",
    "orders:place": "place",
    "orders:confirm": "confirm",
    "orders:cancel": "cancel",
    "orders:read": "read orders",
    "history:read": "read the history",
    "reports:read": "read reports",
    "orders:import": "import orders taken elsewhere",
}


def test_a_role_may_what_its_scopes_allow() -> None:
    told = {row[0].strip("`"): row[1] for row in ROWS}
    for role, scopes in SCOPES.items():
        meant = {scope for scope, words in MAY.items() if words in told[role]}
        everywhere = {"products:read", "stock:read"} | (set() if role == "auditor" else {"commands:send"})
        assert everywhere <= scopes
        assert role == "admin" or meant == scopes - everywhere, role


def test_every_port_of_a_house_is_named() -> None:
    ports = Ports(base=8000, write_apis=3)
    told = {int(port) for row in ROWS for port in re.findall(r"\b80\d\d\b", " ".join(row))}
    assert told == {
        *ports.write,
        ports.read,
        ports.audit,
        ports.postgres,
        ports.broker,
        ports.controller,
        ports.cache,
        *ports.metrics.values(),
    }


def test_every_variable_is_named_and_no_other() -> None:
    told = {name for row in ROWS for name in re.findall(r"TALLYBOOK_[A-Z_]+", row[0])}
    assert told == {variable_of(name) for name in Settings.model_fields}
