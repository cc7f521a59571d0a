"""Every import contract of pyproject.toml holds, and breaks when somebody plants what it forbids."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import ROOT, SRC

LINT_SECONDS = 60

PLANTS = [
    ("layers", {"domain/planted.py": "import commands"}),
    ("layers", {"domain/planted.py": "import projections"}),
    ("layers", {"commands/planted.py": "import projections"}),
    ("layers", {"projections/planted.py": "import commands"}),
    ("layers", {"commands/planted.py": "import api"}),
    ("layers", {"projections/planted.py": "import runtime"}),
    ("layers", {"api/planted.py": "import runtime"}),
    *(
        ("domain-is-pure", {"domain/planted.py": f"import {module}"})
        for module in ("logging", "random", "secrets", "time", "uuid")
    ),
    ("no-driver", {"commands/planted.py": "import psycopg"}),
    ("no-driver", {"projections/planted.py": "from psycopg_pool import AsyncConnectionPool"}),
    ("no-driver", {"api/audit/planted.py": "import eventsourcing.persistence"}),
    ("no-driver", {"api/planted.py": "import kafka"}),
    ("no-transport", {"commands/planted.py": "from fastapi import HTTPException"}),
    ("no-transport", {"projections/planted.py": "import httpx"}),
    ("read-door", {"api/read/planted.py": "import commands"}),
    ("read-door", {"api/read/planted.py": "import api.planted", "api/planted.py": "import commands"}),
    ("write-door", {"api/write/planted.py": "import projections"}),
    ("audit-door", {"api/audit/planted.py": "import commands"}),
    ("audit-door", {"api/audit/planted.py": "import projections"}),
    ("doors-are-strangers", {"api/read/planted.py": "import api.write"}),
    ("aggregates-are-strangers", {"domain/one.py": "from domain import two", "domain/two.py": ""}),
    ("aggregates-are-strangers", {"domain/one.py": "import domain.envelope"}),
    ("commands-are-strangers", {"commands/one.py": "from commands import two", "commands/two.py": ""}),
    ("commands-are-strangers", {"commands/one.py": "import commands.policies"}),
    (
        "read-models-are-strangers",
        {"projections/one.py": "from projections import two", "projections/two.py": ""},
    ),
    (
        "read-models-are-strangers",
        {"projections/ports.py": "import projections.two", "projections/two.py": ""},
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as far as the contracts see it, to plant things in."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(SRC, copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def plant(copy: Path, files: dict[str, str]) -> Iterator[Path]:
    paths = [copy / "src" / name for name in files]
    before = {path: path.read_text() for path in paths if path.exists()}
    for name, source in files.items():
        (copy / "src" / name).write_text(source + "\n")
    yield copy
    for path in paths:
        if path in before:
            path.write_text(before[path])
        else:
            path.unlink()


def lint(copy: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", *options],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=LINT_SECONDS,
        check=False,
    )


def contracts() -> list[str]:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [contract["id"] for contract in configured["contracts"]]


def test_the_house_keeps_every_contract(copy: Path) -> None:
    linted = lint(copy)
    assert f"{len(contracts())} kept, 0 broken" in linted.stdout, linted.stdout + linted.stderr


@pytest.mark.parametrize(("contract", "files"), PLANTS)
def test_a_contract_breaks_on_what_it_forbids(contract: str, plant: Path, files: dict[str, str]) -> None:
    linted = lint(plant, "--contract", contract)
    assert "0 kept, 1 broken" in linted.stdout, linted.stdout + linted.stderr
    assert linted.returncode == 1


def test_every_contract_has_a_planted_violation() -> None:
    assert {contract for contract, _ in PLANTS} == set(contracts())
