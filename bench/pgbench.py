"""PostgreSQL's own pgbench, doing with plain statements what an append of ours does, and less.

Same bytes, same columns, same indexes and checks, a random one of the same 5,000 streams. What it is spared:
it checks no tip, finds no repeat, computes no lane, takes positions and versions from sequences (which leave
holes, and an order that is not that of the commits), and wakes no reader.
"""

import re
import subprocess
from pathlib import Path
from typing import Final, Literal

from bench.loops import Measured, Window
from bench.payload import FINGERPRINT, LOCATION, event, metadata, stream_of
from bench.seed import STREAMS
from runtime.codec import encode, encode_metadata
from runtime.embedded.postgres import binary

Script = Literal["transaction", "statement", "event"]
CLIENTS: Final = (16, 32)
THREADS: Final = 2
FINISH_S: Final = 60.0
SHORTEST_S: Final = 2
"""Connecting takes its part of it, which the rate leaves out: a whole second where the machine is busy."""

_EVENT: Final = f"""\
insert into same_work.events
    (position, stream, version, event_id, type, context, lane, data, metadata, recorded_at)
values (
    nextval('same_work.positions'), 'stock-SKU-' || lpad(:number::text, 8, '0') || '@{LOCATION}',
    nextval('same_work.versions'), uuidv7(), 'stock.adjusted.v1', 'inventory', :lane,
    :data::bytea, :metadata::bytea, clock_timestamp()
)"""
_RANDOM: Final = f"\\set number random(0, {STREAMS - 1})\n\\set lane random(0, 7)\n"

SCRIPTS: Final[dict[Script, str]] = {
    "transaction": f"""{_RANDOM}begin;
{_EVENT};
insert into same_work.requests (digest, fingerprint, first_position, count)
values (uuid_send(uuidv7()), :fingerprint::bytea, currval('same_work.positions'), 1);
commit;
""",
    "statement": f"""{_RANDOM}with event as (
{_EVENT}
returning position)
insert into same_work.requests (digest, fingerprint, first_position, count)
select uuid_send(uuidv7()), :fingerprint::bytea, position, 1 from event;
""",
    "event": f"{_RANDOM}{_EVENT};\n",
}


def measure(url: str, script: Script, clients: int, window: Window, directory: Path) -> Measured:
    """Its median is not told; it warms up in a run of its own, on the same database."""
    path = directory / f"{script}.sql"
    path.write_text(SCRIPTS[script])
    if window.warm:
        _pgbench(url, path, clients, window.warm)
    said = _pgbench(url, path, clients, window.seconds)
    found = re.search(r"^tps = ([0-9.]+) \(without initial connection time\)", said, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", said, re.MULTILINE)
    if found is None or failed is None or failed[1] != "0":
        raise RuntimeError(f"pgbench said:\n{said}")
    return Measured(rate=float(found[1]))


def _pgbench(url: str, script: Path, clients: int, seconds: float) -> str:
    """What is stored is sent with every statement, as a parameter."""
    variables = {
        "data": encode(event(stream_of(0))).decode(),
        "metadata": encode_metadata(metadata()).decode(),
        "fingerprint": FINGERPRINT.decode(),
    }
    command = [
        str(binary("pgbench")),
        "--no-vacuum",
        "--protocol=prepared",
        f"--client={clients}",
        f"--jobs={THREADS}",
        f"--time={max(SHORTEST_S, round(seconds))}",
        f"--file={script}",
        *(f"--define={name}={value}" for name, value in variables.items()),
        url,
    ]
    done = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False, timeout=seconds + FINISH_S
    )
    if done.returncode:
        raise RuntimeError(f"pgbench failed:\n{done.stderr}")
    return done.stdout
