"""The directory a house lives in: where everything in it is, and files that are whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.process import CannotStart

DEFAULT_HOME = Path(".tallybook")


class HomeUnusable(CannotStart):
    """The directory cannot be made or written, or a file in it is not as it was left."""


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets.json"

    @property
    def settings(self) -> Path:
        """What the last `up` gave its processes, for commands run by hand beside it."""
        return self.path / "settings.json"

    @property
    def processes(self) -> Path:
        return self.path / "processes.json"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def kafka(self) -> Path:
        return self.path / "kafka"

    @property
    def cache(self) -> Path:
        """The configuration of the embedded cache."""
        return self.path / "cache.conf"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def make(self) -> None:
        """Raises HomeUnusable."""
        # Others may pass through, but not look: root's PostgreSQL runs under another account.
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(f"{self.path} cannot be made a home: {error.strerror}") from None


def home_path() -> Path:
    return Path(os.environ.get("TALLYBOOK_HOME") or DEFAULT_HOME).resolve()


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Raises HomeUnusable, which shows nothing of the file, where it cannot be read or understood."""
    try:
        yield
    except (OSError, ValueError):
        raise HomeUnusable(f"{path} cannot be read as `tallybook up` wrote it: {remedy}") from None


def write_private(path: Path, text: str) -> None:
    """For our own eyes only; after a crash the file is the old one or the new one."""
    attempt = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(attempt, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    attempt.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
