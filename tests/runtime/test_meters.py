"""What a process without a door says over HTTP: its figures, and that it is alive. Nothing else."""

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from runtime.meters import meters_on
from runtime.process import CannotListen


@pytest.fixture
def client(free_port: Callable[[], int]) -> Iterator[httpx.Client]:
    port = free_port()
    with meters_on("127.0.0.1", port) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
        server.shutdown()
        serving.join()


def test_the_figures_are_prometheuss(client: httpx.Client) -> None:
    told = client.get("/metrics?name[]=all")
    assert told.status_code == 200
    assert told.headers["Content-Type"].startswith("text/plain; version=")
    assert "process_cpu_seconds_total" in told.text
    assert "Server" not in told.headers
    headed = client.head("/metrics")
    assert (headed.status_code, headed.content) == (200, b"")


def test_a_process_that_answers_is_alive(client: httpx.Client) -> None:
    told = client.get("/healthz")
    assert (told.status_code, told.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/", "/metrics/", "/readyz", "/v1/orders"])
def test_no_other_path_is_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_method_that_changes_something_is_refused(client: httpx.Client) -> None:
    assert client.post("/metrics").status_code == 501


def test_a_port_that_is_taken_is_named(client: httpx.Client) -> None:
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{client.base_url.port}: Address already in use$"):
        meters_on("127.0.0.1", client.base_url.port or 0)


def test_a_host_that_is_not_here_is_named(free_port: Callable[[], int]) -> None:
    with pytest.raises(CannotListen, match=r"nothing can listen on 192\.0\.2\.7:"):
        meters_on("192.0.2.7", free_port())
