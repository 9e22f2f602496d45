"""Specs of keys, and of the operators that keep state for each key without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import pyarrow as pa

from millstream.aggregates import Aggregate
from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.operators.aggregation import input_types
from millstream.specs.base import (
    MAIN,
    Bound,
    Changelog,
    Fields,
    Named,
    OnError,
    Spec,
    Time,
    both,
    describe_columns,
    fields_of,
    is_field,
    refuse_changelog,
)
from millstream.specs.columns import with_types

Aggregates = tuple[tuple[str, Aggregate], ...]


@dataclass(frozen=True)
class KeyBySpec(Spec):
    keys: Named

    def describe(self) -> str:
        return f"key_by({describe_columns(self.keys)})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        schema = inputs[0].schema
        names = tuple(n for n, _ in self.keys)
        return replace(inputs[0], schema=None if schema is None else with_types(schema, self.keys, where), keys=names)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        # The keys are made at the exchange, whoever reads them behind it.
        computed = {n for n, e in self.keys if not is_field(n, e)}
        return both(None if out is None else out - computed, fields_of(self.keys, None))

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        # A row whose new key differs must be taken back where the old one went.
        changelog = inputs[0].changelog
        read = frozenset(f for _, e in self.keys for f in e.fields())
        return changelog is not None and not read <= set(changelog.keys or ())


@dataclass(frozen=True)
class RunningAggregateSpec(Spec):
    """Aggregates since the start, for each key: every change is put out, so the result is a changelog."""

    keyed: ClassVar[bool] = True
    aggregates: Aggregates

    def describe(self) -> str:
        return f"agg({describe_aggregates(self.aggregates)})"

    def notes(self) -> Iterator[str]:
        yield "a changelog: each batch puts out the new values of the keys it changed"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        check_names(where, self.aggregates, upstream.keys)
        schema = None
        if upstream.schema is not None:
            schema = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
        return Bound(schema, upstream.time, where, changelog=Changelog(where, upstream.keys))

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return aggregate_inputs(self.aggregates)

    @property
    def needs_position(self) -> bool:
        return any(a.needs_order for _, a in self.aggregates)


@dataclass(frozen=True)
class ScanSpec(Spec):
    """Attributes:
    by_event_time: it is behind a keyed stage, whose rows come in no particular order: they are taken by
        event time, as far as the watermark has come.
    """

    keyed: ClassVar[bool] = True
    columnar: ClassVar[bool] = False
    init: UserFunction
    function: UserFunction
    schema: pa.Schema | None
    on_error: OnError
    by_event_time: bool = False

    def describe(self) -> str:
        return f"scan({self.function})"

    def notes(self) -> Iterator[str]:
        yield f"events of one key in the order of {'event time' if self.by_event_time else 'their arrival'}"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        refuse_changelog(where, inputs[0])
        return Bound(self.schema, inputs[0].time, where)

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(self, by_event_time=lost_order(inputs[0]))

    @property
    def needs_position(self) -> bool:
        return self.by_event_time


def lost_order(upstream: Bound) -> bool:
    """Whether rows come from several workers in no particular order, but can be put in the order of event time."""
    return upstream.stateful is not None and upstream.time is Time.EVENT


def check_names(where: str, aggregates: Aggregates, taken: Sequence[str]) -> None:
    for name, _ in aggregates:
        if name in taken:
            raise FlowError(f"{where}: an aggregate cannot be named {name!r}, which is a field of the result already")


def aggregate_schema(where: str, aggregates: Aggregates, schema: pa.Schema, keys: Sequence[str]) -> pa.Schema:
    """The key fields and the results of aggregates over rows of a schema."""
    from millstream.accumulators import AccumulatorSet  # compiles the kernels that only a planned aggregate needs

    results = AccumulatorSet(dict(aggregates), input_types(dict(aggregates), schema, where), where).schema
    return pa.schema([*((k, schema.field(k).type) for k in keys), *((f.name, f.type) for f in results)])


def aggregate_inputs(aggregates: Aggregates) -> Fields:
    return frozenset(f for _, a in aggregates for e in a.inputs for f in e.fields())


def describe_aggregates(aggregates: Aggregates) -> str:
    return ", ".join(f"{n}={a}" for n, a in aggregates)
