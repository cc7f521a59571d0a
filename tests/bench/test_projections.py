"""The way to the read models: what is told of it, and that every part of it can be measured."""

from pathlib import Path

import pytest

from bench.page import PAGE, Figure, write_between, write_json
from bench.progress import Progress
from bench.projections import NAME, PARTS, measured, merged
from bench.projections_plan import EVENTS_A_STREAM, FULL, QUICK, Plan
from bench.projections_report import AIMS, BEGIN, END, LIMITS, told
from bench.samples import Samples
from bench.scratch import scratch_in
from bench.transport import figures_of
from runtime.projector import BULK_POSITIONS

AROUND = {
    "date": "2026-03-01T12:00:00+00:00",
    "machine": {"cpu": "a", "cores": 2, "memory_gib": 24.0, "system": "Linux"},
    "versions": {"python": "3.11"},
    "fdatasync_ms": 0.2,
    "runs": 1,
    "disturbed_runs": 0,
    "stolen": 0.0,
    "parts": {"transport": "2026-03-01T12:00:00+00:00"},
    "cores": {"visible_500": {"relay": 0.21, "write-api": 0.93, "up": 0.01}},
}


def test_the_table_says_what_was_aimed_at_and_what_was_missed() -> None:
    figures = [
        Figure("projector_kafka", 31_000, "events/s", "raw_consume", 100_000, 0.31),
        Figure("rebuild", 90_000, "events/s", "copy", 1_000_000, 0.09),
        Figure("relay_memory_mb", 201.5, "MB"),
        Figure("relay_kafka", 30_000, "messages/s", "raw_produce", 40_000, 0.75),
    ]
    lines = told(figures, AROUND).splitlines()
    assert "| `projector_kafka` | 31,000 events/s | `raw_consume` | 100,000 | 0.31 | ≥ 0.3 |" in lines
    assert "| `rebuild` | 90,000 events/s | `copy` | 1,000,000 | 0.09 | ≥ 0.12 (missed) |" in lines
    assert "| `relay_memory_mb` | 201.5 MB |  |  |  | ≤ 200 MB (missed) |" in lines
    assert "| `relay_kafka` | 30,000 messages/s | `raw_produce` | 40,000 | 0.75 |  |" in lines


def test_the_page_says_which_processes_used_the_cores() -> None:
    assert "- `visible_500`: write-api 0.93, relay 0.21." in told([], AROUND).splitlines()


def test_the_page_has_a_place_for_the_table(tmp_path: Path) -> None:
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text())
    write_between(page, BEGIN, "what was found\n", END)
    assert f"{BEGIN}\nwhat was found\n{END}" in page.read_text()


def test_a_figure_is_the_median_of_its_rounds_beside_the_better_of_the_others_settings() -> None:
    samples = Samples(Progress())
    for broker in ("kafka", "embedded"):
        for name, values in {
            f"relay_{broker}": (10.0, 30.0, 20.0),
            f"raw_produce ({broker}, ours)": (70.0, 40.0, 30.0),
            f"raw_produce ({broker}, 20 ms, 128 KiB)": (50.0, 90.0, 10.0),
            f"raw_consume ({broker}, ours)": (200.0,),
            f"raw_consume ({broker}, 2,000 at once)": (100.0,),
            f"projector_{broker}": (80.0,),
            f"projector_{broker}_all": (20.0,),
        }.items():
            for value in values:
                samples.add(name, value, "a second")
    found = {figure.figure: figure for figure in figures_of(samples.medians())}
    assert found["relay_kafka"] == Figure("relay_kafka", 20, "messages/s", "raw_produce", 50, 0.4)
    assert found["projector_embedded"].ratio == 0.4
    assert found["projector_kafka_all"].ratio == 0.1


def test_a_part_that_is_measured_alone_leaves_the_others_figures_as_they_were(tmp_path: Path) -> None:
    before = [
        Figure("copy", 5, "rows/s"),
        Figure("relay_kafka", 1, "messages/s"),
        Figure("a_memory_mb", 90, "MB"),
    ]
    write_json(tmp_path, NAME, before, {**AROUND, "parts": {"log": "then", "transport": "then"}})
    now = [Figure("relay_kafka", 2, "messages/s"), Figure("a_memory_mb", 80, "MB")]
    figures, around = merged(tmp_path, now, {**AROUND, "parts": {"transport": "now"}})
    assert figures == [before[0], now[0], before[2]]
    assert around["parts"] == {"log": "then", "transport": "now"}


def test_a_whole_run_keeps_nothing_of_what_was_found_before(tmp_path: Path) -> None:
    write_json(tmp_path, NAME, [Figure("a_memory_mb", 90, "MB")], AROUND)
    now = [Figure("a_memory_mb", 80, "MB")]
    assert merged(tmp_path, now, {**AROUND, "parts": dict.fromkeys(PARTS, "now")})[0] == now


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_a_backlog_is_made_of_whole_streams_and_is_long_enough_to_be_filled_in_bulk(plan: Plan) -> None:
    assert plan.events % EVENTS_A_STREAM == plan.runner_events % EVENTS_A_STREAM == 0
    assert plan.events > BULK_POSITIONS


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("apache_kafka")
def test_every_part_can_be_measured() -> None:
    with scratch_in(Path("/tmp")) as directory:  # noqa: S108 - a directory of its own in it
        figures, around = measured(directory, QUICK, tuple(PARTS), Progress())
    found = {figure.figure: figure.value for figure in figures}
    assert {*AIMS, *LIMITS} <= found.keys()
    assert all(value > 0 for name, value in found.items() if "_refused_" not in name)
    assert around["parts"].keys() == PARTS.keys()
