"""Clients of the read door in a closed loop, in a process of their own: a request a connection at a time.

Some products are asked for far more often than others, as in any shop.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, Literal

import uvloop

from bench import worker
from bench.catalogue import DEPARTMENTS, department_of, product_of
from bench.http_client import Client, request
from bench.loops import Measured, Window, in_tasks

Kind = Literal["query", "list", "noop"]
LIMIT_S: Final = 60.0
LIKED: Final = 8
"""With 8, the first hundredth of the products has more than half of the requests."""


def asked(url: str, token: str, kind: Kind, products: int, connections: int, window: Window) -> Measured:
    """RuntimeError if anything is refused."""
    task = {"url": url, "token": token, "kind": kind, "products": products, "connections": connections}
    [answer] = worker.run(__name__, [task | asdict(window)], window.warm + window.seconds + LIMIT_S)
    return Measured(**answer)


def _paths(kind: Kind, products: int) -> Iterator[str]:
    while True:
        number = int(products * random.random() ** LIKED)  # noqa: S311 - not a secret
        match kind:
            case "query":
                yield f"/v1/products/{product_of(number)}"
            case "list":
                department = department_of(number % DEPARTMENTS).replace(" ", "%20")
                yield f"/v1/products?department={department}&limit=20"
            case "noop":
                yield f"/v1/nothing/{number}"


async def _run(task: dict[str, Any]) -> Measured:
    client, paths = Client(task["url"]), _paths(task["kind"], task["products"])

    async def once() -> int:
        answer = await client.ask(request("GET", next(paths), task["token"]))
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"{answer.status}: {answer.body.decode(errors='replace')}")
        return 1

    worker.wait_for_go()
    measured = await in_tasks(once, task["connections"], Window(task["warm"], task["seconds"]))
    client.close()
    return measured


if __name__ == "__main__":
    worker.answer(asdict(uvloop.run(_run(worker.told()))))
