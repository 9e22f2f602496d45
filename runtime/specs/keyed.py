"""Specs of keys, and of the operators that keep state for each key without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import pyarrow as pa

from millstream.aggregates import Aggregate
from millstream.checkpoints.shape import OPERATOR, VERSION
from millstream.errors import FlowError
from millstream.expr import WholeRow
from millstream.functions import UserFunction
from millstream.operators.aggregation import input_types
from millstream.specs.base import (
    MAIN,
    Bound,
    Changelog,
    Fields,
    Named,
    Spec,
    Time,
    both,
    describe_columns,
    fields_of,
    is_field,
    refuse_changelog,
    takes_back,
)
from millstream.specs.columns import with_types
from millstream.specs.on_error import ErrorPolicy
from millstream.times import format_duration

Aggregates = tuple[tuple[str, Aggregate], ...]


@dataclass(frozen=True)
class KeyBySpec(Spec):
    """Attributes:
    made: rows come with their keys, which an operator in front has looked for already.
    """

    keys: Named
    made: bool = False

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
    """Aggregates since the start, for each key.

    Attributes:
        final: a row for each key, at the end of the input. Else every change is put out: a changelog.
        retracts: a result that changes is taken back first; else its successor replaces it.
        signed: the input takes rows back, and a key that has none left is gone.
    """

    keyed: ClassVar[bool] = True
    aggregates: Aggregates
    final: bool = False
    retracts: bool = False
    signed: bool = False

    @property
    def way(self) -> str:
        return way_of_aggregates(self.aggregates)

    def describe(self) -> str:
        return f"agg({describe_aggregates(self.aggregates)}{', final' if self.final else ''})"

    def state_aspects(self) -> dict[str, str]:
        flags = {"final": self.final, "takes results back": self.retracts, "rows are taken back": self.signed}
        return {
            OPERATOR: "running aggregate",
            **aggregate_aspects(self.aggregates),
            **{flag: "yes" for flag, on in flags.items() if on},
        }

    def notes(self) -> Iterator[str]:
        if self.final:
            yield "a row for each key, at the end of the input"
        elif self.retracts:
            yield "a changelog: each batch takes back what it changed of each key, and puts out the new values"
        else:
            yield "a changelog: each batch puts out the new values of the keys it changed"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        check_retractable(where, self.aggregates, upstream)
        check_names(where, self.aggregates, upstream.keys)
        schema = None
        if upstream.schema is not None:
            schema = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
        changelog = Changelog(where, upstream.keys, self.retracts or upstream.changelog is not None)
        return Bound(schema, upstream.time, where, changelog=None if self.final else changelog)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return aggregate_inputs(self.aggregates)

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        signed = takes_back(inputs[0])
        # A key that is gone is taken back, which an upsert could not say.
        return replace(self, signed=signed, retracts=not self.final and (self.retracts or signed))

    @property
    def needs_position(self) -> bool:
        return any(a.needs_order for _, a in self.aggregates)

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return inputs[0].changelog is not None

    @property
    def waits_for_end(self) -> bool:
        return self.final

    @property
    def revises(self) -> bool:
        return not self.final

    def retracting(self) -> Self:
        return replace(self, retracts=True)

    @property
    def unbounded_state(self) -> str:
        return "every key is kept for ever; use a window, or ttl= to free keys without events"


@dataclass(frozen=True)
class ScanSpec(Spec):
    """Attributes:
    order: as the user wants it; None: as events come from the source, by event time behind a keyed stage,
        whose rows come in no particular order.
    ttl_us: how long after its last event the state of a key is forgotten; None: never.
    pickle: states of types that the codec does not know are pickled.
    version: of the user's state; migrate: brings states of older ones to it.
    timed: whether events have event time (known when it is bound).
    by_event_time: events are taken by event time, as far as the watermark has come (known when it is bound).
    """

    keyed: ClassVar[bool] = True
    columnar: ClassVar[bool] = False
    keeps_fields: ClassVar[bool] = False
    init: UserFunction
    function: UserFunction
    schema: pa.Schema | None
    on_error: ErrorPolicy
    order: Literal["event_time", "arrival"] | None = None
    ttl_us: int | None = None
    pickle: bool = False
    version: int = 1
    migrate: UserFunction | None = None
    timed: bool = False
    by_event_time: bool = False

    @property
    def way(self) -> str:
        return "Python"

    def describe(self) -> str:
        return f"scan({self.function})"

    def state_aspects(self) -> dict[str, str]:
        return {OPERATOR: "scan", VERSION + "state": str(self.version)}

    @property
    def state_migrations(self) -> list[str]:
        return [] if self.migrate is None else ["state"]

    def notes(self) -> Iterator[str]:
        yield f"events of one key in the order of {'event time' if self.by_event_time else 'their arrival'}"
        if self.ttl_us is not None:
            yield f"state of a key without events for {format_duration(self.ttl_us)} is forgotten"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        refuse_changelog(where, inputs[0])
        if self.order == "event_time" and inputs[0].time is not Time.EVENT:
            raise FlowError(f"{where}: order='event_time', and the stream has none; call event_time() before key_by()")
        return Bound(self.schema, inputs[0].time, where)

    @property
    def shows_fields(self) -> bool:
        return self.schema is None

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        by_event_time = self.order == "event_time" if self.order is not None else lost_order(inputs[0])
        return replace(self, timed=inputs[0].time is Time.EVENT, by_event_time=by_event_time)

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


def check_retractable(where: str, aggregates: Aggregates, upstream: Bound) -> None:
    """For aggregates of a stream that may take rows back.

    Raises:
        FlowError: one of them cannot follow.
    """
    fixed = [(name, aggregate) for name, aggregate in aggregates if not aggregate.retractable]
    if upstream.changelog and fixed:
        name, aggregate = fixed[0]
        raise FlowError(
            f"{where}: its input comes from {upstream.changelog.by}, which revises what it has put out; "
            f"{name}={aggregate} cannot take rows back, as count, sum, mean, min, max, variance and count_distinct can. "
            "Use emit='final' there"
        )


def aggregate_schema(where: str, aggregates: Aggregates, schema: pa.Schema, keys: Sequence[str]) -> pa.Schema:
    """The key fields and the results of aggregates over rows of a schema."""
    from millstream.accumulators import AccumulatorSet  # compiles the kernels that only a planned aggregate needs

    results = AccumulatorSet(dict(aggregates), input_types(dict(aggregates), schema, where), where).schema
    return pa.schema([*((k, schema.field(k).type) for k in keys), *((f.name, f.type) for f in results)])


def aggregate_inputs(aggregates: Aggregates) -> Fields:
    if any(isinstance(e, WholeRow) for _, a in aggregates for e in a.inputs):
        return None
    return frozenset(f for _, a in aggregates for e in a.inputs for f in e.fields())


def way_of_aggregates(aggregates: Aggregates) -> str:
    """`Spec.way` of what computes these."""
    return "columns and Python" if any(a.user_defined for _, a in aggregates) else "columns"


def aggregate_aspects(aggregates: Aggregates) -> dict[str, str]:
    """What accumulators depend on, for `Spec.state_aspects`."""
    return {f"aggregate {name}": str(aggregate) for name, aggregate in aggregates}


def describe_aggregates(aggregates: Aggregates) -> str:
    return ", ".join(f"{n}={a}" for n, a in aggregates)
