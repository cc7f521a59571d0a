"""The clock and the source of ids are read in runtime only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tree import PACKAGES, ROOT

RUFF = Path(sys.executable).with_name("ruff")
PLANTED = """
import datetime
import time
import uuid
from datetime import date, datetime as moment
from uuid import uuid4  # an import by name is refused where it stands

import uuid_utils

datetime.datetime.now(datetime.UTC)
moment.now()
moment.utcnow()
moment.today()
date.today()
time.time()
time.time_ns()
uuid.uuid1()
uuid.uuid4()
uuid_utils.uuid4()
uuid_utils.uuid7()
"""
REFUSED = {6, *range(10, 21)}


def banned(filename: str) -> set[int]:
    """The lines of the planted text that ruff refuses in a file of this name."""
    found = subprocess.run(
        [
            RUFF,
            "check",
            "--select=TID251",
            "--no-cache",
            "--output-format=json",
            "--stdin-filename",
            filename,
            "-",
        ],
        cwd=ROOT,
        input=PLANTED,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    ).stdout
    return {violation["location"]["row"] for violation in json.loads(found)}


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "runtime"])
def test_an_ambient_clock_or_id_is_refused(package: str) -> None:
    assert banned(f"src/{package}/planted.py") == REFUSED


def test_runtime_reads_the_clock_and_makes_ids() -> None:
    assert banned("src/runtime/planted.py") == set()
