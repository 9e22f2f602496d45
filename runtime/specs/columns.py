"""Specs of the stateless operators over columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from millstream.errors import FlowError, SchemaError, unknown_field
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.specs.base import (
    MAIN,
    Bound,
    Fields,
    Named,
    Spec,
    Time,
    both,
    describe_columns,
    fields_of,
    is_field,
    only_with,
    without,
)


@dataclass(frozen=True)
class FilterSpec(Spec):
    """Attributes:
    fields: those that somebody reads of the rows that pass; None: all.
    """

    predicate: Expr
    fields: Fields = None

    def describe(self) -> str:
        return f"filter({self.predicate})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        if (schema := inputs[0].schema) is not None:
            kind = output_type(self.predicate, schema, where)
            if not pa.types.is_boolean(kind) and not pa.types.is_null(kind):
                raise SchemaError(f"{where}: {self.predicate} is {kind}, not a condition; compare it with something")
        return inputs[0]

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(out, self.predicate.fields())

    def narrowed(self, out: Fields) -> Self:
        return replace(self, fields=out)

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        # A row that stops passing must take back the one that passed; one judged by its key alone never does.
        changelog = inputs[0].changelog
        return changelog is not None and not self.predicate.fields() <= set(changelog.keys or ())


@dataclass(frozen=True)
class SelectSpec(Spec):
    columns: Named

    def describe(self) -> str:
        return f"select({describe_columns(self.columns)})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        if schema is not None:
            schema = pa.schema([(n, output_type(e, schema, where)) for n, e in self.columns])
        unchanged = [n for n, e in self.columns if is_field(n, e)]
        return replace(inputs[0], schema=schema, keys=(), changelog=only_with(inputs[0].changelog, unchanged))

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return fields_of(self.columns, out)

    def narrowed(self, out: Fields) -> Self:
        if out is None:
            return self
        # Rows alone may be counted, and Arrow forgets the length of no columns: keep one.
        return replace(self, columns=tuple((n, e) for n, e in self.columns if n in out) or self.columns[:1])


@dataclass(frozen=True)
class WithColumnsSpec(Spec):
    columns: Named

    def describe(self) -> str:
        return f"with_columns({describe_columns(self.columns)})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        return replace(
            inputs[0], schema=None if schema is None else with_types(schema, self.columns, where), keys=(),
            changelog=without(inputs[0].changelog, [n for n, _ in self.columns]),
        )  # fmt: skip

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        if out is None:
            return None
        return both(out - {n for n, _ in self.columns}, fields_of(self.columns, out))

    def narrowed(self, out: Fields) -> Self:
        return self if out is None else replace(self, columns=tuple((n, e) for n, e in self.columns if n in out))


@dataclass(frozen=True)
class DropSpec(Spec):
    names: tuple[str, ...]

    def describe(self) -> str:
        return f"drop({', '.join(map(repr, self.names))})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        if schema is not None:
            for name in self.names:
                if name not in schema.names:
                    raise unknown_field(name, schema.names, where)
            schema = pa.schema([f for f in schema if f.name not in self.names])
        return replace(inputs[0], schema=schema, keys=(), changelog=without(inputs[0].changelog, self.names))

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return out


@dataclass(frozen=True)
class RenameSpec(Spec):
    names: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"rename({', '.join(f'{a!r} to {b!r}' for a, b in self.names)})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        renamed = dict(self.names)
        schema, changelog = inputs[0].schema, inputs[0].changelog
        if schema is not None:
            for name in renamed:
                if name not in schema.names:
                    raise unknown_field(name, schema.names, where)
            names = [renamed.get(f.name, f.name) for f in schema]
            for name in names:
                if names.count(name) > 1:
                    raise SchemaError(f"{where}: two fields would be named {name!r}")
            schema = pa.schema([(n, f.type) for n, f in zip(names, schema, strict=True)])
        if changelog is not None and changelog.keys is not None:
            changelog = replace(changelog, keys=tuple(renamed.get(k, k) for k in changelog.keys))
        return replace(inputs[0], schema=schema, keys=(), changelog=changelog)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        original = {b: a for a, b in self.names}
        return None if out is None else frozenset(original.get(n, n) for n in out)


@dataclass(frozen=True)
class ExplodeSpec(Spec):
    column: str

    def describe(self) -> str:
        return f"explode({self.column!r})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        if schema is not None:
            if self.column not in schema.names:
                raise unknown_field(self.column, schema.names, where)
            kind = schema.field(self.column).type
            if not hasattr(kind, "value_type") or pa.types.is_dictionary(kind) or pa.types.is_map(kind):
                raise SchemaError(f"{where}: field {self.column!r} is {kind}, not a list")
            schema = pa.schema([(f.name, kind.value_type if f.name == self.column else f.type) for f in schema])
        changelog = inputs[0].changelog
        return replace(inputs[0], schema=schema, keys=(), changelog=changelog and replace(changelog, keys=None))

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(out, frozenset((self.column,)))

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return inputs[0].changelog is not None


@dataclass(frozen=True)
class UnionSpec(Spec):
    """Attributes:
    in_order: branches of one source meet here: their rows go on in the order of the source.
    """

    in_order: bool = False

    def describe(self) -> str:
        return "union"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        first = inputs[0]
        for other in inputs[1:]:
            if other.timed != first.timed:
                raise FlowError(
                    f"{where}: one stream has event time and another has not; "
                    "call event_time() on each, or behind the union"
                )
            if (
                first.schema is not None
                and other.schema is not None
                and set(first.schema.names) != set(other.schema.names)
            ):
                odd = sorted(set(first.schema.names) ^ set(other.schema.names))
                raise SchemaError(
                    f"{where}: the streams differ in the fields {', '.join(odd)}; "
                    "use select() so that they are the same"
                )
        revised = [i.changelog for i in inputs if i.changelog]
        return Bound(
            _unified(where, inputs),
            next((i.time for i in inputs if i.time is not Time.EVENT), Time.EVENT),
            next((i.stateful for i in inputs if i.stateful), None),
            # Rows of two streams may have one key: a row of one would replace a row of the other.
            changelog=replace(revised[0], keys=None, retracts=any(c.retracts for c in revised)) if revised else None,
        )

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return out

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return any(i.changelog for i in inputs)

    @property
    def needs_position(self) -> bool:
        return self.in_order


def _unified(where: str, inputs: Sequence[Bound]) -> pa.Schema | None:
    schemas = [i.schema for i in inputs if i.schema is not None]
    if len(schemas) < len(inputs):
        return None
    try:
        ordered = [pa.schema([s.field(n) for n in schemas[0].names]) for s in schemas]
        return pa.unify_schemas(ordered, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise SchemaError(f"{where}: the streams have fields of one name and different types: {error}") from error


def with_types(schema: pa.Schema, columns: Named, where: str) -> pa.Schema:
    """The schema with these columns added, or in place of those of the same name."""
    fields = {f.name: f.type for f in schema}
    fields.update({n: output_type(e, schema, where) for n, e in columns})
    return pa.schema(list(fields.items()))
