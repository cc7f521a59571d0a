"""The fork server: what it forks is as if started anew, and outlives it; nobody waits for a stuck one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runtime import fork_server
from runtime.embedded.child import ChildSpec
from runtime.fork_server import LOST, OURS, Forked, ForkServer
from runtime.process import SUPERVISOR_VARIABLE
from runtime.secrets import ROLES
from runtime.settings import Settings, environment_of

END_S = 20.0
STDERR = 2


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_S
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def running() -> Iterator[ForkServer]:
    server = ForkServer()
    until(lambda: server.loaded)
    yield server
    server.end()


shared = pytest.fixture(scope="module")(running)
server = pytest.fixture(running)
"""For a test after which it is of no use."""


@pytest.fixture
def lasting(tmp_path: Path, free_port: Callable[[], int]) -> ChildSpec:
    """A relay that finds no database, and waits for it."""
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    settings = Settings(
        home=tmp_path,
        database_url=nowhere,
        read_database_url=nowhere,
        kafka_bootstrap_servers="127.0.0.1:1",
        digest_key=bytes(32),
        tokens={role: role for role in ROLES},
    )
    return ChildSpec(
        name="relay",
        command=(*OURS, "relay"),
        log=tmp_path / "relay.log",
        environment={**environment_of(settings), SUPERVISOR_VARIABLE: str(os.getpid())},
    )


Start = Callable[[ForkServer, ChildSpec], Forked]


@pytest.fixture
def start() -> Iterator[Start]:
    """Of one that is to run for a while."""
    every: list[Forked] = []

    def start(server: ForkServer, spec: ChildSpec) -> Forked:
        forked = server.fork(spec)
        assert forked is not None
        every.append(forked)
        until(lambda: psutil.Process(forked.pid).cmdline()[:1] == ["tallybook relay"])
        return forked

    yield start
    for forked in every:
        forked.kill()
        code_of(forked)


def failing(directory: Path) -> ChildSpec:
    return ChildSpec(
        name="relay",
        command=(*OURS, "relay"),
        log=directory / "relay.log",
        environment={"TALLYBOOK_HOME": str(directory)},
    )


def code_of(forked: Forked) -> int:
    until(lambda: forked.poll() is not None)
    code = forked.poll()
    assert code is not None
    return code


def test_what_it_forks_has_its_environment_and_its_log_and_tells_how_it_ended(
    shared: ForkServer, tmp_path: Path
) -> None:
    for _ in range(2):
        forked = shared.fork(failing(tmp_path))
        assert forked is not None
        assert code_of(forked) == 1
        assert not psutil.pid_exists(forked.pid)
    assert (tmp_path / "relay.log").read_text().count(f"{tmp_path}/settings.json") == 2
    assert shared.lives


def test_what_it_forks_holds_nothing_of_the_server(
    shared: ForkServer, start: Start, lasting: ChildSpec
) -> None:
    start(shared, lasting)
    forked = start(shared, lasting)
    assert psutil.Process(forked.pid).ppid() == shared.pid
    assert os.getsid(forked.pid) == forked.pid
    until(lambda: links_of(forked.pid)[2] == str(lasting.log))  # it is named a moment before that
    links = links_of(forked.pid)
    assert links[0] == os.devnull
    assert links[1] == links[2] == str(lasting.log)
    common = set(links.values()) & set(links_of(shared.pid).values())
    assert not {link for link in common if link.startswith("socket:")}


def links_of(pid: int) -> dict[int, str]:
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def test_it_has_nothing_that_must_not_be_forked(shared: ForkServer) -> None:
    process = psutil.Process(shared.pid)
    assert process.num_threads() == 1
    assert [opened for opened in process.open_files() if opened.fd > STDERR] == []
    assert process.net_connections("inet") == []


FORKED_IDS = """
import os, random, sys
from runtime.ids import Uuid7s
ids = Uuid7s()
ids.new(), random.random()
for _ in range(2):
    if not os.fork():
        print(ids.new()[14:], random.random())
        sys.exit()
    os.wait()
"""


def test_what_is_random_differs_among_those_that_are_forked() -> None:
    ran = subprocess.run(
        (sys.executable, "-c", FORKED_IDS), capture_output=True, text=True, check=True, timeout=END_S
    )
    drawn = ran.stdout.split()
    assert len(drawn) == len(set(drawn)) == 4


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_it_forked_is_told_to_end_and_says_how_it_did(
    shared: ForkServer, start: Start, lasting: ChildSpec, sign: signal.Signals, code: int
) -> None:
    forked = start(shared, lasting)
    until(lambda: lasting.log.stat().st_size > 0)  # it waits for its database
    assert forked.poll() is None
    forked.send_signal(sign)
    assert code_of(forked) == code
    forked.kill()  # it is long gone, and nobody else is struck


def test_what_it_forked_outlives_it_and_is_still_watched(
    server: ForkServer, start: Start, lasting: ChildSpec
) -> None:
    both = start(server, lasting), start(server, lasting)
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.lives)
    assert server.fork(lasting) is None
    assert [forked.poll() for forked in both] == [None, None]
    for forked in both:
        forked.kill()
        assert code_of(forked) == LOST


def test_one_that_does_not_answer_is_ended_and_nothing_comes_of_what_it_was_told(
    server: ForkServer, lasting: ChildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "FORK_SECONDS", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    assert server.fork(lasting) is None
    assert not server.lives
    assert not lasting.log.exists()


def test_who_gives_up_before_it_says_go_leaves_nobody_behind(
    server: ForkServer, lasting: ChildSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked: list[psutil.Process] = []

    def unsaid(_: Forked, pid: int, __: object) -> None:
        forked.append(psutil.Process(pid))
        raise OSError

    monkeypatch.setattr(Forked, "__init__", unsaid)
    assert server.fork(lasting) is None
    assert psutil.wait_procs(forked, END_S)[1] == []
    assert not lasting.log.exists()


def test_before_it_has_loaded_it_forks_nothing(tmp_path: Path) -> None:
    server = ForkServer()
    try:
        assert server.fork(failing(tmp_path)) is None
        assert server.lives
    finally:
        server.end()


def test_what_is_not_ours_it_does_not_fork(shared: ForkServer, tmp_path: Path) -> None:
    foreign = ChildSpec(name="broker", command=(sys.executable, "-c", ""), log=tmp_path / "broker.log")
    with pytest.raises(ValueError, match="broker is none of ours"):
        shared.fork(foreign)
    assert shared.lives


def test_without_a_supervisor_it_ends_and_what_it_forked_by_itself(
    server: ForkServer, start: Start, lasting: ChildSpec
) -> None:
    forked = start(server, lasting)
    server._channel.close()
    assert server._process.wait(END_S) == 0
    assert forked.poll() is None  # its supervisor is this process
