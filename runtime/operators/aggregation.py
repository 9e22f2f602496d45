"""What every aggregating operator does with the aggregates it was given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from millstream.accumulators import AccumulatorSet, RowOrder, distinct_inputs
from millstream.aggregates import Aggregate, UserAggregate
from millstream.batch import Batch
from millstream.errors import SchemaError
from millstream.evaluate import output_type
from millstream.expr import WholeRow
from millstream.functions import UserFunction

_FUNCTIONS = ("init", "add", "merge", "result")


def shipped(aggregate: Aggregate) -> Aggregate:
    """The aggregate as it travels with the plan: the user's functions opaque."""
    if not isinstance(aggregate, UserAggregate):
        return aggregate
    functions: dict[str, Any] = {n: UserFunction(getattr(aggregate, n)) for n in _FUNCTIONS}
    return replace(aggregate, **functions)


def loaded_aggregates(aggregates: Iterable[tuple[str, Aggregate]]) -> dict[str, Aggregate]:
    """The aggregates as they run: the user's functions loaded."""
    return {name: _loaded(aggregate) for name, aggregate in aggregates}


def _loaded(aggregate: Aggregate) -> Aggregate:
    if not isinstance(aggregate, UserAggregate):
        return aggregate
    functions = {n: getattr(aggregate, n) for n in _FUNCTIONS}
    return replace(aggregate, **{n: f.load() if isinstance(f, UserFunction) else f for n, f in functions.items()})


class TypedAccumulators:
    """The accumulators of an operator, for the types that its batches have shown so far.

    Columns made by Python functions may show another type later: integers, then numbers with a point; or
    nothing but null at first. Then the types widen, and accumulators of before are combined with those of after.
    """

    def __init__(
        self, aggregates: dict[str, Aggregate], where: str, retractable: bool = False, values_apart: bool = False
    ) -> None:
        self.aggregates = aggregates
        self.where = where
        self.retractable = retractable
        self.values_apart = values_apart
        self._schema: pa.Schema | None = None
        self._types: list[pa.DataType] = []
        self._set: AccumulatorSet | None = None

    def for_batch(self, batch: Batch) -> AccumulatorSet:
        """The accumulators for a batch, and for all before it.

        Raises:
            SchemaError: a field has a type that does not go with the one it had before.
        """
        schema = batch.columns.schema
        if self._set is None or self._schema is None or not (schema is self._schema or schema.equals(self._schema)):
            self._widen(input_types(self.aggregates, batch.all_columns().schema, self.where))
            self._schema = schema
        assert self._set is not None
        return self._set

    @property
    def types(self) -> list[pa.DataType]:
        """The types of the inputs so far; none before the first batch."""
        return list(self._types)

    @property
    def for_anything(self) -> bool:
        """Whether a batch has shown types, be it that there are no inputs."""
        return self._set is not None

    def for_types(self, types: list[pa.DataType]) -> AccumulatorSet:
        """The accumulators for inputs of these types, as `types` said before a restart, and for all before them."""
        self._widen(types)
        assert self._set is not None
        return self._set

    def _widen(self, types: list[pa.DataType]) -> None:
        if self._set is not None:
            types = [self._wider(e, a, b) for e, a, b in zip(self._set.inputs, self._types, types, strict=True)]
        if self._set is None or types != self._types:
            self._types = types
            self._set = AccumulatorSet(self.aggregates, types, self.where, self.retractable, self.values_apart)

    def _wider(self, field: object, before: pa.DataType, now: pa.DataType) -> pa.DataType:
        if before == now:
            return before
        try:
            parts = [pa.schema([("x", kind)]) for kind in (before, now)]
            wider: pa.DataType = pa.unify_schemas(parts, promote_options="permissive").field(0).type
            return wider
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise SchemaError(
                f"{self.where} agg: {field} was {before} and is now {now}; say schema= where the field is made, or cast it"
            ) from error


def input_columns(batch: Batch, accumulators: AccumulatorSet) -> pa.RecordBatch:
    """The columns that the aggregates read; the key fields among them only where one does read them."""
    if any(isinstance(e, WholeRow) for e in accumulators.inputs):
        return batch.all_columns()
    read = {f for e in accumulators.inputs for f in e.fields()}
    if accumulators.inputs and not read:
        return batch.all_columns()  # for a literal: columns of keys at least say how many rows there are
    return batch.columns if read.issubset(batch.columns.schema.names) else batch.all_columns()


def input_types(aggregates: dict[str, Aggregate], schema: pa.Schema, where: str) -> list[pa.DataType]:
    return [output_type(e, schema, where) for e in distinct_inputs(aggregates.values())]


def row_order(batch: Batch, accumulators: AccumulatorSet) -> RowOrder | None:
    """What breaks ties between the rows of a batch, where the aggregates need it."""
    if not accumulators.needs_order:
        return None
    assert batch.position is not None
    # Without event time, order is the order of the source.
    return RowOrder(batch.position if batch.time_us is None else batch.time_us, batch.position)
