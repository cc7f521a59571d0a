"""A range of the log as a file, and a manifest that proves it."""

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from history import history
from read_side import ReadSide
from tree import ROOT

from runtime import export as exporting
from runtime.audit_log.history import History, NoSuchRange
from runtime.audit_log.mapper import Kept
from runtime.export import (
    BATCH_EVENTS,
    export,
    line_of,
    manifest_of,
    run,
)
from runtime.log.reading import StoredEvent
from runtime.process import INTERRUPTED, Unwritable
from runtime.settings import Settings

pytestmark = pytest.mark.anyio


def silent(_done: int, _total: int) -> None:
    """Nobody watches."""


def exported(side: ReadSide, path: Path, first: int = 1, last: int | None = None) -> dict[str, Any]:
    """The manifest as it is written, checked against the file."""
    export(side.log_url, path, first, last, silent)
    return proved(path)


def proved(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(manifest_of(path).read_text())
    assert manifest["file"] == path.name
    summed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert manifest["sha256"] == summed.stdout.split()[0]
    assert manifest["bytes"] == path.stat().st_size
    return manifest


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mark(event: StoredEvent) -> dict[str, Any]:
    return {"position": event.position, "event_id": event.event_id}


async def test_the_manifest_says_what_is_in_the_file(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=5, appends=40)))
    events = await side.reader.read(0)
    path = tmp_path / "log.ndjson"
    manifest = exported(side, path)
    assert path.read_bytes().splitlines(keepends=True) == [line_of(event) for event in events]
    assert manifest["events"] == len(events)
    assert manifest["by_context"] == dict(Counter(event.context for event in events))
    assert (manifest["first"], manifest["last"]) == (mark(events[0]), mark(events[-1]))
    assert manifest["incarnation"] == await side.reader.incarnation()
    assert names_in(tmp_path) == ["log.ndjson", "log.ndjson.manifest.json"]


async def test_a_line_holds_the_stored_bytes(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=5, appends=3)))
    events = await side.reader.read(0)
    exported(side, tmp_path / "log.ndjson")
    for event, line in zip(events, (tmp_path / "log.ndjson").read_bytes().splitlines(), strict=True):
        assert line.endswith(b'"metadata":' + event.metadata + b',"data":' + event.data + b"}")
        said = json.loads(line)
        for name in ("position", "stream", "version", "event_id", "type", "context", "lane"):
            assert said[name] == getattr(event, name)
        assert said["recorded_at"] == event.recorded_at.isoformat().replace("+00:00", "Z")


