"""Java, and the jars of Apache Kafka: fetched by Maven once for an account, into its cache."""

import asyncio
import fcntl
import importlib.resources
import logging
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from runtime.embedded.child import ChildFailed
from runtime.process import CannotStart

logger = logging.getLogger(__name__)

VERSION: Final = "4.3.1"
"""As in pom.xml, which decides; in the directory's name, so that two versions do not mix."""
LOWEST_JAVA: Final = 17
JAVA_SECONDS: Final = 20.0
FETCH_SECONDS: Final = 300.0
LOCK_POLL_SECONDS: Final = 0.2
OUTPUT_TAIL: Final = 2_000


class ApacheKafkaUnusable(CannotStart):
    """It cannot be run here; the message says what would do."""


async def java() -> str:
    """The interpreter. Raises ApacheKafkaUnusable where there is none, or none new enough."""
    found = shutil.which("java")
    if found is None:
        raise ApacheKafkaUnusable(
            f"Apache Kafka needs Java {LOWEST_JAVA} or newer, and there is no `java`: "
            "Debian has it in the package openjdk-17-jre-headless"
        )
    code, told = await run(found, "-XshowSettings:properties", "-version", seconds=JAVA_SECONDS)
    version = re.search(r"java\.specification\.version = (\d+)", told)
    if code != 0 or version is None or int(version[1]) < LOWEST_JAVA:
        raise ApacheKafkaUnusable(
            f"Apache Kafka needs Java {LOWEST_JAVA} or newer, and {found} is another: "
            f"Debian has it in the package openjdk-17-jre-headless\n{told[-OUTPUT_TAIL:].strip()}"
        )
    return found


async def jars() -> Path:
    """The directory with all of them, fetched if need be. Raises ApacheKafkaUnusable."""
    directory = _cache() / f"kafka-{VERSION}"
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with asyncio.timeout(FETCH_SECONDS), _alone(directory.with_name(f"{directory.name}.lock")):
            if not directory.is_dir():  # nobody else has fetched them meanwhile
                await _fetch(directory)
    except TimeoutError:
        raise ApacheKafkaUnusable(
            f"the jars of Apache Kafka have not come within {FETCH_SECONDS:.0f} s"
        ) from None
    except OSError as error:
        raise ApacheKafkaUnusable(f"{directory} cannot be written: {error.strerror}") from None
    return directory


async def _fetch(directory: Path) -> None:
    """Into a directory of another name first: one of this name is complete."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ApacheKafkaUnusable(
            "the jars of Apache Kafka are fetched by Maven, and there is no `mvn`: "
            "Debian has it in the package maven"
        )
    logger.info("fetching the jars of Apache Kafka %s into %s", VERSION, directory)
    attempt = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        pom, out = attempt / "pom.xml", attempt / "jars"
        packaged = importlib.resources.files("runtime.embedded.apache_kafka") / "pom.xml"
        pom.write_bytes(packaged.read_bytes())
        code, told = await run(
            *(maven, "--quiet", "--batch-mode", "--strict-checksums", f"--file={pom}"),
            *("dependency:copy-dependencies", f"-DoutputDirectory={out}"),
            seconds=FETCH_SECONDS,
        )
        if code != 0:
            raise ApacheKafkaUnusable(f"Maven could not fetch Apache Kafka:\n{told[-OUTPUT_TAIL:].strip()}")
        out.rename(directory)
    finally:
        shutil.rmtree(attempt)


@asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    """While nobody else fetches: two Mavens would do the same work in the same local repository."""
    with lock.open("a") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL_SECONDS)
            else:
                break
        yield


def _cache() -> Path:
    """The account's, as the XDG base directories have it: a relative path there is as none."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "tallybook"


async def run(*command: str, seconds: float) -> tuple[int, str]:
    """Its exit code, and all it said. Raises ChildFailed, and kills it, when it takes longer."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
    except TimeoutError:
        raise ChildFailed(f"{command[0]} did not end within {seconds:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(errors="replace")
