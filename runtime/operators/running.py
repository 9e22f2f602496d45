"""Running aggregates: for each key since the start, put out with every change, or once at the end.

The result is a changelog: each batch puts out one row for each key that it changed, which replaces the
key's earlier one. Where somebody behind needs it, or where keys can go, it takes the earlier row back instead, with the
values and the time it was said with.

The values of `count_distinct` are kept apart (distinct_values.py): what stands of them is a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column
from millstream.accumulators.columns import Input
from millstream.aggregates import CountDistinct
from millstream.batch import Batch, BoolArray, IntArray, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.evaluate import evaluate_all
from millstream.grouping import group_codes
from millstream.operators.accumulator_tables import AccumulatorTables
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.changes import CHANGE_ROWS, changes, key_position, unchanged
from millstream.operators.distinct_values import DistinctValues
from millstream.operators.standing import STANDING, Merged, Standing, latest, live_rows
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.keyed import RunningAggregateSpec
from millstream.times import MAX_US, MIN_US


class RunningAggregate(Operator):
    """Args:
    with_position: whether something behind this operator depends on order.
    """

    keeps_to_groups = True
    restored_as_written = (STANDING,)

    def __init__(self, spec: RunningAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(context)
        self.spec = spec
        self.with_position = with_position
        self.aggregates = loaded_aggregates(spec.aggregates)
        self.typed = TypedAccumulators(self.aggregates, context.name, spec.signed, values_apart=True)
        counting = [a for a in self.aggregates.values() if isinstance(a, CountDistinct)]
        self.values = [DistinctValues(f"values.{n}", spec.signed) for n in range(len(counting))]
        self.tables = AccumulatorTables(self.typed)
        self.standing = Standing()
        self.timed = False
        self.accumulators: AccumulatorSet | None = None

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        assert batch.keys is not None
        self.accumulators = accumulators = self.typed.for_batch(batch)
        self.timed = batch.time_us is not None
        groups, first = group_codes([(batch.keys.codes, max(1, batch.keys.distinct.num_rows))])
        keys = batch.keys.distinct.take(index_array(batch.keys.codes[first]))
        inputs = evaluate_all(accumulators.inputs, input_columns(batch, accumulators))
        rows = accumulators.rows(inputs, groups, row_order(batch, accumulators), batch.sign)
        values = [rows.inputs[part.at] for part in accumulators.apart.values()]
        yield from self._add(keys, accumulators.partial_of(rows), values, latest(groups, batch.time_us), accumulators)

    def _add(
        self, keys: pa.RecordBatch, partial: list[Column], values: Sequence[Input], time_us: IntArray,
        accumulators: AccumulatorSet,
    ) -> Iterator[Output]:  # fmt: skip
        """Merge a row for each of these keys, each at most once, into what stands; put out what that changes.

        Args:
            values: those of each part that is `AccumulatorSet.apart`, grouped by key.
        """
        slots, new = self.standing.keys.add(keys)
        # Results that count the same values share a part: the last tables may be for none.
        for (column, part), given, held in zip(accumulators.apart.items(), values, self.values, strict=False):
            partial[column] = held.add(slots, given, part)
        merged = self.standing.merge(slots, new, partial, time_us, accumulators)
        left = live_rows(accumulators, merged.columns)
        if not self.spec.final:
            now = self._rows(keys, merged.columns, merged.time_us)
            if self.spec.retracts:
                yield from self._revise(keys, merged, now, left)
            else:
                yield MAIN, now
        if left is not None:
            self.standing.free(merged.slots[~left])

    def _revise(self, keys: pa.RecordBatch, merged: Merged, now: Batch, left: BoolArray | None) -> Iterator[Output]:
        """Take back what was said of the keys that say something else now, or nothing any more."""
        known, stands = merged.known, np.ones(now.num_rows, np.bool_) if left is None else left.copy()
        gone = None
        if len(known):
            before = self._rows(keys.take(index_array(known)), merged.held, merged.held_us)
            after = now.take(known)
            same = stands[known] & (merged.held_us == merged.time_us[known])
            same &= unchanged(before.columns.columns, after.columns.columns)
            stands[known[same]] = False
            gone = before.where(~same)
        yield from changes(gone, now.where(stands))

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if not self.spec.final or watermark_us != MAX_US or self.accumulators is None:
            return
        slots = self.standing.keys.live()
        for start in range(0, len(slots), CHANGE_ROWS):
            some = slots[start : start + CHANGE_ROWS]
            yield MAIN, self._rows(self.standing.keys.keys(some), self.standing.take(some), self.standing.time_us[some])
        self.standing.free(slots)
        for values in self.values:
            values.clear()

    def held_back_us(self) -> int:
        return MAX_US if self.spec.final else 0

    def _rows(self, keys: pa.RecordBatch, columns: list[Column], time_us: IntArray) -> Batch:
        """What the accumulators of some keys say."""
        assert self.accumulators is not None
        rows = make_columns(
            [*keys.schema.names, *self.aggregates], [*keys.columns, *self.accumulators.results(columns)]
        )
        position = key_position(keys) if self.with_position else None
        return Batch(rows, time_us if self.timed else None, position=position)

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        slots = self.standing.keys.asked(question)
        if len(slots):
            yield self._rows(
                self.standing.keys.keys(slots), self.standing.take(slots), self.standing.time_us[slots]
            ).columns

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        values = [table for held in self.values for table in held.snapshot(self.standing.keys)]
        return [*self.tables.snapshot(), *self.standing.snapshot(self.tables), *values]

    def hand_over(self) -> Sequence[StateTable] | None:
        self.standing.keys.forget_snapshots()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        self.accumulators = self.tables.restore(tables)
        self.standing.restore(tables, self.tables)
        for held in self.values:
            held.restore(tables, self.standing.keys)
        self.timed = bool((self.standing.time_us > MIN_US).any())

    def figures(self) -> dict[str, Any]:
        standing = self.standing.figures()
        state_bytes = standing["state_bytes"] + sum(held.nbytes for held in self.values)
        return {**super().figures(), **standing, "state_bytes": state_bytes}
