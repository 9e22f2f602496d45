"""The first of two steps of an aggregation: the rows of a batch to groups, before they are sent to the owners of their keys.

A key that carries half of all events would otherwise keep one worker busy, and the others waiting for it. Here each
worker groups what it decodes itself, so that of any key no more than one row for each batch (and slice of time) is
sent. What comes of it is what comes without: accumulators merge in any order and any nesting.

That pays where rows become far fewer: with few keys, or for a hot one. All other rows pass as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from millstream.accumulators import AccumulatorSet, Column, as_column, to_arrow
from millstream.batch import Batch, BoolArray, Keys, index_array, make_columns
from millstream.evaluate import evaluate_all
from millstream.grouping import group_codes
from millstream.meters import KeySketch
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.standing import latest
from millstream.operators.windows.slices import WindowLayout
from millstream.partition import with_keys
from millstream.runs import index_codes, trimmed
from millstream.specs.base import MAIN
from millstream.specs.groups import GROUPS, SLICE, GroupRowsSpec, accumulator_names

_ROWS_EACH: Final = 16
"""How many rows a key of a batch must have, on average, for all of them to be grouped."""
_HOT_SHARE: Final = 1 / 8
"""Else the rows of keys are that have so large a share of a batch."""


class GroupRows(Operator):
    """Puts out groups on the port `GROUPS`, and rows that go on as they are on the main one, both with their keys.

    Attributes:
        sketch: the keys with the most rows.
    """

    def __init__(self, spec: GroupRowsSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.sketch = KeySketch()
        self.key_context = replace(context, name=spec.keys_where)
        self.layout = None if spec.windows is None else WindowLayout(spec.windows, spec.where)
        typed = TypedAccumulators(loaded_aggregates(spec.aggregates), spec.where)
        self.accumulators = typed.for_types(list(spec.input_types))
        self.read = frozenset(f for e in self.accumulators.inputs for f in e.fields())

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = with_keys(batch, self.spec.keys, self.key_context)
        if batch.num_rows == 0:
            return
        assert batch.keys is not None
        keys = batch.keys
        self.sketch.offer(keys)
        batch = _only(batch, frozenset(batch.columns.schema.names).difference(keys.distinct.schema.names))
        chosen = self._worth_it(keys)[keys.codes]
        aside = self._aside(batch)
        if aside is not None:
            chosen &= ~aside
        if not chosen.all():
            yield MAIN, batch.where(~chosen)
        if chosen.any():
            yield GROUPS, self._grouped(_only(batch, self.read).where(chosen))

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

    def _worth_it(self, keys: Keys) -> BoolArray:
        """Of each key whether its rows are grouped."""
        count, rows = keys.distinct.num_rows, len(keys.codes)
        if self.spec.always or _ROWS_EACH * count <= rows:
            return np.ones(count, np.bool_)
        sizes = np.bincount(keys.codes, minlength=count)
        hot: BoolArray = (sizes >= _ROWS_EACH) & (sizes >= _HOT_SHARE * rows)
        return hot

    def _grouped(self, batch: Batch) -> Batch:
        """The groups of rows, with their keys."""
        assert batch.keys is not None
        keys = trimmed(batch.keys)
        parts = [(keys.codes, keys.distinct.num_rows)]
        slices = None
        if self.layout is not None:
            assert batch.time_us is not None
            slices = self.layout.slices.of(batch.time_us)
            parts.insert(0, index_codes(slices)[:2])
        groups, first = group_codes(parts)
        inputs = evaluate_all(self.accumulators.inputs, input_columns(batch, self.accumulators))
        columns = self.accumulators.partial(inputs, groups, row_order(batch, self.accumulators))
        named = dict(zip(accumulator_names(len(columns)), map(to_arrow, columns), strict=True))
        if slices is not None:
            named[SLICE] = index_array(slices[first])
        # Groups in slices have the times of those; for others the last row's counts.
        time_us = latest(groups, batch.time_us) if slices is None and batch.time_us is not None else None
        return Batch(make_columns(list(named), list(named.values())), time_us, keys=keys.take(first))


def _only(batch: Batch, fields: frozenset[str]) -> Batch:
    """The rows with these of their columns."""
    return batch.with_columns(batch.columns.select([n for n in batch.columns.schema.names if n in fields]))


def accumulators_of(groups: Batch, accumulators: AccumulatorSet) -> list[Column]:
    """The accumulator columns of groups, behind the exchange."""
    return [as_column(groups.columns.column(n)) for n in accumulator_names(accumulators.width)]
