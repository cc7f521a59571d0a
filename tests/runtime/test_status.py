"""How far each reader is behind the log, as the service's own login sees it."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from runtime import migrate
from runtime.home import Home
from runtime.secrets import ROLES
from runtime.settings import Settings, environment_of
from runtime.status import Progress, Reader, progress_of, show, watch
from runtime.supervisor import ProcessRecord

if TYPE_CHECKING:
    from tests.conftest import PostgresForTests

WATCH_SECONDS = 10.0
THREE_EVENTS = """
    insert into log.events
    select position, 'stock-' || position, 1, gen_random_uuid(), 'stock.received.v1', 'inventory',
        position % 2, '{}', '{}', now() - interval '1 hour'
    from generate_series(1, 3) as position
"""


@pytest.fixture
def settings(postgres: "PostgresForTests", new_database: Callable[[], str], tmp_path: Path) -> Settings:
    log, read = new_database(), new_database()
    settings = Settings(
        home=tmp_path,
        database_url=postgres.service_url(log.rpartition("/")[2]),
        read_database_url=postgres.service_url(read.rpartition("/")[2]),
        migration_database_url=log,
        read_migration_database_url=read,
        kafka_bootstrap_servers="127.0.0.1:1",
        digest_key=bytes(32),
        tokens={role: role for role in ROLES},
    )
    asyncio.run(migrate.run(settings))
    return settings


@pytest.fixture
def behind(settings: Settings) -> Settings:
    """Three events, recorded an hour ago, of which nobody has read all."""
    with psycopg.connect(settings.migration_database_url) as log:
        log.execute(THREE_EVENTS)
        log.execute("insert into relay.checkpoint values ('kafka', gen_random_uuid(), 1, gen_random_uuid())")
        log.execute(
            "insert into policies.checkpoint values ('expire', gen_random_uuid(), 3, gen_random_uuid())"
        )
    with psycopg.connect(settings.read_migration_database_url) as read:
        read.execute(
            "insert into read.builds (build, model, served) values"
            " ('stock_0123456789ab', 'stock', true), ('stock_0123456789ab_1', 'stock', false)"
        )
        read.execute(
            "insert into read.checkpoints values"
            " ('stock_0123456789ab', 'inventory', 0, gen_random_uuid(), 2, gen_random_uuid()),"
            " ('stock_0123456789ab', 'inventory', 1, gen_random_uuid(), 1, gen_random_uuid()),"
            " ('stock_0123456789ab_1', 'inventory', 0, gen_random_uuid(), 0, gen_random_uuid()),"
            " ('stock_0123456789ab_1', 'inventory', 1, gen_random_uuid(), 0, gen_random_uuid())"
        )
    return settings


def about_an_hour(seconds: float) -> bool:
    return 3600 <= seconds < 3700


def test_a_new_log_has_no_event_and_no_reader(settings: Settings) -> None:
    assert asyncio.run(progress_of(settings)) == Progress(0, (), (), ())


def test_each_reader_is_behind_by_what_it_has_not_read(behind: Settings) -> None:
    progress = asyncio.run(progress_of(behind))
    assert progress.head == 3
    [relay], [policy] = progress.relays, progress.policies
    assert (relay.name, relay.positions, about_an_hour(relay.seconds)) == ("kafka", 2, True)
    assert policy == Reader("expire", 0, 0.0)


def test_a_read_model_is_behind_as_far_as_the_lane_that_is_furthest(behind: Settings) -> None:
    served, other = asyncio.run(progress_of(behind)).builds
    assert [(lane.lane, lane.positions) for lane in served.lanes] == [(0, 0), (1, 2)]
    assert [(lane.lane, lane.positions) for lane in other.lanes] == [(0, 2), (1, 3)]
    assert (served.served, served.positions, about_an_hour(served.seconds)) == (True, 2, True)
    assert (other.served, other.positions) == (False, 3)
    assert served.lanes[0].seconds == 0.0


@pytest.fixture
def at_home(behind: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a command by hand finds: a house whose relay has ended."""
    for name, value in environment_of(behind).items():
        monkeypatch.setenv(name, value)
    relay = ProcessRecord(
        name="relay", pid=1, started_at=0.0, port=8006, stop_signal=signal.SIGTERM, stop_seconds=1.0
    )
    itself = relay.model_copy(
        update={"name": "projector", "pid": os.getpid(), "started_at": psutil.Process().create_time()}
    )
    records = [record.model_dump(mode="json") for record in (relay, itself)]
    Home(behind.home).processes.write_text(json.dumps(records))
    return behind


def test_it_tells_a_line_a_reader_and_that_not_all_is_well(
    at_home: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(show(lanes=False, as_json=False)) == 1
    told = capsys.readouterr().out
    assert re.search(r"^relay +process 1 +port 8006 +ended$", told, re.MULTILINE)
    assert re.search(rf"^projector +process {os.getpid()} +port 8006 +up for [\d,]+ s$", told, re.MULTILINE)
    assert re.search(r"^relay kafka +2 +3,6\d\d\.\d$", told, re.MULTILINE)
    assert re.search(r"^policy expire +0 +0\.0$", told, re.MULTILINE)
    assert re.search(r"^stock_0123456789ab +2 +3,6\d\d\.\d +1 of 2, inventory 1$", told, re.MULTILINE)
    assert re.search(r"^stock_0123456789ab_1 \(not served\) +3 ", told, re.MULTILINE)
    assert "\n  inventory" not in told


def test_asked_for_it_tells_every_lane(at_home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(show(lanes=True, as_json=False))
    told = capsys.readouterr().out
    assert re.findall(r"^  inventory (\d) +(\d) ", told, re.MULTILINE) == [
        *(("0", "0"), ("1", "2")),
        *(("0", "2"), ("1", "3")),
    ]


def test_for_scripts_it_is_one_document(at_home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(show(lanes=False, as_json=True)) == 1
    told = json.loads(capsys.readouterr().out)
    assert {process["name"]: process["up_s"] is not None for process in told["processes"]} == {
        "relay": False,
        "projector": True,
    }
    assert told["log"]["head"] == 3
    assert told["log"]["builds"][0]["lanes"][1].items() >= {"context": "inventory", "positions": 2}.items()
    assert told["log"]["relays"][0]["positions"] == 2


def test_watching_goes_on_while_a_database_is_away(
    at_home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def watched() -> None:
        watching = asyncio.create_task(watch(0.01, lanes=False))
        for word in ("relay kafka", "TALLYBOOK_DATABASE_URL:", "relay kafka"):
            told = ""
            async with asyncio.timeout(WATCH_SECONDS):
                while word not in told:
                    await asyncio.sleep(0.01)
                    told = capsys.readouterr().out
            away = "postgresql://shop@127.0.0.1:1/log" if word == "relay kafka" else at_home.database_url
            monkeypatch.setenv("TALLYBOOK_DATABASE_URL", away)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    asyncio.run(watched())
