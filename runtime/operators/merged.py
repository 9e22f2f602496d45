"""The second of two steps of an aggregation: groups that each worker made before the exchange, merged by their owner.

These are the operators that aggregate rows, with a second input for groups (grouped.py); by the first one come rows that
passed as they were. They keep the same state, so that a run may go on in one step from what another did in two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from millstream.accumulators.distinct import values_in
from millstream.batch import Batch, index_array
from millstream.grouping import group_codes
from millstream.operators.base import Context, Output
from millstream.operators.grouped import accumulators_of
from millstream.operators.running import RunningAggregate
from millstream.operators.standing import latest
from millstream.operators.windows.aligned import AlignedWindows
from millstream.ranges import expand
from millstream.runs import Run, combine
from millstream.specs.groups import GROUPS_INPUT, SLICE, MergedRunningSpec, MergedWindowsSpec


class MergedWindows(AlignedWindows):
    def __init__(self, spec: MergedWindowsSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.input_types = list(spec.input_types)

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if port == GROUPS_INPUT:
            self._add_groups(batch)
            yield from self._look_for_due()
        else:
            yield from super().on_batch(batch, port)

    def _add_groups(self, groups: Batch) -> None:
        """Add groups, of one block or of several, to their slices or windows; none of these windows has fired."""
        assert groups.keys is not None
        stores = self._stores_for(self.typed.for_types(self.input_types))
        slices = groups.columns.column(SLICE).to_numpy()
        run = Run(slices, groups.keys, accumulators_of(groups, stores.accumulators))
        if self.layout.overlap and not self.sliced:
            rows, windows = expand(self.layout.first(slices), self.layout.last(slices))
            run = replace(run.take(rows), index=windows)
        run = combine(run, stores.accumulators)
        if self.sliced:
            stores.slices.add(run)
        else:
            self._unseen_rows += stores.add(run, self.fired_until)


class MergedRunning(RunningAggregate):
    def __init__(self, spec: MergedRunningSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.input_types = list(spec.input_types)

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if port != GROUPS_INPUT:
            yield from super().on_batch(batch, port)
            return
        assert batch.keys is not None
        self.accumulators = accumulators = self.typed.for_types(self.input_types)
        self.timed = batch.time_us is not None
        groups, first = group_codes([(batch.keys.codes, max(1, batch.keys.distinct.num_rows))])
        keys = batch.keys.distinct.take(index_array(batch.keys.codes[first]))
        columns = accumulators_of(batch, accumulators)
        values = [values_in(columns[column], groups) for column in accumulators.apart]
        for column in accumulators.apart:
            columns[column] = np.zeros(batch.num_rows, np.int64)
        partial = accumulators.combine(columns, groups)
        yield from self._add(keys, partial, values, latest(groups, batch.time_us), accumulators)
