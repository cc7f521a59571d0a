"""Entity tags: at the write door the version of a stream, at the read door a hash of what is answered."""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from api.problems import INVALID_IF_MATCH, Refused

_VERSION_TAG: Final = re.compile(r'(?:W/)?"(\d{1,18})(?:-gzip)?"')
_ANY_TAG: Final = re.compile(r'(?:W/)?"([\x21\x23-\x7e]*?)(?:-gzip)?"')
_HASH_CHARS: Final = 22


def of_version(version: int) -> str:
    return f'"{version}"'


def version_of(if_match: str) -> int:
    """The one version that If-Match names: strong, weak, or as a compressing proxy leaves it."""
    found = _VERSION_TAG.fullmatch(if_match.strip())
    if found is None:
        raise Refused(INVALID_IF_MATCH, 'If-Match names one version, as in "3".')
    return int(found[1])


def of_rows(build: str, revisions: Iterable[tuple[str, int]]) -> str:
    """`revisions`: the key and revision of every row of the answer, in its order."""
    hashed = hashlib.sha256(build.encode())
    for key, revision in revisions:
        hashed.update(f"\0{key}\0{revision}".encode())
    return _tag(hashed.hexdigest())


def of_content(content: bytes) -> str:
    """Of an answer that is not made of rows."""
    return _tag(hashlib.sha256(content).hexdigest())


def _tag(digest: str) -> str:
    return f'"{digest[:_HASH_CHARS]}"'


def none_match(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller's copies are all older: false is 304 (weak comparison, RFC 9110 §13.1.2)."""
    if if_none_match is None:
        return True
    if if_none_match.strip() == "*":
        return False
    return etag.strip('"') not in {found[1] for found in _ANY_TAG.finditer(if_none_match)}
