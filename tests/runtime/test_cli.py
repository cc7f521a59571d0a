"""The command line: what it offers, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("up", "write-api", "read-api", "audit-api", "relay", "projector", "policies", "migrate", "status")


def tallybook(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TALLYBOOK_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "runtime.cli", *arguments],
        env={**kept, "TALLYBOOK_HOME": str(home), "COLUMNS": "120"},
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
        assert f"TALLYBOOK_{name}: Field required" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


def test_a_base_without_room_for_all_ports_is_refused(tmp_path: Path) -> None:
    refused = tallybook(tmp_path, "up", "--port-base", "65536")
    assert refused.returncode == 2
    assert "--port-base" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_a_home_where_nothing_runs(tmp_path: Path) -> None:
    told = tallybook(tmp_path, "status")
    assert told.returncode == 1
    assert f"nothing runs in {tmp_path}" in told.stdout
