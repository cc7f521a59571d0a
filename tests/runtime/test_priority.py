"""How urgent a session is: a change that comes too soon after another's is made later, or not at all."""

from pathlib import Path

import pytest

from runtime import priority
from runtime.priority import LEAST, TRIES, set_session_niceness


@pytest.mark.parametrize(("pid", "path"), [(None, "/proc/self/autogroup"), (7, "/proc/7/autogroup")])
@pytest.mark.parametrize(("refuses", "calls"), [(0, 1), (1, 2), (TRIES - 1, TRIES), (TRIES + 1, TRIES)])
def test_it_tries_again_while_others_change_theirs_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, pid: int | None, path: str, refuses: int, calls: int
) -> None:
    called: list[tuple[str, str]] = []

    def write_text(session: Path, niceness: str) -> None:
        called.append((str(session), niceness))
        if len(called) <= refuses:
            raise BlockingIOError

    monkeypatch.setattr(priority, "PAUSE_S", 0.0)
    monkeypatch.setattr(Path, "write_text", write_text)
    set_session_niceness(LEAST, pid)
    assert called == [(path, str(LEAST))] * calls


def test_where_there_is_no_such_session_nothing_happens() -> None:
    set_session_niceness(LEAST, 2**22 + 1)  # above the highest process id
