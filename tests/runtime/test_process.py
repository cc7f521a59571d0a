"""How a process ends: told, orphaned, refused or broken; and a door, with its open requests."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import httpx
import pytest

from runtime.process import SUPERVISOR_VARIABLE, CannotStart, run_process, serve_door

Message = MutableMapping[str, Any]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_tidies_up_undisturbed(told: signal.Signals) -> None:
    tidied = []

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), told)
        try:
            await asyncio.sleep(10)
        finally:
            os.kill(os.getpid(), told)  # an impatient operator
            await asyncio.sleep(0.1)
            tidied.append(told)

    assert run_process(work()) == 0
    assert tidied == [told]


@pytest.mark.parametrize("lives_s", [0, 0.2])
def test_it_stops_when_its_supervisor_is_gone(monkeypatch: pytest.MonkeyPatch, lives_s: float) -> None:
    with subprocess.Popen(("/bin/sleep", str(lives_s))) as supervisor:
        if not lives_s:
            supervisor.wait()
        monkeypatch.setenv(SUPERVISOR_VARIABLE, str(supervisor.pid))
        stopped: list[bool] = []

        async def work() -> None:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                stopped.append(True)
                raise

        assert run_process(work()) == 0
    assert stopped == ([True] if lives_s else [])


def test_work_that_is_done_ends_well() -> None:
    assert run_process(asyncio.sleep(0)) == 0


def test_what_the_operator_can_put_right_is_said_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        raise CannotStart("the cellar is locked")

    assert run_process(work()) == 1
    assert caplog.messages == ["the cellar is locked"]
    assert caplog.records[0].exc_info is None


def test_an_error_ends_it_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ZeroDivisionError

    assert run_process(work()) == 1
    assert "ZeroDivisionError" in caplog.text


async def slow_app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"done"})


def test_a_door_answers_its_open_requests_before_it_closes(free_port: Callable[[], int]) -> None:
    port = free_port()

    async def scenario() -> None:
        door = asyncio.create_task(serve_door(slow_app, host="127.0.0.1", port=port))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await asyncio.sleep(0.3)
            asked = asyncio.create_task(client.get("/"))
            await asyncio.sleep(0.2)
            door.cancel()
            assert (await asked).text == "done"
            with suppress(asyncio.CancelledError):
                await door
            assert door.cancelled()
            with pytest.raises(httpx.ConnectError):
                await client.get("/")

    asyncio.run(scenario())


def test_a_door_whose_port_is_taken_says_so_and_ends(
    free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert run_process(serve_door(slow_app, host="127.0.0.1", port=port)) == 1
    assert caplog.messages[-1] == f"nothing can listen on 127.0.0.1:{port}: Address already in use"
