"""The spec of a lookup: each row with a row of a table that does not change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from millstream.connectors.base import Source
from millstream.errors import FlowError, SourceError, unknown_field
from millstream.specs.base import MAIN, Bound, Fields, Spec, both
from millstream.specs.joins import JoinKind, check_key_types


@dataclass(frozen=True)
class LookupSpec(Spec):
    """Attributes:
    table: where the table is read, by each process that looks things up, when it starts.
    on: the fields that are equal, (field of the stream, field of the table).
    how: inner or left.
    columns: the fields of the table that come out.
    """

    table: Source
    on: tuple[tuple[str, str], ...]
    how: JoinKind
    columns: tuple[str, ...]

    def describe(self) -> str:
        equal = ", ".join(a if a == b else f"{a} = {b}" for a, b in self.on)
        return f"lookup({self.table.label()}, on {equal}, how={self.how.value!r})"

    def notes(self) -> Iterator[str]:
        yield "the table is read by each process when it starts"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        schema, table = upstream.schema, table_schema(self.table)
        if schema is not None:
            for field, key in self.on:
                if field not in schema.names:
                    raise unknown_field(field, schema.names, where)
                check_key_types(where, field, schema.field(field).type, key, table.field(key).type, of="table")
            for name in self.columns:
                if name in schema.names:
                    raise FlowError(
                        f"{where}: the stream has a field named {name!r}, too; rename it, or leave it out by columns="
                    )
                schema = schema.append(pa.field(name, table.field(name).type))
        return replace(upstream, schema=schema, keys=())

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(None if out is None else out - set(self.columns), frozenset(field for field, _ in self.on))

    def narrowed(self, out: Fields) -> Self:
        return self if out is None else replace(self, columns=tuple(c for c in self.columns if c in out))

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        # A row that finds nothing any more must take back the one that did; one judged by its key alone never does.
        changelog = inputs[0].changelog
        read = {field for field, _ in self.on}
        return self.how is JoinKind.INNER and changelog is not None and not read <= set(changelog.keys or ())


def table_schema(table: Source) -> pa.Schema:
    """The fields of a table.

    Raises:
        SourceError: it does not say which fields it has.
    """
    schema = table.schema()
    if schema is None:
        raise SourceError(f"{table.label()}: its fields are not known before it is read")
    return schema
