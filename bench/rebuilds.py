"""`tallybook rebuild` in a process of its own, without what starting Python takes.

Filled in bulk, fed up to the served build, compared with it row by row, served in its place.
"""

import os
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

import uvloop

from bench import worker
from bench.processes import peak_mb
from runtime import rebuilding
from runtime.settings import Settings

LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Remade:
    seconds: float
    peak_mb: float


def remade(settings: Settings, model: str) -> Remade:
    """RuntimeError if a row differs."""
    [answer] = worker.run(__name__, [{"settings": settings.model_dump_json(), "model": model}], LIMIT_S)
    return Remade(**answer)


def _run(task: dict[str, Any]) -> dict[str, float]:
    settings = Settings.model_validate_json(task["settings"])
    worker.wait_for_go()
    began = time.perf_counter()
    with redirect_stdout(sys.stderr):  # standard output is for the answer
        code = uvloop.run(rebuilding.run(settings, [task["model"]], serve=True))
    if code:
        raise RuntimeError(f"the rebuild ended with {code}")
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb(os.getpid())}


if __name__ == "__main__":
    worker.answer(_run(worker.told()))
