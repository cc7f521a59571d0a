"""One process: its log, its port, its end."""

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.embedded.child import Child, ChildSpec, PortTaken, bound_log, require_free


def test_a_long_log_is_moved_aside_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.embedded.child.LOG_BYTES", 10)
    path = tmp_path / "relay.log"
    with path.open("a") as log:
        for line, kept, aside in (
            ("short\n", "short\n", None),
            ("long enough\n", "", "short\nlong enough\n"),
            ("after\n", "after\n", "short\nlong enough\n"),
        ):
            log.write(line)
            log.flush()
            bound_log(path)
            assert path.read_text() == kept
            assert (tmp_path / "relay.log.1").exists() == (aside is not None)
            assert aside is None or (tmp_path / "relay.log.1").read_text() == aside


def test_nobody_else_may_read_its_log(tmp_path: Path) -> None:
    child = Child(ChildSpec(name="one", command=("/bin/true",), log=tmp_path / "logs" / "one.log"))
    asyncio.run(child.start())
    asyncio.run(child.stop())
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700


def test_a_process_is_told_its_own_variables_on_top_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "ours")
    monkeypatch.setenv("BOTH", "ours")
    command = ("/bin/sh", "-c", "echo $OURS $BOTH $OWN; cat")
    environment = {"BOTH": "own", "OWN": "own"}
    child = Child(ChildSpec(name="one", command=command, log=tmp_path / "log", environment=environment))

    async def scenario() -> None:
        await child.start()
        while child.exit_code is None:
            await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert child.spec.log.read_text() == "ours own own\n"
    assert child.exit_code == 0  # its standard input is empty


def test_a_port_is_asked_for_by_name(free_port: Callable[[], int]) -> None:
    port = free_port()
    require_free("relay", "127.0.0.1", port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(PortTaken, match=f"relay wants 127.0.0.1:{port}"):
            require_free("relay", "127.0.0.1", port)
