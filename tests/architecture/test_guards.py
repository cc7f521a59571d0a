"""Five top-level packages with plain names stay ours, and stay out of whatever is stored."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import PACKAGES, ROOT, SRC, modules

import domain
from runtime.settings import Settings

STORED_NAME = re.compile(r"[a-z][a-z_]*\.[a-z][a-z_]*\.v[1-9][0-9]*")
MODULE_PATH = re.compile(rf"\b(?:{'|'.join(PACKAGES)})\.[a-z_]+(?:\.[A-Za-z_]+)*\b")
NAMES_OF_CODE = {"__module__", "__qualname__"}


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_tests_are_imported_by_their_path(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getoption("importmode") == "importlib"


def test_the_house_has_the_five_packages_and_no_other() -> None:
    assert {path.name for path in SRC.iterdir() if any(path.rglob("*.py"))} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_ours(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(SRC / package / "__init__.py")
    assert package not in sys.stdlib_module_names
    assert set(importlib.metadata.packages_distributions().get(package, ())) <= {"tallybook"}


def declared_types(source: str) -> Iterator[object]:
    """The stored name of each event as it is written; None where it is not a literal."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AnnAssign(target=ast.Name(id="TYPE"), value=ast.expr() as value):
                yield value.value if isinstance(value, ast.Constant) else None
            case ast.Assign(targets=[ast.Name(id="TYPE")], value=value):
                yield value.value if isinstance(value, ast.Constant) else None
            case _:
                pass


def test_stored_names_are_literals() -> None:
    written = [name for path in modules("domain") for name in declared_types(path.read_text())]
    assert sorted(map(str, written)) == sorted(domain.EVENTS)
    assert [name for name in domain.EVENTS if not STORED_NAME.fullmatch(name)] == []


def test_a_computed_stored_name_is_seen() -> None:
    planted = (
        'class Made:\n    TYPE: ClassVar[str] = f"{__name__}.v1"\nclass Sold:\n    TYPE = "stock.sold.v1"\n'
    )
    assert list(declared_types(planted)) == [None, "stock.sold.v1"]


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.sql")), ids=lambda path: path.name)
def test_sql_names_no_module(path: Path) -> None:
    assert MODULE_PATH.findall(path.read_text()) == []


def test_a_module_path_is_seen() -> None:
    assert MODULE_PATH.findall("insert into log.events values ('domain.stock.StockReserved')") == [
        "domain.stock.StockReserved"
    ]


def test_settings_default_to_no_module() -> None:
    defaults = [str(field.default) for field in Settings.model_fields.values()]
    assert [default for default in defaults if MODULE_PATH.search(default)] == []


def names_of_code(source: str) -> set[str]:
    """How a class could tell where in the code it stands."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr in NAMES_OF_CODE
    }


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=lambda path: str(path.relative_to(SRC)))
def test_no_code_asks_where_a_class_stands(path: Path) -> None:
    assert names_of_code(path.read_text()) == set()


def test_asking_where_a_class_stands_is_seen() -> None:
    assert names_of_code("topic = f'{kind.__module__}.{kind.__qualname__}'") == {"__module__", "__qualname__"}
