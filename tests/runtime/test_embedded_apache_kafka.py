"""Apache Kafka from its jars: fetched whole or not at all, found again after a kill, on loopback only."""

import asyncio
import gc
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from broker import OwnApacheKafka
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from runtime.embedded.apache_kafka import jars, node
from runtime.embedded.apache_kafka.jars import ApacheKafkaUnusable
from runtime.embedded.apache_kafka.node import ApacheKafka, answers
from runtime.embedded.child import Child, ChildFailed, PortTaken
from runtime.kafka import Message, Publisher

# kafka-python leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TOPICS = {"here": 2}
READ_MS = 5_000


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Makes a command by its name and script; there are no others, and nothing has been fetched."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name: str, script: str) -> None:
        (commands / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (commands / name).chmod(0o755)

    return make


def fetched(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "tallybook").iterdir())


OUTPUT = 'for option; do case "$option" in -DoutputDirectory=*) out="${option#*=}" ;; esac; done'


def test_without_java_or_with_one_too_old_debians_package_is_named(tools: Callable[[str, str], None]) -> None:
    with pytest.raises(ApacheKafkaUnusable, match=r"there is no `java`: .*openjdk-17-jre-headless"):
        asyncio.run(jars.java())
    for version in ("1.8", "11"):
        tools("java", f"echo '    java.specification.version = {version}' >&2")
        with pytest.raises(ApacheKafkaUnusable, match=r"is another: .*openjdk-17-jre-headless"):
            asyncio.run(jars.java())
    tools("java", "echo '    java.specification.version = 21' >&2")
    assert asyncio.run(jars.java()).endswith("/java")


def test_without_maven_debians_package_is_named(tools: Callable[[str, str], None]) -> None:
    with pytest.raises(ApacheKafkaUnusable, match=r"there is no `mvn`: .*package maven"):
        asyncio.run(jars.jars())


def test_half_a_fetch_is_no_fetch(tools: Callable[[str, str], None], tmp_path: Path) -> None:
    tools("mvn", f'{OUTPUT}\nmkdir "$out"; touch "$out/half.jar"; echo checksum failed; exit 1')
    with pytest.raises(ApacheKafkaUnusable, match="checksum failed"):
        asyncio.run(jars.jars())
    assert fetched(tmp_path) == ["kafka-4.3.1.lock"]


