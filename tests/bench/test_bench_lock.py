"""What only the benchmark needs is locked as the rest is."""

import re
import tomllib

from packaging.requirements import Requirement
from tree import ROOT

LOCK = (ROOT / "requirements-bench.lock").read_text()


def test_the_bench_lock_meets_its_group_pinned_and_hashed_and_names_no_host() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["bench"]
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.MULTILINE))
    assert {one.name for one in map(Requirement, wanted)} <= set(pinned)
    assert all(Requirement(one).specifier.contains(pinned[Requirement(one).name]) for one in wanted)
    entries = [entry for entry in re.split(r"^(?=\S)", LOCK, flags=re.MULTILINE) if "==" in entry]
    assert len(entries) == len(pinned)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK
