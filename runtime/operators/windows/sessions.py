"""Sessions of each key, by columns: events no further apart than a gap.

An event alone is the session [time, time + gap); sessions that touch or overlap are one, also when a late event
brings two together that have been put out already. A session fires when the watermark reaches its end, and
expires when the watermark reaches end + allowed lateness; what comes then is another session. A row is late when
it joins none and has expired by itself, by the watermark of its own source partition before it (overdue.py).

State is a list of parts (parts.py), some of each batch, put together by one sort when something may be due. That costs
a look at all sessions, so it waits until much has come, or for a while that grows with what it costs;
until then the watermark does not go on either. What a pane has shown stays a part of its own where it may have to
be told from what came since.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet
from millstream.batch import Batch, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.grouping import Groups
from millstream.operators.base import Context, Output
from millstream.operators.windows import overdue, panes
from millstream.operators.windows.base import WindowOperator, row_counts, soonest
from millstream.operators.windows.firing import FiringDelays, last_panes
from millstream.operators.windows.gaps import Gaps, WithGaps
from millstream.operators.windows.overdue import OverdueRows
from millstream.operators.windows.panes import Panes
from millstream.operators.windows.parts import (
    OPEN,
    SessionParts,
    Sessions,
    concat_parts,
    connect,
    joined,
    sessions_by_number,
    unshown,
)
from millstream.operators.windows.shown import without_rows
from millstream.operators.windows.slices import EvenSlices
from millstream.operators.windows.waiting import WaitingRows
from millstream.queries import Question
from millstream.runs import group_run, unify_keys
from millstream.specs.windows import SessionWindows, WindowAggregateSpec
from millstream.state.pieces import CHANGED, NEVER, RowPieces
from millstream.times import MAX_US, MIN_US

_BATCHES_KEPT: Final = 48
_PARTS_KEPT: Final = 1 << 17
_PARTS: Final = "parts"
_BESIDE_PARTS: Final = ("start_us", "end_us", "tie", "pane", "timing")
_WAITING: Final = "waiting"
_FEW_PARTS: Final = 4_096
_SHARE_NEW: Final = 2
_SHARE_OF_TIME: Final = 8
_LEAST_WAIT_US: Final = 10_000


class SessionOperator(WindowOperator):
    """Attributes:
    parts: what is held, since it was last put together one part for each batch.
    waiting: overdue rows, whose watermark (in ``before_us``) has not been passed yet.
    settled_us: the watermark up to which sessions have fired.
    pieces: what of the parts is in checkpoints.
    """

    keeps_to_groups = True

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        assert isinstance(spec.windows, SessionWindows)
        self.gaps = Gaps(spec.windows, context)
        self.delays = FiringDelays(self.fire_delay_us, spec.allowed_lateness_us)
        self.parts: list[SessionParts] = []
        self.waiting = WaitingRows()
        self.settled_us = MIN_US
        self.accumulators: AccumulatorSet | None = None
        self.pieces = RowPieces()
        self._held = 0
        self._new_parts = 0
        self._settle_us: int | None = None
        self._wait_us = _LEAST_WAIT_US

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        rows = self.gaps(self.timed(batch))
        watermark_us = self.judged_by(rows.rows)
        tie = None
        if watermark_us is not None:
            behind = self.overdue(rows.rows, watermark_us)
            if behind.any():
                self.waiting.add(replace(rows.rows, before_us=watermark_us).where(behind))
                self._new_parts += int(behind.sum())
                rows, watermark_us = rows.where(~behind), watermark_us[~behind]
            tie = self._ties(rows.rows, watermark_us)
        if rows.rows.num_rows == 0:
            return
        self._add(self._parts_of(rows, tie))
        if self.spec.early is not None:
            self.early.changed(self.context.now_us())
            if self.early.rows is not None:
                yield from self._settle_soon(wanted=True)

    def _ties(self, batch: Batch, watermark_us: IntArray) -> IntArray | None:
        """Which rows have seen expire what ended at the very time of theirs (see `SessionParts.tie`); None: none has."""
        assert batch.time_us is not None
        at_watermark = watermark_us == batch.time_us + self._lateness_us
        if not at_watermark.any():
            return None
        position = np.zeros(batch.num_rows, np.int64) if batch.position is None else batch.position
        tie: IntArray = np.where(at_watermark, position, OPEN)
        return tie

    @property
    def _lateness_us(self) -> int:
        # Nothing is ever behind its watermark by as much as this.
        return min(self.spec.allowed_lateness_us, 2**61)

    def _parts_of(self, rows: WithGaps, tie: IntArray | None) -> SessionParts:
        """One part for each session of a batch."""
        batch, gap_us = rows.rows, rows.gap_us
        assert batch.time_us is not None and batch.keys is not None
        accumulators = self.accumulators = self.typed.for_batch(batch)
        keys, codes = batch.keys, batch.keys.codes
        if not isinstance(gap_us, int):
            found = connect(keys.distinct.num_rows, codes, batch.time_us, rows.end_us, tie)
            groups = Groups(found.of, len(found))
        else:
            # Rows between two multiples of the gap are less than it apart: only such groups need be sorted.
            groups, _, grouped = group_run(EvenSlices(gap_us, 0).of(batch.time_us), keys)
            first_us, last_us = np.full(groups.count, MAX_US), np.full(groups.count, MIN_US)
            np.minimum.at(first_us, groups.codes, batch.time_us)
            np.maximum.at(last_us, groups.codes, batch.time_us)
            ties = None if tie is None else _first_ties(groups, batch.time_us, first_us, tie)
            found = connect(keys.distinct.num_rows, grouped.codes, first_us, last_us + gap_us, ties)
            groups = Groups(found.of[groups.codes], len(found))
        columns = self.reduce(batch, groups, accumulators)
        part_keys = Keys(keys.distinct, found.codes.astype(np.int32, copy=False))
        return unshown(part_keys, found.start_us, found.end_us, found.tie, columns)

    def _add(self, parts: SessionParts) -> None:
        self.parts.append(parts)
        self._new_parts += len(parts)
        if len(self.parts) > _BATCHES_KEPT or self._new_parts > max(_PARTS_KEPT, 2 * self._held):
            self._compact()

    def _compact(self) -> None:
        """Put parts together while nothing is due."""
        assert self.accumulators is not None
        parts = concat_parts(self.parts)
        is_shown = parts.pane >= 0
        fresh, _ = joined(parts, _connect(parts), ~is_shown, self.accumulators)
        shown = parts.where(is_shown)
        self.parts = [concat_parts([fresh, shown]) if len(shown) else fresh]
        self._held, self._new_parts = len(self.parts[0]), 0

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if self.spec.event_time or watermark_us == MAX_US:
            # Rows of another keyed stage come without a watermark of their own, and may yet come at this very one.
            later = self.spec.follows_keyed and watermark_us not in (MIN_US, MAX_US)
            yield from self._advance(watermark_us - 1 if later else watermark_us)

    def on_clock(self, now_us: int) -> Iterator[Output]:
        if not self.spec.event_time:
            yield from self._advance(now_us)
        if self.early.ticks(now_us):
            yield from self._settle(every=True)
        elif self._settle_us is not None and now_us >= self._settle_us:
            yield from self._settle()

    def due_us(self) -> int | None:
        due_us = soonest(self._settle_us, self.early.tick_us)
        if self.spec.event_time or not self.parts or self._settle_us is not None:
            return due_us
        return soonest(due_us, self._next_us())

    def held_back_us(self) -> int:
        return super().held_back_us() + self.watermark_us - self.settled_us + int(self.spec.follows_keyed)

    def _advance(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        before_us, self.watermark_us = self.watermark_us, watermark_us
        if self.early.passes(before_us, watermark_us):
            yield from self._settle(every=True)
        elif watermark_us == MAX_US:
            yield from self._settle()
        else:
            yield from self._settle_soon(wanted=self._due())

    def _due(self) -> bool:
        """Whether something may have to be done at this watermark."""
        if self.waiting.any_ready(self.watermark_us):
            return True
        next_us = self._next_us()
        return next_us is not None and next_us <= self.watermark_us

    def _next_us(self) -> int | None:
        """The watermark at which a session may fire or expire next, going by the parts alone."""
        next_us: int | None = None
        for parts in self.parts:
            fired = (parts.pane >= 0) & (parts.timing != panes.EARLY)
            for ends_us, delay_us in (
                (parts.end_us[~fired], self.delays.fire_us),
                (parts.end_us[fired], self.delays.expire_us),
            ):
                if len(ends_us) and delay_us != MAX_US:
                    next_us = soonest(next_us, int(ends_us.min()) + delay_us)
        return next_us

    def _settle_soon(self, *, wanted: bool) -> Iterator[Output]:
        """Put everything together if that is wanted, now or in a while."""
        if not wanted:
            self.settled_us = max(self.settled_us, self.watermark_us)
            return
        now_us = self.context.now_us()
        if self._settle_us is None:
            self._settle_us = now_us + self._wait_us
        much = self._held <= _FEW_PARTS or _SHARE_NEW * self._new_parts >= self._held
        if much or now_us >= self._settle_us:
            yield from self._settle()

    # --- putting it together ---

    def _settle(self, *, every: bool = False) -> Iterator[Output]:
        """Put all parts together, and out what is due.

        Args:
            every: all sessions that have changed put out a pane.
        """
        started_us = self.context.now_us()
        watermark_us, before_us = self.watermark_us, self.settled_us
        found = yield from self._together(watermark_us)
        if found is not None:
            yield from self._fire(*found, watermark_us, before_us, every)
        self.settled_us = watermark_us
        self._held, self._new_parts, self._settle_us = sum(map(len, self.parts)), 0, None
        # An eighth of the time at most goes into looking at sessions in vain.
        self._wait_us = max(_LEAST_WAIT_US, _SHARE_OF_TIME * (self.context.now_us() - started_us))

    def _together(self, watermark_us: int) -> Generator[Output, None, tuple[SessionParts, Sessions] | None]:
        """All parts and the sessions they are in, with the overdue rows whose turn has come; late ones leave."""
        ready = self.waiting.take_ready(watermark_us)
        parts = concat_parts(self.parts) if self.parts else None
        if ready is None:
            return None if parts is None else (parts, _connect(parts))
        rows = self.gaps(ready)
        batch = rows.rows
        assert batch.time_us is not None and batch.before_us is not None and batch.keys is not None
        held, keys = 0, batch.keys
        sessions = connect(1, keys.codes[:0], batch.time_us[:0], batch.time_us[:0], None)
        if parts is not None:
            held, keys = len(parts), unify_keys([parts.keys, batch.keys])
            parts = replace(parts, keys=Keys(keys.distinct, keys.codes[:held]))
            sessions = _connect(parts)
        position = np.arange(batch.num_rows) if batch.position is None else batch.position
        judged = OverdueRows(
            keys.codes[held:], batch.time_us, rows.end_us, batch.before_us - self._lateness_us, position
        )
        session_number, row_number = overdue.assign(keys.distinct.num_rows, sessions, judged)
        late = row_number == overdue.LATE
        if late.any():
            yield from self.late(batch.where(late), batch.before_us[late], rows.end_us[late], "session")
        taken = ~late
        if not taken.any():
            return None if parts is None else (parts, sessions)  # sessions that join nothing stay as they are
        numbers = np.concatenate([session_number[sessions.of], row_number[taken]])
        _, of = np.unique(numbers, return_inverse=True)
        added = replace(batch, keys=Keys(keys.distinct, keys.codes[held:])).where(taken)
        more = self._single_parts(added, rows.end_us[taken])
        parts = more if parts is None else concat_parts([parts, more])
        return parts, sessions_by_number(of, parts.keys.codes, parts.start_us, parts.end_us, parts.tie)

    def _single_parts(self, batch: Batch, end_us: IntArray) -> SessionParts:
        """A part for each row."""
        assert batch.time_us is not None and batch.keys is not None
        count = batch.num_rows
        accumulators = self.accumulators = self.typed.for_batch(batch)
        columns = self.reduce(batch, Groups(np.arange(count), count), accumulators)
        return unshown(batch.keys, batch.time_us, end_us, np.full(count, OPEN, np.int64), columns)

    # --- output ---

    def _fire(
        self, parts: SessionParts, sessions: Sessions, watermark_us: int, before_us: int, every: bool
    ) -> Iterator[Output]:
        """Put out the sessions that are due, and keep what may still change."""
        accumulators = self.accumulators
        assert accumulators is not None
        is_shown = parts.pane >= 0
        shown, shown_of = parts, sessions.of
        if is_shown.any():
            shown, shown_of = parts.where(is_shown), sessions.of[is_shown]
            fresh, fresh_of = joined(parts, sessions, ~is_shown, accumulators)
        else:
            shown, shown_of = parts.take(shown_of[:0]), shown_of[:0]
            fresh, fresh_of = joined(parts, sessions, None, accumulators)
        changed = np.zeros(len(sessions), np.bool_)
        changed[fresh_of] = True
        full = self._full(fresh, fresh_of, len(sessions), accumulators, every)
        last = last_panes(len(sessions), shown, shown_of)
        firing = self.delays.at(watermark_us, before_us, sessions.end_us, changed, full, last)
        due, expired = firing.due, firing.expired
        kept = []
        for held, held_of in ((fresh, fresh_of), (shown, shown_of)):
            stays = (~due & ~expired)[held_of]
            kept.append(held.where(stays))
            self.pieces.left(held.keys.take(np.flatnonzero(~stays)), held.piece[~stays])
        if due.any():
            whole = self._whole(fresh, fresh_of, shown, shown_of, sessions, due, accumulators)
            numbers = np.flatnonzero(due)
            anew = np.where(whole.piece == NEVER, whole.piece, np.int32(CHANGED))
            whole = replace(whole, pane=firing.pane[numbers], timing=firing.timing[numbers], piece=anew)
            back = shown.where(due[shown_of]) if self.retracts else None
            if self.spec.fires_again:
                again = whole.where(~expired[numbers])
                if self.discarding:
                    again = replace(again, columns=without_rows(accumulators, len(again)))
                kept.append(again)
        self.parts = [concat_parts(some)] if (some := [k for k in kept if len(k)]) else []
        if due.any():
            order = np.argsort(whole.end_us, kind="stable")
            yield from self.writer.write(
                _panes(whole.take(order)), accumulators, None if back is None else _panes(back)
            )

    def _full(
        self, fresh: SessionParts, of: IntArray, count: int, accumulators: AccumulatorSet, every: bool
    ) -> BoolArray:
        """Which sessions have changed by enough for an early pane."""
        full = np.full(count, every)
        if self.early.rows is not None and len(fresh):
            full[of[row_counts(accumulators, fresh.columns) >= self.early.rows]] = True
        return full

    def _whole(
        self,
        fresh: SessionParts,
        fresh_of: IntArray,
        shown: SessionParts,
        shown_of: IntArray,
        sessions: Sessions,
        due: BoolArray,
        accumulators: AccumulatorSet,
    ) -> SessionParts:
        """One part for each session that is due, ascending: what it has shown and what came since."""
        if not len(shown):
            return fresh.where(due[fresh_of])
        of = np.concatenate([fresh_of, shown_of])
        whole, _ = joined(concat_parts([fresh, shown]), replace(sessions, of=of), due[of], accumulators)
        return whole

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """What every session holds that has not expired; not yet the overdue rows whose turn has not come."""
        parts = [p.where(question.rows_of(p.keys)) for p in self.parts]
        parts = [p for p in parts if len(p)]
        if parts and self.accumulators is not None:
            asked = concat_parts(parts)
            whole, _ = joined(asked, _connect(asked), None, self.accumulators)
            yield from self.writer.held(_panes(whole), self.accumulators, question)

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        tables = [*self.clock_table(self.settled_us), *self.tables.snapshot(), *self.waiting.tables(_WAITING)]
        return [*tables, *self._part_tables()]

    def _part_tables(self) -> list[Part]:
        if not self.parts:
            self.pieces.forget()
            return []
        parts = concat_parts(self.parts)

        def rows_of(rows: IntArray) -> tuple[Keys, pa.RecordBatch]:
            asked = parts if len(rows) == len(parts) else parts.take(rows)
            beside = {name: index_array(getattr(asked, name)) for name in _BESIDE_PARTS}
            arrays = {**beside, **self.tables.columns(asked.columns)}
            return asked.keys, make_columns(list(arrays), list(arrays.values()))

        tables, piece = self.pieces.snapshot(_PARTS, parts.keys, parts.piece, rows_of)
        self.parts = [replace(parts, piece=piece)]
        return tables

    def hand_over(self) -> Sequence[StateTable] | None:
        self.pieces.forget()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        if marks := self.restored_clock(tables):
            self.watermark_us, self.settled_us = marks
        self.accumulators = self.tables.restore(tables)
        for table in tables:
            if table.keys is None or not table.num_rows:
                continue
            if table.name == _WAITING:
                self.waiting.restore(table)
                continue
            start_us, end_us, tie, pane, timing = (table.columns.column(name).to_numpy() for name in _BESIDE_PARTS)
            parts = unshown(table.keys, start_us, end_us, tie, self.tables.from_table(table))
            self._add(replace(parts, pane=pane, timing=timing))
        if self.parts:
            now_us = self.context.now_us()
            self._settle_us = now_us + self._wait_us
            self.early.changed(now_us)

    def figures(self) -> dict[str, Any]:
        figures = super().figures()
        if self.parts or self.waiting:
            figures.update(
                groups=sum(map(len, self.parts)) + len(self.waiting),
                state_bytes=sum(p.nbytes for p in self.parts) + self.waiting.nbytes,
            )
        return figures


def _connect(parts: SessionParts) -> Sessions:
    return connect(parts.keys.distinct.num_rows, parts.keys.codes, parts.start_us, parts.end_us, parts.tie)


def _first_ties(groups: Groups, time_us: IntArray, first_us: IntArray, tie: IntArray) -> IntArray:
    """The tie of each group of rows, from those of the rows at its start."""
    at_start = time_us == first_us[groups.codes]
    ties = np.full(groups.count, MAX_US)
    np.minimum.at(ties, groups.codes[at_start], tie[at_start])
    return ties


def _panes(parts: SessionParts) -> Panes:
    return Panes(parts.start_us, parts.end_us, parts.keys, parts.columns, parts.pane, parts.timing)
