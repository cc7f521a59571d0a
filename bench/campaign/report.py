"""What a campaign prints and keeps: figures, and every promise that was not kept."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import quantiles
from typing import Final

from bench.campaign.examine import Findings
from bench.campaign.recovery import LIMIT_S, Recovered, summary
from bench.campaign.schedule import CRASH_POINTS, OPERATORS_POINTS, every_fault
from bench.page import Figure

MEMORY_MB: Final = 200.0
POINTS: Final = tuple(
    (process, point)
    for process, points in chain(CRASH_POINTS.items(), OPERATORS_POINTS.items())
    for point in points
)


@dataclass(frozen=True, slots=True)
class Campaign:
    """`amiss_in_calm`: the share of looks that were, before anything struck; the rest by name.

    `recoveries`: seconds by kind of fault; `points`: deaths by process and point.
    `missed`: strikes that could not be brought about.
    """

    minutes: float
    amiss_in_calm: float
    recoveries: Mapping[str, Sequence[float]]
    points: Mapping[tuple[str, str], int]
    findings: Findings
    counted: Mapping[str, float]
    peaks_mb: Mapping[str, float]
    silences_s: Mapping[str, float]
    sent: int
    lost: int
    missed: int

    @property
    def never_struck(self) -> Sequence[str]:
        return [fault.kind for fault in every_fault() if fault.kind not in self.recoveries]

    @property
    def never_reached(self) -> Sequence[tuple[str, str]]:
        return [place for place in POINTS if not self.points.get(place)]


def figures(campaign: Campaign) -> Iterator[Figure]:
    found, told = campaign.findings, campaign.findings.account
    yield Figure("minutes", round(campaign.minutes, 1), "min")
    yield Figure("faults", sum(map(len, campaign.recoveries.values())), "faults")
    yield Figure("strikes_missed", campaign.missed, "strikes")
    yield Figure("faults_never_struck", len(campaign.never_struck), "kinds")
    yield Figure("crash_points_never_reached", len(campaign.never_reached), "points")
    yield Figure("looks_amiss_in_calm", round(campaign.amiss_in_calm, 3), "")
    yield Figure("requests", campaign.sent, "requests")
    yield Figure("requests_without_answer", campaign.lost, "requests")
    yield Figure("acknowledged", told.acknowledged, "commands")
    yield Figure("refused", told.refused, "commands")
    yield Figure("unknown", told.unknown, "commands")
    for name, count in _promised(found).items():
        yield Figure(name, count, "")
    yield Figure("events", found.events, "events")
    yield Figure("rows", found.rows, "rows")
    for name, counted in campaign.counted.items():
        yield Figure(name, counted, "")
    for name, seconds in campaign.silences_s.items():
        yield Figure(f"longest_without_answer_{name}", round(seconds, 2), "s")
    for process, peak in campaign.peaks_mb.items():
        yield Figure(f"{process}_peak_mb", round(peak), "MB")
    everything = [seconds for those in campaign.recoveries.values() for seconds in those]
    if len(everything) > 1:
        yield Figure("recovery_p99", round(quantiles(everything, n=100, method="inclusive")[98], 2), "s")
    for kind in summary(campaign.recoveries):
        name = kind.kind.replace(" ", "_")
        yield Figure(f"recovery_n_{name}", kind.n, "faults")
        yield Figure(f"recovery_median_{name}", round(kind.median_s, 2), "s")
        yield Figure(f"recovery_longest_{name}", round(kind.longest_s, 2), "s")


def _promised(found: Findings) -> Mapping[str, int]:
    """What must be 0."""
    return {
        "acknowledged_but_absent": found.account.absent,
        "with_two_effects": found.account.twice,
        "refused_but_done": found.account.refused_but_done,
        "positions_misplaced": found.misplaced,
        "stock_oversold": found.oversold,
        "rows_differing": found.differing,
        "reads_stale": found.stale_reads,
        "answers_changed": found.changed_answers,
    }


def broken(campaign: Campaign, *, whole: bool) -> Iterator[str]:
    """What was promised and not kept. `whole`: of a campaign long enough to strike with everything."""
    for name, count in _promised(campaign.findings).items():
        if count:
            yield f"{name}: {count}"
    for kind in summary(campaign.recoveries):
        if not kind.in_time:
            yield f"{kind.kind}: recovered after {kind.longest_s:.2f} s, not within {LIMIT_S:g} s"
    for process, peak in campaign.peaks_mb.items():
        if peak >= MEMORY_MB:
            yield f"{process}: {peak:.0f} MB, not below {MEMORY_MB:.0f}"
    if whole:
        yield from (f"{kind}: never struck" for kind in campaign.never_struck)
        yield from (f"{process} at {point}: never reached" for process, point in campaign.never_reached)


def lines(campaign: Campaign) -> Iterator[str]:
    for figure in figures(campaign):
        if not figure.figure.startswith("recovery_") or figure.figure == "recovery_p99":
            yield f"{figure.figure:<40} {figure.value:>12,g} {figure.unit}"
    yield ""
    yield f"{'recovery, by kind of fault':<52} {'n':>4} {'median':>8} {'longest':>8}"
    yield from map(_line, summary(campaign.recoveries))
    yield from (f"{kind:<52} MISSED" for kind in campaign.never_struck)
    yield ""
    yield "deaths at each crash point"
    yield from _points(campaign.points, POINTS)


def _line(one: Recovered) -> str:
    late = "" if one.in_time else "  too long"
    return f"{one.kind:<52} {one.n:>4} {one.median_s:>7.2f}s {one.longest_s:>7.2f}s{late}"


def _points(deaths: Mapping[tuple[str, str], int], places: Collection[tuple[str, str]]) -> Iterator[str]:
    for process, point in places:
        yield f"{process:<16} {point:<36} {deaths.get((process, point)) or 'MISSED'}"
