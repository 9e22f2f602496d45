"""Events with values of their neighbours: lag, lead, delta and rate.

The events of a key stand in the order of event time. What lies behind an event is known when its turn comes; what
lies ahead is not, so an event with a `lead` waits until enough later ones have come, or until the watermark says that
none comes within its time. Of each key only as many rows are kept as the furthest look back and ahead need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, BoolArray, IntArray, index_array, make_columns, take_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.evaluate import evaluate_rows
from millstream.expr import Column, col
from millstream.grouping import IndexArray
from millstream.operators.base import Context, Output
from millstream.operators.columnar import evaluate_all, row_text, with_arrays
from millstream.operators.key_rows import KeyHistory, KeyRows, sorted_by_key
from millstream.operators.ordering import OrderedOperator
from millstream.queries import EVENT_TIME, Question, beside
from millstream.specs.base import MAIN
from millstream.specs.previous import Look, Neighbour, WithPreviousSpec
from millstream.times import MAX_US, MIN_US, STAMP, saturating_add

_HISTORY: Final = "history"
_EXPIRED: Final = "expired"

_VALUE: Final = "\0{}"
"""The column that remembers what an expression gave, beside a whole event; no field of a user's has such a name."""


class WithPrevious(OrderedOperator):
    def __init__(self, spec: WithPreviousSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.fields = spec.fields
        self.ahead, self.within_us = spec.ahead, spec.within_us
        self.history = KeyHistory(last=spec.behind + spec.ahead)
        self.expired_before_us = MIN_US

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        whole = replace(rows, columns=rows.all_columns())
        expressions = tuple((name, look.value) for name, look in self.fields)
        values, whole = evaluate_all(expressions, whole, self.context)
        if whole.num_rows == 0:
            return
        assert whole.keys is not None
        names = [_VALUE.format(i) for i in range(len(values))]
        kept = with_arrays(whole.columns, names, values) if self.ahead else make_columns(names, values)
        new, order = sorted_by_key(whole, self.history.keys.slots_of(whole.keys), kept)
        seen, at, new = self.history.followed_by(new)
        if self.ahead:
            yield from self._put_out_in_order(seen, self._completed(seen, at))
        else:
            in_turn = np.argsort(order)
            yield from self._put_out(seen, at[in_turn], whole.columns)
        self.history.add(new)

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        """Put out the events that need not wait for later ones any more."""
        if not self.ahead:
            return
        since_us, until_us = self.expired_before_us, self._expired_before(watermark_us)
        slots = [level.slots[(level.time_us >= since_us) & (level.time_us < until_us)] for level in self.history.levels]
        seen = self.history.of(np.unique(np.concatenate(slots))) if slots else None
        if seen is not None:
            ready = (seen.time_us >= since_us) & (seen.time_us < until_us)
            ready &= np.arange(len(seen)) + self.ahead >= seen.ends
            yield from self._put_out_in_order(seen, np.flatnonzero(ready))
        self.expired_before_us = until_us

    def held_back_us(self) -> int:
        return self.within_us  # it never gathers rows, so nothing else waits

    def _expired_before(self, watermark_us: int) -> int:
        """Events before this time need not wait for others by that watermark."""
        if watermark_us == MAX_US:
            return MAX_US
        return MIN_US if self.within_us == MAX_US else saturating_add(watermark_us, -self.within_us)

    def _completed(self, seen: KeyRows, at: IndexArray) -> IndexArray:
        """The events whose last later one is among the new ones."""
        is_new = np.zeros(len(seen), np.bool_)
        is_new[at] = True
        later = np.arange(len(seen)) + self.ahead
        complete = (later < seen.ends) & is_new[np.minimum(later, len(seen) - 1)]
        return np.flatnonzero(complete & (seen.time_us >= self.expired_before_us))

    def _put_out_in_order(self, seen: KeyRows, ready: IndexArray) -> Iterator[Output]:
        if len(ready):
            ready = ready[np.lexsort((seen.position[ready], seen.time_us[ready]))]
            names = [n for n in seen.columns.schema.names if not n.startswith("\0")]
            yield from self._put_out(seen, ready, take_columns(seen.columns.select(names), index_array(ready)))

    def _put_out(self, seen: KeyRows, ready: IndexArray, events: pa.RecordBatch) -> Iterator[Output]:
        """Args:
        ready: the places in ``seen`` of the ``events``.
        """
        failed = np.zeros(len(ready), np.bool_)
        results = [
            self._looked(seen, ready, look, seen.columns.column(_VALUE.format(i)), failed)
            for i, (_, look) in enumerate(self.fields)
        ]
        time_us = seen.time_us[ready] if self.by_event_time else None
        position = seen.position[ready] if self.by_event_time else None
        batch = Batch(with_arrays(events, [n for n, _ in self.fields], results), time_us, position=position)
        yield MAIN, batch.where(~failed) if failed.any() else batch

    def _looked(self, seen: KeyRows, ready: IndexArray, look: Neighbour, values: Array, failed: BoolArray) -> Array:
        """The new field of each event; marks those for which it cannot be computed."""
        there = ready + look.ahead - look.behind
        if look.ahead:
            exists = there < seen.ends[ready]
            there = np.minimum(there, len(seen) - 1)
            if look.within_us != MAX_US:
                exists &= seen.time_us[there] - seen.time_us[ready] <= look.within_us
        else:
            exists = there >= seen.starts[ready]
            there = np.maximum(there, 0)
        neighbours = values.take(index_array(there, ~exists))
        if look.look in (Look.LAG, Look.LEAD):
            return neighbours
        both = make_columns(["now", "before"], [values.take(index_array(ready)), neighbours])
        if look.look is Look.DELTA:
            difference, failures = evaluate_rows(col("now") - col("before"), both)
            for row, reason in failures:
                failed[row] = True
                self.context.reject(reason, row_text(both, row))
            return difference
        return self._rate(both, seen.time_us[ready] - seen.time_us[there], look.per_us)

    def _rate(self, both: pa.RecordBatch, elapsed_us: IntArray, per_us: int) -> Array:
        now, before = (c.cast(pa.float64(), safe=False) for c in both.columns)
        difference = pc.subtract(now, before)
        elapsed = pa.array(elapsed_us / per_us, mask=elapsed_us <= 0)  # of two events at one time there is no rate
        return pc.divide(difference, elapsed)

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """The last events of each key that others will look at: of those that wait for later ones all that they are,
        else the values that are looked at."""
        for seen in self.history.asked(question):
            keys = self.history.keys.keys(seen.slots)
            told = dict(zip(keys.schema.names, keys.columns, strict=True))
            names = seen.columns.schema.names
            if self.ahead:
                values = {n: seen.columns.column(n) for n in names if n not in told and not n.startswith("\0")}
            else:
                looked = (
                    look.value.column if isinstance(look.value, Column) else str(look.value) for _, look in self.fields
                )
                values = {n: c for n, c in zip(looked, seen.columns.columns, strict=True) if n not in told}
            if self.by_event_time:
                told[beside([*told, *values], EVENT_TIME)] = pa.array(seen.time_us).view(STAMP)
            told |= values
            yield make_columns(list(told), list(told.values()))

    def snapshot(self) -> list[Part]:
        expired = make_columns(["expired_before_us"], [pa.array([self.expired_before_us])])
        return [*super().snapshot(), *self.history.snapshot(_HISTORY), StateTable(_EXPIRED, None, expired)]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self.history.restore([t for t in tables if t.name == _HISTORY])
        # At a checkpoint all workers had come equally far: barriers cut every input at the same place.
        expired = [t.columns.column(0)[0].as_py() for t in tables if t.name == _EXPIRED]
        self.expired_before_us = max(expired, default=MIN_US)

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.history.keys), "state_bytes": self.history.nbytes}
