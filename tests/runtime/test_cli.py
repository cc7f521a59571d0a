"""The command line: what it offers, and how it refuses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from house import free_port_base
from psycopg import OperationalError

from runtime import cli
from runtime.secrets import ROLES

COMMANDS = (
    *("up", "kafka", "write-api", "read-api", "audit-api", "relay", "projector", "policies", "verifier"),
    *("migrate", "status", "parked", "retry", "skip", "switch", "back", "drop"),
)


AWAY = "postgresql://shop:opensesame@127.0.0.1:1/log"  # nobody listens on port 1


def tallybook(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TALLYBOOK_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "runtime.cli", *arguments],
        env={**kept, "TALLYBOOK_HOME": str(home), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_its_help_names_every_command(tmp_path: Path) -> None:
    helped = tallybook(tmp_path, "--help")
    assert helped.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in helped.stdout


@pytest.mark.parametrize("command", ["write-api", "relay"])
def test_without_settings_a_process_names_what_is_missing(tmp_path: Path, command: str) -> None:
    refused = tallybook(tmp_path, command)
    assert refused.returncode == 1
    for name in ("DATABASE_URL", "READ_DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "DIGEST_KEY", "TOKENS"):
        assert f"TALLYBOOK_{name}: not set\n" in refused.stderr
    assert refused.stderr.count("TALLYBOOK_") == 6  # and what follows from them is nobody's business
    assert f"{tmp_path / 'settings.json'} does not have them either: `tallybook up` makes" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        *("up", "migrate", "status", "write-api", "policies", "verify", "rebuild", "export log.ndjson"),
        *("parked", "retry stock_availability"),
        "replay fold.py --into result.sqlite",
        pytest.param("projector", marks=pytest.mark.heavy),  # waits for ten seconds
    ],
)
def test_a_database_that_does_not_answer_is_named_and_nothing_else_is_started(
    tmp_path: Path, command: str
) -> None:
    refused = tallybook(
        tmp_path,
        *command.split(),
        TALLYBOOK_DATABASE_URL=AWAY,
        TALLYBOOK_READ_DATABASE_URL=AWAY,
        TALLYBOOK_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        TALLYBOOK_DIGEST_KEY="ab" * 32,
        TALLYBOOK_TOKENS=json.dumps({role: role for role in ROLES}),
    )
    assert refused.returncode == 1
    assert "TALLYBOOK_DATABASE_URL: connection failed: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "opensesame" not in refused.stdout + refused.stderr
    assert not (tmp_path / "logs").exists()


def test_up_asks_the_database_that_is_named_before_it_starts_the_other(tmp_path: Path) -> None:
    refused = tallybook(tmp_path, "up", TALLYBOOK_READ_DATABASE_URL=AWAY)
    assert refused.returncode == 1
    assert "TALLYBOOK_READ_DATABASE_URL: connection failed: " in refused.stderr
    assert "starting" not in refused.stderr
    assert not (tmp_path / "postgres").exists()


def test_a_base_without_room_for_all_ports_is_refused(tmp_path: Path) -> None:
    refused = tallybook(tmp_path, "up", "--port-base", "65536")
    assert refused.returncode == 2
    assert "--port-base" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = tallybook(tmp_path / "file", "up")
    assert refused.returncode == 1
    assert f"{tmp_path / 'file'} cannot be made a home: File exists" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_second_house_on_the_ports_of_the_first_is_told_how_to_move(tmp_path: Path) -> None:
    base = free_port_base()
    with socket.create_server(("127.0.0.1", base + 1)):
        refused = tallybook(tmp_path, "up", "--port-base", str(base))
    assert refused.returncode == 1
    assert (
        f"write-api wants 127.0.0.1:{base + 1}, and cannot have it: Address already in use" in refused.stderr
    )
    assert "--port-base" in refused.stderr
    assert not (tmp_path / "postgres" / "data").exists()


def test_the_status_of_a_home_where_nothing_runs(tmp_path: Path) -> None:
    told = tallybook(tmp_path, "status")
    assert told.returncode == 1
    assert f"nothing runs in {tmp_path}" in told.stdout


def test_a_database_that_goes_away_meanwhile_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise OperationalError("the connection is lost\n\tas libpq says at length")

    with pytest.raises(SystemExit) as ended:
        cli._end(work)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert (
        said
        == "tallybook: the database went away (the connection is lost); once it is back, run this again\n"
    )
