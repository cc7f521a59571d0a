"""What a process is told from outside, as TALLYBOOK_* variables of its environment.

Below them stands the home's settings.json, which `tallybook up` writes: a command run by hand beside a
running house needs no variable.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from domain.values import CURRENCY_EXPONENT
from runtime.cache import cache_url
from runtime.databases import database_url
from runtime.embedded.child import LOOPBACK
from runtime.home import Home, home_path, reading
from runtime.process import CannotStart
from runtime.secrets import ROLES, SECRET_BYTES

EVERYWHERE: Final = {"0.0.0.0": LOOPBACK, "::": "[::1]"}  # noqa: S104 - where to reach what listens everywhere
PREFIX: Final = "TALLYBOOK_"


_S = TypeVar("_S", bound=BaseSettings)


class SettingsInvalid(CannotStart):
    """Names every variable that is missing or cannot be used."""


def _digest_key(given: object) -> object:
    try:
        key = bytes.fromhex(given) if isinstance(given, str) else given
    except ValueError:
        key = b""
    if isinstance(key, bytes) and len(key) != SECRET_BYTES:
        raise ValueError(f"a digest key has {SECRET_BYTES} bytes, in hex")
    return key


def _tokens(given: object) -> object:
    try:
        tokens = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        tokens = None
    by_role = tokens if isinstance(tokens, dict) else {}
    held = {token for token in by_role.values() if isinstance(token, str) and token}
    if set(by_role) != set(ROLES) or len(held) != len(ROLES):
        raise ValueError(
            f"a JSON object with one token each, not empty and all different, for {', '.join(ROLES)}"
        )
    return by_role


def _web_url(given: str) -> str:
    if not given.startswith(("http://", "https://")):
        raise ValueError("a URL that begins with http:// or https://")
    return given


def _currency(given: str) -> str:
    if given not in CURRENCY_EXPONENT:
        raise ValueError("an ISO 4217 currency code")
    return given


Currency = Annotated[str, AfterValidator(_currency)]
Port = Annotated[int, Field(ge=1, le=65_535)]
DatabaseUrl = Annotated[str, AfterValidator(database_url)]
CacheUrl = Annotated[str, AfterValidator(cache_url)]
WebUrl = Annotated[str, AfterValidator(_web_url)]


class Settings(BaseModel):
    """URLs of databases carry the login of the services, those for migrations the owner's."""

    model_config = ConfigDict(frozen=True)

    home: Annotated[Path, AfterValidator(Path.resolve)] = Field(default_factory=home_path)
    database_url: DatabaseUrl = Field(repr=False)
    read_database_url: DatabaseUrl = Field(repr=False)
    migration_database_url: DatabaseUrl = Field(default_factory=lambda data: data["database_url"], repr=False)
    read_migration_database_url: DatabaseUrl = Field(
        default_factory=lambda data: data["read_database_url"], repr=False
    )
    kafka_bootstrap_servers: str  # host:port, separated by commas
    kafka_recreate_topics: bool = False  # delete and make again a topic with the wrong number of partitions
    cache_url: CacheUrl | None = Field(default=None, repr=False)  # None: there is none
    host: str = LOOPBACK
    write_port: Port = 8001
    read_port: Port = 8002
    audit_port: Port = 8003
    metrics_port: Port | None = None  # of a process without a door; None: it serves none
    read_url: WebUrl = Field(default_factory=lambda data: url_of(data["host"], data["read_port"]))
    default_currency: Currency = "EUR"  # in which what is published must have a price
    verify_every_s: float = Field(default=60.0, ge=1.0)  # from one round of the verifier to the next
    digest_key: Annotated[
        bytes, BeforeValidator(_digest_key), PlainSerializer(bytes.hex, when_used="json")
    ] = Field(repr=False)
    tokens: Annotated[dict[str, str], NoDecode, BeforeValidator(_tokens)] = Field(repr=False)  # by role


class _SettingsFromOutside(BaseSettings, Settings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = Home(home_path()).settings
        with reading(path, "remove it, or have `tallybook up` write it anew"):
            beside = JsonConfigSettingsSource(settings_cls, json_file=path)
        return init_settings, env_settings, beside


class UpSettings(BaseSettings):
    """What may be decided for `tallybook up`; services that are not named here are embedded ones."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    home: Annotated[Path, AfterValidator(Path.resolve)] = Field(default_factory=home_path)
    database_url: DatabaseUrl | None = Field(default=None, repr=False)
    read_database_url: DatabaseUrl | None = Field(default=None, repr=False)
    migration_database_url: DatabaseUrl | None = Field(default=None, repr=False)
    read_migration_database_url: DatabaseUrl | None = Field(default=None, repr=False)
    kafka_bootstrap_servers: str | None = None
    kafka_recreate_topics: bool | None = None
    cache_url: CacheUrl | None = Field(default=None, repr=False)
    host: str = LOOPBACK
    read_url: WebUrl | None = None
    default_currency: Currency | None = None
    verify_every_s: float | None = Field(default=None, ge=1.0)


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches what listens there."""
    reachable = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{port}"


def variable_of(name: str) -> str:
    """The variable that gives a field of the settings."""
    return f"{PREFIX}{name.upper()}"


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a process these settings, whatever else its environment says."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        variable_of(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def load_settings() -> Settings:
    return _load(_SettingsFromOutside)


def load_up_settings() -> UpSettings:
    return _load(UpSettings)


def _load(kind: type[_S]) -> _S:
    given: dict[str, Any] = {}  # everything comes from the sources
    try:
        return kind(**given)
    except ValidationError as error:
        raise SettingsInvalid("\n".join(_told(error))) from None  # the error itself would show the values


def _told(error: ValidationError) -> Iterator[str]:
    found = [wrong for wrong in error.errors(include_input=False) if wrong["loc"]]
    for wrong in found:
        variable = variable_of(str(wrong["loc"][0]))
        if wrong["type"] == "missing":
            yield f"{variable}: not set"
        elif wrong["type"] != "default_factory_not_called":  # what follows from a value that is named already
            yield f"{variable}: {wrong['msg'].removeprefix('Value error, ')}"
    if any(wrong["type"] == "missing" for wrong in found):
        yield (
            f"{Home(home_path()).settings} does not have them either: `tallybook up` makes a home that does, "
            f"and {variable_of('home')} says where it is"
        )
