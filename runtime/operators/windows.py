"""Tumbling and hopping windows by event or processing time, aggregated by columns.

A window [start, end) fires when the watermark reaches its end, fires again soon after it has changed,
and expires when the watermark reaches end + allowed lateness. A row is late when all of its windows
have expired by the watermark of its own source partition before it; late rows leave by the late output.

Windows are counted: window w starts at w * slide + offset. Hopping windows share slices of
gcd(size, slide), so that a row is added once however many windows it is in (Li et al., "No Pane, No
Gain", SIGMOD Record 34(1), 2005). A row that is late for some of its windows and not for others, or that
comes when some have fired already, is added to each of its open windows instead: a slice would carry it
into windows that it must not count in. So what a window finally holds depends on the rows alone, and
not on how the stream was cut into batches or when this operator learned of a watermark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, concat
from millstream.batch import Array, Batch, BoolArray, IntArray, make_columns
from millstream.evaluate import evaluate_all
from millstream.keys import hash_keys
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.runs import Run, RunStore, combine, group_run, merge_runs, sort_run, unify_keys
from millstream.specs.base import LATE, MAIN
from millstream.specs.windows import WindowAggregateSpec
from millstream.times import MAX_US, MIN_US, STAMP

PANE_ROWS: Final = 65_536
_AFTER_ALL: Final = 2**62
"""A window index behind every window: all have fired, or all have expired."""

FIRE_AGAIN_US: Final = 100_000
_FEW_TIMES: Final = 8

RESERVED: Final = ("window_start", "window_end", "pane")


class WindowAggregate(Operator):
    """Args:
    with_position: whether something behind this operator depends on order.
    """

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(context)
        self.spec = spec
        self.with_position = with_position
        self.aggregates = loaded_aggregates(spec.aggregates)
        windows = spec.windows
        self.size_us, self.slide_us, self.offset_us = windows.size_us, windows.slide_us, windows.offset_us
        self.slice_us = gcd(self.size_us, self.slide_us)
        self.hopping = self.slide_us != self.size_us
        # Firing late is the same as never firing early: "final" panes fire when the window expires.
        self.fire_delay_us = spec.allowed_lateness_us if spec.final_only else 0
        self.keeps_fired = spec.allowed_lateness_us > 0 and not spec.final_only
        self.watermark_us = MIN_US
        self.fired_until = -_AFTER_ALL  # the first window that has not fired
        self._expired_until = -_AFTER_ALL
        self.fire_again_us: int | None = None
        self.typed = TypedAccumulators(self.aggregates, context.name)
        self.stores: _Stores | None = None

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if not self.spec.event_time:
            batch = replace(batch, time_us=np.full(batch.num_rows, self.context.now_us()))
        assert batch.time_us is not None
        assert batch.keys is not None
        behind_us = self._behind(batch)
        if behind_us is not None:
            late = self._last_window(batch.time_us) < self._expired_until_each(behind_us)
            if late.any():
                self.context.counters.late += int(late.sum())
                yield LATE, batch.where(late)
                batch, behind_us = batch.where(~late), behind_us[~late]
        if batch.num_rows == 0:
            return
        self._add(batch, behind_us)
        yield from self._fire_again(self._expired_until)

    def _behind(self, batch: Batch) -> IntArray | None:
        """The watermark that each row is judged by, or None when no row is behind it.

        After idleness this operator may be ahead of the row's own partition; then its own watermark counts.
        """
        assert batch.time_us is not None
        if batch.before_us is not None:
            return np.maximum(batch.before_us, self.watermark_us)
        if batch.num_rows and int(batch.time_us.min()) < self.watermark_us:
            return np.full(batch.num_rows, self.watermark_us)
        return None

    def _add(self, batch: Batch, behind_us: IntArray | None) -> None:
        """Add rows to their windows."""
        stores = self._stores_for(batch)
        assert batch.time_us is not None
        assert batch.keys is not None
        if not self.hopping:
            windows = self._last_window(batch.time_us)
            stores.add(self._reduce(windows, batch, stores), self.fired_until)
            return
        slices = self._slice(batch.time_us)
        first = self._first_window(slices)
        apart = first < self.fired_until
        if behind_us is not None:
            apart |= first < self._expired_until_each(behind_us)
        if not apart.any():
            stores.slices.add(self._reduce(slices, batch, stores))
            return
        if not apart.all():
            whole = batch.where(~apart)
            stores.slices.add(self._reduce(slices[~apart], whole, stores))
        self._add_apart(batch.where(apart), None if behind_us is None else behind_us[apart], stores)

    def _add_apart(self, batch: Batch, behind_us: IntArray | None, stores: _Stores) -> None:
        assert batch.time_us is not None
        first, last = self._first_window(self._slice(batch.time_us)), self._last_window(batch.time_us)
        if behind_us is not None:
            first = np.maximum(first, self._expired_until_each(behind_us))
        if not self.keeps_fired:
            first = np.maximum(first, self.fired_until)
        rows, windows = expand(first, last)
        stores.add(self._reduce(windows, batch.take(rows), stores), self.fired_until)

    def _reduce(self, index: IntArray, batch: Batch, stores: _Stores) -> Run:
        assert batch.keys is not None
        groups, index, keys = group_run(index, batch.keys)
        inputs = evaluate_all(stores.accumulators.inputs, input_columns(batch, stores.accumulators))
        return sort_run(
            Run(index, keys, stores.accumulators.partial(inputs, groups, row_order(batch, stores.accumulators)))
        )

    def _stores_for(self, batch: Batch) -> _Stores:
        accumulators = self.typed.for_batch(batch)
        if self.stores is None:
            self.stores = _Stores(accumulators)
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

    def due_us(self) -> int | None:
        if self.stores is None:
            return None
        if self.spec.event_time:
            return self.fire_again_us
        lowest = self.stores.lowest_window(self)
        return None if lowest is None else lowest * self.slide_us + self.offset_us + self.size_us

    def held_back_us(self) -> int:
        return self.fire_delay_us

    def _advance(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        self.watermark_us = watermark_us
        expired_until = self._ended(watermark_us, self.spec.allowed_lateness_us)
        yield from self._fire_again(expired_until)
        yield from self._fire(max(self.fired_until, self._ended(watermark_us, self.fire_delay_us)))
        self._expired_until = expired_until
        if self.keeps_fired and self.stores is not None:
            self.stores.fired.drop_below(expired_until)

    def _ended(self, watermark_us: int, delay_us: int) -> int:
        """The first window with end + delay > watermark."""
        if watermark_us == MAX_US:
            return _AFTER_ALL
        if watermark_us == MIN_US or delay_us == MAX_US:
            return -_AFTER_ALL
        return (watermark_us - delay_us - self.size_us - self.offset_us) // self.slide_us + 1

    def _expired_until_each(self, watermark_us: IntArray) -> IntArray:
        """For each row's watermark, the first window that has not expired by it."""
        lateness_us = self.spec.allowed_lateness_us
        if lateness_us == MAX_US:
            return np.full(len(watermark_us), -_AFTER_ALL)
        usable = np.clip(watermark_us, -_AFTER_ALL, _AFTER_ALL)
        expired: IntArray = (usable - (lateness_us + self.size_us + self.offset_us)) // self.slide_us + 1
        expired[watermark_us == MAX_US] = _AFTER_ALL
        return expired

    def _last_window(self, time_us: IntArray) -> IntArray:
        return floor_index(time_us, self.slide_us, self.offset_us)

    def _slice(self, time_us: IntArray) -> IntArray:
        return floor_index(time_us, self.slice_us, self.offset_us)

    def _first_window(self, slices: IntArray) -> IntArray:
        """The first window that a slice is in: the first with w * slide + size > the slice's start."""
        return (slices * self.slice_us - self.size_us) // self.slide_us + 1

    # --- output ---

    def _fire(self, until: int) -> Iterator[Output]:
        """Put out the windows before ``until`` that have not fired."""
        stores, since = self.stores, self.fired_until
        self.fired_until = until
        if stores is None:
            return
        due = stores.windows.take_below(until)
        if self.hopping:
            due += self._from_slices(stores, since, until)
        if not due:
            return
        new = merge_runs(due, stores.accumulators)
        if self.keeps_fired:
            stores.fired.add(new)
        yield from self._panes(new, np.zeros(len(new), np.int64), stores)

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
        many = _FEW_TIMES * stores.changed.rows >= stores.fired.rows
        if self.fire_again_us is None:
            self.fire_again_us = now_us + FIRE_AGAIN_US
        if not many and lowest >= expired_until and now_us < self.fire_again_us:
            return
        self.fire_again_us = None
        changed = merge_runs(stores.changed.take_below(_AFTER_ALL), stores.accumulators)
        changed, pane = stores.fired.update(changed)
        yield from self._panes(changed, pane, stores)

    def _from_slices(self, stores: _Stores, since: int, until: int) -> list[Run]:
        """The rows of slices, once for each of their windows that fires now."""
        due: list[Run] = []
        for run in stores.slices.runs:
            first = np.maximum(self._first_window(run.index), since)
            last = np.minimum((run.index * self.slice_us) // self.slide_us, until - 1)
            rows, windows = expand(first, last)
            if len(rows):
                part = run.take(rows)
                due.append(combine(Run(windows, part.keys, part.columns), stores.accumulators))
        # A slice is done with when the last window that it is in has fired.
        stores.slices.drop_below(-(-until * self.slide_us // self.slice_us) if until < _AFTER_ALL else _AFTER_ALL)
        return due

    def _panes(self, run: Run, pane: IntArray, stores: _Stores) -> Iterator[Output]:
        self.context.counters.panes += len(run)
        for start in range(0, len(run), PANE_ROWS):
            part, numbers = run.slice(start, start + PANE_ROWS), pane[start : start + PANE_ROWS]
            begin = part.index * self.slide_us + self.offset_us
            end = begin + self.size_us
            keys = part.keys
            names = [*RESERVED, *keys.distinct.schema.names, *self.aggregates]
            arrays: list[Array] = [
                pa.array(begin).view(STAMP), pa.array(end).view(STAMP), pa.array(numbers),
                *keys.columns(), *stores.accumulators.results(part.columns),
            ]  # fmt: skip
            # Where panes are ordered again further down, ties of time go by key: for any number of workers the same.
            position = (hash_keys(keys.columns()) >> np.uint64(1)).view(np.int64) if self.with_position else None
            yield MAIN, Batch(make_columns(names, arrays), time_us=end - 1, position=position)

    def figures(self) -> dict[str, Any]:
        figures = super().figures()
        if self.stores is not None:
            figures.update(groups=self.stores.groups, state_bytes=self.stores.nbytes)
        return figures


class _Stores:
    """What the operator holds, made when the first batch shows the types.

    Attributes:
        windows: groups by window, of windows that have not fired.
        changed: what was added to windows that have fired, and was not put out yet.
        slices: groups by slice, for hopping windows.
        fired: windows that have fired and still take rows.
    """

    def __init__(self, accumulators: AccumulatorSet) -> None:
        self.accumulators = accumulators
        self.windows = RunStore(accumulators)
        self.changed = RunStore(accumulators)
        self.slices = RunStore(accumulators)
        self.fired = FiredStore(accumulators)

    def use(self, accumulators: AccumulatorSet) -> None:
        """Go on with accumulators of wider types."""
        self.accumulators = accumulators
        for store in (self.windows, self.changed, self.slices, self.fired):
            store.accumulators = accumulators

    def add(self, run: Run, fired_until: int) -> None:
        """Add groups by window, of which those before ``fired_until`` have fired."""
        changed, unfired = run.split(fired_until)
        self.changed.add(changed)
        self.windows.add(unfired)

    def lowest_window(self, operator: WindowAggregate) -> int | None:
        lowest = [] if (w := self.windows.lowest()) is None else [w]
        if (s := self.slices.lowest()) is not None:
            lowest.append(int(operator._first_window(np.array([s]))[0]))
        return min(max(w, operator.fired_until) for w in lowest) if lowest else None

    @property
    def groups(self) -> int:
        return self.windows.rows + self.changed.rows + self.slices.rows + self.fired.rows

    @property
    def nbytes(self) -> int:
        return self.windows.nbytes + self.changed.nbytes + self.slices.nbytes + self.fired.nbytes


class FiredStore:
    """Windows that have fired and have not expired: their accumulators and the number of their last pane."""

    def __init__(self, accumulators: AccumulatorSet) -> None:
        self.accumulators = accumulators
        self.runs: list[Run] = []
        self.panes: list[IntArray] = []

    def add(self, new: Run) -> None:
        """Keep groups that fire for the first time."""
        self._append(new, np.zeros(len(new), np.int64))

    def update(self, changed: Run) -> tuple[Run, IntArray]:
        """Merge what changed into what had fired.

        Returns:
            The changed groups as they are now, and the number of the pane that each puts out.
        """
        merged, pane = self._merge(changed)
        self._append(merged, pane)
        return merged, pane

    def _merge(self, again: Run) -> tuple[Run, IntArray]:
        """Take the groups of ``again`` that fired before out of the runs, and combine both."""
        touched = np.unique(again.index)
        parts, panes = [again], [np.full(len(again), -1, np.int64)]
        for number, run in enumerate(self.runs):
            inside = np.isin(run.index, touched)
            if inside.any():
                parts.append(run.take(np.flatnonzero(inside)))
                panes.append(self.panes[number][inside])
                self._keep(number, ~inside)
        self._sweep()
        keys = unify_keys([p.keys for p in parts])
        index = np.concatenate([p.index for p in parts])
        columns: list[Column] = [concat(c) for c in zip(*(p.columns for p in parts), strict=True)]
        pane = np.concatenate(panes)
        groups, merged_index, merged_keys = group_run(index, keys)
        changed = np.zeros(groups.count, np.bool_)
        changed[groups.codes[: len(again)]] = True
        numbers = np.full(groups.count, -1, np.int64)
        np.maximum.at(numbers, groups.codes, pane)
        merged = Run(merged_index, merged_keys, self.accumulators.combine(columns, groups))
        rest = np.flatnonzero(~changed)
        if len(rest):
            self._append(merged.take(rest), numbers[rest])
        rows = np.flatnonzero(changed)
        rows = rows[np.argsort(merged_index[rows], kind="stable")]
        return merged.take(rows), numbers[rows] + 1

    def _append(self, run: Run, pane: IntArray) -> None:
        order = np.argsort(run.index, kind="stable")
        self.runs.append(run.take(order))
        self.panes.append(pane[order])
        if len(self.runs) > 64:
            # The runs share no group: putting them together needs no combining.
            keys = unify_keys([r.keys for r in self.runs])
            index = np.concatenate([r.index for r in self.runs])
            columns = [concat(c) for c in zip(*(r.columns for r in self.runs), strict=True)]
            pane = np.concatenate(self.panes)
            order = np.argsort(index, kind="stable")
            self.runs, self.panes = [Run(index, keys, columns).take(order)], [pane[order]]

    def _keep(self, number: int, mask: BoolArray) -> None:
        self.runs[number] = self.runs[number].take(np.flatnonzero(mask))
        self.panes[number] = self.panes[number][mask]

    def _sweep(self) -> None:
        kept = [n for n, r in enumerate(self.runs) if len(r)]
        self.runs, self.panes = [self.runs[n] for n in kept], [self.panes[n] for n in kept]

    def drop_below(self, limit: int) -> None:
        for number, run in enumerate(self.runs):
            at = int(np.searchsorted(run.index, limit))
            if at:
                self.runs[number] = run.slice(at, len(run))
                self.panes[number] = self.panes[number][at:]
        self._sweep()

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in self.runs)


def floor_index(time_us: IntArray, size_us: int, offset_us: int) -> IntArray:
    """floor((time - offset) / size), also before 1970.

    NumPy divides unsigned integers by a constant several times faster than it floors signed ones, so
    times are counted from the batch's lowest.
    """
    if len(time_us) == 0:
        return time_us
    lowest = (int(time_us.min()) - offset_us) // size_us
    relative = (time_us - (lowest * size_us + offset_us)).view(np.uint64)
    return (relative // np.uint64(size_us)).view(np.int64) + lowest


def expand(first: IntArray, last: IntArray) -> tuple[npt.NDArray[np.intp], IntArray]:
    """Each row once for every number from its first to its last: (rows, numbers)."""
    counts = np.maximum(last - first + 1, 0)
    rows = np.repeat(np.arange(len(first)), counts)
    starts = np.cumsum(counts) - counts
    return rows, first[rows] + (np.arange(len(rows)) - starts[rows])
