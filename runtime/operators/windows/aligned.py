"""Tumbling and hopping windows by event or processing time, aggregated by columns.

A window [start, end) fires when the watermark reaches its end, fires again soon after it has changed, and
expires when the watermark reaches end + allowed lateness. A row is late when all of its windows have
expired by the watermark of its own source partition before it; late rows leave by the late output.

Hopping windows share slices (slices.py), so that a row is added once however many windows it is in (Li et
al., "No Pane, No Gain", SIGMOD Record 34(1), 2005). A row that is late for some of its windows and not for
others, or that comes when some have fired already, is added to each of its open windows instead: a slice
would carry it into windows that it must not count in. So what a window finally holds depends on the rows
alone, and not on how the stream was cut into batches or when this operator learned of a watermark.

What has come into a window since its last pane is kept apart from what it has shown (shown.py): the panes that
are due are the changes that there are, whether the window is still open, fires, or had fired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet
from millstream.batch import Array, Batch, BoolArray, IntArray, index_array, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.operators.base import Context, Output
from millstream.operators.windows import panes
from millstream.operators.windows.base import FIRE_AGAIN_US, WindowOperator, row_counts, soonest
from millstream.operators.windows.panes import Panes
from millstream.operators.windows.shown import ShownRun, ShownStore, Update, updated
from millstream.operators.windows.slices import AFTER_ALL, WindowLayout
from millstream.queries import Question
from millstream.ranges import expand
from millstream.runs import Run, RunStore, combine, group_run, merge_overlaps, merge_runs, sort_run, trimmed
from millstream.specs.windows import WindowAggregateSpec, Windows
from millstream.times import MAX_US

_FEW_TIMES: Final = 8
_SHOWN: Final = "shown"
_WINDOW: Final = "window"
_PANE: Final = "pane"
_TIMING: Final = "timing"


class AlignedWindows(WindowOperator):
    """Attributes:
    fired_until: the first window that has not fired.
    """

    keeps_to_groups = True

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        assert isinstance(spec.windows, Windows)
        self.layout = WindowLayout(spec.windows, context.name)
        # A slice does not know what each of its windows has shown.
        self.sliced = self.layout.overlap and spec.early is None
        self.fired_until = -AFTER_ALL
        self.stores: _Stores | None = None
        self._expired_until = -AFTER_ALL
        self._fire_again_us: int | None = None
        self._unseen_rows = 0
        self._look_us: int | None = None

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = self.timed(batch)
        watermark_us = self.judged_by(batch)
        if watermark_us is not None and not self.overdue(batch, watermark_us).any():
            watermark_us = None
        if watermark_us is not None:
            assert batch.time_us is not None
            last = self.layout.last(self.layout.slices.of(batch.time_us))
            late = last < self._expired_by(watermark_us)
            if late.any():
                _, end_us = self.layout.bounds_us(last[late])
                window = "last window" if self.layout.overlap else "window"
                yield from self.late(batch.where(late), watermark_us[late], end_us, window)
                batch, watermark_us = batch.where(~late), watermark_us[~late]
        if batch.num_rows == 0:
            return
        self._add(batch, watermark_us)
        yield from self._look_for_due()

    def _look_for_due(self) -> Iterator[Output]:
        """Rows have come: put out what that makes due, if anything."""
        yield from self._fire_again(self._expired_until)
        if self.spec.early is not None:
            self.early.changed(self.context.now_us())
            yield from self._look_for_full()

    def _add(self, batch: Batch, watermark_us: IntArray | None) -> None:
        """Add rows to their windows."""
        stores = self._stores_for(self.typed.for_batch(batch))
        assert batch.time_us is not None
        slices = self.layout.slices.of(batch.time_us)
        if not self.layout.overlap:
            self._unseen_rows += stores.add(self._grouped(slices, batch, stores), self.fired_until)
            return
        if not self.sliced:
            self._add_apart(slices, batch, watermark_us, stores)
            return
        first = self.layout.first(slices)
        apart = first < self.fired_until
        if watermark_us is not None:
            apart |= first < self._expired_by(watermark_us)
        if not apart.any():
            stores.slices.add(self._grouped(slices, batch, stores))
            return
        if not apart.all():
            stores.slices.add(self._grouped(slices[~apart], batch.where(~apart), stores))
        behind = None if watermark_us is None else watermark_us[apart]
        self._add_apart(slices[apart], batch.where(apart), behind, stores)

    def _add_apart(self, slices: IntArray, batch: Batch, watermark_us: IntArray | None, stores: _Stores) -> None:
        """Add rows to each of their open windows."""
        first, last = self.layout.first(slices), self.layout.last(slices)
        if watermark_us is not None:
            first = np.maximum(first, self._expired_by(watermark_us))
        if not self.keeps_fired:
            first = np.maximum(first, self.fired_until)
        rows, windows = expand(first, last)
        self._unseen_rows += stores.add(self._grouped(windows, batch.take(rows), stores), self.fired_until)

    def _grouped(self, index: IntArray, batch: Batch, stores: _Stores) -> Run:
        assert batch.keys is not None
        groups, index, keys = group_run(index, batch.keys)
        return sort_run(Run(index, keys, self.reduce(batch, groups, stores.accumulators)))

    def _expired_by(self, watermark_us: IntArray) -> IntArray:
        """For each watermark, the first window that has not expired by it."""
        return self.layout.ended_each(watermark_us, self.spec.allowed_lateness_us)

    def _stores_for(self, accumulators: AccumulatorSet) -> _Stores:
        if self.stores is None:
            self.stores = _Stores(accumulators, ShownStore(accumulators, self.discarding))
        elif accumulators is not self.stores.accumulators:
            self.stores.use(accumulators)
        return self.stores

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if self.spec.event_time or watermark_us == MAX_US:
            yield from self._advance(watermark_us)

    def on_clock(self, now_us: int) -> Iterator[Output]:
        if self.spec.event_time:
            yield from self._fire_again(self._expired_until)
        else:
            yield from self._advance(now_us)
        if self.early.ticks(now_us):
            yield from self._show_open(None)
        elif self._look_us is not None:
            yield from self._look_for_full()

    def due_us(self) -> int | None:
        if self.stores is None:
            return None
        due_us = soonest(self._fire_again_us, self.early.tick_us, self._look_us)
        if self.spec.event_time:
            return due_us
        lowest = self.stores.lowest_window(self.layout, self.fired_until)
        return due_us if lowest is None else soonest(due_us, self.layout.end_us(lowest))

    def _advance(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        before_us, self.watermark_us = self.watermark_us, watermark_us
        expired_until = self.layout.ended(watermark_us, self.spec.allowed_lateness_us)
        yield from self._fire_again(expired_until)
        yield from self._fire(max(self.fired_until, self.layout.ended(watermark_us, self.fire_delay_us)))
        self._expired_until = expired_until
        if self.stores is not None and self.spec.fires_again:
            self.stores.shown.drop_below(expired_until)
        if self.early.passes(before_us, watermark_us):
            yield from self._show_open(None)

    # --- output ---

    def _fire(self, until: int) -> Iterator[Output]:
        """Put out the windows before ``until`` that have not fired."""
        stores, since = self.stores, self.fired_until
        self.fired_until = until
        if stores is None:
            return
        due = stores.windows.take_below(until)
        if self.sliced:
            due += self._from_slices(stores, since, until)
        # A window fires at its end also where an early pane said everything already.
        shown = None if self.spec.early is None else stores.shown.take_range(since, until)
        if shown is None:
            updates = [updated(new, None, stores.accumulators) for new in merge_overlaps(due, stores.accumulators)]
        else:
            updates = [updated(merge_runs(due, stores.accumulators) if due else None, shown, stores.accumulators)]
        for update in updates:
            yield from self._show(update, np.ones(len(update.now), np.bool_), panes.ON_TIME, stores)

    def _fire_again(self, expired_until: int) -> Iterator[Output]:
        """Put out again what has changed since it fired; not yet, if little has changed and there is time.

        A changed group costs a look at all that fired and may still change, so changes are gathered: for a
        tenth of a second of processing time, until they are many, or until one of them is about to expire.
        """
        stores = self.stores
        if stores is None or not stores.changed.runs:
            return
        lowest, now_us = stores.changed.lowest(), self.context.now_us()
        assert lowest is not None
        many = _FEW_TIMES * stores.changed.rows >= stores.shown.rows
        if self._fire_again_us is None:
            self._fire_again_us = now_us + FIRE_AGAIN_US
        if not many and lowest >= expired_until and now_us < self._fire_again_us:
            return
        self._fire_again_us = None
        changed = merge_runs(stores.changed.take_below(AFTER_ALL), stores.accumulators)
        yield from self._show_changed(changed, panes.LATE, stores)

    def _look_for_full(self) -> Iterator[Output]:
        """Put out the open windows into which enough rows have come since their last pane.

        Finding them costs a look at all that have changed, so it waits as `_fire_again` does.
        """
        stores, now_us = self.stores, self.context.now_us()
        if self.early.rows is None or stores is None or not self._unseen_rows:
            return
        if self._look_us is None:
            self._look_us = now_us + FIRE_AGAIN_US
        if _FEW_TIMES * self._unseen_rows >= stores.windows.rows + stores.shown.rows or now_us >= self._look_us:
            self._look_us, self._unseen_rows = None, 0
            yield from self._show_open(self.early.rows)

    def _show_open(self, least_rows: int | None) -> Iterator[Output]:
        """Put out early panes of the windows that have changed, by at least so many rows."""
        stores = self.stores
        if stores is None or not stores.windows.runs:
            return
        changed = merge_runs(stores.windows.take_below(AFTER_ALL), stores.accumulators)
        if least_rows is not None and least_rows > 1:
            full = row_counts(stores.accumulators, changed.columns) >= least_rows
            stores.windows.add(changed.take(np.flatnonzero(~full)))
            changed = changed.take(np.flatnonzero(full))
        if len(changed):
            yield from self._show_changed(changed, panes.EARLY, stores)

    def _show_changed(self, changed: Run, timing: int, stores: _Stores) -> Iterator[Output]:
        update = updated(changed, stores.shown.take_windows(np.unique(changed.index)), stores.accumulators)
        if not update.changed.all():
            rest = ShownRun(update.now, update.pane, update.timing).where(~update.changed)
            stores.shown.put(rest)
        yield from self._show(update, update.changed, timing, stores)

    def _show(self, update: Update, which: BoolArray, timing: int, stores: _Stores) -> Iterator[Output]:
        """Put out these groups of an update, by window."""
        now, pane = update.now, update.pane
        if not which.all() or update.before is not None:
            rows = np.flatnonzero(which)
            rows = rows[np.argsort(now.index[rows], kind="stable")]
            now, pane = now.take(rows), pane[rows]
        shown = ShownRun(now, pane + 1, np.full(len(now), timing, np.int8))
        if self.spec.fires_again:
            stores.shown.put(shown)
        back = None
        if self.retracts:
            back = None if update.before is None else update.before.where(which[update.place])
            back = shown.where(np.zeros(len(shown), np.bool_)) if back is None else back
        yield from self.writer.write(
            self._panes(shown), stores.accumulators, None if back is None else self._panes(back)
        )

    def _panes(self, shown: ShownRun) -> Panes:
        start_us, end_us = self.layout.bounds_us(shown.run.index)
        return Panes(start_us, end_us, shown.run.keys, shown.run.columns, shown.pane, shown.timing)

    def _from_slices(self, stores: _Stores, since: int, until: int) -> list[Run]:
        """The rows of slices, once for each of their windows that fires now."""
        due: list[Run] = []
        for run in stores.slices.runs:
            first = np.maximum(self.layout.first(run.index), since)
            last = np.minimum(self.layout.last(run.index), until - 1)
            rows, windows = expand(first, last)
            if len(rows):
                part = run.take(rows)
                due.append(combine(Run(windows, part.keys, part.columns), stores.accumulators))
        # A slice is done with when the last window that it is in has fired.
        stores.slices.drop_below(until * self.layout.step if until < AFTER_ALL else AFTER_ALL)
        return due

    # --- questions ---

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """What every window holds that has not expired. For all keys this costs as much as firing the windows does."""
        if self.stores is None:
            return
        stores, first, last = self.stores, -AFTER_ALL, AFTER_ALL
        if question.at_us is not None:
            first, last = self._windows_at(question.at_us)
        runs = [*stores.windows.runs, *stores.changed.runs, *(s.run for s in stores.shown.runs)]
        asked = [self._asked(run.between(first, last + 1), question) for run in runs]
        for run in stores.slices.runs:
            if question.at_us is not None:
                run = run.between(first * self.layout.step, last * self.layout.step + self.layout.width)
            held = self._asked(run, question)
            rows, windows = expand(
                np.maximum(self.layout.first(held.index), max(first, self.fired_until)),
                np.minimum(self.layout.last(held.index), last),
            )
            part = held.take(rows)
            asked.append(combine(Run(windows, part.keys, part.columns), stores.accumulators))
        asked = [run for run in asked if len(run)]
        if asked:
            whole = merge_runs(asked, stores.accumulators)
            nothing = np.zeros(len(whole), np.int64)
            panes = self._panes(ShownRun(whole, nothing, nothing.astype(np.int8)))
            yield from self.writer.held(panes, stores.accumulators, question)

    def _windows_at(self, time_us: int) -> tuple[int, int]:
        """The first and the last window that can hold a time."""
        of = self.layout.slices.of(np.array([time_us], np.int64))
        return int(self.layout.first(of)[0]), int(self.layout.last(of)[0])

    def _key_fields(self, distinct: pa.RecordBatch) -> pa.RecordBatch:
        """Of what groups are told apart by, the fields of the key."""
        return distinct

    def _asked(self, run: Run, question: Question) -> Run:
        """The groups of a run whose keys are asked for."""
        if question.keys is None or not len(run):
            return run
        keys = trimmed(run.keys)
        return run.take(np.flatnonzero(question.among(self._key_fields(keys.distinct))[keys.codes]))

    # --- checkpoints ---

    def snapshot(self) -> list[StateTable]:
        tables = [*self.clock_table(), *self.tables.snapshot()]
        if self.stores is not None:
            for name, store in self.stores.runs.items():
                tables += [self._as_table(name, run) for run in store.runs]
            for shown in self.stores.shown.runs:
                beside = {_PANE: index_array(shown.pane), _TIMING: index_array(shown.timing)}
                tables.append(self._as_table(_SHOWN, shown.run, beside))
        return tables

    def hand_over(self) -> Sequence[StateTable]:
        return self.snapshot()

    def restore(self, tables: Sequence[StateTable]) -> None:
        for watermark_us in self.restored_clock(tables):
            self.watermark_us = watermark_us
            self.fired_until = self.layout.ended(watermark_us, self.fire_delay_us)
            self._expired_until = self.layout.ended(watermark_us, self.spec.allowed_lateness_us)
        accumulators = self.tables.restore(tables)
        if accumulators is None:
            return
        stores = self.stores = _Stores(accumulators, ShownStore(accumulators, self.discarding))
        for table in tables:
            if table.keys is None or not table.num_rows:
                continue
            index, columns = table.columns.column(_WINDOW).to_numpy(), self.tables.from_table(table)
            run = Run(index, table.keys, columns, table.saved, table.first)
            if table.name == _SHOWN:
                pane, timing = (table.columns.column(name).to_numpy() for name in (_PANE, _TIMING))
                stores.shown.put(ShownRun(run, pane, timing))
            else:
                stores.runs[table.name].add(run)
        now_us = self.context.now_us()
        if stores.changed.runs:
            self._fire_again_us = now_us
        if stores.windows.runs and self.spec.early is not None:
            self.early.changed(now_us)
            self._unseen_rows, self._look_us = stores.windows.rows, now_us

    def _as_table(self, name: str, run: Run, beside: Mapping[str, Array] | None = None) -> StateTable:
        arrays = {_WINDOW: index_array(run.index), **(beside or {}), **self.tables.columns(run.columns)}
        columns = make_columns(list(arrays), list(arrays.values()))
        return StateTable(name, run.keys, columns, run.saved, run.first)

    def figures(self) -> dict[str, Any]:
        figures = super().figures()
        if self.stores is not None:
            figures.update(groups=self.stores.groups, state_bytes=self.stores.nbytes)
        return figures


class _Stores:
    """What the operator holds, made when the first batch shows the types.

    Attributes:
        windows: groups by window, of windows that have not fired: what came since their last pane.
        changed: the same of windows that have fired.
        slices: groups by slice, for hopping windows.
        shown: windows that have put out a pane and still take rows.
    """

    def __init__(self, accumulators: AccumulatorSet, shown: ShownStore) -> None:
        self.accumulators = accumulators
        self.windows = RunStore(accumulators)
        self.changed = RunStore(accumulators)
        self.slices = RunStore(accumulators)
        self.shown = shown

    @property
    def runs(self) -> dict[str, RunStore]:
        """The stores of groups that no pane has shown, by name."""
        return {"windows": self.windows, "changed": self.changed, "slices": self.slices}

    def use(self, accumulators: AccumulatorSet) -> None:
        """Go on with accumulators of wider types."""
        self.accumulators = accumulators
        for store in (self.windows, self.changed, self.slices, self.shown):
            store.accumulators = accumulators

    def add(self, run: Run, fired_until: int) -> int:
        """Add groups by window, of which those before ``fired_until`` have fired; returns how many have not."""
        changed, unfired = run.split(fired_until)
        self.changed.add(changed)
        self.windows.add(unfired)
        return len(unfired)

    def lowest_window(self, layout: WindowLayout, fired_until: int) -> int | None:
        """The first window that holds something and has not fired."""
        slices = self.slices.lowest()
        first = None if slices is None else int(layout.first(np.array([slices], np.int64))[0])
        shown = [int(s.run.index[0]) for s in self.shown.runs]
        lowest = soonest(self.windows.lowest(), first, *(w for w in shown if w >= fired_until))
        return None if lowest is None else max(lowest, fired_until)

    @property
    def groups(self) -> int:
        return self.windows.rows + self.changed.rows + self.slices.rows + self.shown.rows

    @property
    def nbytes(self) -> int:
        return self.windows.nbytes + self.changed.nbytes + self.slices.nbytes + self.shown.nbytes
