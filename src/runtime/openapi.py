"""Writes the OpenAPI documents of the doors: `python -m runtime.openapi <directory>`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api import audit, read, write
from api._app import document


def documents() -> Mapping[str, dict[str, Any]]:
    """The document of each door, by the door's name."""
    return {
        "write": document(write.TITLE, write.ROUTERS),
        "read": document(read.TITLE, read.ROUTERS),
        "audit": document(audit.TITLE, audit.ROUTERS),
    }


def written(openapi: dict[str, Any]) -> str:
    return json.dumps(openapi, indent=2, ensure_ascii=False) + "\n"


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for door, openapi in documents().items():
        (directory / f"{door}.json").write_text(written(openapi))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
