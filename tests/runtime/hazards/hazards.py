"""The hazards by name, and who fails which: the one place that says so."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tests.runtime.hazards import commits, decisions, positions, tails
from tests.runtime.hazards.recorders import CONTENDERS, LIBRARY, LIBRARY_DCB, LIBRARY_FUNCTIONS
from tests.runtime.hazards.stage import Stage

Hazard = Callable[[Stage], Awaitable[None]]

ORDER: Final = "positions drawn in one order, committed in another"
GAP: Final = "a late commit skipped after a gap"
HOLE: Final = "a conflict leaves a hole in the positions"
STRANGER: Final = "a long write transaction elsewhere stalls readers"
WAKE_UP: Final = "wake-up lost between first read and LISTEN"
KILLED: Final = "LISTEN connection killed"
DEAD: Final = "LISTEN connection dead without a word"
SNAPSHOT: Final = "condition checked in a snapshot older than the lock"
REPEATABLE: Final = "such a snapshot where the database defaults to REPEATABLE READ"
SKEW: Final = "a stream that was read, not written, has moved on"
REFUSAL: Final = "a refusal told on stale state"
LOST: Final = "a version decided on a version that was lost"
NUMBER: Final = "a version decided on one that was lost, and another process wrote its number"
POISON: Final = "a multi-stream append that fails on one stream poisons others"
FAILED: Final = "success told though the commit failed"
DROPPED: Final = "success told for a dropped event"
ANSWER: Final = "ambiguous commit retried: the answer was lost"
MEANWHILE: Final = "ambiguous commit retried: the first one arrives meanwhile"
LATER: Final = "ambiguous commit retried: the first one arrives later"

HAZARDS: Final[Mapping[str, Hazard]] = {
    ORDER: positions.drawn_in_one_order_committed_in_another,
    GAP: positions.late_commit_skipped_after_a_gap,
    HOLE: positions.conflict_leaves_a_hole,
    STRANGER: positions.long_transaction_stalls_readers,
    WAKE_UP: tails.wake_up_lost_before_listen,
    KILLED: tails.listen_connection_killed,
    DEAD: tails.listen_connection_dead,
    SNAPSHOT: decisions.snapshot_older_than_the_lock,
    REPEATABLE: decisions.snapshot_older_where_reads_repeat,
    SKEW: decisions.read_stream_moved_on,
    REFUSAL: decisions.refusal_on_stale_state,
    LOST: decisions.version_decided_on_a_lost_one,
    NUMBER: decisions.version_decided_on_a_number_of_others,
    POISON: decisions.failed_append_poisons_others,
    FAILED: commits.success_told_though_commit_failed,
    DROPPED: commits.success_told_for_a_dropped_event,
    ANSWER: commits.answer_lost,
    MEANWHILE: commits.first_arrives_meanwhile,
    LATER: commits.first_arrives_later,
}

_WITH_VERSIONS: Final = {
    HOLE: positions.A_HOLE,
    WAKE_UP: tails.SLEEPS,
    KILLED: tails.ENDS,
    DEAD: tails.SLEEPS,
    SKEW: decisions.ON_WHAT_IS_GONE,
    LOST: decisions.ON_WHAT_NEVER_WAS,
    NUMBER: decisions.ON_WHAT_NEVER_WAS,
    DROPPED: commits.NOT_THERE,
    ANSWER: commits.TOLD_A_CONFLICT,
    MEANWHILE: commits.TOLD_A_CONFLICT,
}

STRUCK: Final[Mapping[str, Mapping[str, str]]] = {
    LIBRARY.name: {**_WITH_VERSIONS, LATER: commits.TOLD_A_CONFLICT},
    LIBRARY_FUNCTIONS.name: {**_WITH_VERSIONS, ORDER: positions.NEVER_SEEN, GAP: positions.NOT_HEARD},
    LIBRARY_DCB.name: {
        ORDER: positions.NEVER_SEEN,
        GAP: positions.NOT_HEARD,
        WAKE_UP: tails.SLEEPS,
        KILLED: tails.ENDS,
        DEAD: tails.SLEEPS,
        REPEATABLE: decisions.ON_WHAT_IS_GONE,
        DROPPED: commits.NOT_THERE,
        ANSWER: commits.TOLD_A_CONFLICT,
        MEANWHILE: commits.TOLD_A_CONFLICT,
    },
}
"""By recorder and hazard: what is observed, every time. Who is not named passes."""

_UNCHECKED: Final = "a refusal is no append, so nothing checks it"
_AFTERWARDS: Final = "what an event can be decided on is known after its commit"

NO_MEANS: Final[Mapping[str, Mapping[str, str]]] = {
    LIBRARY.name: {REFUSAL: _UNCHECKED},
    LIBRARY_FUNCTIONS.name: {REFUSAL: _UNCHECKED},
    LIBRARY_DCB.name: {REFUSAL: _UNCHECKED, LOST: _AFTERWARDS, NUMBER: _AFTERWARDS},
}
"""What a recorder has no words for, so that nothing can be tried."""


def observed(name: str, hazard: str) -> str | None:
    """What a recorder does wrong."""
    return STRUCK.get(name, {}).get(hazard)


def without_means(name: str, hazard: str) -> str | None:
    return NO_MEANS.get(name, {}).get(hazard)


def markdown_table() -> str:
    """Who fails what, for the README."""
    names = [contender.name for contender in CONTENDERS]
    lines = ["| hazard | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {hazard} | " + " | ".join(_cell(name, hazard) for name in names) + " |" for hazard in HAZARDS
    ]
    return "\n".join(lines) + "\n"


def _cell(name: str, hazard: str) -> str:
    if why := without_means(name, hazard):
        return f"– ({why})"
    if what := observed(name, hazard):
        return f"**fails**: {what}"
    return "passes"


if __name__ == "__main__":
    sys.stdout.write(markdown_table())
