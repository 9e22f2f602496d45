"""Sliding windows: for each event, aggregates of what lies behind it and of itself.

By time, [t - size, t]: events of equal time are in each other's windows, so a result is final once the watermark
has passed t, and no sooner. By rows: the last n events of the key. Either way there is one result for each event, in
the order of time, and of each key only the aggregates' inputs of rows that a later event may look back to are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.grouping import IndexArray
from millstream.operators.base import Context, Output
from millstream.operators.columnar import with_arrays
from millstream.operators.key_rows import ROWS_LOOKED_AT_EACH, KeyHistory, KeyRows, TimesByKey, sorted_by_key
from millstream.operators.ordering import OrderedOperator
from millstream.operators.range_aggregates import RangeAggregates
from millstream.queries import Question, beside
from millstream.specs.base import MAIN
from millstream.specs.sliding import SlidingSpec
from millstream.specs.windows import RESERVED
from millstream.times import STAMP, saturating_add

_HISTORY: Final = "history"


class Sliding(OrderedOperator):
    def __init__(self, spec: SlidingSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.aggregates = RangeAggregates(spec.aggregates, context.name)
        self.size_us, self.rows = spec.windows.size_us, spec.windows.rows
        self.history = KeyHistory(last=None if self.rows is None else self.rows - 1)

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        if rows.num_rows == 0:
            return
        assert rows.keys is not None
        if rows.time_us is not None:
            self._forget(int(rows.time_us[0]))  # numbers keys anew, so before the new rows ask for theirs
        new, order = sorted_by_key(rows, self.history.keys.slots_of(rows.keys), self.aggregates.inputs(rows))
        seen, at, new = self.history.followed_by(new)
        first, after = self._windows(seen, at)
        results = self.aggregates.results(seen, first, after)
        self.history.add(new)
        # The results are by key; the events go on in the order of time.
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        results = [r.take(index_array(back)) for r in results]
        columns = with_arrays(rows.all_columns(), self.aggregates.names, results)
        yield MAIN, Batch(columns, rows.time_us, position=rows.position)

    def worth_taking(self) -> int:
        return self.history.rows // ROWS_LOOKED_AT_EACH

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        self._forget(watermark_us)
        return iter(())

    def _forget(self, from_us: int) -> None:
        """Rows up to ``from_us`` have been taken: later ones do not look back beyond their size."""
        if self.size_us is not None:
            self.history.forget_before(saturating_add(from_us, -self.size_us))

    def _windows(self, seen: KeyRows, at: IndexArray) -> tuple[IndexArray, IndexArray]:
        """The rows that each new row's window holds: (first, after the last)."""
        starts = seen.starts[at]
        if self.size_us is None:
            assert self.rows is not None
            return np.maximum(starts, at - self.rows + 1), at + 1
        time_us = seen.time_us[at]
        moments = TimesByKey(seen)
        return moments.first_from(starts, time_us - self.size_us), moments.first_from(starts, time_us + 1)

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """What the next event of each key will find behind it: when that began and ended, and its aggregates."""
        for seen in self.history.asked(question):
            first, after = seen.bounds[:-1], seen.bounds[1:]
            if self.by_event_time and question.at_us is not None:
                there = (seen.time_us[first] <= question.at_us) & (question.at_us <= seen.time_us[after - 1])
                first, after = first[there], after[there]
            keys = self.history.keys.keys(seen.slots[first])
            users = [*keys.schema.names, *self.aggregates.names]
            told: dict[str, Array] = {}
            if self.by_event_time:
                bounds_us = (seen.time_us[first], seen.time_us[after - 1] + 1)
                for name, us in zip(RESERVED[:2], bounds_us, strict=True):
                    told[beside(users, name)] = pa.array(us).view(STAMP)
            told |= dict(zip(keys.schema.names, keys.columns, strict=True))
            results = self.aggregates.results(seen, first, after)
            yield with_arrays(make_columns(list(told), list(told.values())), self.aggregates.names, results)

    def snapshot(self) -> list[Part]:
        return [*super().snapshot(), *self.history.snapshot(_HISTORY)]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self.history.restore([t for t in tables if t.name == _HISTORY])

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.history.keys), "state_bytes": self.history.nbytes}
