"""The first of two steps of an aggregation: the rows of a batch to groups, before they are sent to the owners of their keys.

A key that carries half of all events would otherwise keep one worker busy, and the others waiting for it. Here each
worker groups what it decodes itself, so that of any key no more than one row for each batch (and slice of time) is
sent. What comes of it is what comes without: accumulators merge in any order and any nesting.

Where nearly every row of a batch is a group of its own there is nothing to gain. Such a batch passes as it is, and so
do those after it, more and more of them, before another one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from millstream.accumulators import AccumulatorSet, Column, to_arrow
from millstream.batch import Array, Batch, BoolArray, Keys, index_array, make_columns
from millstream.evaluate import evaluate_all
from millstream.grouping import distinct_keys, group_codes
from millstream.operators import columnar
from millstream.operators.accumulator_tables import as_column
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.standing import latest
from millstream.operators.windows.slices import WindowLayout
from millstream.runs import index_codes
from millstream.specs.base import MAIN
from millstream.specs.groups import GROUPS, SLICE, GroupRowsSpec, accumulator_names

_WORTH_IT: Final = 0.5
"""The largest share of a batch's rows that its groups may be; `scripts/bench hotkey` says what more would cost."""
_PASSING_MOST: Final = 64


class GroupRows(Operator):
    """Puts out groups on the port `GROUPS`, and rows that go on as they are on the main one.

    Attributes:
        passing: how many batches pass before another one is looked at.
    """

    def __init__(self, spec: GroupRowsSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.key_context = replace(context, name=spec.keys_where)
        self.key_names = [n for n, _ in spec.keys]
        self.layout = None if spec.windows is None else WindowLayout(spec.windows, spec.where)
        typed = TypedAccumulators(loaded_aggregates(spec.aggregates), spec.where)
        self.accumulators = typed.for_types(list(spec.input_types))
        self.passing = 0
        self._next_passing = 1

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if self.passing:
            self.passing -= 1
            yield MAIN, batch
            return
        aside = self._aside(batch)
        if aside is not None and aside.any():
            yield MAIN, batch.where(aside)
            batch = batch.where(~aside)
        arrays, batch = columnar.evaluate_all(self.spec.keys, batch, self.key_context)
        if batch.num_rows:
            yield self._grouped(batch, arrays)

    def _aside(self, batch: Batch) -> BoolArray | None:
        """The rows of which a window has ended by the watermark before them: whether it still counts them, and whether
        others do, is decided where it is kept.

        All others are in no window that has fired when their group comes to it: windows fire by the least of all
        partitions' watermarks before the block, which is not ahead of that of the row's own. (Where a partition may
        become idle it can be, and there rows are not grouped.)
        """
        if self.layout is None or batch.before_us is None:
            return None
        assert batch.time_us is not None
        first = self.layout.first(self.layout.slices.of(batch.time_us))
        ended: BoolArray = first < self.layout.ended_each(batch.before_us, 0)
        return ended

    def _grouped(self, batch: Batch, key_fields: Sequence[Array]) -> tuple[str, Batch]:
        """The groups of rows with these keys; or the rows, if they are hardly fewer."""
        codes, distinct = distinct_keys(key_fields)
        parts = [(codes, max(1, len(distinct[0])))]
        slices = None
        if self.layout is not None:
            assert batch.time_us is not None
            slices = self.layout.slices.of(batch.time_us)
            parts.insert(0, index_codes(slices)[:2])
        groups, first = group_codes(parts)
        if not self._is_worth_it(groups.count, batch.num_rows):
            return MAIN, batch
        keys = Keys(make_columns(self.key_names, distinct), codes.astype(np.int32, copy=False))
        rest = [n for n in batch.columns.schema.names if n not in self.key_names]
        rows = replace(batch.with_columns(batch.columns.select(rest)), keys=keys)
        inputs = evaluate_all(self.accumulators.inputs, input_columns(rows, self.accumulators))
        columns = self.accumulators.partial(inputs, groups, row_order(rows, self.accumulators))
        named = dict(zip(self.key_names, keys.take(first).columns(), strict=True))
        if slices is not None:
            named[SLICE] = index_array(slices[first])
        named |= zip(accumulator_names(len(columns)), map(to_arrow, columns), strict=True)
        # Groups in slices have the times of those; for others the last row's counts.
        timed = slices is None and batch.time_us is not None
        columns_and_keys = make_columns(list(named), list(named.values()))
        return GROUPS, Batch(columns_and_keys, latest(groups, batch.time_us) if timed else None)

    def _is_worth_it(self, groups: int, rows: int) -> bool:
        if self.spec.always or groups <= _WORTH_IT * rows:
            self._next_passing = 1
            return True
        self.passing, self._next_passing = self._next_passing, min(2 * self._next_passing, _PASSING_MOST)
        return False


def accumulators_of(groups: Batch, accumulators: AccumulatorSet) -> list[Column]:
    """The accumulator columns of groups, behind the exchange."""
    return [as_column(groups.columns.column(n)) for n in accumulator_names(accumulators.width)]
