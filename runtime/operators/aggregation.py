"""What every aggregating operator does with the aggregates it was given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from millstream.accumulators import AccumulatorSet, RowOrder, distinct_inputs
from millstream.aggregates import Aggregate, UserAggregate
from millstream.batch import Batch
from millstream.evaluate import output_type
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


def accumulators_for(aggregates: dict[str, Aggregate], batch: Batch, where: str) -> AccumulatorSet:
    """The accumulators for batches like this one."""
    return AccumulatorSet(aggregates, input_types(aggregates, batch.all_columns().schema, where), where)


def input_columns(batch: Batch, accumulators: AccumulatorSet) -> pa.RecordBatch:
    """The columns that the aggregates read; the key fields among them only where one does read them."""
    read = {f for e in accumulators.inputs for f in e.fields()}
    return batch.columns if read.issubset(batch.columns.schema.names) else batch.all_columns()


def input_types(aggregates: dict[str, Aggregate], schema: pa.Schema, where: str) -> list[pa.DataType]:
    return [output_type(e, schema, f"{where} agg") for e in distinct_inputs(aggregates.values())]


def row_order(batch: Batch, accumulators: AccumulatorSet) -> RowOrder | None:
    """What breaks ties between the rows of a batch, where the aggregates need it."""
    if not accumulators.needs_order:
        return None
    assert batch.position is not None
    # Without event time, order is the order of the source.
    return RowOrder(batch.position if batch.time_us is None else batch.time_us, batch.position)
