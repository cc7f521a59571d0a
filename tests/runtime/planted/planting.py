"""Bugs planted in how rows are folded and stored, each of which a test of this project must notice."""

import inspect
import re
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runtime.postgres import Connection
from runtime.read_models import apply as applying
from runtime.read_models import lanes
from runtime.read_models.apply import Overtaken, Step
from runtime.read_models.tables import Table

Plant = Callable[[pytest.MonkeyPatch], None]

_COMPARES = r" and position = %\(expected\)s"
_SETS = r"set position = %\(position\)s, event_id = %\(event_id\)s"
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

    async def move(connection: Connection, table: Table, step: Step) -> bool:
        moved = await connection.execute(
            moves,
            {
                "build": table.build,
                "context": step.context,
                "lane": step.lane,
                "incarnation": step.incarnation,
                "expected": step.before.position,
                "position": step.after.position,
                "event_id": step.after.event_id,
            },
        )
        return moved.rowcount == 1

    async def in_two(connection: Connection, table: Table, step: Step) -> bool:
        if rows_first:
            return await honest(connection, table, step) and await move(connection, table, step)
        return await move(connection, table, step) and await honest(connection, table, step)

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
    text = changed(textwrap.dedent(inspect.getsource(lanes.FoldedLane.deliver)), _CHECKS_CHAIN, "")
    made: dict[str, Any] = {}
    exec(text, vars(lanes), made)  # noqa: S102 - our own source, with a bug in it
    patch.setattr(lanes.FoldedLane, "deliver", made["deliver"])
