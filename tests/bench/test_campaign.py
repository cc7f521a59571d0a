"""The campaign's own reckoning: which faults strike, what is counted as lost, when a house has recovered."""

import ast
import os
import socket
import subprocess
import sys
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import psutil
import pytest
from tree import modules

from bench.campaign import sockets
from bench.campaign.examine import Findings
from bench.campaign.house import figure_of, house_in
from bench.campaign.ledger import Account, Effect, Fate, Place, Told, account
from bench.campaign.recovery import LIMIT_S, Look, Silence, recovered_at, summary
from bench.campaign.report import POINTS, Campaign, broken, figures, lines
from bench.campaign.schedule import LONGEST_STOP_S, SHORTEST_STOP_S, every_fault, strikes
from bench.campaign.topics import FOREIGN, forged
from bench.scratch import scratch_in
from bench.worker import ROOT
from runtime.settings import variable_of
from runtime.supervisor import records_of

ORDER = Effect("order.placed.v1", "a customer")
LOG = {7: "event 7", 8: "event 8"}
NOTHING_WRONG = Findings(Account(9, 1, 0, 0, 0, 0), 100, 0, 0, 50, 0, 7, 0, 0)


def told(fate: Fate, *places: Place) -> Told:
    return Told(ORDER, fate, places)


def campaign(
    findings: Findings = NOTHING_WRONG,
    *,
    seconds: float = 0.5,
    points: Counter[tuple[str, str]] | None = None,
) -> Campaign:
    return Campaign(
        minutes=10,
        amiss_in_calm=0.0,
        recoveries={fault.kind: [seconds] for fault in every_fault()},
        points=Counter(POINTS) if points is None else points,
        findings=findings,
        counted={"gap_fills": 3},
        peaks_mb={"relay": 90.0},
        silences_s={"write": 1.5},
        sent=100,
        lost=5,
        missed=0,
    )


def test_a_seed_gives_the_same_faults_and_another_seed_others() -> None:
    assert list(islice(strikes(1, 10), 99)) == list(islice(strikes(1, 10), 99))
    assert list(islice(strikes(1, 10), 99)) != list(islice(strikes(2, 10), 99))


def test_each_kind_strikes_once_before_any_strikes_twice_and_later_two_strike_at_once() -> None:
    kinds = every_fault()
    drawn = list(islice(strikes(3, 10), len(kinds) + 200))
    first = [fault.kind for fault in chain(*drawn[: len(kinds)])]
    assert sorted(first) == sorted(fault.kind for fault in kinds)
    pairs = [strike for strike in drawn if len(strike) > 1]
    assert pairs
    for one, other in pairs:
        assert one.victim != other.victim
        assert not {one.deed, other.deed} & {"crash", "poison", "rebuild"}


@pytest.mark.parametrize("minutes", [1, 10, 1_000])
def test_a_stop_lasts_a_tenth_of_the_campaign_at_most_within_its_bounds(minutes: float) -> None:
    stops = [one.seconds for one in chain(*islice(strikes(4, minutes), 400)) if one.deed == "stop"]
    assert min(stops) >= SHORTEST_STOP_S
    assert max(stops) <= min(LONGEST_STOP_S, max(SHORTEST_STOP_S, 6 * minutes))


def test_every_point_in_the_code_is_one_that_the_campaign_dies_at() -> None:
    named = {
        call.args[0].value
        for path in modules("commands", "runtime")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", ""))
        == "reached"
        and isinstance(call.args[0], ast.Constant)
    }
    assert named == {point for _, point in POINTS}


