"""A fold of the auditor's own over the history, into a SQLite file."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from history import history
from read_side import ReadSide
from tree import ROOT

from projections.stock_availability import STOCK_AVAILABILITY
from runtime.audit_log.history import NoSuchRange
from runtime.process import Unwritable
from runtime.read_models.folding import fold as folded
from runtime.replay import UnusableFold, fold_in, run
from runtime.settings import Settings

pytestmark = pytest.mark.anyio

RECEIVED = """
def keys(recorded):
    if recorded.type == "stock.received.v1":
        yield recorded.event.sku


def evolve(row, recorded, key):
    return (row or 0) + recorded.event.qty
"""


def settings(side: ReadSide) -> Settings:
    return cast("Settings", SimpleNamespace(database_url=side.log_url))


def fold(directory: Path, text: str) -> Path:
    path = directory / "fold.py"
    path.write_text(text)
    return path


@contextmanager
def opened(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """The rows, and what is told of the replay."""
    with closing(sqlite3.connect(path)) as database:
        rows = {key: json.loads(row) for key, row in database.execute("select key, row from rows")}
        yield rows, dict(database.execute("select name, value from replay"))


def results_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if "sqlite" in path.name]


async def test_the_whole_history_is_folded(
    side: ReadSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await side.write(list(history(seed=3, appends=80)))
    events = [side.reader.decode(stored) for stored in await side.reader.read(0)]
    into = tmp_path / "result.sqlite"
    assert run(settings(side), fold(tmp_path, RECEIVED), into, None) == 0
    expected: dict[str, Any] = {}
    folded(STOCK_AVAILABILITY, expected, (one for one in events if one.type == "stock.received.v1"))
    with opened(into) as (rows, told):
        assert rows == {
            row.sku: row.on_hand for parts in expected.values() if (row := STOCK_AVAILABILITY.combine(parts))
        }
        assert (told["events"], told["event_id"]) == (str(len(events)), events[-1].event_id)
        assert told["fold"] == "fold.py"
    assert re.search(r"\d+ events up to position \d+ into \d+ rows", capsys.readouterr().out)


async def test_up_to_a_position_and_again_over_the_old_result(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=3, appends=20)))
    into = tmp_path / "result.sqlite"
    head = (await side.reader.head()).position
    for upto in (5, 9, head):
        run(settings(side), fold(tmp_path, RECEIVED), into, upto)
        with opened(into) as (_, told):
            assert int(told["position"]) == upto
    with pytest.raises(NoSuchRange, match=f"the log ends at position {head}"):
        run(settings(side), fold(tmp_path, RECEIVED), into, head + 1)
    assert results_in(tmp_path) == ["result.sqlite"]


async def test_a_file_that_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    nowhere = cast("Settings", SimpleNamespace(database_url="postgresql://127.0.0.1:1/none"))
    with pytest.raises(Unwritable, match="cannot be written"):
        run(nowhere, fold(tmp_path, RECEIVED), tmp_path / "nowhere" / "result.sqlite", None)


@pytest.mark.parametrize("made", ["{1, 2}", "float('nan')", "[row]"])
async def test_a_row_that_json_cannot_hold_is_told_and_leaves_no_file(
    side: ReadSide, tmp_path: Path, made: str
) -> None:
    await side.write(list(history(seed=3, appends=4)))
    text = f"""
def keys(recorded):
    yield "a"


def evolve(row, recorded, key):
    row = {made}
    return row
"""
    looped = text.replace("row = [row]", "row = []\n    row.append(row)")
    with pytest.raises(UnusableFold, match="the row 'a' is nothing that JSON can hold"):
        run(settings(side), fold(tmp_path, looped), tmp_path / "result.sqlite", None)
    with pytest.raises(UnusableFold, match="the key 5 is no text"):
        run(settings(side), fold(tmp_path, text.replace('"a"', "5")), tmp_path / "result.sqlite", None)
    assert results_in(tmp_path) == []


async def test_what_is_no_result_of_a_replay_is_not_replaced(side: ReadSide, tmp_path: Path) -> None:
    path = fold(tmp_path, RECEIVED)
    with pytest.raises(Unwritable, match="is left as it is"):
        run(settings(side), path, path, None)
    with pytest.raises(Unwritable, match="is left as it is"):
        run(settings(side), path, tmp_path, None)
    assert path.read_text() == RECEIVED


async def test_stopped_it_leaves_the_old_result(
    side: ReadSide, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await side.write(list(history(seed=3, appends=20)))
    into = tmp_path / "result.sqlite"
    run(settings(side), fold(tmp_path, RECEIVED), into, 5)
    stopped = RECEIVED.replace("return (row or 0) + recorded.event.qty", "raise KeyboardInterrupt")
    assert run(settings(side), fold(tmp_path, stopped), into, None) == 130
    assert "nothing was written" in capsys.readouterr().err
    with opened(into) as (_, told):
        assert told["position"] == "5"
    assert results_in(tmp_path) == ["result.sqlite"]


async def test_an_empty_log_makes_an_empty_file(side: ReadSide, tmp_path: Path) -> None:
    run(settings(side), fold(tmp_path, RECEIVED), tmp_path / "result.sqlite", None)
    with opened(tmp_path / "result.sqlite") as (rows, told):
        assert (rows, told["events"], told["position"]) == ({}, "0", "0")


async def test_a_row_may_go_away_again(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=3, appends=20)))
    gone = RECEIVED.replace("return (row or 0) + recorded.event.qty", "return None if row else 1")
    run(settings(side), fold(tmp_path, gone), tmp_path / "result.sqlite", None)
    with opened(tmp_path / "result.sqlite") as (rows, _):
        assert set(rows.values()) <= {1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def keys(recorded): ...", "no function evolve"),
        ("", "no function keys and no function evolve"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def keys(:", "cannot be loaded: SyntaxError"),
        ("raise SystemExit(7)", "cannot be loaded: SystemExit"),
    ],
)
def test_a_file_that_is_no_fold_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UnusableFold, match=why):
        fold_in(fold(tmp_path, text))
    with pytest.raises(UnusableFold, match="is no Python file"):
        fold_in(tmp_path / "nothing.py")


async def test_a_fold_that_fails_names_the_position_and_leaves_no_file(
    side: ReadSide, tmp_path: Path
) -> None:
    await side.write(list(history(seed=3, appends=20)))
    failing = RECEIVED.replace("(row or 0)", "row")
    with pytest.raises(UnusableFold, match=r"failed at position \d+: TypeError"):
        run(settings(side), fold(tmp_path, failing), tmp_path / "result.sqlite", None)
    assert not (tmp_path / "result.sqlite").exists()


async def test_the_fold_of_the_documentation_runs(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=3, appends=80)))
    [text] = re.findall(
        r"^```python\n(.*?)^```",
        (ROOT / "docs/how-to/replay-history.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    run(settings(side), fold(tmp_path, text), tmp_path / "result.sqlite", None)
    with opened(tmp_path / "result.sqlite") as (rows, _):
        spent = 0
        for stored in await side.reader.read(0):
            event: Any = side.reader.decode(stored).event
            if stored.type == "order.placed.v1":
                spent += event.total.amount_minor
        assert sum(rows.values()) <= spent
        assert rows
