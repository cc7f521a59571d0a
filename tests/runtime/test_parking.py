"""What an operator sees of parked streams, and does about them."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from history import stock_of
from parked_side import catch_up, on_hand, parked, received_by
from read_side import ReadSide

from domain.envelope import Recorded
from projections.stock_availability import STOCK_AVAILABILITY
from runtime import parking
from runtime.parking import NoReason
from runtime.read_models.resuming import MAX_REASON_CHARS, NotParked
from runtime.read_models.tables import Table
from runtime.secrets import ROLES
from runtime.settings import Settings
from runtime.verifying import UnknownReadModel

pytestmark = pytest.mark.anyio

MODEL = STOCK_AVAILABILITY.name


@pytest.fixture
def settings(side: ReadSide) -> Settings:
    return cast("Settings", SimpleNamespace(database_url=side.log_url, read_database_url=side.read_url))


async def renamed(side: ReadSide, event: Recorded, type_: str) -> None:
    """Under another stored name no code can decode the event."""
    async with await psycopg.AsyncConnection.connect(side.log_url, autocommit=True) as owner:
        await owner.execute("update log.events set type = %s where position = %s", [type_, event.position])


@pytest.fixture
async def poison(side: ReadSide) -> Recorded:
    """The second of three events of a stream, which stands still there; another stream is fine."""
    _, poison, _ = await received_by(side, 0, 1, 20, 300)
    await received_by(side, 1, 5)
    await renamed(side, poison, "stock.lost.v9")
    await catch_up(side, STOCK_AVAILABILITY)
    return poison


async def test_the_list_says_what_stands_still_where_and_what_waits(
    settings: Settings, side: ReadSide, poison: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await parking.show(settings, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    [stored] = await parked(side)
    assert told.pop("parked_at") == stored.parked_at.isoformat().replace("+00:00", "Z")
    assert told.pop("error").startswith("UnknownEvent: ")
    assert told == {
        "model": MODEL,
        "build": Table(STOCK_AVAILABILITY).build,
        "context": "inventory",
        "lane": poison.lane,
        "stream": stock_of(0),
        "position": poison.position,
        "version": 2,
        "event_id": poison.event_id,
        "type": "stock.lost.v9",
        "tries": 1,
        "waiting": 2,
    }
    await received_by(side, 0, 1, 1)
    assert await parking.show(settings, as_json=False) == 0
    words = capsys.readouterr().out
    for word in (
        MODEL,
        stock_of(0),
        poison.event_id,
        "stock.lost.v9",
        "UnknownEvent: ",
        "events that wait: 4",
    ):
        assert word in words


async def test_a_retry_says_what_still_stands_and_what_has_resumed(
    settings: Settings, side: ReadSide, poison: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await parking.retry(settings, MODEL, None) == 1
    assert f"{stock_of(0)} stands still\n    at event {poison.event_id}" in capsys.readouterr().out
    assert await on_hand(side) == {"SKU0@MAIN": 1, "SKU1@MAIN": 5}

    await renamed(side, poison, poison.type)
    assert await parking.retry(settings, MODEL, stock_of(0)) == 0
    assert f"{stock_of(0)} has resumed" in capsys.readouterr().out
    assert await on_hand(side) == {"SKU0@MAIN": 321, "SKU1@MAIN": 5}
    assert await parking.show(settings, as_json=False) == 0
    assert capsys.readouterr().out == "no stream is parked\n"
    assert await parking.retry(settings, MODEL, None) == 0
    with pytest.raises(NotParked, match=stock_of(0)):
        await parking.retry(settings, MODEL, stock_of(0))


async def test_a_skip_needs_a_reason_and_is_signed(
    settings: Settings, side: ReadSide, poison: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "olga")
    place = (MODEL, stock_of(0), poison.event_id)
    for reason in (" ", "x" * (MAX_REASON_CHARS + 1)):
        with pytest.raises(NoReason):
            await parking.skip_event(settings, *place, reason)
    with pytest.raises(UnknownReadModel):
        await parking.skip_event(settings, "stock", *place[1:], "typing")
    assert await parking.skip_event(settings, *place, "counted twice") == 0

    assert await on_hand(side) == {"SKU0@MAIN": 301, "SKU1@MAIN": 5}
    async with side.pool.connection() as connection:
        kept = await connection.execute("select event_id::text, reason, skipped_by from read.skipped")
        assert await kept.fetchall() == [(poison.event_id, "counted twice", "olga")]


def tallybook(side: ReadSide, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "TALLYBOOK_DATABASE_URL": side.log_url,
        "TALLYBOOK_READ_DATABASE_URL": side.read_url,
        "TALLYBOOK_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "TALLYBOOK_DIGEST_KEY": "ab" * 32,
        "TALLYBOOK_TOKENS": json.dumps({role: role for role in ROLES}),
    }
    return subprocess.run(
        [sys.executable, "-P", "-m", "runtime.cli", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.heavy
async def test_the_commands_do_it(side: ReadSide, poison: Recorded) -> None:
    listed = tallybook(side, "parked", "--json")
    assert (listed.returncode, json.loads(listed.stdout)["event_id"]) == (0, poison.event_id)
    status = tallybook(side, "status")
    assert "PARKED streams: 1" in status.stdout
    verified = tallybook(side, "verify", MODEL)
    assert verified.returncode == 1
    assert tallybook(side, "retry", MODEL).returncode == 1
    place = (MODEL, stock_of(0), "--event", poison.event_id)
    assert tallybook(side, "skip", *place).returncode == 2
    skipped = tallybook(side, "skip", *place, "--reason", "counted twice")
    assert (skipped.returncode, skipped.stderr) == (0, "")
    again = tallybook(side, "retry", MODEL)
    assert (again.returncode, again.stdout) == (0, f"no stream is parked in {MODEL}\n")
    assert tallybook(side, "parked").stdout == "no stream is parked\n"
