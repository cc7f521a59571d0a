"""What a home keeps to itself: made once, at its first start."""

import secrets
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from runtime.home import Home, reading, write_private
from runtime.process import CannotStart

ROLES: Final = ("customer", "support", "catalogue", "warehouse", "finance", "auditor", "admin")
SECRET_BYTES: Final = 32


class SecretsLost(CannotStart):
    """A home has data, but not the secrets that open them."""


class Secrets(BaseModel):
    model_config = ConfigDict(frozen=True)

    postgres_password: str = Field(repr=False)  # of the owner, for migrations
    service_password: str = Field(repr=False)
    digest_key: str = Field(repr=False)  # hex
    tokens: dict[str, str] = Field(repr=False)  # by role


def secrets_of(home: Home) -> Secrets:
    """Read them, or make them for a new home. Raises SecretsLost for a home that had some, HomeUnusable."""
    if home.secrets.exists():
        with reading(home.secrets, "restore it, or choose a new home"):
            return Secrets.model_validate_json(home.secrets.read_bytes())
    if home.postgres.exists():
        raise SecretsLost(
            f"{home.postgres} holds a database, but {home.secrets} is gone: restore it, or choose a new home"
        )
    made = Secrets(
        postgres_password=secrets.token_hex(SECRET_BYTES),
        service_password=secrets.token_hex(SECRET_BYTES),
        digest_key=secrets.token_hex(SECRET_BYTES),
        tokens={role: secrets.token_urlsafe(SECRET_BYTES) for role in ROLES},
    )
    write_private(home.secrets, made.model_dump_json(indent=2))
    return made
