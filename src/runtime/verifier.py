"""The standing verifier: compares what is served with a fold of the log, one read model after the other.

A row that differs is an alarm, and is not mended: whoever did would remove what shows the mistake. Nothing is
kept from pass to pass, so any number may run, and one that is killed has lost a pass.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psycopg
from eventsourcing.persistence import InterfaceError, OperationalError
from prometheus_client import Counter, Gauge

from projections import READ_MODELS
from runtime.audit_log.history import History
from runtime.meters import serve_meters
from runtime.read_models.folding import Model
from runtime.read_models.verify import NothingServed, Verified, verify
from runtime.settings import Settings
from runtime.stopping import stop_if_cancelled
from runtime.verifying import told

logger = logging.getLogger(__name__)

LEAST: Final = 19
"""The least urgent niceness."""
REST: Final = 9
"""How many times as long as a pass took it rests after it: a tenth of the time, at most, goes into passes."""
WAIT_S: Final = 2.0
"""For a database that is away; it also bounds how long a read in a thread outlives the order to stop."""
PASSING: Final = (psycopg.OperationalError, psycopg.errors.UndefinedTable, OperationalError, InterfaceError)
"""Psycopg's and the library's errors when a database is away; a table that a rebuild has just dropped."""

_LABELS: Final = ("model",)
PASSES = Counter("tallybook_verifier_passes", "Passes begun", _LABELS)
FAILED = Counter("tallybook_verifier_failed_passes", "Passes that did not come to their end", _LABELS)
ROWS = Gauge("tallybook_verifier_rows", "Rows that the last pass compared", _LABELS)
DIFFERING = Gauge(
    "tallybook_verifier_differing_rows", "Rows that were not what the log says, in the last pass", _LABELS
)
POSITION = Gauge("tallybook_verifier_position", "Position up to which the last pass folded the log", _LABELS)
PASSED_AT = Gauge(
    "tallybook_verifier_passed_at_seconds", "When the last pass ended, in Unix seconds", _LABELS
)
SECONDS = Gauge("tallybook_verifier_pass_seconds", "How long the last pass took", _LABELS)


async def run(settings: Settings) -> None:
    serve_meters(settings)
    give_way()
    with History.open(settings.database_url, wait_s=WAIT_S) as history:
        await Verifier(history, settings.read_database_url, settings.verify_every_s).run()


def give_way() -> None:
    """Whoever serves somebody comes first.

    Where the kernel shares the processor among sessions first (autogroups), niceness counts only within one.
    """
    os.nice(LEAST)
    with suppress(OSError):  # there are none, or another's has just been changed
        Path("/proc/self/autogroup").write_text(str(LEAST))


class Verifier:
    """`url` is the read models'. `every_s`: from one round over the models to the next, at least."""

    def __init__(
        self, history: History, url: str, every_s: float, models: Iterable[Model] = READ_MODELS
    ) -> None:
        self._history = history
        self._url = url
        self._every_s = every_s
        self._models = tuple(models)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            next_round = time.monotonic() + self._every_s
            for model in self._models:
                stop_if_cancelled()
                began = time.monotonic()
                await self._pass(model, began)
                await asyncio.sleep(REST * (time.monotonic() - began))
            await asyncio.sleep(max(0.0, next_round - time.monotonic()))

    async def _pass(self, model: Model, began: float) -> None:
        """Whatever goes wrong, the figures stay those of the last pass that came to its end."""
        PASSES.labels(model.name).inc()
        try:
            verified = await verify(self._history, self._url, model, lambda _: None)
        except NothingServed as unserved:
            logger.info("%s", unserved)
        except PASSING as away:
            FAILED.labels(model.name).inc()
            logger.warning("%s cannot be verified now: %s", model.name, away)
        except Exception:
            FAILED.labels(model.name).inc()
            logger.exception("%s cannot be verified", model.name)
        else:
            _tell(verified, time.monotonic() - began)


def _tell(verified: Verified, seconds: float) -> None:
    name = verified.model
    ROWS.labels(name).set(verified.rows)
    DIFFERING.labels(name).set(verified.differing)
    POSITION.labels(name).set(verified.head)
    SECONDS.labels(name).set(seconds)
    PASSED_AT.labels(name).set(time.time())
    if verified.differing:
        logger.error(
            "DRIFT: %d of %s differ from the log up to position %d; the first %d:\n%s",
            verified.differing,
            name,
            verified.head,
            len(verified.told),
            "\n".join(map(told, verified.told)),
        )
