"""The plan of a house: its ports, what each process is told, and what is said when it is up."""

import asyncio
import json
import shlex
from pathlib import Path

import pytest

from runtime.embedded.apache_kafka import jars
from runtime.home import Home
from runtime.secrets import secrets_of
from runtime.settings import Settings, UpSettings, url_of
from runtime.up import Ports, TwoBrokers, announce, broker_of, plan_settings, process_specs, run_house

PORTS = Ports(base=9000, write_apis=3)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    for name in ("DATABASE_URL", "READ_DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "HOST"):
        monkeypatch.delenv(f"TALLYBOOK_{name}", raising=False)
    monkeypatch.setenv("TALLYBOOK_HOME", str(tmp_path))
    return Home(tmp_path)


@pytest.fixture
def settings(home: Home) -> Settings:
    settings, _ = plan_settings(home, UpSettings(), PORTS, secrets_of(home), "embedded")
    return settings


def test_one_number_moves_every_port(home: Home, settings: Settings) -> None:
    ports = [spec.port for spec in process_specs(home, settings, PORTS)] + [PORTS.postgres, PORTS.broker]
    ports.append(PORTS.cache)
    assert sorted(ports, key=str) == sorted(range(9001, 9013), key=str)
    assert ":9004/" in settings.database_url
    assert settings.kafka_bootstrap_servers == "127.0.0.1:9005"
    assert settings.read_url == "http://127.0.0.1:9002"


def test_the_embedded_services_are_used_with_the_services_login(settings: Settings) -> None:
    for url in (settings.database_url, settings.read_database_url):
        assert url.startswith("postgresql://tallybook_service:")
    for url in (settings.migration_database_url, settings.read_migration_database_url):
        assert url.startswith("postgresql://postgres:")
    assert settings.kafka_recreate_topics
    assert settings.cache_url
    assert settings.cache_url.endswith("@127.0.0.1:9009")
    assert "cache" not in repr(settings)


def test_apache_kafka_takes_the_brokers_place_and_one_port_more_and_keeps_its_topics(
    home: Home, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def there() -> Path:
        return Path("there")

    monkeypatch.setattr(jars, "java", there)
    monkeypatch.setattr(jars, "jars", there)
    spec = asyncio.run(broker_of(home, PORTS, "apache"))
    assert (spec.name, spec.port, PORTS.controller) == ("broker", 9005, 9040)
    assert {"kafka.Kafka", str(home.path / "kafka" / "server.properties")} < set(spec.command)
    on_apache, _ = plan_settings(home, UpSettings(), PORTS, secrets_of(home), "apache")
    own = {"kafka_recreate_topics": False, "cache_url": on_apache.cache_url}  # with a password of its own
    assert on_apache == settings.model_copy(update=own)
    told = UpSettings(kafka_recreate_topics=True)
    assert plan_settings(home, told, PORTS, secrets_of(home), "apache")[0].kafka_recreate_topics


def test_apache_kafka_beside_a_broker_that_is_named_is_refused_before_anything_is_made(home: Home) -> None:
    named = UpSettings(home=home.path / "new", kafka_bootstrap_servers="broker:9092")
    with pytest.raises(
        TwoBrokers, match="TALLYBOOK_KAFKA_BOOTSTRAP_SERVERS names a broker, and --kafka apache"
    ):
        asyncio.run(run_house(named, PORTS, "apache", as_json=True))
    assert not named.home.exists()


def test_a_database_that_is_given_is_used_instead(home: Home) -> None:
    given = UpSettings(
        database_url="postgresql://log", kafka_bootstrap_servers="broker:9092", cache_url="valkey://cache"
    )
    settings, server = plan_settings(home, given, PORTS, secrets_of(home), "embedded")
    assert settings.database_url == settings.migration_database_url == "postgresql://log"
    assert ":9004/tallybook_read" in settings.read_database_url
    assert server is not None
    assert settings.kafka_bootstrap_servers == "broker:9092"
    assert not settings.kafka_recreate_topics
    assert settings.cache_url == "valkey://cache"


def test_with_both_databases_given_none_is_embedded(home: Home) -> None:
    given = UpSettings(database_url="postgresql://log", read_database_url="postgresql://read")
    settings, server = plan_settings(home, given, PORTS, secrets_of(home), "embedded")
    assert server is None
    assert settings.read_migration_database_url == "postgresql://read"


def test_what_the_last_up_wrote_is_not_taken_over(home: Home, settings: Settings) -> None:
    home.settings.write_text(settings.model_dump_json())
    moved, _ = plan_settings(
        home, UpSettings(), Ports(base=10_000, write_apis=1), secrets_of(home), "embedded"
    )
    assert moved.read_url == "http://127.0.0.1:10002"
    assert ":10004/" in moved.database_url


def test_every_process_is_told_its_own_port(home: Home, settings: Settings) -> None:
    specs = {spec.name: spec for spec in process_specs(home, settings, PORTS)}
    assert specs["write-api 3"].environment["TALLYBOOK_WRITE_PORT"] == "9012"
    assert specs["write-api 3"].command[-1] == "write-api"
    assert specs["projector"].environment["TALLYBOOK_METRICS_PORT"] == "9007"
    assert specs["relay"].environment["TALLYBOOK_DATABASE_URL"] == settings.database_url
    for spec in specs.values():
        assert settings.tokens["admin"] not in " ".join(
            spec.command
        )  # arguments are there for everybody to see


def test_ready_in_json_is_one_line(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    announce(settings, PORTS, as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told == {
        "write": "http://127.0.0.1:9001",
        "read": "http://127.0.0.1:9002",
        "audit": "http://127.0.0.1:9003",
        "tokens": settings.tokens,
        "home": str(settings.home),
        "write_all": ["http://127.0.0.1:9001", "http://127.0.0.1:9011", "http://127.0.0.1:9012"],
    }


def test_ready_in_words_gives_a_command_to_paste(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(settings, PORTS, as_json=False)
    told = capsys.readouterr().out
    for port in (9001, 9002, 9003, 9011, 9012):
        assert f"http://127.0.0.1:{port}" in told
    command = shlex.split(told[told.index("curl") : told.index("Ctrl-C")].replace("\\\n", " "))
    assert f"Authorization: Bearer {settings.tokens['catalogue']}" in command
    json.loads(command[-1])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),  # noqa: S104 - what an operator may ask for
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("shop.example", "http://shop.example:1"),
    ],
)
def test_a_door_is_reached_where_it_listens(host: str, url: str) -> None:
    assert url_of(host, 1) == url
