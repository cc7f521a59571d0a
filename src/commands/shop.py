"""The shop as its command handlers see it: the ports, the rules, and what this process knows."""

import asyncio
from typing import Final

from commands._states import States
from commands.ports import Clock, Ids, Log, NoSnapshots, Reached, Receipt, Rules, Snapshots, nowhere

UnderWay = tuple[bytes, asyncio.Future[Receipt | None]]
"""A request's fingerprint, and its receipt when it has ended; None when it came to nothing."""

_NO_SNAPSHOTS: Final = NoSnapshots()


class Shop:
    """One a process. `digest_key` keys the digests of requests; it lives as long as the log."""

    def __init__(
        self,
        *,
        log: Log,
        clock: Clock,
        ids: Ids,
        digest_key: bytes,
        rules: Rules,
        reached: Reached = nowhere,
        snapshots: Snapshots = _NO_SNAPSHOTS,
    ) -> None:
        self.log = log
        self.clock = clock
        self.ids = ids
        self.digest_key = digest_key
        self.rules = rules
        self.reached = reached
        self.under_way: dict[bytes, UnderWay] = {}
        self.states = States(log, snapshots)
