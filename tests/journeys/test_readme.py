"""The walk in the README works as it is written there."""

import os
import re
import subprocess
from pathlib import Path

from house import House

README = Path(__file__).parents[2] / "README.md"
WALK_SECONDS = 60


def test_the_walk_runs_from_the_readmes_own_text(house: House) -> None:
    walk = README.read_text().split("## A walk", 1)[1].split("\n## Who may do what", 1)[0]
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```$", walk, flags=re.DOTALL | re.MULTILINE))
    for default, url in (
        ("http://127.0.0.1:8001", house.write),
        ("http://127.0.0.1:8002", house.read),
        ("http://127.0.0.1:8003", house.audit),
        (".tallybook/", f"{house.home}/"),
    ):
        assert default in script
        script = script.replace(default, url)
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=README.parent,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=WALK_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for shown in (
        '"order_no"',
        '"status":"confirmed"',
        '"available":48',
        '"placed_at"',
        '"price_minor":1250',
        '"type":"stock.reserved.v1"',
        '"type":"order.placed.v1"',
        '"gross_minor":3300',
    ):
        assert shown in ran.stdout.replace('": ', '":'), ran.stdout