def test_a_fetch_that_does_not_end_is_ended(
    tools: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "FETCH_SECONDS", 0.3)
    tools("mvn", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(ApacheKafkaUnusable, match="have not come within"):
        asyncio.run(jars.jars())
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert fetched(tmp_path) == ["kafka-4.3.1.lock"]


def test_two_that_need_the_jars_fetch_them_once(tools: Callable[[str, str], None], tmp_path: Path) -> None:
    tools(
        "mvn", f'{OUTPUT}\necho fetch >> {tmp_path}/fetches\nsleep 0.3; mkdir "$out"; touch "$out/kafka.jar"'
    )

    async def both() -> tuple[Path, Path]:
        return await asyncio.gather(jars.jars(), jars.jars())

    first, second = asyncio.run(both())
    assert asyncio.run(jars.jars()) == first == second
    assert [path.name for path in first.iterdir()] == ["kafka.jar"]
    assert (tmp_path / "fetches").read_text() == "fetch\n"
    assert fetched(tmp_path) == ["kafka-4.3.1", "kafka-4.3.1.lock"]


@pytest.mark.parametrize("name", ["a,b", "größe", "a\\b"])
def test_a_directory_that_its_settings_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    unfit = ApacheKafka(directory=tmp_path / name, port=1, controller_port=2, log=tmp_path / "kafka.log")
    with pytest.raises(ApacheKafkaUnusable, match="takes ASCII without comma"):
        asyncio.run(unfit.spec())


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", node.ANSWER.pack(6, node.CORRELATION, 35)])
def test_what_listens_and_does_not_speak_as_a_broker_does_is_none(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "PROBE_SECONDS", 0.3)

    def speak(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(said)
            while peer.recv(100):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as speaker:
        speaking = speaker.submit(speak, listener)
        assert not asyncio.run(answers(listener.getsockname()[1]))
        speaking.result()


def test_where_nobody_listens_is_no_broker(free_port: Callable[[], int]) -> None:
    assert not asyncio.run(answers(free_port()))


@pytest.fixture
def begun(apache_kafka: OwnApacheKafka) -> OwnApacheKafka:
    asyncio.run(apache_kafka.begin())
    return apache_kafka


@pytest.fixture
def admin(begun: OwnApacheKafka) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=begun.servers)
    yield client
    client.close()


def test_it_makes_no_topic_by_itself(begun: OwnApacheKafka, admin: KafkaAdminClient) -> None:
    consumer = KafkaConsumer("asked.for", bootstrap_servers=begun.servers, group_id="group")
    consumer.poll(timeout_ms=500)
    consumer.close()
    assert "asked.for" not in admin.list_topics()


@pytest.mark.heavy
def test_what_it_acknowledged_is_there_after_a_kill(begun: OwnApacheKafka) -> None:
    async def scenario() -> None:
        publisher = Publisher(begun.servers, TOPICS, recreate=False)
        await publisher.connect()
        messages = [Message("here", n % 2, b"key", str(n).encode(), []) for n in range(100)]
        assert (await publisher.publish(messages)).count == 100
        await publisher.close()
        await begun.kill()
        await begun.resume()

    asyncio.run(scenario())
    found = {value for partition in (0, 1) for value in values(begun.servers, partition)}
    assert found == {str(n).encode() for n in range(100)}
    gc.collect()  # what clients of earlier tests have left behind while it was away; here it is forgiven


def values(servers: str, partition: int) -> list[bytes]:
    consumer = KafkaConsumer(
        bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=READ_MS
    )
    try:
        consumer.assign([TopicPartition("here", partition)])
        end = consumer.end_offsets([TopicPartition("here", partition)])[TopicPartition("here", partition)]
        return [next(consumer).value for _ in range(end)]
    finally:
        consumer.close()


@pytest.mark.heavy
def test_it_listens_on_loopback_ends_when_told_and_moves_to_other_ports(
    free_port: Callable[[], int], tmp_path: Path, begun: OwnApacheKafka
) -> None:
    (tmp_path / "kafka" / "data.new").mkdir(parents=True)  # of a format that was interrupted

    async def scenario(*, first: bool) -> None:
        ports = free_port(), free_port()
        kafka = ApacheKafka(
            directory=tmp_path / "kafka", port=ports[0], controller_port=ports[1], log=tmp_path / "kafka.log"
        )
        child = Child(await kafka.spec())
        await child.start()
        try:
            await child.wait_ready(30)
            connections = psutil.Process(child.pid).net_connections()
            listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
            assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
            assert {address.port for address in listening} == set(ports)
            publisher = Publisher(f"127.0.0.1:{ports[0]}", TOPICS, recreate=False)
            if first:
                await publisher.connect()
            else:
                admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{ports[0]}")
                assert admin.list_topics() == ["here"]
                admin.close()
            await publisher.close()
        finally:
            await child.stop()
        assert child.exit_code == 143  # of a JVM that SIGTERM has ended in order

    asyncio.run(scenario(first=True))
    asyncio.run(scenario(first=False))


def test_a_controllers_port_that_is_taken_is_named(
    begun: OwnApacheKafka, free_port: Callable[[], int], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        kafka = ApacheKafka(
            directory=tmp_path / "kafka",
            port=free_port(),
            controller_port=other.getsockname()[1],
            log=tmp_path / "kafka.log",
        )
        with pytest.raises(PortTaken, match=r"the broker's controller wants 127\.0\.0\.1"):
            asyncio.run(started(kafka))


def test_storage_that_cannot_be_formatted_is_named(
    begun: OwnApacheKafka, free_port: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SETTINGS", {**node.SETTINGS, "process.roles": "baker"})
    kafka = ApacheKafka(
        directory=tmp_path / "kafka",
        port=free_port(),
        controller_port=free_port(),
        log=tmp_path / "kafka.log",
    )
    with pytest.raises(ChildFailed, match="baker"):
        asyncio.run(started(kafka))
    assert not kafka.data.exists()


async def started(kafka: ApacheKafka) -> None:
    await Child(await kafka.spec()).start()
