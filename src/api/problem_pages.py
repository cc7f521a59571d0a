"""Where the `type` of a problem leads: a page for people about its code."""

from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from api.problems import OWN_KINDS, TYPE_PREFIX, Kind, Refusals, first_line

CACHED: Final = {"Cache-Control": "public, max-age=3600"}


def pages(refusals: Refusals) -> APIRouter:
    """A page for every code that a door with these refusals answers with. They need no token."""
    router = APIRouter(include_in_schema=False)
    texts = {kind.code: _page(kind, first_line(refusal)) for refusal, kind in refusals.items()}
    texts |= {kind.code: _page(kind, kind.meaning) for kind in OWN_KINDS}

    @router.get(TYPE_PREFIX + "{code}")
    async def page(code: str) -> Response:
        if code not in texts:
            raise HTTPException(404)
        return PlainTextResponse(texts[code], headers=CACHED)

    return router


def _page(kind: Kind, meaning: str) -> str:
    if kind.retry_after_s is None:
        again = "Waiting alone does not help: the same request gets the same answer."
    else:
        again = (
            "The same request, under the same Idempotency-Key if it had one, may succeed "
            f"{kind.retry_after_s} s later."
        )
    return f"{kind.title} ({kind.code})\n\n{meaning}\n\nHTTP status {kind.status}. {again}\n"
