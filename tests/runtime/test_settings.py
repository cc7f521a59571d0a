"""Settings: the environment first, then what the home's last `up` wrote."""

import json
from pathlib import Path

import pytest

from runtime.home import Home
from runtime.secrets import ROLES
from runtime.settings import SettingsInvalid, load_settings, load_up_settings

TOKENS = {role: f"token of {role}" for role in ROLES}
KEY = bytes(range(32))


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    monkeypatch.setenv("TALLYBOOK_HOME", str(tmp_path))
    for name, value in {
        "DATABASE_URL": "postgresql://log",
        "READ_DATABASE_URL": "postgresql://read",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
        "DIGEST_KEY": KEY.hex(),
        "TOKENS": json.dumps(TOKENS),
    }.items():
        monkeypatch.setenv(f"TALLYBOOK_{name}", value)
    return Home(tmp_path)


def test_what_is_not_given_follows_from_what_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_READ_PORT", "9002")
    settings = load_settings()
    assert settings.home == home.path
    assert settings.migration_database_url == "postgresql://log"
    assert settings.read_migration_database_url == "postgresql://read"
    assert settings.read_url == "http://127.0.0.1:9002"
    assert settings.digest_key == KEY
    assert settings.tokens == TOKENS
    assert settings.kafka_recreate_topics is False


def test_the_environment_goes_before_the_homes_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.settings.write_text(load_settings().model_dump_json())
    for name in ("READ_DATABASE_URL", "DIGEST_KEY", "TOKENS"):
        monkeypatch.delenv(f"TALLYBOOK_{name}")
    monkeypatch.setenv("TALLYBOOK_DATABASE_URL", "postgresql://other")
    settings = load_settings()
    assert settings.database_url == "postgresql://other"
    assert settings.read_database_url == "postgresql://read"
    assert settings.digest_key == KEY


def test_every_variable_that_cannot_be_used_is_named_and_no_value_is_shown(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALLYBOOK_DATABASE_URL")
    monkeypatch.setenv("TALLYBOOK_DIGEST_KEY", "abcd")
    monkeypatch.setenv("TALLYBOOK_TOKENS", json.dumps({**TOKENS, "customer": TOKENS["admin"]}))
    with pytest.raises(SettingsInvalid) as refused:
        load_settings()
    message = str(refused.value)
    for name in ("DATABASE_URL", "DIGEST_KEY", "TOKENS"):
        assert f"TALLYBOOK_{name}: " in message
    assert message.count("TALLYBOOK_") == 4  # the home's is the fourth
    assert "Value error" not in message
    assert "abcd" not in message
    assert "token of" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "shop:opensesame@db"),
        ("DIGEST_KEY", "opensesame"),
        ("TOKENS", "opensesame"),
        ("TOKENS", '["opensesame"]'),
        ("TOKENS", json.dumps(dict.fromkeys(ROLES, "opensesame"))),
        ("TOKENS", json.dumps({**TOKENS, "admin": 5})),
        ("WRITE_PORT", "opensesame"),
        ("READ_PORT", "0"),
        ("AUDIT_PORT", "65536"),
        ("METRICS_PORT", "-1"),
        ("READ_URL", "opensesame"),
        ("CACHE_URL", "opensesame"),
        ("CACHE_URL", "valkey://:opensesame@cache:port"),
        ("KAFKA_RECREATE_TOPICS", "opensesame"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_not_shown(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TALLYBOOK_{name}", value)
    with pytest.raises(SettingsInvalid, match=f"^TALLYBOOK_{name}: [^\n]+$") as refused:
        load_settings()
    assert "opensesame" not in str(refused.value)


def test_settings_show_no_secret(home: Home) -> None:
    shown = repr(load_settings())
    for secret in ("postgresql://", "token of", KEY.hex(), repr(KEY)):
        assert secret not in shown


def test_up_does_not_take_the_last_ones_services_for_wishes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.settings.write_text(load_settings().model_dump_json())
    monkeypatch.delenv("TALLYBOOK_DATABASE_URL")
    assert load_up_settings().database_url is None
