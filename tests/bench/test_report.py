"""What is told of a run: the figures that were promised, each beside its baselines."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.figures import AIMS, BASELINES, BEST_OF, LIMITS, figures_of
from bench.loops import Measured
from bench.page import PAGE, Figure, write_json
from bench.reads import Reads
from bench.report import BEGIN, END, plot, table, write_docs

AROUND = {
    "date": "2026-03-01T12:00:00+00:00",
    "machine": {"cpu": "a & b", "cores": 2, "memory_gib": 24.0, "system": "Linux"},
    "versions": {"python": "3.11"},
    "fdatasync_ms": 0.2,
    "runs": 10,
    "disturbed_runs": 1,
    "stolen": 0.012,
}


def figures() -> list[Figure]:
    """Ours twice as fast as anything else, and a tenth faster each time."""
    plain = ("append_1", "append_64", *BASELINES)
    appends = {name: Measured(2_000.0, 1.234, 9.876) for name in plain if not name.startswith("append_at")}
    appends |= {"umadb": Measured(1_000.0), "umadb_unconditional": Measured(1_600.0)}
    for tried in BEST_OF.values():
        appends |= {name: Measured(1_000.0 - number) for number, name in enumerate(tried)}
    grown = {f"append_at_100k beside {size}": Measured(1_000.0) for size in ("1m", "10m")}
    grown |= {f"append_at_{name}": Measured(700.0) for name in ("1m", "10m", "10m_random_digests")}
    reads = Reads(5e4, 7e4, 1e6, 8.5, 0.7, 1_021.3, 141.8)
    return figures_of(appends, grown, reads, 123.45)


def test_every_promised_figure_is_told_beside_its_baseline() -> None:
    told = {(one.figure, one.baseline) for one in figures()}
    assert set(AIMS) <= told
    assert {(name, None) for name in LIMITS} <= told
    assert {("append_64", baseline) for baseline in BASELINES["append_64"]} <= told
    assert ("append_64_p99_ms", None) in told
    assert len(told) == len(figures())


def test_a_ratio_is_that_of_its_values_and_the_best_attempt_counts() -> None:
    [against] = [
        one for one in figures() if (one.figure, one.baseline) == ("append_64", "pgbench_transaction")
    ]
    assert against == Figure("append_64", 2_000, "events/s", "pgbench_transaction", 1_000, 2.0)
    [grown] = [one for one in figures() if one.figure == "append_at_10m"]
    assert (grown.baseline, grown.ratio) == ("append_at_100k", 0.7)


def test_the_json_is_a_list_of_figures_with_nulls_where_there_is_no_baseline(tmp_path: Path) -> None:
    write_json(tmp_path, "log", figures(), AROUND)
    listed = json.loads((tmp_path / "log.json").read_text())
    assert all(
        list(one) == ["figure", "value", "unit", "baseline", "baseline_value", "ratio"] for one in listed
    )
    [memory] = [one for one in listed if one["figure"] == "memory_mb"]
    assert (memory["value"], memory["baseline"], memory["ratio"]) == (123.5, None, None)
    assert json.loads((tmp_path / "log.machine.json").read_text())["machine"]["cores"] == 2


def test_the_table_says_what_was_aimed_at_and_what_was_missed() -> None:
    rows = {
        line.split(" |")[0]: line for line in table(figures(), AROUND).splitlines() if "append_at" in line
    }
    assert rows["| `append_at_10m`"] == (
        "| `append_at_10m` | 700 events/s | `append_at_100k` | 1,000 | 0.7 | ≥ 0.8 (missed) |"
    )
    assert "≤ 10 ms |" in table(figures(), AROUND)


def test_the_page_keeps_its_words_and_gets_the_table(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    before, after = page.read_text().split(BEGIN)[0], page.read_text().split(END)[1]
    for _ in range(2):
        write_docs(tmp_path, figures(), AROUND)
        assert page.read_text() == f"{before}{BEGIN}\n{table(figures(), AROUND)}{END}{after}"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="marks"):
        write_docs(tmp_path, figures(), AROUND)


def test_the_plot_has_a_bar_for_ours_and_for_each_other() -> None:
    svg = ET.fromstring(plot(figures()))  # noqa: S314 - our own
    labels = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"append_64", "pgbench_event", "eventsourcing", "umadb"} <= set(labels)
    assert "append_100_events" not in labels
