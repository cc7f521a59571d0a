"""The questions the shop answers: every read model."""

from typing import Any, Final

from projections.event_index import EVENT_INDEX
from projections.order_detail import ORDER_DETAIL
from projections.order_list import ORDER_LIST
from projections.ports import ReadModel
from projections.product_detail import PRODUCT_DETAIL
from projections.product_list import PRODUCT_LIST
from projections.sales_daily import SALES_DAILY
from projections.stock_availability import STOCK_AVAILABILITY

READ_MODELS: Final[tuple[ReadModel[Any], ...]] = (
    PRODUCT_DETAIL,
    PRODUCT_LIST,
    STOCK_AVAILABILITY,
    ORDER_DETAIL,
    ORDER_LIST,
    SALES_DAILY,
    EVENT_INDEX,
)
