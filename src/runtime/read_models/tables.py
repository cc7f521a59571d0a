"""The table of a read model, made from its declaration.

Its name holds a fingerprint of everything that decides what is in it, so another declaration is another
table beside it: a build. So is one that is made anew of the same declaration. `parts` is bytea: nobody but
the fold reads it, and it keeps exactly what was written, while jsonb refuses U+0000 and costs a parse on
every write.
"""

import hashlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, Literal, LiteralString, Union, get_args, get_origin, get_type_hints

import msgspec
from psycopg import DataError, sql

from domain.values import category_of
from runtime import packing
from runtime.packing import Packed
from runtime.read_models.folding import Model, Parts

FINGERPRINT_DIGITS: Final = 12
_PARTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


Pack = Callable[[Collection[Any]], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """Of a column: its name, how arrays of it are packed, and what these are cast to."""

    name: LiteralString
    pack: Pack
    packed: sql.SQL


def _decimals(values: Collection[Decimal | None]) -> bytes:
    return packing.texts([None if value is None else str(value) for value in values])


_TEXT: Final = Type("text", packing.texts, sql.SQL("text[]"))
_JSON: Final = Type("jsonb", packing.documents, sql.SQL("jsonb[]"))
_TYPES: Final[Mapping[type, Type]] = {
    bool: Type("boolean", packing.booleans, sql.SQL("boolean[]")),
    int: Type("bigint", packing.wide_numbers, sql.SQL("bigint[]")),
    Decimal: Type("numeric", _decimals, sql.SQL("text[]::numeric[]")),
    datetime: Type("timestamptz", packing.times, sql.SQL("timestamptz[]")),
}


@dataclass(frozen=True, slots=True)
class Column:
    """`plain`: the row's values are as psycopg takes them."""

    name: str
    type: Type
    plain: bool

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.name)

    @property
    def definition(self) -> sql.Composed:
        """As the table is made with it."""
        kind = sql.SQL('text collate "C"') if self.type is _TEXT else sql.SQL(self.type.name)
        return sql.SQL("{} {}").format(self.identifier, kind)

    @property
    def collated(self) -> sql.Composable:
        """In a query of given values, so that they compare as stored ones do."""
        if self.type is not _TEXT:
            return self.identifier
        return sql.SQL('{0} collate "C" as {0}').format(self.identifier)

    @property
    def array(self) -> sql.SQL:
        """The type of the array that carries its values to `unnest`."""
        return sql.SQL(self.type.name + "[]")

    def value(self, value: object) -> object:
        """As psycopg takes it."""
        if value is None:
            return None
        if self.type is _JSON:
            return msgspec.json.encode(value).decode()
        return str(value.value) if isinstance(value, Enum) else value


