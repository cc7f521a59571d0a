"""The spare: becomes what it is told to, or ends with who could have told it."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from runtime.embedded.child import ChildSpec
from runtime.priority import LEAST, USUAL
from runtime.spare import OURS, Spare

END_S = 20.0


@pytest.fixture
def spare() -> Iterator[Spare]:
    spare = Spare()
    yield spare
    spare.end()


def relay(directory: Path) -> ChildSpec:
    return ChildSpec(
        name="relay",
        command=(*OURS, "relay"),
        log=directory / "relay.log",
        environment={"TALLYBOOK_HOME": str(directory)},
    )


def test_it_becomes_one_of_ours_with_its_environment_and_its_log(spare: Spare, tmp_path: Path) -> None:
    process = spare.become(relay(tmp_path))
    assert process is not None
    assert process.pid == spare.pid
    assert process.wait(END_S) == 1
    assert f"{tmp_path}/settings.json" in (tmp_path / "relay.log").read_text()
    assert spare.become(relay(tmp_path)) is None


def test_one_that_is_told_at_once_is_urgent_from_then_on(spare: Spare, tmp_path: Path) -> None:
    group = Path(f"/proc/{spare.pid}/autogroup")
    if not group.exists():
        pytest.skip("the kernel does not share the processor among sessions")
    assert group.read_text().endswith(f"nice {LEAST}\n")
    process = spare.become(relay(tmp_path))
    assert process is not None
    told = set()
    while process.poll() is None:
        with suppress(OSError):  # it may have ended in between
            told.add(group.read_text().split()[-1])
        time.sleep(0.01)
    assert told == {str(USUAL)}


def test_what_is_not_ours_it_does_not_become(spare: Spare, tmp_path: Path) -> None:
    foreign = ChildSpec(name="broker", command=(sys.executable, "-c", ""), log=tmp_path / "broker.log")
    with pytest.raises(ValueError, match="broker is none of ours"):
        spare.become(foreign)
    assert spare.lives


def test_one_that_was_killed_is_nobody(spare: Spare, tmp_path: Path) -> None:
    os.kill(spare.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(spare.pid)], END_S)
    assert spare.become(relay(tmp_path)) is None


def test_without_a_supervisor_it_ends(spare: Spare) -> None:
    spare._pipe.close()
    assert spare._process.wait(END_S) == 0
