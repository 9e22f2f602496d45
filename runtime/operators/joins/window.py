"""Window joins: pairs of rows of one key in the same window.

A window's rows come out together, once, when the watermark has reached its end plus the allowed lateness; by
then both sides are complete, so nothing is ever taken back. Results stand at the window's last time, end - 1. A row
that is late for some of its windows, not for all, is joined in those that are open; one that is late for all of them
is late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, BoolArray, IntArray
from millstream.checkpoints.tables import StateTable
from millstream.operators.base import Context, Output
from millstream.operators.joins.arrays import GrowingArray
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.output import Beside, Picked, mixed
from millstream.operators.joins.rows import RowNumbers, SideRows
from millstream.operators.joins.sides import Side
from millstream.operators.joins.sorted_rows import PAIRS_AT_ONCE, Found, Segment, make_segment
from millstream.operators.joins.tables import numbers_in
from millstream.operators.windows.slices import WindowLayout
from millstream.queries import Question
from millstream.ranges import expand
from millstream.specs.base import MAIN
from millstream.specs.joins import WINDOW_FIELDS, JoinKind, WindowJoinSpec
from millstream.times import STAMP, format_duration

_FIRST: Final = "first_window"
_LAST: Final = "last_window"


class _OpenRows(Side):
    """The rows of one side, and the windows that each is still to come out in: from ``first`` to ``last``.

    ``due`` has them by the first of these windows.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where, counts_matches=False)
        self.first = GrowingArray(np.int64)
        self.last = GrowingArray(np.int64)

    def add(self, rows: SideRows, first: IntArray, last: IntArray) -> None:
        numbers = self.kept.add(rows)
        self.first.extend(first)
        self.last.extend(last)
        self.due.add(first, numbers)

    def take_before(self, until: int) -> tuple[IntArray, IntArray]:
        """The rows of the windows before ``until`` that have not come out: (row, window), a pair for each window."""
        due = self.due.take_before(until)
        first, last = self.first.values[due], self.last.values[due]
        rows, windows = expand(first, np.minimum(last, until - 1))
        done = last < until
        self.kept.remove(due[done])
        left = due[~done]
        self.first.values[left] = until
        self.due.add(self.first.values[left], left)
        return due[rows], windows

    def keep(self, mask: BoolArray) -> None:
        rows = np.flatnonzero(mask)
        self.first.keep(rows)
        self.last.keep(rows)
        super().keep(mask)

    def notes(self) -> dict[str, IntArray]:
        return {_FIRST: self.first.values, _LAST: self.last.values}


@dataclass(frozen=True, slots=True)
class _Due:
    """Rows in windows that come out now.

    Attributes:
        entries: sorted by window and key; its ``row`` is a place in the two others.
        row, window: which row in which window.
    """

    entries: Segment | None
    row: IntArray
    window: IntArray

    def met_by(self, other: _Due) -> Found | None:
        """For each entry of ``other``, in its order, the entries of this side in its window and of its key."""
        if self.entries is None or other.entries is None:
            return None
        key = other.entries.time_us
        start, end = self.entries.find(other.entries.key, key, key)
        return Found(self.entries.row, start, end - start)


