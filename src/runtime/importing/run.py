"""Sends records through the write door, some hundreds of commands at a time."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Final

from runtime.importing.door import MAX_COMMANDS, BulkDoor
from runtime.importing.records import Record
from runtime.importing.steps import Command, Steps, steps_of

AT_ONCE: Final = 3
"""Requests under way, so that the door need not wait for the next."""
MAX_TOLD: Final = 20

Called = tuple[str, Record]
"""A record and what it is called where it came from."""


@dataclass(slots=True)
class Report:
    """`refused` counts the records of which a command was refused; `told` says why, of the first."""

    records: int = 0
    commands: int = 0
    refused: int = 0
    told: list[str] = field(default_factory=list)

    def refuse(self, name: str, command: Command, problem: dict[str, Any]) -> None:
        self.refused += 1
        if len(self.told) < MAX_TOLD:
            wrong = problem.get("errors") or ""
            self.told.append(
                f"{name}: {command.command}: {problem['code']}: {problem['detail']} {wrong}".rstrip()
            )


async def import_records(
    records: Iterable[Called], source: str, door: BulkDoor, progress: Callable[[int], None]
) -> Report:
    """A kind of record begins when all before it are there. `progress` is told how many more are done.

    Whatever stops it, the same import again goes on: what was done is answered from what is there. Raises
    `Unreachable`, and what `records` raises.
    """
    report = Report()
    room = asyncio.Semaphore(AT_ONCE)

    async def send(some: Sequence[Called]) -> None:
        try:
            await _import(some, source, door, report)
            progress(len(some))
        finally:
            room.release()

    for _, alike in groupby(records, key=lambda called: type(called[1])):
        try:
            async with asyncio.TaskGroup() as group:
                for some in _some(alike):
                    await room.acquire()
                    group.create_task(send(some))
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
    return report


def _some(records: Iterator[Called]) -> Iterator[tuple[Called, ...]]:
    while taken := tuple(islice(records, MAX_COMMANDS)):
        yield taken


async def _import(some: Iterable[Called], source: str, door: BulkDoor, report: Report) -> None:
    """The next command of each, again and again, until none has another."""
    waiting: list[tuple[str, Steps, Command]] = []
    for name, record in some:
        report.records += 1
        steps = steps_of(record, source)
        waiting.append((name, steps, next(steps)))
    while waiting:
        results = await door.send([command for _, _, command in waiting])
        report.commands += len(results)
        going = []
        for (name, steps, command), result in zip(waiting, results, strict=True):
            if not result.done:
                report.refuse(name, command, result.body)
                continue
            try:
                going.append((name, steps, steps.send(result.body)))
            except StopIteration:
                continue
        waiting = going