@pytest.mark.parametrize(
    ("one", "effects", "expected"),
    [
        (told("acknowledged", Place(7, "event 7")), 1, (0, 0, 0)),
        (told("acknowledged", Place(7, "event 7")), 0, (1, 0, 0)),
        (told("acknowledged", Place(7, "event 8")), 1, (1, 0, 0)),
        (told("acknowledged", Place(7, "event 7"), Place(9, "event 9")), 1, (1, 0, 0)),
        (told("acknowledged", Place(7, "event 7")), 2, (0, 1, 0)),
        (told("refused"), 0, (0, 0, 0)),
        (told("refused"), 1, (0, 0, 1)),
        (told("unknown"), 0, (0, 0, 0)),
        (told("unknown"), 1, (0, 0, 0)),
        (told("unknown"), 2, (0, 1, 0)),
    ],
)
def test_what_was_told_is_held_against_the_log(
    one: Told, effects: int, expected: tuple[int, int, int]
) -> None:
    found = account([one], Counter({ORDER: effects}), LOG)
    assert (found.absent, found.twice, found.refused_but_done) == expected
    assert (found.acknowledged, found.refused, found.unknown) == tuple(
        int(one.fate == fate) for fate in ("acknowledged", "refused", "unknown")
    )


def looks(*wells: tuple[float, bool]) -> list[Look]:
    return [Look(ended - 0.1, ended, well) for ended, well in wells]


def test_a_house_has_recovered_when_it_was_well_for_a_second_from_the_first_of_those_looks_on() -> None:
    found = looks((9.0, True), (10.1, True), (10.5, False), (11.0, True), (11.5, True), (12.0, True))
    assert recovered_at(found, 10.0) == 11.0
    assert recovered_at(found[:-1], 10.0) is None, "half a second is not steady"
    assert recovered_at([*found, *looks((12.2, False))], 10.0) is None
    assert recovered_at([], 10.0) is None


def test_a_fault_that_nobody_felt_took_until_the_next_look_and_no_look_before_it_counts() -> None:
    found = looks((8.0, True), (9.0, True), (10.1, True), (10.6, True), (11.2, True))
    assert recovered_at(found, 10.0) == 10.1
    assert recovered_at(found[:3], 10.0) is None, "what was well before says nothing"


def test_a_look_that_began_before_the_fault_says_nothing_of_it() -> None:
    straddling = Look(9.5, 10.2, well=True)
    after = [Look(10.3, 11.5, well=True), Look(11.6, 12.0, well=True), Look(12.1, 12.6, well=True)]
    assert recovered_at([straddling, *after], 10.0) == 11.5


def test_a_write_that_takes_as_long_as_a_recovery_may_take_has_felt_the_fault() -> None:
    quick, slow = Look(10.1, 10.3, well=True), Look(10.4, 10.4 + LIMIT_S, well=True)
    after = [Look(12.5, 12.7, well=True), Look(12.8, 13.8, well=True)]
    assert recovered_at([quick, slow, *after], 10.0) == 12.7


def test_recoveries_are_told_by_kind_the_slowest_first() -> None:
    found = summary({"kill relay": [0.3, 0.1, 0.2], "kill postgres": [LIMIT_S]})
    assert [(one.kind, one.n, one.median_s, one.longest_s, one.in_time) for one in found] == [
        ("kill postgres", 1, LIMIT_S, LIMIT_S, False),
        ("kill relay", 3, 0.2, 0.3, True),
    ]


def test_the_longest_silence_is_between_two_answers() -> None:
    silence = Silence(10.0)
    for moment in (10.5, 12.5, 13.0):
        silence.answered(moment)
    assert silence.longest == 2.0