async def test_a_range_has_both_its_ends(
    side: ReadSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH_EVENTS", 4)
    await side.write(list(history(seed=5, appends=20)))
    events = await side.reader.read(0)
    head = len(events)
    for first, last in ((1, 1), (3, 12), (5, 8), (head, head), (2, None)):
        path = tmp_path / "log.ndjson"
        manifest = exported(side, path, first, last)
        expected = events[first - 1 : last]
        assert path.read_bytes() == b"".join(map(line_of, expected))
        assert (manifest["first"], manifest["last"]) == (mark(expected[0]), mark(expected[-1]))


async def test_parts_of_the_log_one_after_the_other_are_the_log(side: ReadSide, tmp_path: Path) -> None:
    await side.write(list(history(seed=5, appends=10)))
    head = (await side.reader.head()).position
    exported(side, tmp_path / "whole")
    exported(side, tmp_path / "one", 1, head // 2)
    exported(side, tmp_path / "two", head // 2 + 1)
    parts = (tmp_path / "one").read_bytes() + (tmp_path / "two").read_bytes()
    assert parts == (tmp_path / "whole").read_bytes()


async def test_an_empty_range_is_an_empty_file(side: ReadSide, tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    empty = {"events": 0, "by_context": {}, "first": None, "last": None, "bytes": 0}
    empty["sha256"] = hashlib.sha256(b"").hexdigest()
    assert (exported(side, path)).items() >= empty.items()
    await side.write(list(history(seed=5, appends=3)))
    head = (await side.reader.head()).position
    assert (exported(side, path, head + 1)).items() >= empty.items()
    assert (exported(side, path, 3, 2)).items() >= empty.items()


@pytest.mark.parametrize(("first", "last"), [(1, 10_000), (10_000, None), (3, 1)])
async def test_what_is_no_range_of_the_log_is_refused(
    side: ReadSide, tmp_path: Path, first: int, last: int | None
) -> None:
    await side.write(list(history(seed=5, appends=3)))
    with pytest.raises(NoSuchRange):
        export(side.log_url, tmp_path / "log.ndjson", first, last, silent)
    assert names_in(tmp_path) == []


async def test_a_failure_leaves_nothing(
    side: ReadSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "BATCH_EVENTS", 4)
    await side.write(list(history(seed=5, appends=10)))

    def stopped(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(side.log_url, tmp_path / "log.ndjson", 1, None, stopped)
    assert names_in(tmp_path) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from runtime import export

    export.BATCH_EVENTS = 4

    def killed(done, total):
        if done:
            os.kill(os.getpid(), signal.SIGKILL)

    export.export(sys.argv[1], Path(sys.argv[2]), 1, None, killed)
"""


async def test_killed_in_the_middle_it_leaves_no_file_of_the_final_name(
    side: ReadSide, tmp_path: Path
) -> None:
    await side.write(list(history(seed=5, appends=10)))
    path = tmp_path / "log.ndjson"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), side.log_url, str(path)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert not path.exists()
    assert not manifest_of(path).exists()
    assert names_in(tmp_path), "it was in the middle"
    exported(side, path)


async def test_a_long_log_takes_no_more_memory_than_a_few_batches(
    side: ReadSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.write(list(history(seed=5, appends=3)))
    with History.open(side.log_url) as kept:
        (event,) = kept.read(0, 1)
    end = 40 * BATCH_EVENTS

    def read(_self: History, after: int, limit: int) -> Sequence[Kept]:
        return [replace(event, id=after + number) for number in range(1, limit + 1)]

    monkeypatch.setattr(History, "read", read)
    monkeypatch.setattr(History, "head", lambda _self: end)
    tracemalloc.start()
    try:
        manifest = exported(side, tmp_path / "log.ndjson")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert manifest["events"] == end
    assert peak < manifest["bytes"] / 5


async def test_the_command_says_what_it_wrote(
    side: ReadSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await side.write(list(history(seed=5, appends=3)))
    settings = cast("Settings", SimpleNamespace(database_url=side.log_url))
    path = tmp_path / "log.ndjson"
    assert await asyncio.to_thread(run, settings, path, 1, None) == 0
    said = capsys.readouterr()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert said.out.startswith(f"{(await side.reader.head()).position} events, ")
    assert said.out.endswith(f"sha256 {digest}\n")
    assert "exporting" in said.err

    with pytest.raises(Unwritable, match="names no file"):
        await asyncio.to_thread(run, settings, Path(), 1, None)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "export", interrupted)
    assert await asyncio.to_thread(run, settings, path, 1, None) == INTERRUPTED
    assert capsys.readouterr().out == ""


async def test_a_place_where_nothing_can_be_written_is_named(side: ReadSide, tmp_path: Path) -> None:
    with pytest.raises(Unwritable, match=r"nowhere/log.ndjson cannot be written: No such file"):
        export(side.log_url, tmp_path / "nowhere" / "log.ndjson", 1, None, silent)


async def test_the_readme_says_how_to_check_the_digest(side: ReadSide, tmp_path: Path) -> None:
    [command] = re.findall(r"^python3 .*sha256sum --check$", (ROOT / "README.md").read_text(), re.MULTILINE)
    await side.write(list(history(seed=5, appends=3)))
    exported(side, tmp_path / "shop.ndjson")
    assert checked(command, tmp_path)
    (tmp_path / "shop.ndjson").write_bytes(b"")
    assert not checked(command, tmp_path)


def checked(command: str, directory: Path) -> bool:
    return subprocess.run(["bash", "-c", command], cwd=directory, check=False).returncode == 0
