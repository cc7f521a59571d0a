"""A home that cannot be used: what is wrong is named, and nothing of its files is shown."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.home import Home, HomeUnusable
from runtime.secrets import secrets_of
from runtime.settings import load_settings
from runtime.supervisor import locked, records_of


@pytest.mark.parametrize("path", ["file", "file/below", "directory"])
def test_a_place_where_no_home_can_be_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory" / "lock").mkdir(parents=True)  # as little to be written as another account's
    with pytest.raises(HomeUnusable, match=f"^{tmp_path / path} cannot be "), locked(Home(tmp_path / path)):
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [("secrets", secrets_of), ("processes", records_of), ("settings", lambda _: load_settings())],
)
@pytest.mark.parametrize("content", [b'{"opensesame"', b"\xff\xfe"])
def test_a_damaged_file_is_named_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Home], object], content: bytes
) -> None:
    monkeypatch.setenv("TALLYBOOK_HOME", str(tmp_path))
    damaged = tmp_path / f"{name}.json"
    damaged.write_bytes(content)
    with pytest.raises(
        HomeUnusable, match=f"^{damaged} cannot be read as `tallybook up` wrote it: "
    ) as refused:
        read(Home(tmp_path))
    assert "opensesame" not in str(refused.value)
    assert damaged.read_bytes() == content
