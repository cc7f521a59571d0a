from typing import cast, get_args

import pytest
from doors import TOKENS

from api.auth import SCOPES, Principal, Role, Scope, Tokens
from api.problems import Refused
from runtime.secrets import ROLES


def test_each_role_has_its_token_and_no_other() -> None:
    tokens = Tokens(TOKENS)
    for role, token in TOKENS.items():
        assert tokens.principal(f"Bearer {token}") == Principal(cast("Role", role))
        assert tokens.principal(f"bearer {token}") == Principal(cast("Role", role))


def test_a_role_without_a_token_cannot_be_had() -> None:
    with pytest.raises(Refused):
        Tokens({"admin": "a"}).principal("Bearer ")


def test_the_roles_are_those_that_a_home_makes_tokens_for() -> None:
    assert set(get_args(Role)) == set(ROLES) == set(SCOPES)


def test_admin_may_do_everything_and_everybody_may_see_the_shelves() -> None:
    assert SCOPES["admin"] == set(get_args(Scope))
    for scopes in SCOPES.values():
        assert {"products:read", "stock:read"} <= scopes


@pytest.mark.parametrize(
    ("scope", "roles"),
    [
        ("products:write", {"catalogue"}),
        ("prices:write", {"catalogue"}),
        ("locations:write", {"warehouse"}),
        ("stock:write", {"warehouse"}),
        ("reservations:write", {"warehouse"}),
        ("orders:place", {"customer", "support"}),
        ("orders:cancel", {"customer", "support"}),
        ("orders:confirm", {"support", "finance"}),
        ("orders:read", {"customer", "support", "warehouse", "finance"}),
        ("history:read", {"auditor"}),
    ],
)
def test_who_may_do_what(scope: Scope, roles: set[Role]) -> None:
    assert {role for role, scopes in SCOPES.items() if scope in scopes} == roles | {"admin"}


def test_actors_are_customers_auditors_or_staff() -> None:
    types = {role: Principal(role).actor.type for role in SCOPES}
    assert types["customer"] == "customer"
    assert types["auditor"] == "auditor"
    assert set(types.values()) == {"customer", "auditor", "staff"}
