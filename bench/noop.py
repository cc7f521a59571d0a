"""A door that does nothing: what HTTP, FastAPI and uvicorn take, served as the read door is."""

import asyncio
import sys
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel

from runtime.embedded.child import LOOPBACK
from runtime.process import run_process, serve_door

PATH: Final = "/v1/nothing/{number}"


class Nothing(BaseModel):
    number: str
    what: str = "nothing"


def app() -> FastAPI:
    door = FastAPI(openapi_url=None)

    @door.get(PATH)
    async def nothing(number: str) -> Nothing:
        await asyncio.sleep(0)
        return Nothing(number=number)

    return door


if __name__ == "__main__":
    sys.exit(run_process(serve_door(app(), host=LOOPBACK, port=int(sys.argv[1]))))
