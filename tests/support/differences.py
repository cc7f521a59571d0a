"""What every read model shows beside what a fresh fold of the log gives."""

from typing import Any

from fresh_fold import fresh_fold, stored_rows

from projections import READ_MODELS
from runtime.log.reading import LogReader
from runtime.postgres import connect


async def differing_rows(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """(read model, key) of each row that is not what the log says; `settings` are a home's."""
    differing = []
    async with (
        LogReader.open(settings["database_url"]) as reader,
        connect(settings["read_database_url"], "tallybook_reader") as connection,
    ):
        for model in READ_MODELS:
            stored = await stored_rows(connection, model)
            expected = await fresh_fold(reader, model)
            differing += [
                (model.name, key)
                for key in stored.keys() | expected.keys()
                if stored.get(key) != expected.get(key)
            ]
    return differing
