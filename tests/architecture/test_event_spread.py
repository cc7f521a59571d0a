"""Who names an event: its noun, its read models, its policies, the endpoints that say they append it."""

import ast
from pathlib import Path

import pytest
from tree import PACKAGES, SRC, modules

from domain import EVENTS

ALLOWED = ("domain/", "projections/", "commands/policies/", "api/write/")


def names_in(source: str) -> set[str]:
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.fixture(scope="module")
def mentions() -> dict[str, list[str]]:
    """The modules under src that name each event."""
    names = {path: names_in(path.read_text()) for path in modules(*PACKAGES)}
    return {
        event.__name__: [str(path.relative_to(SRC)) for path in names if event.__name__ in names[path]]
        for event in EVENTS.values()
    }


@pytest.mark.parametrize("event", [event.__name__ for event in EVENTS.values()])
def test_nobody_else_names_an_event(event: str, mentions: dict[str, list[str]]) -> None:
    assert [module for module in mentions[event] if not module.startswith(ALLOWED)] == []
    assert len([module for module in mentions[event] if module.startswith("domain/")]) == 1


def test_a_mention_elsewhere_is_noticed(tmp_path: Path) -> None:
    planted = tmp_path / "orders.py"
    planted.write_text("from domain.order import OrderPlaced\n")
    assert "OrderPlaced" in names_in(planted.read_text())
