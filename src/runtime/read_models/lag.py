"""What a projector tells of how far its lanes are behind the log."""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import Gauge

from domain.envelope import Mark
from runtime.lag import NONE, Place
from runtime.log.reading import LogReader
from runtime.read_models.builds import Lane
from runtime.read_models.lanes import FoldedLane

_LABELS: Final = ("model", "context", "lane")
POSITIONS = Gauge(
    "tallybook_projector_lag_positions", "The lane's last event minus the last one applied", _LABELS
)
SECONDS = Gauge(
    "tallybook_projector_lag_seconds", "Since the lane's oldest event not yet applied was recorded", _LABELS
)


async def tell(reader: LogReader, heads: Mapping[Lane, Mark], lanes: Iterable[FoldedLane]) -> None:
    """One query, and none where no lane is behind these heads."""
    places = {lane: _place(lane) for lane in lanes}
    behind = {place for lane, place in places.items() if lane.is_behind(heads)}
    lags = await reader.lags(behind) if behind else {}
    for lane, place in places.items():
        lag = lags.get(place, NONE)
        labels = (lane.table.model.name, *lane.lane)
        POSITIONS.labels(*labels).set(lag.positions)
        SECONDS.labels(*labels).set(lag.seconds)


def _place(lane: FoldedLane) -> Place:
    return (*lane.lane, lane.mark.position)
