"""Says how far the benchmark is, and looks before each run whether others use the machine."""

import os
import sys
import time

from bench.loops import Measured
from bench.machine import BUSY_CORES, cores_in_use


class Progress:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self.runs = 0
        self.disturbed = 0

    def says(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:3}:{seconds:02}  {line}", flush=True)

    def round(self, what: str) -> None:
        load = " ".join(f"{one:.2f}" for one in os.getloadavg())
        self.says(f"{what}; load average {load} (that of the runs before is in it)")

    def ran(self, name: str, measured: Measured) -> Measured:
        wait = f", p50 {measured.p50_ms:.2f} ms" if measured.p50_ms else ""
        wait += f", p99 {measured.p99_ms:.2f} ms" if measured.p99_ms else ""
        again = f", {measured.conflicts} conflicts" if measured.conflicts else ""
        self.says(f"  {name:<36} {measured.rate:>10,.0f} events/s{wait}{again}")
        return measured

    def look(self) -> None:
        """To be called while nothing of ours is running."""
        self.runs += 1
        if (used := cores_in_use()) > BUSY_CORES:
            self.disturbed += 1
            print(
                f"warning: others use {used:.1f} cores: the next run is disturbed",
                file=sys.stderr,
                flush=True,
            )
