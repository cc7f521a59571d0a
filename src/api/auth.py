"""Who is asking, and what may they do? One bearer token a role; what a role may do is its scopes."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from api.problems import FORBIDDEN, UNAUTHENTICATED, Refused
from domain.envelope import Actor, ActorType

Role = Literal["customer", "support", "catalogue", "warehouse", "finance", "auditor", "admin"]
Scope = Literal[
    "products:write",
    "prices:write",
    "locations:write",
    "stock:write",
    "reservations:write",
    "orders:place",
    "orders:confirm",
    "orders:cancel",
    "orders:import",
    "commands:send",
    "products:read",
    "stock:read",
    "orders:read",
    "reports:read",
    "history:read",
]

_SHELVES: Final[frozenset[Scope]] = frozenset({"products:read", "stock:read"})
SCOPES: Final[Mapping[Role, frozenset[Scope]]] = {
    "customer": _SHELVES | {"commands:send", "orders:place", "orders:cancel", "orders:read"},
    "support": _SHELVES | {"commands:send", "orders:place", "orders:confirm", "orders:cancel", "orders:read"},
    "catalogue": _SHELVES | {"commands:send", "products:write", "prices:write"},
    "warehouse": _SHELVES
    | {"commands:send", "locations:write", "stock:write", "reservations:write", "orders:read"},
    "finance": _SHELVES | {"commands:send", "orders:confirm", "orders:import", "orders:read", "reports:read"},
    "auditor": _SHELVES | {"reports:read", "history:read"},
    "admin": frozenset(get_args(Scope)),
}
_ACTORS: Final[Mapping[Role, ActorType]] = {"customer": "customer", "auditor": "auditor"}
_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Principal:
    role: Role

    @property
    def name(self) -> str:
        """Whose idempotency keys are one's own."""
        return f"role:{self.role}"

    @property
    def actor(self) -> Actor:
        return Actor(_ACTORS.get(self.role, "staff"), self.role)

    def require(self, scope: str) -> None:
        """`forbidden` without the scope."""
        if scope not in SCOPES[self.role]:
            raise Refused(FORBIDDEN, f"This needs the scope {scope}.", scope=scope)


class Tokens:
    """The bearer token of each role. Compared as hashes and all of them, so that time tells nothing."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._principals = [(_hashed(tokens[role]), Principal(role)) for role in SCOPES if role in tokens]

    def principal(self, authorization: str | None) -> Principal:
        """`unauthenticated` for a header that is missing, of another scheme, or with another token."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(UNAUTHENTICATED, "A bearer token is required.", headers=_CHALLENGE)
        given = _hashed(token)
        matching = [known for digest, known in self._principals if hmac.compare_digest(digest, given)]
        if not matching:
            raise Refused(UNAUTHENTICATED, "The bearer token is not valid.", headers=_CHALLENGE)
        return matching[0]


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
