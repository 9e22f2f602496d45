"""Running aggregates with a ttl: a key without an event for so long is freed, and begins anew when it comes again.

A key's events, by event time, are cut where one is at least the ttl after the one before: each piece is a life of
the key, aggregated by itself. Rows are taken in the order of event time, so where lives end depends on the events
alone and not on when they came. A life ends when the watermark is the ttl past its last event; what was said of it is
taken back then, so that nothing behind this operator has to remember the key either. The end of the input ends all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, concat, take
from millstream.batch import Batch, BoolArray, IntArray, make_columns
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.evaluate import evaluate_all
from millstream.grouping import Groups, IndexArray
from millstream.operators.accumulator_tables import AccumulatorTables
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Output
from millstream.operators.changes import CHANGE_ROWS, changes, key_position
from millstream.operators.ordering import OrderedOperator
from millstream.operators.standing import STANDING, Standing
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.expiring import ExpiringAggregateSpec
from millstream.state.expiry import Expiry
from millstream.times import MIN_US


class ExpiringAggregate(OrderedOperator):
    keeps_to_groups = True
    restored_as_written = (STANDING,)

    def __init__(self, spec: ExpiringAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context)
        self.spec = spec
        self.with_position = with_position
        self.aggregates = loaded_aggregates(spec.aggregates)
        self.typed = TypedAccumulators(self.aggregates, context.name)
        self.tables = AccumulatorTables(self.typed)
        self.standing = Standing()
        self.expiry = Expiry()
        self.accumulators: AccumulatorSet | None = None

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        assert rows.keys is not None
        self.accumulators = self.typed.for_batch(rows)
        slots = self.standing.keys.slots_of(rows.keys)
        order = np.argsort(rows.keys.codes, kind="stable")
        new = self._lives_of(slots[order], rows.take(order))
        held = self._held(np.unique(new.slots))
        lives = new if held is None else self._joined(held, new)
        stands = np.append(lives.slots[1:] != lives.slots[:-1], True)
        if not self.spec.final:
            yield from changes(None if held is None else self._rows(held), self._rows(lives.where(stands)))
        elif not stands.all():
            yield MAIN, self._rows(lives.where(~stands))
        last = lives.where(stands)
        self.standing.put(last.slots, last.columns, last.last_us)
        self.expiry.set(last.slots, last.last_us + self.spec.ttl_us)

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        due = self.expiry.due(watermark_us)
        for start in range(0, len(due), CHANGE_ROWS):
            ended = self._held(due[start : start + CHANGE_ROWS])
            assert ended is not None
            rows = self._rows(ended)
            if self.spec.final:
                yield MAIN, rows
            else:
                yield from changes(rows, rows.slice(0, 0))
        self.standing.free(due)

    def held_back_us(self) -> int:
        return self.spec.ttl_us if self.spec.final else 0

    # --- lives ---

    def _lives_of(self, slots: IntArray, rows: Batch) -> _Lives:
        """What rows, sorted by key and time, are pieces of."""
        assert self.accumulators is not None and rows.time_us is not None
        groups, first, last = self._cut(slots, rows.time_us, rows.time_us)
        inputs = evaluate_all(self.accumulators.inputs, input_columns(rows, self.accumulators))
        columns = self.accumulators.partial(inputs, groups, row_order(rows, self.accumulators))
        return _Lives(slots[first], rows.time_us[first], rows.time_us[last], columns)

    def _held(self, slots: IntArray) -> _Lives | None:
        """What stands of these slots; None: nothing."""
        if len(self.standing.time_us) == 0:
            return None
        slots = slots[slots < len(self.standing.time_us)]
        slots = slots[self.standing.time_us[slots] != MIN_US]
        if len(slots) == 0:
            return None
        last_us = self.standing.time_us[slots]
        return _Lives(slots, last_us, last_us, self.standing.take(slots))

    def _joined(self, held: _Lives, new: _Lives) -> _Lives:
        """Lives that stood, followed by those of later rows: one life where the gap between two is less than the ttl."""
        assert self.accumulators is not None
        slots = np.concatenate([held.slots, new.slots])
        first_us = np.concatenate([held.first_us, new.first_us])
        last_us = np.concatenate([held.last_us, new.last_us])
        order = np.argsort(slots, kind="stable")
        slots, first_us, last_us = slots[order], first_us[order], last_us[order]
        groups, first, last = self._cut(slots, first_us, last_us)
        codes = np.empty(len(order), np.intp)
        codes[order] = groups.codes
        columns = [concat([a, b]) for a, b in zip(held.columns, new.columns, strict=True)]
        merged = self.accumulators.combine(columns, Groups(codes, groups.count))
        return _Lives(slots[first], first_us[first], last_us[last], merged)

    def _cut(self, slots: IntArray, first_us: IntArray, last_us: IntArray) -> tuple[Groups, IndexArray, IndexArray]:
        """Group pieces, sorted by slot and time, into lives: also the first and the last piece of each."""
        cut = np.ones(len(slots), np.bool_)
        cut[1:] = (slots[1:] != slots[:-1]) | (first_us[1:] - last_us[:-1] >= self.spec.ttl_us)
        first = np.flatnonzero(cut)
        return Groups(np.cumsum(cut) - 1, len(first)), first, np.append(first[1:], len(slots)) - 1

    def _rows(self, lives: _Lives) -> Batch:
        """What the accumulators of some lives say."""
        assert self.accumulators is not None
        keys = self.standing.keys.keys(lives.slots)
        rows = make_columns(
            [*keys.schema.names, *self.aggregates], [*keys.columns, *self.accumulators.results(lives.columns)]
        )
        return Batch(rows, lives.last_us, position=key_position(keys) if self.with_position else None)

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        held = self._held(self.standing.keys.asked(question))
        if held is not None:
            yield self._rows(held).columns

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        return [*super().snapshot(), *self.tables.snapshot(), *self.standing.snapshot(self.tables)]

    def hand_over(self) -> Sequence[StateTable] | None:
        self.standing.keys.forget_snapshots()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self.accumulators = self.tables.restore(tables)
        self.standing.restore(tables, self.tables)
        slots = self.standing.keys.live()
        self.expiry.set(slots, self.standing.time_us[slots] + self.spec.ttl_us)

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), **self.standing.figures()}


@dataclass(frozen=True, slots=True)
class _Lives:
    """Lives, or pieces of them, sorted by slot and time.

    Attributes:
        slots: int64[n], of the keys.
        first_us: int64[n], the time of the first row; last_us: that of the last.
        columns: the accumulators.
    """

    slots: IntArray
    first_us: IntArray
    last_us: IntArray
    columns: list[Column]

    def where(self, mask: BoolArray) -> _Lives:
        if mask.all():
            return self
        rows = np.flatnonzero(mask)
        return _Lives(self.slots[rows], self.first_us[rows], self.last_us[rows], [take(c, rows) for c in self.columns])
