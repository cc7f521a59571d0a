"""A limit on everything, and no loose ends."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import PACKAGES, ROOT, SRC, modules, tracked

FUNCTION_LINES = 70
MODULE_LINES = 300
BROAD = {"Exception", "BaseException"}
WAIVER = re.compile(
    r"#\s*(?:noqa(?P<codes>:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?|type: ignore(?P<errors>\[[a-z, -]+\])?)"
)
LOOSE_END = re.compile(r"\b(?:TODO|FIXME|HACK)\b")
PLACES = re.compile(
    r"/root/|/work/|/home/[a-z]+/|/Users/|\.pyenv\b"
    r"|pypi\.org|pythonhosted|registry\.npmjs|proxy\.golang|crates\.io|artifactory"
)
ADR = re.compile(r"(\d{4})-[a-z0-9-]+\.md")


def long_functions(source: str) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]


def code_lines(source: str) -> int:
    """How many lines are neither blank, nor a comment, nor part of a string that stands by itself."""
    lines = {number for number, line in enumerate(source.splitlines(), start=1) if line.strip()}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.strip() == token.string:
            lines.discard(token.start[0])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def broad_handlers(source: str) -> list[int]:
    """The lines that catch whatever comes."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or any(isinstance(name, ast.Name) and name.id in BROAD for name in ast.walk(node.type))
        )
    ]


def waivers_without_reason(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        waivers = list(WAIVER.finditer(token.string))
        reason = re.search(r"\w", WAIVER.sub("", token.string))
        if waivers and not (reason and all(waiver["codes"] or waiver["errors"] for waiver in waivers)):
            yield token.string


each_module = pytest.mark.parametrize("path", modules(*PACKAGES), ids=lambda path: str(path.relative_to(SRC)))


@each_module
def test_functions_fit_a_screen(path: Path) -> None:
    assert long_functions(path.read_text()) == []


@each_module
def test_modules_fit_a_few_screens(path: Path) -> None:
    assert code_lines(path.read_text()) <= MODULE_LINES


def test_prose_and_blank_lines_are_no_lines_of_code() -> None:
    prose = '"""What it is.\n\nAnd why."""\n\n# a word\n'
    code = 'number = 1  # more\n"""Of what."""\ntext = """\nstays"""\n'
    assert code_lines(prose + code) == 3


@pytest.mark.parametrize("path", modules("domain", "commands", "projections", "api"), ids=str)
def test_only_runtime_catches_whatever_comes(path: Path) -> None:
    assert broad_handlers(path.read_text()) == []


def python_files() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_waiver_names_its_rule_and_its_reason(path: Path) -> None:
    assert list(waivers_without_reason(path.read_text())) == []


def test_no_file_has_a_loose_end_or_names_a_machine_or_a_registry() -> None:
    found = {}
    for path in set(tracked()) - {Path(__file__)}:
        text = path.read_bytes().decode(errors="replace")
        if hits := [*LOOSE_END.findall(text), *PLACES.findall(text)]:
            found[str(path.relative_to(ROOT))] = hits
    assert found == {}


def test_every_decision_has_a_number_of_its_own() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "adr").iterdir())
    numbers = [found[1] if (found := ADR.fullmatch(name)) else name for name in names]
    assert numbers == [f"{number:04}" for number in range(len(names))]


def test_what_these_tests_look_for_is_seen() -> None:
    assert long_functions("def long():\n" + "    pass\n" * FUNCTION_LINES) == ["long"]
    assert long_functions("def fits():\n" + "    pass\n" * (FUNCTION_LINES - 1)) == []
    for handler in ("except:", "except Exception:", "except (OSError, BaseException) as error:"):
        assert broad_handlers(f"try:\n    pass\n{handler}\n    pass\n") == [3]
    assert broad_handlers("try:\n    pass\nexcept OSError:\n    pass\n") == []
    bad = ["# noqa", "# noqa: S101", "# noqa  # ours", "# type: ignore[misc]", "# type: ignore  # it is fine"]
    assert list(waivers_without_reason("\n".join(bad) + "\n")) == bad
    assert list(waivers_without_reason("x = 1  # noqa: S101 - the reason\n")) == []
    assert list(waivers_without_reason("x = 1  # type: ignore[misc]  # the reason\n")) == []
    assert LOOSE_END.search("# TODO: later")
    assert PLACES.search("found in /root/cache")
    assert PLACES.search("index = pypi.org")
