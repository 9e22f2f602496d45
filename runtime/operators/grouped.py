"""The first of two steps of an aggregation: the rows of a batch to groups, before they are sent to the owners of their keys.

A key that carries half of all events would otherwise keep one worker busy, and the others waiting for it. Here each
worker groups what it decodes itself, so that of any key no more than one row for each batch (and slice of time) is
sent. What comes of it is what comes without: accumulators merge in any order and any nesting.

Where hardly any row of a batch goes with others there is nothing to gain. Such a batch passes as it is, and so do those
after it, more and more of them, before another one is looked at. It is a batch that passes, and not those of its rows
that are alone: to take these apart from the others costs more than to group them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from millstream.accumulators import AccumulatorSet, Column, to_arrow
from millstream.batch import Array, Batch, BoolArray, Keys, index_array, make_columns
from millstream.evaluate import evaluate_all
from millstream.grouping import Groups, distinct_keys, group_codes
from millstream.operators import columnar
from millstream.operators.accumulator_tables import as_column
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.standing import latest
from millstream.operators.windows.slices import WindowLayout
from millstream.runs import index_codes
from millstream.specs.base import MAIN
from millstream.specs.groups import GROUPS, SLICE, GroupRowsSpec, accumulator_names

_LARGE_ROWS: Final = 8
_LARGE_SHARE: Final = 0.25
"""What part of a batch's rows must be in groups of so many rows. Above it all work together is 5 % less to 10 % more, by
how many keys there are beside the hot ones; far below it up to 25 % more (`scripts/bench hotkey`)."""
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
            yield from self._grouped(batch, arrays)

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

    def _grouped(self, batch: Batch, key_fields: Sequence[Array]) -> Iterator[Output]:
        """Group rows with these keys, where it is worth it."""
        codes, distinct = distinct_keys(key_fields)
        keys = Keys(make_columns(self.key_names, distinct), codes.astype(np.int32, copy=False))
        parts = [(keys.codes, keys.distinct.num_rows)]
        slices = None
        if self.layout is not None:
            assert batch.time_us is not None
            slices = self.layout.slices.of(batch.time_us)
            parts.insert(0, index_codes(slices)[:2])
        groups, first = group_codes(parts)
        if self._passes(groups):
            yield MAIN, batch
            return
        named = dict(zip(self.key_names, keys.take(first).columns(), strict=True))
        if slices is not None:
            named[SLICE] = index_array(slices[first])
        columns = self._reduced(replace(batch, keys=keys), groups)
        named |= zip(accumulator_names(len(columns)), map(to_arrow, columns), strict=True)
        # Groups in slices have the times of those; for others the last row's counts.
        timed = slices is None and batch.time_us is not None
        together = make_columns(list(named), list(named.values()))
        yield GROUPS, Batch(together, latest(groups, batch.time_us) if timed else None)

    def _reduced(self, rows: Batch, groups: Groups) -> list[Column]:
        """The accumulators of rows with keys."""
        rest = [n for n in rows.columns.schema.names if n not in self.key_names]
        rows = rows.with_columns(rows.columns.select(rest))
        inputs = evaluate_all(self.accumulators.inputs, input_columns(rows, self.accumulators))
        return self.accumulators.partial(inputs, groups, row_order(rows, self.accumulators))

    def _passes(self, groups: Groups) -> bool:
        """Whether so few rows are in large groups that a batch passes, and others after it."""
        large = groups.sizes[groups.sizes >= _LARGE_ROWS].sum()
        if self.spec.always or large >= _LARGE_SHARE * len(groups):
            self._next_passing = 1
            return False
        self.passing, self._next_passing = self._next_passing, min(2 * self._next_passing, _PASSING_MOST)
        return True


def accumulators_of(groups: Batch, accumulators: AccumulatorSet) -> list[Column]:
    """The accumulator columns of groups, behind the exchange."""
    return [as_column(groups.columns.column(n)) for n in accumulator_names(accumulators.width)]
