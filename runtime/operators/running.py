"""Running aggregates: for each key since the start, put out with every change.

The result is a changelog of upserts by key: each batch puts out one row for each key that it changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, concat, nbytes, take
from millstream.batch import Batch, index_array, make_columns
from millstream.evaluate import evaluate_all
from millstream.grouping import Groups, group_codes
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.scan import key_values
from millstream.specs.base import MAIN
from millstream.specs.keyed import RunningAggregateSpec

_FIRST_CAPACITY: Final = 1_024


class RunningAggregate(Operator):
    def __init__(self, spec: RunningAggregateSpec, context: Context) -> None:
        super().__init__(context)
        self.aggregates = loaded_aggregates(spec.aggregates)
        self.typed = TypedAccumulators(self.aggregates, context.name)
        self.slots: dict[Any, int] = {}
        self.state: list[_StateColumn] = []

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        assert batch.keys is not None
        accumulators = self.typed.for_batch(batch)
        if not self.state:
            self.state = [_StateColumn() for _ in range(accumulators.width)]
        groups, first = group_codes([(batch.keys.codes, max(1, batch.keys.distinct.num_rows))])
        keys = batch.keys.distinct.take(index_array(batch.keys.codes[first]))
        inputs = evaluate_all(accumulators.inputs, input_columns(batch, accumulators))
        partial = accumulators.partial(inputs, groups, row_order(batch, accumulators))
        merged = self._merge(keys, partial, accumulators)
        names = [*keys.schema.names, *self.aggregates]
        columns = make_columns(names, [*keys.columns, *accumulators.results(merged)])
        time_us = None
        if batch.time_us is not None:
            time_us = np.full(groups.count, np.iinfo(np.int64).min)
            np.maximum.at(time_us, groups.codes, batch.time_us)
        yield MAIN, Batch(columns, time_us)

    def _merge(self, keys: pa.RecordBatch, partial: list[Column], accumulators: AccumulatorSet) -> list[Column]:
        """Merge a row for each of these keys into the state; returns the state's rows for them."""
        known = len(self.slots)
        slots = np.fromiter(
            (self.slots.setdefault(k, len(self.slots)) for k in key_values(keys)), np.int64, keys.num_rows
        )
        old = np.flatnonzero(slots < known)
        merged = partial
        if len(old):
            held = [c.take(slots[old]) for c in self.state]
            groups = Groups(np.concatenate([np.arange(len(slots)), old]), len(slots))
            merged = accumulators.combine([concat([p, h]) for p, h in zip(partial, held, strict=True)], groups)
        for column, rows in zip(self.state, merged, strict=True):
            column.put(slots, rows, len(self.slots))
        return merged

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.slots), "state_bytes": sum(c.nbytes for c in self.state)}


class _StateColumn:
    """One accumulator column, a row for each slot.

    Values with a NumPy type are overwritten in place. Others (text, lists) are appended to a log, where
    the newest row of a slot counts, and the log is rewritten when half of it is old.
    """

    def __init__(self) -> None:
        self._values: npt.NDArray[Any] | None = None
        self._log: Column | None = None
        self._at = np.full(_FIRST_CAPACITY, -1, np.int64)

    def take(self, slots: npt.NDArray[np.int64]) -> Column:
        if self._log is not None:
            return take(self._log, self._at[slots])
        assert self._values is not None
        return self._values[slots]

    def put(self, slots: npt.NDArray[np.int64], rows: Column, count: int) -> None:
        if self._log is None and isinstance(rows, np.ndarray):
            if self._values is None:
                self._values = np.zeros(max(_FIRST_CAPACITY, count), rows.dtype)
            if rows.dtype == self._values.dtype:
                self._values = _grown(self._values, count)
                self._values[slots] = rows
                return
        if self._log is None and self._values is not None:
            # The column widens or shows its first null: from now on it is a log.
            present = np.setdiff1d(np.arange(min(count, len(self._values))), slots)
            self._log = self._values[present]
            self._at = _grown(self._at, count)
            self._at[present] = np.arange(len(present))
            self._values = None
        self._at = _grown(self._at, count)
        start = 0 if self._log is None else len(self._log)
        self._log = rows if self._log is None else concat([self._log, rows])
        self._at[slots] = np.arange(start, start + len(slots))
        if len(self._log) > 2 * count + _FIRST_CAPACITY:
            self._log = take(self._log, self._at[:count])
            self._at[:count] = np.arange(count)

    @property
    def nbytes(self) -> int:
        return (0 if self._values is None else self._values.nbytes) + (0 if self._log is None else nbytes(self._log))


def _grown(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    if count <= len(values):
        return values
    grown = np.zeros(max(count, 2 * len(values)), values.dtype)
    grown[: len(values)] = values
    return grown
