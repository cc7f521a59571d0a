"""`tallybook status`: what of a home runs."""

import time

import typer

from runtime.home import Home, home_path
from runtime.supervisor import records_of


def show() -> int:
    """0 when everything that the home's supervisor started still runs."""
    home = Home(home_path())
    records = records_of(home)
    running = [record for record in records if record.find()]
    for record in records:
        state = f"up {time.time() - record.started_at:.0f} s" if record in running else "ended"
        typer.echo(f"{record.name:<12} process {record.pid:<8} port {record.port or '-':<6} {state}")
    if not running:
        typer.echo(f"nothing runs in {home.path}")
        return 1
    return 0 if len(running) == len(records) else 1
