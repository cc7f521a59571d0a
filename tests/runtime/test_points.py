"""Named points: a process stops there, or dies there, and nowhere else."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PASSING = """
import asyncio
from runtime.points import reached

async def main():
    for point in ("here", "there", "here"):
        await reached(point)
        print(point, flush=True)

asyncio.run(main())
"""
END_S = 20.0


def passing(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PASSING],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_without_a_word_nothing_happens() -> None:
    said, _ = passing().communicate(timeout=END_S)
    assert said.split() == ["here", "there", "here"]


@pytest.mark.parametrize(
    ("where", "said"), [("here", []), ("here:2", ["here", "there"]), ("there", ["here"])]
)
def test_a_process_dies_where_it_is_told_to(where: str, said: list[str]) -> None:
    process = passing(TALLYBOOK_CRASH_AT=where)
    output, _ = process.communicate(timeout=END_S)
    assert output.split() == said
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["here:3", "elsewhere"])
def test_a_process_lives_that_never_gets_there(where: str) -> None:
    process = passing(TALLYBOOK_CRASH_AT=where)
    process.communicate(timeout=END_S)
    assert process.returncode == 0


@pytest.mark.anyio
async def test_a_process_waits_where_it_is_told_to(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = passing(TALLYBOOK_PAUSE_AT=f"there={gate}")
    assert process.stdout is not None
    async with asyncio.timeout(END_S):
        while not gate.with_name("gate.reached").exists():
            await asyncio.sleep(0.01)
    assert process.stdout.readline() == "here\n"
    await asyncio.sleep(0.1)
    assert process.poll() is None
    gate.touch()
    said, _ = process.communicate(timeout=END_S)
    assert said.split() == ["there", "here"]
