"""Where the project's files are."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGES = ("domain", "commands", "projections", "api", "runtime")


def modules(*packages: str) -> list[Path]:
    """The Python files of these packages."""
    return sorted(path for package in packages for path in (SRC / package).rglob("*.py"))


def import_roots(source: str) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                roots |= {alias.name.split(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module), level=0):
                roots.add(module.split(".")[0])
            case _:
                pass
    return roots


def tracked() -> list[Path]:
    """The files git knows, and those it would take on `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())
