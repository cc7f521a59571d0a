import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest

import commands
import domain
import projections
from api import problems
from api.audit._query import REFUSALS as AUDIT_REFUSALS
from api.problems import DOMAIN_REFUSALS, MEMBERS, Kind
from api.read._query import REFUSALS as READ_REFUSALS
from api.write._command import REFUSALS as WRITE_REFUSALS
from domain.values import NotFound, Rejected

BASES = {Rejected, NotFound}
TABLES = {**DOMAIN_REFUSALS, **WRITE_REFUSALS, **READ_REFUSALS, **AUDIT_REFUSALS}


def refusals() -> Iterator[type[Rejected]]:
    """Every refusal that anything below the doors can raise."""
    for package in (domain, commands, projections):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(found, Rejected) and found not in BASES:
                    yield found


def kinds() -> list[Kind]:
    return [kind for _, kind in inspect.getmembers(problems) if isinstance(kind, Kind)] + list(
        TABLES.values()
    )


@pytest.mark.parametrize("refusal", sorted(set(refusals()), key=str))
def test_every_refusal_is_a_problem_of_some_door(refusal: type[Rejected]) -> None:
    assert refusal in TABLES, f"{refusal.__name__} needs its line in src/api/problems.py"
    kind: type = refusal
    facts = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    assert not facts & MEMBERS, "a fact may not be named like a member that every problem has"
    assert refusal.__doc__, "its docstring is what the caller reads"


def test_a_code_means_one_thing() -> None:
    by_code: dict[str, set[Kind]] = {}
    for kind in kinds():
        by_code.setdefault(kind.code, set()).add(kind)
    assert {code: found for code, found in by_code.items() if len(found) > 1} == {}


def test_codes_are_snake_case_and_statuses_are_refusals() -> None:
    for kind in kinds():
        assert re.fullmatch("[a-z]+(_[a-z]+)*", kind.code)
        assert 400 <= kind.status < 600
