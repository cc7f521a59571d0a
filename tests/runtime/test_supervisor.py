"""The supervisor against real processes: a house in a process of its own, ended in every way."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from runtime.embedded.child import ChildFailed, ChildSpec
from runtime.fork_server import OURS
from runtime.home import Home
from runtime.supervisor import HomeLocked, ProcessRecord, Supervisor, locked, records_of

SCRIPT = Path(__file__).with_name("stand_in_house.py")
START_SECONDS = 30.0
STOP_SECONDS = 10.0  # what a house has to stop in


@pytest.fixture
def home() -> Iterator[Home]:
    # Root's PostgreSQL runs as nobody, who may not enter pytest's own temporary directories.
    with tempfile.TemporaryDirectory(prefix="tallybook-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        home = Home(Path(path))
        yield home
        for record in records_of(home):
            if process := record.find():
                process.kill()


@pytest.fixture
def base(free_port: Callable[[], int]) -> int:
    while True:
        port = free_port()
        with socket.socket() as next_one, suppress(OSError):
            next_one.bind(("127.0.0.1", port + 1))
            return port


@contextmanager
def house(home: Home, base: int) -> Iterator[subprocess.Popen[str]]:
    """A running house; killed at the end if it still runs."""
    process = start(home, base)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line == "ready\n", process.communicate(timeout=START_SECONDS)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=STOP_SECONDS)


def start(home: Home, base: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(home.path), str(base)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def owner(base: int) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(f"postgresql://postgres:owner@127.0.0.1:{base}/postgres", autocommit=True)


def running(records: tuple[ProcessRecord, ...]) -> set[str]:
    return {record.name for record in records if record.find()}


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_everything_stops_in_time_even_a_process_that_ignores_the_signal(
    home: Home, base: int, told: signal.Signals
) -> None:
    with house(home, base) as process:
        records = records_of(home)
        assert running(records) == {"postgres", "broker", "polite", "stubborn"}
        wait_until(lambda: home.log("stubborn").read_text() == "deaf\n", 5)
        began = time.monotonic()
        process.send_signal(told)
        _, told_us = process.communicate(timeout=STOP_SECONDS)
        assert time.monotonic() - began < STOP_SECONDS
    assert process.returncode == 0
    assert "stubborn outlived SIGTERM and is killed" in told_us
    assert running(records) == set()
    assert "database system is shut down" in home.log("postgres").read_text()
    assert records_of(home) == ()


def test_after_a_killed_supervisor_the_next_one_ends_what_is_left_and_finds_its_data(
    home: Home, base: int
) -> None:
    with house(home, base) as process:
        with owner(base) as connection:
            connection.execute("create table kept as select 42 as answer")
        left = records_of(home)
        process.kill()
        process.wait()
        assert {"postgres", "broker", "stubborn"} <= running(left)
        wait_until(lambda: "polite" not in running(left), 3)  # ours end by themselves
    with house(home, base):
        assert running(left) == set()
        with owner(base) as connection:
            assert connection.execute("select answer from kept").fetchall() == [(42,)]


def test_a_killed_postgresql_comes_back_with_its_data(home: Home, base: int) -> None:
    with house(home, base):
        with owner(base) as connection:
            connection.execute("create table kept as select 42 as answer")
        (record,) = [record for record in records_of(home) if record.name == "postgres"]
        os.kill(record.pid, signal.SIGKILL)

        def answers() -> bool:
            try:
                with owner(base) as connection:
                    return connection.execute("select answer from kept").fetchall() == [(42,)]
            except psycopg.OperationalError:
                return False

        wait_until(lambda: record.find() is None and answers(), START_SECONDS)


def test_a_second_house_in_the_same_home_says_so_and_stops(home: Home, base: int) -> None:
    with house(home, base) as first:
        second = start(home, base)
        _, told_us = second.communicate(timeout=START_SECONDS)
        assert second.returncode == 1
        assert f"{home.path} is in use: process {first.pid} is already up on it" in told_us
        assert running(records_of(home)) == {"postgres", "broker", "polite", "stubborn"}


def test_a_taken_port_is_named_and_nothing_is_left_running(home: Home, base: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", base + 1))
        other.listen()
        process = start(home, base)
        _, told_us = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 1
    assert f"broker wants 127.0.0.1:{base + 1}, and cannot have it: Address already in use" in told_us
    assert "Traceback" not in told_us
    assert records_of(home) == ()
    assert not (home.postgres / "data").exists()


def test_a_lock_is_free_again_once_its_holder_is_done(tmp_path: Path) -> None:
    with locked(Home(tmp_path)), pytest.raises(HomeLocked, match=str(os.getpid())), locked(Home(tmp_path)):
        pass
    with locked(Home(tmp_path)):
        pass


def test_a_process_that_keeps_dying_is_restarted_later_and_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert delays_of_a_mayfly(tmp_path, caplog)[:3] == ["0.1", "0.2", "0.4"]
    assert (tmp_path / "mayfly.log").read_text() == "born\n" * 4


def test_a_process_that_was_healthy_is_restarted_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.supervisor.HEALTHY_SECONDS", 0.1)
    assert delays_of_a_mayfly(tmp_path, caplog)[:3] == ["0.1", "0.1", "0.1"]


def delays_of_a_mayfly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    command = ("/bin/sh", "-c", "echo born; sleep 0.2; exit 7")
    with caplog.at_level(logging.WARNING):
        watch(
            Home(tmp_path),
            ChildSpec(name="mayfly", command=command, log=tmp_path / "mayfly.log"),
            seconds=2.0,
        )
    return re.findall(r"mayfly ended with code 7 and starts again in (\S+) s; see ", caplog.text)


def test_a_process_that_outgrows_its_memory_is_restarted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.supervisor.INSPECT_SECONDS", 0.3)
    command = (
        sys.executable,
        "-c",
        "import time; print('up', flush=True); held = b'x' * 50_000_000; time.sleep(60)",
    )
    spec = ChildSpec(name="glutton", command=command, log=tmp_path / "glutton.log", memory_limit=40_000_000)
    with caplog.at_level(logging.WARNING):
        watch(Home(tmp_path), spec, seconds=1.5)
    assert "glutton has outgrown its memory" in caplog.text
    assert spec.log.read_text().count("up\n") >= 2


def watch(home: Home, spec: ChildSpec, *, seconds: float) -> None:
    async def scenario() -> None:
        supervisor = Supervisor(home)
        try:
            await supervisor.start((spec,))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await supervisor.watch()
        finally:
            await supervisor.stop()

    asyncio.run(scenario())


def test_a_process_that_ends_while_starting_is_shown_with_its_last_words(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    spec = ChildSpec(
        name="broken", command=("/bin/sh", "-c", "echo no flour; exit 3"), log=tmp_path / "log", ready=never
    )

    async def scenario() -> None:
        await Supervisor(Home(tmp_path)).start((spec,))

    with pytest.raises(ChildFailed, match=r"broken ended with code 3; see .*log:\nno flour"):
        asyncio.run(scenario())


def test_a_process_that_is_gone_before_it_is_recorded_is_none_of_the_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was forked is waited for by the fork server, so its id may be nobody's at any moment."""
    with subprocess.Popen(["/bin/true"]) as gone:
        pass

    class Vanished:
        pid = gone.pid
        poll = send_signal = kill = lambda *_: None

    class Server:
        lives = loaded = True
        fork = end = lambda *_: Vanished()

    monkeypatch.setattr("runtime.supervisor.ForkServer", Server)

    async def scenario() -> None:
        supervisor = Supervisor(Home(tmp_path))
        supervisor.start_fork_server()
        await supervisor.start((ChildSpec(name="relay", command=OURS, log=tmp_path / "relay.log"),))
        assert records_of(Home(tmp_path)) == ()

    asyncio.run(scenario())


def test_a_process_that_goes_while_it_is_looked_for_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = psutil.Process()
    recorded = ProcessRecord(
        name="relay",
        pid=own.pid,
        started_at=own.create_time(),
        port=None,
        stop_signal=signal.SIGTERM,
        stop_seconds=1,
    )
    assert recorded.find() == own

    def status(process: psutil.Process) -> str:
        raise psutil.NoSuchProcess(process.pid)

    monkeypatch.setattr(psutil.Process, "status", status)
    assert recorded.find() is None


def test_a_recorded_id_that_is_another_process_by_now_is_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        recorded = ProcessRecord(
            name="relay",
            pid=stranger.pid,
            started_at=psutil.Process(stranger.pid).create_time() - 3600,
            port=None,
            stop_signal=signal.SIGTERM,
            stop_seconds=1,
        )
        home.processes.write_text(f"[{recorded.model_dump_json()}]")
        asyncio.run(Supervisor(home).end_leftovers())
        assert stranger.poll() is None
        stranger.kill()
