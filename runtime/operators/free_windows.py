"""Windows without a raster: one for ever, and those that a function of the user's names.

Both are aligned windows to almost all of the operator. The global one is a window that ends after all time. A custom
one is numbered by its last microsecond, and its start stands in front of its key: windows fire and expire by their
ends alone, and groups of different starts are different groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from operator import index as whole_number
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet
from millstream.batch import Array, Batch, BoolArray, IntArray, Keys, SignArray, index_array, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.errors import SchemaError
from millstream.functions import user_error
from millstream.grouping import IndexArray, factorize, group_codes
from millstream.operators.base import SLICE_ROWS, Context, Output
from millstream.operators.lateness import with_text
from millstream.operators.windows.aligned import AlignedWindows
from millstream.operators.windows.panes import Panes, PaneWriter
from millstream.operators.windows.shown import ShownRun
from millstream.operators.windows.slices import AFTER_ALL
from millstream.rows import Row, rows_of
from millstream.specs.base import LATE
from millstream.specs.free_windows import CustomWindows
from millstream.specs.windows import WindowAggregateSpec
from millstream.times import MIN_US, STAMP, datetime_us, format_us

_START: Final = "\0start"


class GlobalWindow(AlignedWindows):
    """One window for ever, which puts out panes early and at the end of the input."""

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.writer = _TimelessWriter(context, self.writer.names, with_position)


class _TimelessWriter(PaneWriter):
    """Panes of windows that have no start and no end."""

    def batch(self, panes: Panes, accumulators: AccumulatorSet, sign: SignArray | None) -> Batch:
        batch = super().batch(panes, accumulators, sign)
        names, nothing = batch.columns.schema.names, pa.nulls(len(panes), STAMP)
        columns = make_columns(names, [nothing, nothing, *batch.columns.columns[2:]])
        return replace(batch, columns=columns, time_us=None)


class CustomWindow(AlignedWindows):
    """Windows that a function names: each event is in as many as it says."""

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        assert isinstance(spec.windows, CustomWindows)
        self.function = spec.windows.function.load()

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        rows: list[int] = []
        bounds: list[tuple[int, int]] = []
        columns = batch.all_columns()
        assert batch.time_us is not None
        for start in range(0, batch.num_rows, SLICE_ROWS):
            part = rows_of(columns.slice(start, SLICE_ROWS))
            times_us = batch.time_us[start : start + SLICE_ROWS].tolist()
            for number, (row, time_us) in enumerate(zip(part, times_us, strict=True), start):
                windows = self._windows_of(row, time_us)
                bounds += windows
                rows += [number] * len(windows)
            if start + SLICE_ROWS < batch.num_rows:
                yield None
        index = np.array(rows, np.intp)
        start_us, end_us = np.array(bounds, np.int64).reshape(-1, 2).T
        is_open = self._open(batch, index, end_us)
        yield from self._put_out_late(batch, index, end_us, is_open)
        if is_open.any():
            self._add_to(batch.take(index[is_open]), start_us[is_open], end_us[is_open])
        yield from self._fire_again(self._expired_until)
        if self.spec.early is not None:
            self.early.changed(self.context.now_us())
            yield from self._look_for_full()

    def _windows_of(self, row: Row, time_us: int) -> list[tuple[int, int]]:
        """What the function says of a row: each window that it is in, start and end."""
        try:
            found = list(self.function(row))
        except Exception as error:
            raise user_error(self.context.name, row, error) from error
        try:
            windows = [(_microseconds(start), _microseconds(end)) for start, end in found]
        except (TypeError, ValueError) as error:
            raise SchemaError(
                f"{self.context.name}: the function returns a list of (start, end), datetimes or microseconds since the "
                f"epoch; for {row!r} it returned {found!r}"
            ) from error
        for start_us, end_us in windows:
            # Whether a row is late for a window that lies elsewhere would depend on how the stream was cut.
            if not start_us <= time_us < end_us:
                raise SchemaError(
                    f"{self.context.name}: a window holds the event time of its events; that of {row!r} is "
                    f"{format_us(time_us)}, which is not in [{format_us(start_us)}, {format_us(end_us)})"
                )
        return windows

    def _open(self, batch: Batch, index: IndexArray, end_us: IntArray) -> BoolArray:
        """Which windows have not expired by the watermark of their row."""
        watermark_us = self.judged_by(batch)
        if watermark_us is None:
            return np.ones(len(index), np.bool_)
        return end_us - 1 >= self._expired_by(watermark_us[index])

    def _put_out_late(self, batch: Batch, index: IndexArray, end_us: IntArray, is_open: BoolArray) -> Iterator[Output]:
        """Put out the rows that are in no window, or in none that is open."""
        left = np.zeros(batch.num_rows, np.bool_)
        left[index[is_open]] = True
        if left.all():
            return
        last_us = np.full(batch.num_rows, MIN_US)
        np.maximum.at(last_us, index, end_us)
        nowhere = last_us == MIN_US
        if nowhere.any():
            rows = batch.where(nowhere)
            self.context.counters.late += rows.num_rows
            yield LATE, with_text(rows, pa.repeat("the function names no window for it", rows.num_rows))
        late = ~left & ~nowhere
        watermark_us = self.judged_by(batch)
        if late.any() and watermark_us is not None:
            yield from self.late(batch.where(late), watermark_us[late], last_us[late], "last window")

    def _add_to(self, batch: Batch, start_us: IntArray, end_us: IntArray) -> None:
        """Add each row to the window at its place."""
        assert batch.keys is not None
        stores = self._stores_for(self.typed.for_batch(batch))
        starts, codes = np.unique(start_us, return_inverse=True)
        groups, first = group_codes([(codes, len(starts)), (batch.keys.codes, batch.keys.distinct.num_rows)])
        keys = batch.keys.distinct.take(index_array(batch.keys.codes[first]))
        distinct = make_columns([_START, *keys.schema.names], [pa.array(start_us[first]), *keys.columns])
        keyed = replace(batch, keys=Keys(distinct, groups.codes.astype(np.int32)))
        self._unseen_rows += stores.add(self._grouped(end_us - 1, keyed, stores), self.fired_until)

    def _panes(self, shown: ShownRun) -> Panes:
        panes = super()._panes(shown)
        distinct, codes = panes.keys.distinct, panes.keys.codes
        start_us = distinct.column(0).to_numpy()[codes]
        return replace(panes, start_us=start_us, keys=Keys(distinct.select(distinct.schema.names[1:]), codes))

    def _windows_at(self, time_us: int) -> tuple[int, int]:
        return -AFTER_ALL, AFTER_ALL  # they lie as the function says

    def _key_fields(self, distinct: pa.RecordBatch) -> pa.RecordBatch:
        return distinct.select(distinct.schema.names[1:])

    # A key's owner is found by its own fields alone, so in state the start stands with the other columns.

    def snapshot(self) -> list[StateTable]:
        return [_start_out_of_keys(table) for table in super().snapshot()]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore([_start_into_keys(table) for table in tables])


def _start_out_of_keys(table: StateTable) -> StateTable:
    if table.keys is None:
        return table
    distinct, codes = table.keys.distinct, table.keys.codes
    start = distinct.column(0).take(index_array(codes))
    rest = distinct.select(distinct.schema.names[1:])
    number, first = factorize(rest.columns)
    keys = Keys(rest.take(index_array(first)), number.astype(np.int32)[codes])
    return replace(table, keys=keys, columns=_with_front(_START, start, table.columns))


def _start_into_keys(table: StateTable) -> StateTable:
    if table.keys is None:
        return table
    start, rest = table.columns.column(0), table.columns.select(table.columns.schema.names[1:])
    codes, first = factorize([start, *table.keys.columns()])
    keyed = _with_front(_START, start, table.keys.distinct.take(index_array(table.keys.codes)))
    keys = Keys(keyed.take(index_array(first)), codes.astype(np.int32))
    return replace(table, keys=keys, columns=rest)


def _with_front(name: str, column: Array, columns: pa.RecordBatch) -> pa.RecordBatch:
    return make_columns([name, *columns.schema.names], [column, *columns.columns])


def _microseconds(moment: Any) -> int:
    if isinstance(moment, datetime):
        return datetime_us(moment)
    return whole_number(moment)
