"""Count windows: a result for every so many events of a key, over as many or over more or fewer of the last ones.

Events are counted in the order of event time, each when the watermark has passed it, so which events are in a window
does not depend on how the stream was cut. A window starts with its first event and ends just behind its last one.
Only the aggregates' inputs are kept, of the events that a window to come may hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.grouping import IndexArray
from millstream.operators.base import Context, Output
from millstream.operators.key_rows import ROWS_LOOKED_AT_EACH, KeyHistory, KeyRows, sorted_by_key
from millstream.operators.ordering import OrderedOperator
from millstream.operators.range_aggregates import RangeAggregates
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.counting import CountWindowSpec
from millstream.specs.windows import RESERVED
from millstream.times import MAX_US, STAMP

_HISTORY: Final = "history"


class CountWindow(OrderedOperator):
    def __init__(self, spec: CountWindowSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.aggregates = RangeAggregates(spec.aggregates, context.name)
        self.size, self.every = spec.windows.size, spec.windows.every
        self.history = KeyHistory(last=self.size, together=self.size if self.size == self.every else None)

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        if rows.num_rows == 0:
            return
        assert rows.keys is not None
        new, order = sorted_by_key(rows, self.history.keys.slots_of(rows.keys), self.aggregates.inputs(rows))
        seen, at, new = self.history.followed_by(new)
        full = (seen.number[at] + 1) % self.every == 0
        last, in_turn = at[full], order[full]
        yield from self._put_out(seen, last[np.argsort(in_turn)])
        self.history.add(new)

    def worth_taking(self) -> int:
        return self.history.rows // ROWS_LOOKED_AT_EACH

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        """At the end of the input, put out the windows that are not full."""
        seen = self.history.all_rows() if watermark_us == MAX_US else None
        if seen is None or not len(seen):
            return
        places = np.arange(len(seen))
        last = places[(places + 1 == seen.ends) & ((seen.number + 1) % self.every != 0)]
        yield from self._put_out(seen, last[np.lexsort((seen.position[last], seen.time_us[last]))])
        self.history.clear()

    def _put_out(self, seen: KeyRows, last: IndexArray) -> Iterator[Output]:
        """Put out the windows that end with these rows."""
        if not len(last):
            return
        self.context.counters.panes += len(last)
        result = self._windows(seen, last)
        if self.by_event_time:
            yield MAIN, Batch(result, seen.time_us[last], position=seen.position[last])
        else:
            yield MAIN, Batch(result)

    def _windows(self, seen: KeyRows, last: IndexArray) -> pa.RecordBatch:
        """The windows that end with these rows."""
        first = self._first(seen, last)
        keys = self.history.keys.keys(seen.slots[last])
        start, end = self._times(seen, first, last)
        arrays: list[Array] = [
            start, end, pa.array(np.zeros(len(last), np.int64)), pa.repeat("on_time", len(last)),
            *keys.columns, *self.aggregates.results(seen, first, last + 1),
        ]  # fmt: skip
        return make_columns([*RESERVED, *keys.schema.names, *self.aggregates.names], arrays)

    def _first(self, seen: KeyRows, last: IndexArray) -> IndexArray:
        """The first row of each window that ends with these."""
        if self.size == self.every:
            return last - seen.number[last] % self.size
        return np.maximum(last - self.size + 1, seen.starts[last])

    def _times(self, seen: KeyRows, first: IndexArray, last: IndexArray) -> tuple[Array, Array]:
        """When the windows start and end; null where events have no time."""
        if not self.by_event_time:
            nothing = pa.nulls(len(last), STAMP)
            return nothing, nothing
        return pa.array(seen.time_us[first]).view(STAMP), pa.array(seen.time_us[last] + 1).view(STAMP)

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """Of each key the window that ends with its last event so far: what would come out if the input ended here."""
        for seen in self.history.asked(question):
            last = seen.bounds[1:] - 1
            if self.by_event_time and question.at_us is not None:
                ends_behind = last[seen.time_us[last] >= question.at_us]
                first_us = seen.time_us[self._first(seen, ends_behind)]
                last = ends_behind[first_us <= question.at_us]
            windows = self._windows(seen, last)
            yield windows.select([n for n in windows.schema.names if n not in RESERVED[2:]])

    def snapshot(self) -> list[Part]:
        return [*super().snapshot(), *self.history.snapshot(_HISTORY)]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self.history.restore([t for t in tables if t.name == _HISTORY])

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "keys": len(self.history.keys), "state_bytes": self.history.nbytes}
