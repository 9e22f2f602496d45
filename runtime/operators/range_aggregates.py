"""Aggregates over ranges of the rows that are remembered of each key: what sliding and count windows compute."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from millstream.accumulators import AccumulatorSet, RowOrder
from millstream.accumulators.ranges import range_columns
from millstream.aggregates import Aggregate
from millstream.batch import Array, Batch, make_columns
from millstream.evaluate import evaluate_all
from millstream.grouping import IndexArray
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates
from millstream.operators.key_rows import KeyRows


class RangeAggregates:
    """Args:
    aggregates: by the name of their result.
    where: the operator, for errors.
    """

    def __init__(self, aggregates: Iterable[tuple[str, Aggregate]], where: str) -> None:
        self._aggregates = loaded_aggregates(aggregates)
        self._where = where
        self._typed = TypedAccumulators(self._aggregates, where)
        self._types: list[pa.DataType] | None = None
        self._set: AccumulatorSet | None = None

    @property
    def names(self) -> list[str]:
        return list(self._aggregates)

    def inputs(self, batch: Batch) -> pa.RecordBatch:
        """What is to be remembered of rows: the values that the aggregates read.

        Raises:
            SchemaError: a field has a type that does not go with the one it had before.
        """
        accumulators = self._typed.for_batch(batch)
        inputs = evaluate_all(accumulators.inputs, input_columns(batch, accumulators))
        return make_columns([str(i) for i in range(len(inputs))], inputs)

    def results(self, rows: KeyRows, first: IndexArray, after: IndexArray) -> list[Array]:
        """The aggregates of each range [first, after) of remembered rows."""
        accumulators = self._for_types(rows.columns.schema.types)
        order = RowOrder(rows.time_us, rows.position)
        return accumulators.results(range_columns(accumulators, rows.columns.columns, first, after, order))

    def _for_types(self, types: list[pa.DataType]) -> AccumulatorSet:
        # By what is remembered, which may be wider than the last batch: integers now, a number with a point before.
        if self._set is None or types != self._types:
            self._types, self._set = types, AccumulatorSet(self._aggregates, types, self._where, values_apart=True)
        return self._set
