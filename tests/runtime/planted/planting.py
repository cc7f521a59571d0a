"""Bugs planted in how rows are folded and stored, each of which a test of this project must notice."""

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from runtime.postgres import Connection
from runtime.read_models import apply as applying
from runtime.read_models import lanes
from runtime.read_models.apply import Overtaken, Step
from runtime.read_models.tables import Table

Plant = Callable[[pytest.MonkeyPatch], None]

_COMPARES = r" and c\.position = wanted\.expected"
_SETS = r"set position = held\.reached, event_id = held\.event_id"
_CHECKS_CHAIN = r"delivery\.previous != reached or "


def changed(text: str, pattern: str, instead: str) -> str:
    """The text, in which the pattern must stand once."""
    new, times = re.subn(pattern, instead, text)
    assert times == 1, f"{pattern} stands there {times} times"
    return new


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(applying, "_MOVE", changed(applying._MOVE, _COMPARES, ""))


def checkpoint_after_the_rows(patch: pytest.MonkeyPatch) -> None:
    """Rows first, then the checkpoint in a transaction of its own."""
    _in_two(patch, rows_first=True)


def checkpoint_before_the_rows(patch: pytest.MonkeyPatch) -> None:
    """The checkpoint first, then the rows in a transaction of their own."""
    _in_two(patch, rows_first=False)


def _in_two(patch: pytest.MonkeyPatch, *, rows_first: bool) -> None:
    honest, moves = applying.apply, applying._MOVE
    stays = changed(moves, _SETS, "set position = position")

    async def move(connection: Connection, table: Table, steps: Sequence[Step]) -> Sequence[Step]:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(applying, "_MOVE", moves)
            places = await applying._move(connection, table, steps)
        return [step for step in steps if step.place in places]

    async def in_two(connection: Connection, table: Table, steps: Sequence[Step]) -> Sequence[Step]:
        first, then = (honest, move) if rows_first else (move, honest)
        return await then(connection, table, await first(connection, table, steps))

    patch.setattr(applying, "_MOVE", stays if rows_first else changed(stays, _COMPARES, ""))
    patch.setattr(applying, "apply", in_two)


def no_placeholder_rows(patch: pytest.MonkeyPatch) -> None:
    """That another lane has made the row meanwhile is not noticed, and what this one knows is lost."""
    honest = applying._insert

    async def insert(*arguments: Any) -> None:
        with suppress(Overtaken):
            await honest(*arguments)

    patch.setattr(applying, "_insert", insert)


def no_chain_check(patch: pytest.MonkeyPatch) -> None:
    """A lane takes whatever comes for the next event."""
    text = changed(textwrap.dedent(inspect.getsource(lanes.FoldedLane.next_step)), _CHECKS_CHAIN, "")
    made: dict[str, Any] = {}
    exec(text, vars(lanes), made)  # noqa: S102 - our own source, with a bug in it
    patch.setattr(lanes.FoldedLane, "next_step", made["next_step"])
