"""What the tests start ends with them, also when they are told to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tree import ROOT

WAITING = """
import asyncio
import signal
from pathlib import Path

import pytest


def test_that_handles_signals_itself():
    async def work():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)

    asyncio.run(work())


def test_that_waits(postgres, broker, apache_kafka):
    asyncio.run(apache_kafka.begin())
    Path("started").touch()
    asyncio.run(asyncio.sleep(60))
"""
START_SECONDS = 60.0
STOP_SECONDS = 15.0


@pytest.mark.heavy
def test_tests_that_are_told_to_stop_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "test_waiting.py").write_text(WAITING)
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "test_waiting.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (tmp_path / "started").exists():
            assert run.poll() is None, run.stdout and run.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = psutil.Process(run.pid).children(recursive=True)
        names = {process.name() for process in started}
        assert {"postgres", "tansu", "java"} <= names
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGHUP)  # `make` passes on what its group was told already
        assert run.wait(STOP_SECONDS) == pytest.ExitCode.INTERRUPTED
        assert psutil.wait_procs(started, timeout=0)[1] == []
    finally:
        for process in psutil.wait_procs(started, timeout=0)[1]:
            process.kill()
        run.kill()
        run.communicate()
