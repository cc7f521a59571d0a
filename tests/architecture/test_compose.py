"""docker-compose.yml runs the processes that the command has, with settings that they understand."""

import json
import re
from typing import Any, Final

import pytest
import typer
import yaml
from tree import ROOT, SRC

from runtime.cli import app
from runtime.embedded.apache_kafka.jars import VERSION
from runtime.secrets import ROLES
from runtime.settings import PREFIX, Settings, load_settings

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
PROCESSES: Final = {name for name, service in SERVICES.items() if service["image"] == "tallybook"}
BY_HAND: Final = {
    *("up", "kafka", "status", "import", "verify", "replay", "export", "rebuild"),
    *("parked", "retry", "skip", "switch", "back", "drop"),
}
REQUIRED: Final = re.compile(r"\$\{([A-Z_]+):\?[^}]+\}")
SECRETS: Final = {
    "TALLYBOOK_OWNER_PASSWORD": "owner",
    "TALLYBOOK_SERVICE_PASSWORD": "service",
    "TALLYBOOK_DIGEST_KEY": "ab" * 32,
    "TALLYBOOK_TOKENS": json.dumps({role: f"token-{role}" for role in ROLES}),
}


def filled(value: str) -> str:
    return REQUIRED.sub(lambda found: SECRETS[found[1]], value)


def test_every_process_of_the_command_is_a_service() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group has them
    assert commands - BY_HAND == PROCESSES
    assert {name: [name] for name in PROCESSES} == {name: SERVICES[name]["command"] for name in PROCESSES}


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_understands_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[name]["environment"]
    assert {f"{PREFIX}{field.upper()}" for field in Settings.model_fields} >= set(environment)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, filled(value))
    settings = load_settings()
    assert settings.tokens["admin"] == "token-admin"
    assert ("owner" in settings.migration_database_url) == (name == "migrate")


def test_secrets_come_from_outside_and_are_required() -> None:
    asked = {
        name
        for service in SERVICES.values()
        for value in service.get("environment", {}).values()
        for name in REQUIRED.findall(value)
    }
    offered = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert asked == set(offered) == set(SECRETS)


def test_what_is_published_is_published_on_loopback() -> None:
    published = {port for service in SERVICES.values() for port in service.get("ports", ())}
    assert published == {f"127.0.0.1:{port}:{port}" for port in (8001, 8002, 8003)}


def test_one_version_of_apache_kafka_is_named_everywhere() -> None:
    pom = (SRC / "runtime/embedded/apache_kafka/pom.xml").read_text()
    assert f"<artifactId>kafka_2.13</artifactId>\n      <version>{VERSION}</version>" in pom
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{VERSION}"
    documents = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        version for path in documents for version in re.findall(r"Kafka (\d+\.[\d.]*\d)", path.read_text())
    }
    assert named == {VERSION}


def test_every_service_that_stays_says_whether_it_is_well() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"migrate"}