class WindowJoin(JoinOperator):
    def __init__(self, spec: WindowJoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.layout = WindowLayout(spec.windows, context.name)
        self.allowed_lateness_us = spec.allowed_lateness_us
        self.open = (_OpenRows(context.name), _OpenRows(context.name))
        self.sides = self.open
        self._out_until = self.layout.ended(self.watermark_us)  # the first window that has not come out

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = self._keyed(batch, port)
        assert batch.time_us is not None
        slices = self.layout.slices.of(batch.time_us)
        first, last = self.layout.first(slices), self.layout.last(slices)
        behind_us = self._behind(batch)
        if behind_us is not None:
            expired_until = self.layout.ended_each(behind_us, self.allowed_lateness_us)
            late = last < expired_until
            if late.any():
                yield from self._late_in(batch.where(late), first[late], last[late], behind_us[late], port)
                batch, last = batch.where(~late), last[~late]
                first, expired_until = first[~late], expired_until[~late]
            first = np.maximum(first, expired_until)
            batch = replace(batch, before_us=None)
        rows, alone = self._without_key(batch, self._rows(batch, port), port)
        if len(rows) < len(first):
            keyed = self.index.known(batch.keys) if batch.keys is not None else None
            assert keyed is not None
            keyless = keyed < 0
            if alone is not None:
                yield from self._alone_in(alone, first[keyless], last[keyless], None, port)
            first, last = first[~keyless], last[~keyless]
        if len(rows):
            self.open[port].add(rows, first, last)

    def _late_in(
        self, batch: Batch, first: IntArray, last: IntArray, behind_us: IntArray, port: int
    ) -> Iterator[Output]:
        waits = self.allowed_lateness_us
        end_us = self.layout.bounds_us(last)[1]
        if self.how.keeps(port):
            self.context.too_late(batch, behind_us, end_us + waits)
            yield from self._alone_in(batch, first, last, behind_us, port)
            return
        plus = f" plus the allowed lateness of {format_duration(waits)}" if waits else ""
        yield from self._late(batch, port, behind_us, f"the end of its last window{plus}", end_us + waits)

    def _alone_in(
        self, batch: Batch, first: IntArray, last: IntArray, before_us: IntArray | None, port: int
    ) -> Iterator[Output]:
        """Rows that match nothing, in each of their windows."""
        rows, windows = expand(first, last)
        assert batch.keys is not None
        position = None if batch.position is None else batch.position[rows]
        beside = Beside(None, None if before_us is None else before_us[rows], position)
        yield self._in_windows(
            batch.keys.take(rows).columns(), Picked(batch.columns, rows), None, windows, beside, port
        )

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        self.watermark_us = watermark_us
        until = self.layout.ended(watermark_us, self.allowed_lateness_us)
        if until <= self._out_until:
            return
        self._out_until = until
        due = [side.take_before(until) for side in self.open]
        low = min((int(windows.min()) for _, windows in due if len(windows)), default=0)
        left, right = (self._due(side, *taken, low) for side, taken in zip(self.open, due, strict=True))
        yield from self._join(left, right)
        gone = [side.forget_gone() for side in self.open]
        if any(gone):
            self._forget_keys()

    def _due(self, side: _OpenRows, row: IntArray, window: IntArray, low: int) -> _Due:
        if not len(row):
            return _Due(None, row, window)
        # Windows take the place of keys, and keys that of times: results come out a window after the other.
        return _Due(make_segment(window - low, side.kept.key.values[row], np.arange(len(row))), row, window)

    def _join(self, left: _Due, right: _Due) -> Iterator[Output]:
        met = right.met_by(left)
        if self.how.pairs and met is not None:
            assert left.entries is not None
            for query, others in met.pairs():
                yield self._pairs(left, left.entries.row[query], right, others)
        for port, mine, found in ((0, left, met), (1, right, left.met_by(right))):
            if mine.entries is None or not (self.how.keeps(port) or (port == 0 and self.how is JoinKind.SEMI)):
                continue
            matched = np.zeros(len(mine.row), np.bool_) if found is None else found.count > 0
            comes_out = matched if self.how is JoinKind.SEMI else ~matched
            yield from self._kept_in_windows(mine, mine.entries.row[comes_out], port)

    def held_back_us(self) -> int:
        return self.allowed_lateness_us

    # --- results ---

    def _pairs(self, left: _Due, left_at: IntArray, right: _Due, right_at: IntArray) -> tuple[str, Batch]:
        kept_left, kept_right = (side.kept for side in self.open)
        rows_left, rows_right = left.row[left_at], right.row[right_at]
        position = mixed(kept_left.position.take(rows_left), kept_right.position.take(rows_right))
        return self._in_windows(
            self.output.keys(kept_left.key.values[rows_left]),
            Picked(kept_left.columns, rows_left),
            Picked(kept_right.columns, rows_right),
            left.window[left_at],
            Beside(position=position),
            0,
        )

    def _kept_in_windows(self, due: _Due, at: IntArray, port: int) -> Iterator[Output]:
        kept = self.open[port].kept
        for start in range(0, len(at), PAIRS_AT_ONCE):
            part = at[start : start + PAIRS_AT_ONCE]
            rows = due.row[part]
            keys = self.output.keys(kept.key.values[rows])
            beside = Beside(position=kept.position.take(rows))
            yield self._in_windows(keys, Picked(kept.columns, rows), None, due.window[part], beside, port)

    def _in_windows(
        self, keys: list[Array], mine: Picked, theirs: Picked | None, windows: IntArray, beside: Beside, port: int
    ) -> tuple[str, Batch]:
        start_us, end_us = self.layout.bounds_us(windows)
        bounds: list[Array] = [pa.array(start_us).view(STAMP), pa.array(end_us).view(STAMP)]
        left, right = (mine, theirs) if port == 0 else (theirs, mine)
        position = beside.position if self.with_position else None
        beside = Beside(end_us - 1, beside.before_us, position)
        return MAIN, self.output.batch(keys, left, right, beside, dict(zip(WINDOW_FIELDS, bounds, strict=True)))

    # --- questions ---

    def _told(self, port: int, rows: RowNumbers, question: Question) -> Iterator[pa.RecordBatch]:
        """Rows in each of the windows that they are still to come out in."""
        side = self.open[port]
        kept = side.kept
        of, windows = expand(side.first.values[rows], side.last.values[rows])
        start_us, end_us = self.layout.bounds_us(windows)
        if question.at_us is not None:
            there = (start_us <= question.at_us) & (question.at_us < end_us)
            of, start_us, end_us = of[there], start_us[there], end_us[there]
        keys = self.index.columns(kept.key.values[rows[of]])
        bounds: list[Array] = [pa.array(us).view(STAMP) for us in (start_us, end_us)]
        yield self.held_rows.columns(
            port, keys, Picked(kept.columns, rows[of]), None, dict(zip(WINDOW_FIELDS, bounds, strict=True))
        )

    # --- checkpoints ---

    def _take_up(self, port: int, rows: SideRows, state: pa.RecordBatch) -> None:
        first, last = numbers_in(state, _FIRST), numbers_in(state, _LAST)
        assert first is not None and last is not None
        self.open[port].add(rows, first, last)

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self._out_until = self.layout.ended(self.watermark_us, self.allowed_lateness_us)
