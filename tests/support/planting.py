"""Bugs planted in our own functions, for tests that show that a check notices them."""

import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest


def plant(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, changes: Sequence[tuple[str, str]]) -> None:
    """Until the test ends. `changes`: patterns, each once in the function's text, and what to put there."""
    function = getattr(owner, name)
    text = textwrap.dedent(inspect.getsource(function))
    for pattern, instead in changes:
        text, times = re.subn(pattern, instead, text)
        assert times == 1, f"{pattern} stands {times} times in {name}"
    made: dict[str, Any] = {}
    exec(compile(text, inspect.getfile(function), "exec"), function.__globals__, made)  # noqa: S102 - our own text
    monkeypatch.setattr(owner, name, made[name])
