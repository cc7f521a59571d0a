"""A contender's client runs in a process of its own, so that every run of every contender begins alike.

It is told what to do in JSON, says when it is ready, waits for the word to go, and answers in JSON.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from runtime.process import collect_rarely

ROOT: Final = Path(__file__).parents[1]
READY: Final = "ready"
GO: Final = "go"
PREPARE_S: Final = 120.0


def told() -> dict[str, Any]:
    """In a worker: what to do. Every contender in Python collects garbage as our processes do."""
    collect_rarely()
    task: dict[str, Any] = json.loads(sys.argv[1])
    return task


def wait_for_go() -> None:
    """In a worker that is prepared. Whoever started it ends it if the word never comes."""
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    if sys.stdin.readline().strip() != GO:
        raise SystemExit("nobody said go")


def answer(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def run(module: str, tasks: Sequence[Mapping[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Run one worker a task, all at once, and return their answers."""
    with started(module, tasks, seconds) as workers:
        return [result_of(worker) for worker in workers]


@contextmanager
def started(
    module: str, tasks: Sequence[Mapping[str, Any]], seconds: float
) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers that were all ready, and then told to go; they have `seconds` from then.

    RuntimeError if one fails; what it said on standard error is on ours.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(module, task, PREPARE_S + seconds)) for task in tasks]
        for worker in workers:
            if _line(worker.stdout) != READY:
                raise RuntimeError(f"{module} could not be prepared")
        for worker in workers:
            _say_go(worker)
        yield workers


def result_of(worker: subprocess.Popen[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(_line(worker.stdout))
    return result


@contextmanager
def _worker(module: str, task: Mapping[str, Any], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Killed when the time is up: whoever reads from it then finds the end of the file."""
    command = [sys.executable, "-m", module, json.dumps(task)]
    worker = subprocess.Popen(  # noqa: S603 - our own modules
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    alarm = threading.Timer(seconds, worker.kill)
    alarm.start()
    try:
        with worker:
            try:
                yield worker
            finally:
                worker.kill()
    finally:
        alarm.cancel()


def _say_go(worker: subprocess.Popen[str]) -> None:
    if worker.stdin is None:
        raise AssertionError("a worker is started with a pipe")
    worker.stdin.write(GO + "\n")
    worker.stdin.flush()


def _line(stream: IO[str] | None) -> str:
    line = stream.readline().strip() if stream else ""
    if not line:
        raise RuntimeError("a worker ended, or was ended, without an answer")
    return line
