"""What a process has used of the machine."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage
from typing import Final

import psutil

from runtime import fork_server
from runtime.home import Home
from runtime.supervisor import records_of

POSTGRES: Final = "postgres"
SUPERVISOR: Final = "up"
FORK_SERVER: Final = "fork server"
ENDED: Final = "ended meanwhile"
KIB: Final = 1_024
MB: Final = 10**6


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of CPU, and the most that was resident, in MB of 1,000,000 bytes; None: not known."""

    user_s: float
    system_s: float
    peak_mb: float | None = None

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    @classmethod
    def by_ended(cls, usage: struct_rusage) -> "Used":
        return cls(usage.ru_utime, usage.ru_stime, usage.ru_maxrss * KIB / MB)


def used_by_house(home: Home, supervisor: int) -> Mapping[str, Used]:
    """By process, so far. What has ended since the start is told as one: initdb, and what was restarted."""
    up, records = psutil.Process(supervisor), records_of(home)
    server = _fork_server_of(up)
    ended = [parent.cpu_times() for parent in (up, server)]
    return {
        SUPERVISOR: _by_one(up),
        FORK_SERVER: _by_one(server),
        **{
            record.name: (_by_server if record.name == POSTGRES else _by_one)(psutil.Process(record.pid))
            for record in records
        },
        ENDED: Used(
            sum(times.children_user for times in ended), sum(times.children_system for times in ended)
        ),
    }


def peak_mb(pid: int) -> float:
    """The most that was resident ever since the process began."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * KIB / MB
    raise RuntimeError(f"process {pid} has ended")


def resident_mb(pid: int) -> float:
    resident: int = psutil.Process(pid).memory_info().rss
    return resident / MB


def _fork_server_of(up: psutil.Process) -> psutil.Process:
    for child in up.children():
        with suppress(psutil.NoSuchProcess):  # another child may just be ending
            if child.cmdline()[-1:] == [fork_server.__name__]:
                return child
    raise RuntimeError("the house has no fork server")


def _by_one(process: psutil.Process) -> Used:
    times = process.cpu_times()
    return Used(times.user, times.system, peak_mb(process.pid))


def _by_server(postmaster: psutil.Process) -> Used:
    """With its backends, ended ones too. A page that they share counts once, in what is resident now."""
    user = system = resident = 0.0
    for backend in (*postmaster.children(), postmaster):
        with suppress(psutil.NoSuchProcess):  # it counts among the ended ones, which are asked last
            resident += backend.memory_full_info().pss
            times = backend.cpu_times()
            user += times.user
            system += times.system
    ended = postmaster.cpu_times()
    return Used(user + ended.children_user, system + ended.children_system, resident / MB)
