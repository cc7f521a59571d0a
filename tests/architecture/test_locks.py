"""The lock files are those of pyproject.toml, and this environment is theirs."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tree import PACKAGES, ROOT, import_roots, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN, DEV = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
SAMPLE = ROOT / "requirements-sample.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(lock: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """Each locked requirement with its hashes."""
    lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        if entry.strip():
            requirement, *_ = entry.split("--hash=")
            yield Requirement(requirement.strip()), HASH.findall(entry)


def versions(lock: Path) -> dict[str, str]:
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement, _ in entries(lock)
    }


def met(requirement: Requirement, locked: dict[str, str]) -> bool:
    version = locked.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def unmet(wanted: list[str], locked: dict[str, str]) -> list[str]:
    return [text for text in wanted if not met(Requirement(text), locked)]


def needs_of(name: str, extra: str = "") -> Iterator[Requirement]:
    """What an installed distribution needs here, with one of its extras or without any."""
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def here(lock: Path) -> dict[str, str]:
    """What the lock installs on this machine."""
    names = {
        canonicalize_name(requirement.name)
        for requirement, _ in entries(lock)
        if requirement.marker is None or requirement.marker.evaluate()
    }
    return {name: version for name, version in versions(lock).items() if name in names}


def test_the_locks_meet_what_the_project_asks_for() -> None:
    assert unmet(PROJECT["project"]["dependencies"], versions(RUN)) == []
    assert unmet(PROJECT["dependency-groups"]["dev"], versions(DEV)) == []


def test_a_requirement_that_the_lock_does_not_meet_is_seen() -> None:
    assert unmet(["fastapi>=1000", "absent", "fastapi"], {"fastapi": "0.165.0"}) == [
        "fastapi>=1000",
        "absent",
    ]


def test_the_project_asks_for_what_its_code_imports() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    direct = [Requirement(text) for texts in (PROJECT["project"]["dependencies"], *extras) for text in texts]
    brought = [need for one in direct for extra in one.extras for need in needs_of(one.name, extra)]
    asked = {canonicalize_name(requirement.name) for requirement in (*direct, *brought)}
    known = importlib.metadata.packages_distributions()
    imported = {root for path in modules(*PACKAGES) for root in import_roots(path.read_text())}
    foreign = imported - set(PACKAGES) - sys.stdlib_module_names
    assert {"fastapi", "psycopg"} <= foreign
    assert {
        root for root in foreign if not {canonicalize_name(name) for name in known.get(root, [root])} & asked
    } == set()


def test_the_development_lock_extends_the_other() -> None:
    assert versions(RUN).items() <= versions(DEV).items()


@pytest.mark.parametrize("lock", [RUN, DEV, SAMPLE], ids=lambda lock: lock.name)
def test_every_entry_is_pinned_and_hashed(lock: Path) -> None:
    loose = [str(requirement) for requirement, hashes in entries(lock) if not hashes]
    unpinned = [
        str(found) for found, _ in entries(lock) if [one.operator for one in found.specifier] != ["=="]
    ]
    assert (loose, unpinned) == ([], [])


@pytest.mark.parametrize("lock", [RUN, DEV, SAMPLE], ids=lambda lock: lock.name)
def test_a_lock_names_no_host(lock: Path) -> None:
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links", lock.read_text()) == []


def test_the_environment_runs_what_the_lock_names() -> None:
    installed = {name: importlib.metadata.version(name) for name in here(DEV)}
    assert installed == here(DEV)


def test_the_locks_are_closed_over_what_their_entries_need() -> None:
    for lock in (RUN, DEV):
        locked = here(lock)
        missing = {
            f"{name} needs {need}" for name in locked for need in needs_of(name) if not met(need, locked)
        }
        assert missing == set()
