"""The shop of a process that issues commands."""

from commands.ports import Log, Rules, Snapshots
from commands.shop import Shop
from runtime.ids import SystemClock, Uuid7s
from runtime.points import reached
from runtime.settings import Settings


def shop_on(log: Log, snapshots: Snapshots, settings: Settings) -> Shop:
    return Shop(
        log=log,
        clock=SystemClock(),
        ids=Uuid7s(),
        digest_key=settings.digest_key,
        rules=Rules(default_currency=settings.default_currency),
        reached=reached,
        snapshots=snapshots,
    )
