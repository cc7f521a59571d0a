"""The process managers: what the shop does by itself. Adding one is one line here."""

from typing import Final

from commands.policies import when_reservation_expired_cancel_order, when_stock_reserved_expire_reservation
from commands.policies.policy import Policy

POLICIES: Final[tuple[Policy, ...]] = (
    when_stock_reserved_expire_reservation.POLICY,
    when_reservation_expired_cancel_order.POLICY,
)
