"""A whole house of its own: `tallybook up`, with two write doors, on free ports, in a temporary home."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from uuid_utils import uuid7

READY_SECONDS = 60
STOP_SECONDS = 10
ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class House:
    """What `up --json` says, and how to talk to it."""

    write: str
    write_all: list[str]
    read: str
    audit: str
    tokens: Mapping[str, str]
    home: Path
    pid: int

    def headers(self, role: str, key: str | None = None, **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {
            "Authorization": f"Bearer {self.tokens[role]}",
            "Idempotency-Key": key or str(uuid7()),
            **named,
        }

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads((self.home / "settings.json").read_text())
        return settings

    def pid_of(self, name: str) -> int | None:
        """Of its process of this name, if it runs."""
        records = json.loads((self.home / "processes.json").read_text())
        return next((record["pid"] for record in records if record["name"] == name), None)


@dataclass
class Client:
    """A customer of the house, or its staff: sends commands, reads what became of them."""

    house: House
    http: httpx.AsyncClient

    async def post(
        self,
        role: str,
        path: str,
        body: object,
        *,
        base: str | None = None,
        key: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        url = f"{base or self.house.write}/v1{path}"
        return await self.http.post(url, json=body, headers=self.house.headers(role, key, **headers))

    async def done(self, role: str, path: str, body: object, **more: str) -> httpx.Response:
        answer = await self.post(role, path, body, **more)
        assert answer.is_success, answer.text
        return answer

    async def get(self, role: str, path: str, *, after: httpx.Response | None = None) -> httpx.Response:
        """From the read door; waits until what `after` answered is applied."""
        headers = self.house.headers(role)
        if after is not None:
            headers |= {"Consistency-Token": after.headers["Consistency-Token"], "Prefer": "wait=10"}
        return await self.http.get(f"{self.house.read}/v1{path}", headers=headers)

    async def history(self, stream: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while True:
            page = await self.http.get(
                f"{self.house.audit}/v1/streams/{stream}",
                params={"after_version": len(events), "limit": 200},
                headers=self.house.headers("auditor"),
            )
            assert page.is_success, page.text
            if not page.json()["events"]:
                return events
            events += page.json()["events"]

    async def product(
        self, sku: str, *, amount_minor: int = 999, qty: int = 0, location: str = "DEPOT"
    ) -> str:
        """A published product with one variant, in stock."""
        drafted = await self.done(
            "catalogue",
            "/products",
            {"slug": sku.lower(), "title": {"en": f"The {sku}"}, "tax_class": "standard"},
        )
        product = drafted.json()["product_id"]
        added = await self.done(
            "catalogue",
            f"/products/{product}/add-variant",
            {"sku": sku, "options": {}, "weight_g": 100},
            If_Match=drafted.headers["ETag"],
        )
        await self.done(
            "catalogue",
            f"/prices/{added.json()['variant_id']}/set",
            {"product_id": product, "currency": "EUR", "amount_minor": amount_minor},
            If_Match='"0"',
        )
        await self.done("catalogue", f"/products/{product}/publish", {}, If_Match=added.headers["ETag"])
        await self.post("warehouse", "/locations", {"location": location, "name": location, "country": "DE"})
        if qty:
            await self.receive(sku, qty, location=location)
        return str(product)

    async def receive(
        self, sku: str, qty: int, *, location: str = "DEPOT", base: str | None = None
    ) -> httpx.Response:
        body = {"qty": qty, "reference": {"type": "initial", "id": "count"}}
        answer = await self.post("warehouse", f"/stock/{sku}@{location}/receive", body, base=base)
        assert answer.is_success, answer.text
        return answer

    async def order(
        self,
        sku: str,
        *,
        qty: int = 1,
        amount_minor: int = 999,
        base: str | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        body = {
            "customer_id": str(uuid7()),
            "lines": [{"sku": sku, "qty": qty, "location": "DEPOT"}],
            "currency": "EUR",
            "expected_total": {"amount_minor": qty * amount_minor, "currency": "EUR"},
        }
        return await self.post("customer", "/orders", body, base=base, key=key)


@asynccontextmanager
async def client_of(house: House) -> AsyncIterator[Client]:
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as http:
        yield Client(house, http)


@contextlib.contextmanager
def house_in(home: Path, *options: str, **environment: str) -> Iterator[House]:
    """`tallybook up` on the home; stopped with SIGTERM, which must take less than 10 seconds."""
    log = (home.parent / f"{home.name}.up.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "up", "--json", *options],
        env={**os.environ, "TALLYBOOK_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, Path(log.name).read_text()
        said = json.loads(line)
        yield House(
            write=said["write"],
            write_all=said.get("write_all", [said["write"]]),
            read=said["read"],
            audit=said["audit"],
            tokens=said["tokens"],
            home=Path(said["home"]),
            pid=process.pid,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            log.close()


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """A home that any account may reach: root's PostgreSQL is nobody's."""
    with tempfile.TemporaryDirectory(prefix="tallybook-house-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "home"


def free_port_base() -> int:
    """A base of which no port that a house takes is in use."""
    for _ in range(100):
        base = random.randrange(20_000, 30_000, 50)  # noqa: S311 — not a secret
        with contextlib.ExitStack() as stack:
            try:
                for port in (*range(base + 1, base + 20), base + 40):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")
