"""The domain needs nothing but the standard library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree import SRC, import_roots, modules

IMPORT_EVERYTHING = """
import json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import domain
for module in pkgutil.walk_packages(domain.__path__, "domain."):
    __import__(module.name)
print(json.dumps([name for name, module in sys.modules.items() if getattr(module, "__file__", None)]))
"""


def foreign_imports(source: str) -> list[str]:
    return sorted(import_roots(source) - {"domain"} - sys.stdlib_module_names)


@pytest.mark.parametrize("path", modules("domain"), ids=lambda path: path.name)
def test_a_noun_imports_only_the_standard_library(path: Path) -> None:
    assert foreign_imports(path.read_text()) == []


def test_a_foreign_import_is_seen_wherever_it_stands() -> None:
    planted = "import json\ndef late():\n    import msgspec.json\n    from pydantic import BaseModel\n"
    assert foreign_imports(planted) == ["msgspec", "pydantic"]


def test_the_domain_loads_without_any_installed_package() -> None:
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", IMPORT_EVERYTHING, str(SRC)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    roots = {name.split(".")[0] for name in json.loads(loaded)}
    assert "domain" in roots
    assert roots - {"domain", "__main__"} <= sys.stdlib_module_names
