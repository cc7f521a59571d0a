"""The whole log, taken three ways: through the audit door's feed, into a fold, into a file."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.house import House
from bench.page import Figure
from bench.processes import peak_mb, resident_mb
from runtime.export import Manifest, manifest_of

LIMIT_S: Final = 3_600.0
PAUSE_S: Final = 5.0
"""How long the reader of the feed rests when it has begun, while the door must not fill its memory."""
FOLD: Final = '''"""How many events are there of each type?"""


def keys(recorded):
    yield recorded.type


def evolve(row, recorded, key):
    return (row or 0) + 1
'''


@dataclass(frozen=True, slots=True)
class Read:
    """What came of a feed, the seconds without the pause, and the position it went up to."""

    events: int
    bytes: int
    seconds: float
    upto: int


def feed(house: House, *, pause_s: float = 0.0, **wanted: str) -> Read:
    """Reads it to its end, and counts only."""
    events = size = 0
    paused = pause_s == 0.0
    with house.client(house.audit, "auditor") as client:
        began = time.monotonic()
        with client.stream("GET", "/v1/feed", params=wanted) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_raw():
                events += chunk.count(b"\n")
                size += len(chunk)
                if not paused:
                    time.sleep(pause_s)
                    paused = True
            seconds = time.monotonic() - began - pause_s
            return Read(events, size, seconds, int(answer.headers["As-Of-Position"]))


def fed(house: House, order_id: str) -> Iterator[Figure]:
    """RuntimeError unless every event comes. What is rare is looked for by what one order was caused by."""
    door = house.pids()["audit-api"]
    before = resident_mb(door)
    whole = feed(house, pause_s=PAUSE_S)
    growth = peak_mb(door) - before
    if whole.events != whole.upto:
        raise RuntimeError(f"the feed has {whole.events} events of {whole.upto}")
    yield Figure("feed_events_per_second", round(whole.events / whole.seconds), "events/s")
    yield Figure("feed_bytes", whole.bytes, "bytes")
    yield Figure("feed_before_mb", round(before, 1), "MB")
    yield Figure("feed_growth_mb", round(growth, 1), "MB")
    stream = f"order-{order_id}"
    with house.client(house.audit, "auditor") as client:
        answer = client.get(f"/v1/streams/{stream}").raise_for_status().json()
    for name, wanted in (
        ("stream", {"stream": stream}),
        ("correlation", {"correlation": answer["events"][0]["correlation_id"]}),
    ):
        rare = feed(house, **wanted)
        if rare.events < len(answer["events"]):
            raise RuntimeError(f"the feed by {name} has {rare.events} events of {len(answer['events'])}")
        yield Figure(f"feed_by_{name}_seconds", round(rare.seconds, 3), "s")


def replayed(house: House, directory: Path) -> Iterator[Figure]:
    """RuntimeError unless every event was counted."""
    fold, into = directory / "count.py", directory / "counts.sqlite"
    fold.write_text(FOLD)
    ran = house.run("replay", str(fold), "--into", str(into), seconds=LIMIT_S).must()
    with closing(sqlite3.connect(into)) as database:
        counted = sum(json.loads(row) for (row,) in database.execute("select row from rows"))
        told: Mapping[str, str] = dict(database.execute("select name, value from replay"))
    into.unlink()
    if not counted == int(told["events"]) == int(told["position"]):
        raise RuntimeError(f"the replay counts {counted} events of {told}")
    yield Figure("replay_events_per_second", round(counted / float(told["seconds"])), "events/s")
    yield Figure("replay_cores", round(ran.used.cpu_s / ran.seconds, 2), "cores")
    yield Figure("replay_peak_mb", round(ran.used.peak_mb or 0), "MB")


def exported(house: House, directory: Path) -> Iterator[Figure]:
    """RuntimeError unless the file is what its manifest says."""
    path = directory / "log.ndjson"
    ran = house.run("export", str(path), seconds=LIMIT_S).must()
    manifest = msgspec.json.decode(manifest_of(path).read_bytes(), type=Manifest)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    path.unlink()
    if (digest, size) != (manifest.sha256, manifest.bytes):
        raise RuntimeError(f"the exported file of {size} bytes has the digest {digest}, not {manifest}")
    yield Figure("export_seconds", round(ran.seconds, 1), "s")
    yield Figure("export_bytes", size, "bytes")
    yield Figure("export_peak_mb", round(ran.used.peak_mb or 0), "MB")
