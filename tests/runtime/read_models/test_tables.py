"""The table of a read model: named after everything that decides what it holds."""

from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import pytest

from projections.product_detail import PRODUCT_DETAIL, ProductDetail, ProductPart
from projections.stock_availability import STOCK_AVAILABILITY
from runtime.read_models.folding import Model
from runtime.read_models.tables import Table

MAX_IDENTIFIER = 63


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    colour: Colour
    kind: Literal["a", "b"]
    count: int
    flag: bool
    at: datetime | None
    tags: dict[str, str]
    either: int | str


def test_columns_have_the_types_that_can_be_compared_and_everything_else_is_json() -> None:
    model: Model = STOCK_AVAILABILITY
    columns = Table(replace(model, row=Row)).columns

    assert [column.definition.as_string() for column in columns] == [
        '"key" text collate "C"',
        '"colour" text collate "C"',
        '"kind" text collate "C"',
        '"count" bigint',
        '"flag" boolean',
        '"at" timestamptz',
        '"tags" jsonb',
        '"either" jsonb',
    ]


def renamed_part(part: ProductPart | None, recorded: Any) -> ProductPart:
    raise AssertionError


def grown(part: Any, recorded: Any) -> Any:
    raise AssertionError


grown.__annotations__["return"] = make_dataclass(
    "ProductPart", [*((field.name, str) for field in fields(ProductPart)), ("more", int)]
)

CHANGES: dict[str, Callable[[Model], Model]] = {
    "its name": lambda model: replace(model, name="other"),
    "its edition": lambda model: replace(model, edition=2),
    "an index": lambda model: replace(model, indexes=()),
    "a text to be searched": lambda model: replace(model, texts=("slug",)),
    "a column": lambda model: replace(
        model, row=make_dataclass("ProductDetail", [(field.name, str) for field in fields(ProductDetail)])
    ),
    "a part": lambda model: replace(model, folds={**model.folds, "product": grown}),
    "what feeds it": lambda model: replace(model, folds={"product": model.folds["product"]}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_declaration_is_another_build(change: Callable[[Model], Model]) -> None:
    assert Table(change(PRODUCT_DETAIL)).build != Table(PRODUCT_DETAIL).build


def test_renaming_a_fold_is_not_another_build() -> None:
    same = replace(PRODUCT_DETAIL, folds={**PRODUCT_DETAIL.folds, "product": renamed_part})

    assert Table(same).build == Table(PRODUCT_DETAIL).build
    assert len(Table(same).build) <= MAX_IDENTIFIER
