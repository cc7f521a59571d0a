"""`make campaign-projections`: see the package."""

import argparse
import asyncio
import logging
import random
import shutil
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Final, get_args

from bench.campaign.client import Client
from bench.campaign.examine import examined
from bench.campaign.faults import Faults, NotStruck
from bench.campaign.house import house_in
from bench.campaign.probe import LONGEST_S, NotRecovered, Probe
from bench.campaign.report import Campaign, broken, figures, lines
from bench.campaign.schedule import Strike, strikes
from bench.campaign.traffic import Traffic
from bench.campaign.watch import COUNTERS, Watch
from bench.machine import Stolen, require_disk, surroundings
from bench.page import QUICK_RESULTS, RESULTS, write_json
from bench.progress import Progress
from bench.scratch import add_directory, end_on_sigterm, scratch_in
from bench.worker import ROOT
from runtime.up import Broker

MINUTES: Final = 10.0
DISK_GB: Final = 4
REST_S: Final = 0.5
"""Between a recovery and the next fault."""
SEEDS: Final = 10**6


def main() -> int:
    """1 if a promise was not kept."""
    parser = argparse.ArgumentParser(
        prog="make campaign-projections", description="Strike a whole house under traffic."
    )
    parser.add_argument("--seed", type=int, help="of the faults and the traffic; chance if not said")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of traffic (%(default)s)")
    parser.add_argument("--kafka", choices=get_args(Broker), help="apache where Java is, else embedded")
    add_directory(parser)
    options = parser.parse_args()
    end_on_sigterm()
    require_disk(options.directory, DISK_GB)
    logging.basicConfig(level=logging.ERROR)
    seed = random.randrange(SEEDS) if options.seed is None else options.seed  # noqa: S311 - not a secret
    broker: Broker = options.kafka or ("apache" if shutil.which("java") else "embedded")
    progress, stolen = Progress(), Stolen()
    around = surroundings(options.directory) | {"seed": seed, "kafka": broker}
    for name, value in around.items():
        progress.says(f"{name}: {value}")
    progress.look()
    with scratch_in(options.directory) as directory:
        campaign = asyncio.run(carried_out(directory, seed, options.minutes, broker, progress))
    print("\n".join(lines(campaign)))
    whole = options.minutes >= MINUTES
    results = RESULTS if whole else QUICK_RESULTS
    around |= {"runs": progress.runs, "disturbed_runs": progress.disturbed, "stolen": stolen.share()}
    write_json(results, "campaign-projections", list(figures(campaign)), around)
    progress.says(f"seed {seed}; written to {results.relative_to(ROOT)}")
    failures = list(broken(campaign, whole=whole))
    for failure in failures:
        progress.says(f"NOT KEPT: {failure}")
    return 1 if failures else 0


async def carried_out(
    directory: Path, seed: int, minutes: float, broker: Broker, progress: Progress
) -> Campaign:
    """Raises CannotStart, OperatorFailed; NotRecovered if all is not well before anything has struck."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(house_in(directory, broker))
        client = Client(house, chance)
        stack.push_async_callback(client.close)
        traffic, watch = Traffic(client, chance), Watch(client)
        await traffic.open_shop()
        faults = Faults(house, traffic, chance)
        recoveries: dict[str, list[float]] = defaultdict(list)
        missed = 0
        async with watch.watching():
            probe = Probe(traffic)
            async with traffic.flowing(), probe.looking():
                await probe.recovered(monotonic())
                calm = await probe.calm()
                client.writes.answered(began := monotonic())
                client.reads.answered(began)
                for strike in strikes(seed, minutes):
                    if monotonic() > began + 60 * minutes:
                        break
                    missed += not await _struck(strike, faults, probe, recoveries, progress)
                minutes = (monotonic() - began) / 60
            findings = await examined(house, client.ledger)
        return Campaign(
            minutes=minutes,
            amiss_in_calm=calm,
            recoveries=recoveries,
            points=faults.points,
            findings=findings,
            counted={name: watch.total(name) for name in COUNTERS},
            peaks_mb=watch.peaks_mb,
            silences_s={"write": client.writes.longest, "read": client.reads.longest},
            sent=client.sent,
            lost=client.lost,
            missed=missed,
        )


async def _struck(
    strike: Strike, faults: Faults, probe: Probe, recoveries: dict[str, list[float]], progress: Progress
) -> bool:
    """Those of a strike at once; it is over when all is well again. False if they could not be brought about.

    One that is not over in time is told as having taken all of it, and the campaign goes on.
    """
    kind = " and ".join(fault.kind for fault in strike)
    probe.what = ""
    try:
        async with AsyncExitStack() as stack:
            began = [await stack.enter_async_context(faults.struck(fault)) for fault in strike]
            took = await probe.recovered(max(began))
    except NotStruck as missed:
        progress.says(f"MISSED: {missed}")
        return False
    except NotRecovered as felt:
        took, probe.what = LONGEST_S, f"NOT RECOVERED: {felt}"
    recoveries[kind].append(took)
    progress.says(f"{kind:<52} {took:6.2f} s   {probe.what}")
    await asyncio.sleep(REST_S)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