def test_a_campaign_in_which_all_was_well_has_broken_nothing() -> None:
    assert list(broken(campaign(), whole=True)) == []
    assert "MISSED" not in "\n".join(lines(campaign()))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (campaign(seconds=LIMIT_S), "kill relay: recovered after 2.00 s, not within 2 s"),
        (campaign(points=Counter(POINTS[1:])), f"{POINTS[0][0]} at {POINTS[0][1]}: never reached"),
        (campaign(Findings(Account(9, 1, 0, 1, 0, 0), 1, 0, 0, 1, 0, 1, 0, 0)), "acknowledged_but_absent: 1"),
        (campaign(Findings(Account(9, 1, 0, 0, 2, 0), 1, 0, 0, 1, 0, 1, 0, 0)), "with_two_effects: 2"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 3), 1, 0, 0, 1, 0, 1, 0, 0)), "refused_but_done: 3"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 0), 1, 4, 0, 1, 0, 1, 0, 0)), "positions_misplaced: 4"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 0), 1, 0, 5, 1, 0, 1, 0, 0)), "stock_oversold: 5"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 0), 1, 0, 0, 1, 6, 1, 0, 0)), "rows_differing: 6"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 0), 1, 0, 0, 1, 0, 1, 7, 0)), "reads_stale: 7"),
        (campaign(Findings(Account(9, 1, 0, 0, 0, 0), 1, 0, 0, 1, 0, 1, 0, 8)), "answers_changed: 8"),
    ],
)
def test_whatever_was_not_kept_is_said(found: Campaign, said: str) -> None:
    assert said in list(broken(found, whole=True))


def test_what_was_never_struck_or_reached_is_printed_as_missed() -> None:
    none = Campaign(1, 0.5, {}, {}, NOTHING_WRONG, {}, {}, {}, 0, 0, 4)
    printed = "\n".join(lines(none))
    assert printed.count("MISSED") == len(every_fault()) + len(POINTS)
    values = {figure.figure: figure.value for figure in figures(none)}
    assert values["faults_never_struck"] == len(every_fault())
    assert values["strikes_missed"] == 4
    assert list(broken(none, whole=False)) == []


def test_figures_are_summed_over_a_metrics_labels_and_over_no_other_metric() -> None:
    text = '# HELP a_total x\na_total{model="x"} 2.0\na_total{model="y"} 3.0\na_total_more 9.0\n'
    assert figure_of(text, "a_total") == 5.0
    assert figure_of("", "a_total") == 0.0


def test_a_connection_of_another_process_can_be_cut_in_the_middle_of_a_wait(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        waits = f"import socket; c = socket.create_connection(('127.0.0.1', {port})); print(c.recv(1))"
        with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, cwd=tmp_path) as other:
            here, _ = server.accept()
            with here:
                assert sockets.cut(psutil.Process(other.pid), port + 1) == 0
                assert sockets.cut(psutil.Process(other.pid), port) == 1
                assert here.recv(1) == b""
            said, _ = other.communicate(timeout=10)
    assert said.strip() == b"b''"


@pytest.mark.heavy
@pytest.mark.anyio
async def test_of_a_house_that_is_struck_nothing_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(variable_of(""))]:
        monkeypatch.delenv(name)
    with scratch_in(Path("/tmp")) as directory:  # noqa: S108 - a directory of its own in it
        async with house_in(directory, "embedded") as house:
            left = [record.find() for record in records_of(house.home)]
    assert len(left) > len(house.environments)
    assert not [process for process in left if process and process.is_running()]


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_a_campaign_of_a_minute_keeps_what_is_promised_of_data(tmp_path: Path) -> None:
    """How fast it recovers, and with what it was not struck, is for the long one on a quiet machine."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.campaign", "--seed", "7", "--minutes", "1", "--kafka", "embedded"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert "deaths at each crash point" in done.stdout, done.stderr
    for line in done.stdout.splitlines():
        assert "NOT KEPT" not in line or "recovered after" in line, done.stdout


def test_forged_messages_are_of_another_log_or_of_nobody() -> None:
    class Record:
        def __init__(self, headers: list[tuple[str, bytes]]) -> None:
            self.headers = headers

        def _replace(self, headers: list[tuple[str, bytes]]) -> "Record":
            return Record(headers)

    ours = [Record([("incarnation", b"ours"), ("position", b"1")]) for _ in range(2)]
    nobodys, anothers = (dict(record.headers) for record in forged(ours))
    assert "position" not in nobodys
    assert anothers == {"incarnation": FOREIGN.encode(), "position": b"1"}