class Table:
    """Where a read model is stored by this code: in the first build of its declaration, or in another."""

    def __init__(self, model: Model, build: str | None = None) -> None:
        self.model = model
        self.declaration = _declaration_of(model)
        self.build = build or self.declaration
        hints = get_type_hints(model.row)
        self.columns = tuple(_column(field.name, hints[field.name]) for field in fields(model.row))
        self._of_row = attrgetter(*(column.name for column in self.columns))
        self._converted = [
            (place, column) for place, column in enumerate(self.columns[1:]) if not column.plain
        ]
        self._parts = {
            category: msgspec.json.Decoder(_part_type(evolve)) for category, evolve in model.folds.items()
        }

    @property
    def key(self) -> Column:
        return self.columns[0]

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier("read", self.build)

    def row(self, parts: Mapping[str, Any]) -> list[object]:
        """The values of the columns after the key, and whether there is anything to show."""
        row = self.model.combine(parts) if parts else None
        if row is None:
            return [*(None for _ in self.columns[1:]), False]
        _, *values = self._of_row(row)
        for place, column in self._converted:
            values[place] = column.value(values[place])
        return [*values, True]

    def encode(self, parts: Parts) -> bytes:
        return msgspec.json.encode(parts, order="deterministic")

    def decode(self, parts: bytes) -> Parts:
        return {
            stream: self._parts[category_of(stream)].decode(part)
            for stream, part in _PARTS.decode(parts).items()
        }

    @property
    def written(self) -> list[sql.Identifier]:
        """The columns that a fold writes, all but the revision: key, parts, the others, `shown`."""
        rest = (column.identifier for column in self.columns[1:])
        return [self.key.identifier, sql.Identifier("parts"), *rest, sql.Identifier("shown")]

    @property
    def types(self) -> list[str]:
        """Of `written`."""
        return ["text", "bytea", *(column.type.name for column in self.columns[1:]), "boolean"]

    def values(self, parts: Parts) -> list[object]:
        """Of `written`, behind the key."""
        return [self.encode(parts), *self.row(parts)]

    @property
    def packed(self) -> list[sql.Composable]:
        """The types of the arrays that `pack` makes."""
        rest = (column.type.packed for column in self.columns[1:])
        return [sql.SQL("text[]"), sql.SQL("bytea[]"), *rest, sql.SQL("boolean[]")]

    def pack(self, rows: Mapping[str, Sequence[Any]]) -> list[Packed]:
        """The `values` of rows by key, as an array for each of `written`.

        Raises DataError for what no column can hold, as PostgreSQL does.
        """
        columns = zip(*((key, *values) for key, values in rows.items()), strict=True)
        rest = (column.type.pack for column in self.columns[1:])
        packs: Sequence[Pack] = (packing.texts, packing.blobs, *rest, packing.booleans)
        try:
            return [Packed(pack(values)) for pack, values in zip(packs, columns, strict=True)]
        except (struct.error, UnicodeEncodeError) as impossible:
            raise DataError(str(impossible)) from impossible

    def creation(self) -> sql.Composed:
        """The statement that makes the table."""
        columns = sql.SQL(", ").join(column.definition for column in self.columns)
        return sql.SQL(
            "create table {} ({}, parts bytea not null, shown boolean not null, "
            "revision bigint not null, primary key ({}))"
        ).format(self.identifier, columns, self.key.identifier)

    def indexing(self) -> list[sql.Composed]:
        """The statements that make its further indexes."""
        return [
            *(
                sql.SQL("create index on {} ({})").format(
                    self.identifier, sql.SQL(", ").join(map(sql.Identifier, index))
                )
                for index in self.model.indexes
            ),
            *(
                sql.SQL("create index on {} using gin (to_tsvector('simple', {}))").format(
                    self.identifier, sql.Identifier(text)
                )
                for text in self.model.texts
            ),
        ]

    def view(self) -> list[sql.Composed]:
        """The statements that give this build the plain name; the view's comment says whose it is."""
        name = sql.Identifier("read", self.model.name)
        columns = sql.SQL(", ").join(column.identifier for column in self.columns)
        return [
            sql.SQL("drop view if exists {}").format(name),
            sql.SQL("create view {} as select {}, revision from {} where shown").format(
                name, columns, self.identifier
            ),
            sql.SQL("comment on view {} is {}").format(name, sql.Literal(self.build)),
            sql.SQL("grant select on {} to tallybook_reader").format(name),
        ]


def _declaration_of(model: Model) -> str:
    """The name of the model's first build, and what the names of all of them begin with."""
    described = (
        (model.name, model.edition, model.counter, model.indexes, model.texts, _shape(model.row)),
        sorted((category, _shape(_part_type(evolve))) for category, evolve in model.folds.items()),
    )
    digest = hashlib.sha256(msgspec.json.encode(described)).hexdigest()
    return f"{model.name}_{digest[:FINGERPRINT_DIGITS]}"


def _column(name: str, hint: object) -> Column:
    kind = _type(hint)
    enums = any(isinstance(one, type) and issubclass(one, Enum) for one in _alternatives(hint))
    return Column(name, kind, plain=kind is not _JSON and not enums)


def _type(hint: object) -> Type:
    kinds = [kind for kind in _alternatives(hint) if kind is not NoneType]
    if len(kinds) != 1:
        return _JSON
    kind = kinds[0]
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, str)):
        return _TEXT
    return _TYPES.get(kind, _JSON) if isinstance(kind, type) else _JSON


def _alternatives(hint: object) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _part_type(evolve: object) -> Any:  # noqa: ANN401 - a class, known at run time only
    return get_type_hints(evolve)["return"]


def _shape(hint: Any) -> object:  # noqa: ANN401 - any annotation
    """A description of a type that renaming or moving classes does not change."""
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return {field.name: _shape(hints[field.name]) for field in fields(hint)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ["enum", *(member.value for member in hint)]
    if get_origin(hint) is Literal:
        return ["literal", *get_args(hint)]
    if alternatives := get_args(hint):
        kind = "union" if get_origin(hint) in (Union, UnionType) else get_origin(hint).__name__
        return [kind, *("..." if part is ... else _shape(part) for part in alternatives)]
    return str(hint.__name__)
