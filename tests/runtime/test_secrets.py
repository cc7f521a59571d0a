"""A home's secrets: made once, for its owner's eyes only."""

from pathlib import Path

import pytest

from runtime.home import Home, write_private
from runtime.secrets import ROLES, SecretsLost, secrets_of


def test_they_are_made_once_and_found_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = secrets_of(home)
    assert secrets_of(home) == made
    assert set(made.tokens) == set(ROLES)
    values = [made.postgres_password, made.service_password, made.digest_key, *made.tokens.values()]
    assert len(set(values)) == len(values)


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    secrets_of(home)
    assert home.secrets.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_a_home_with_data_gets_no_second_set(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.postgres.mkdir()
    with pytest.raises(SecretsLost, match="is gone"):
        secrets_of(home)


def test_they_are_shown_nowhere(tmp_path: Path) -> None:
    made = secrets_of(Home(tmp_path))
    assert made.digest_key not in repr(made)
    assert made.tokens["admin"] not in repr(made)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "new \ud800")
    assert path.read_text() == "old"
