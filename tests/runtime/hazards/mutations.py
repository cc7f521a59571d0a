"""Bugs planted in `log.append`, each of which a hazard must notice."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.runtime.hazards import hazards
from tests.runtime.hazards.recorders import TALLYBOOK, Contender

from runtime.postgres import connect

_LOCK: Final = r"perform pg_advisory_xact_lock\(2047, 1\);"
_COUNT: Final = (r"inserted <> position - head or ", "")


@dataclass(frozen=True, slots=True)
class Mutation:
    """`changes`: patterns in the function's text and what to put there, each exactly once."""

    name: str
    changes: Sequence[tuple[str, str]]
    noticed_by: str

    @property
    def contender(self) -> Contender:
        """Our recorder on a log with this bug."""
        return replace(TALLYBOOK, name=self.name, make=self._make)

    async def _make(self, url: str) -> None:
        assert TALLYBOOK.make is not None
        await TALLYBOOK.make(url)
        async with connect(url, "postgres") as owner:
            found = await owner.execute("select pg_get_functiondef('log.append'::regproc)")
            [(text,)] = await found.fetchall()
            for pattern, instead in self.changes:
                text, times = re.subn(pattern, instead, text)
                assert times == 1, f"{pattern} stands {times} times in log.append"
            await owner.execute(text.encode())


MUTATIONS: Final = (
    Mutation(
        "tips are not checked",
        [
            (
                r"continue when ids\[s\] = in_tip_ids\[t\] and versions\[s\] = in_tip_versions\[t\];",
                "continue;",
            )
        ],
        hazards.SNAPSHOT,
    ),
    Mutation(
        "streams that are only read are not checked",
        [
            (
                r"continue when (ids\[s\] = in_tip_ids\[t\])",
                (
                    r"continue when s <> all (in_event_streams[event_at + 1:event_at + in_event_counts[i]])"
                    r" or \1"
                ),
            )
        ],
        hazards.SKEW,
    ),
    Mutation(
        "versions are compared, ids are not", [(r"ids\[s\] = in_tip_ids\[t\] and ", "")], hazards.NUMBER
    ),
    Mutation("any generation may write", [(r" and w\.generation = in_generation", "")], hazards.MEANWHILE),
    Mutation(
        "the check comes before the lock",
        [(_LOCK, ""), (r"(insert into log\.events)", r"perform pg_advisory_xact_lock(2047, 1); \1")],
        hazards.REFUSAL,
    ),
    Mutation("there is no lock", [(_LOCK, "")], hazards.SNAPSHOT),
    Mutation(
        "the lock is let go before the commit",
        [
            (_LOCK, "perform pg_advisory_lock(2047, 1);"),
            (r"(get diagnostics inserted = row_count;)", r"\1 perform pg_advisory_unlock(2047, 1);"),
        ],
        hazards.SNAPSHOT,
    ),
    Mutation(
        "a refusal is not checked",
        [(r"(s := in_tip_streams\[t\];)", r"exit when in_event_counts[i] = 0; \1")],
        hazards.REFUSAL,
    ),
    Mutation("what was inserted is not counted", [_COUNT], hazards.DROPPED),
    Mutation(
        "an append that fails takes the others on its streams with it",
        [
            (
                r"(verdicts\[i\] := verdict;)",
                (
                    r"\1 for t in tip_at + 1..tip_at + in_tip_counts[i] loop"
                    r" versions[in_tip_streams[t]] := -1; end loop;"
                ),
            )
        ],
        hazards.POISON,
    ),
    Mutation(
        "a position is left out after each batch",
        [_COUNT, (r"(position := head);", r"\1 + 1;")],
        hazards.HOLE,
    ),
)
