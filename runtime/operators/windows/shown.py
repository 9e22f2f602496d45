"""Windows that have put out a pane and may put out another: what they held then, and the number of that pane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, RowOrder, concat
from millstream.batch import BoolArray, IntArray
from millstream.grouping import Groups
from millstream.operators.windows.panes import TimingArray
from millstream.runs import Run, group_run, unify_keys

_RUNS_KEPT = 64


@dataclass(frozen=True, slots=True)
class ShownRun:
    """Groups sorted by window, with the number and the timing of their last pane."""

    run: Run
    pane: IntArray
    timing: TimingArray

    def __len__(self) -> int:
        return len(self.run)

    def where(self, mask: BoolArray) -> ShownRun:
        rows = np.flatnonzero(mask)
        return ShownRun(self.run.take(rows), self.pane[rows], self.timing[rows])

    def sorted(self) -> ShownRun:
        order = np.argsort(self.run.index, kind="stable")
        return ShownRun(self.run.take(order), self.pane[order], self.timing[order])


def concat_shown(parts: list[ShownRun]) -> ShownRun:
    keys = unify_keys([p.run.keys for p in parts])
    columns: list[Column] = [concat(c) for c in zip(*(p.run.columns for p in parts), strict=True)]
    return ShownRun(
        Run(np.concatenate([p.run.index for p in parts]), keys, columns),
        np.concatenate([p.pane for p in parts]), np.concatenate([p.timing for p in parts]),
    )  # fmt: skip


class ShownStore:
    """Groups by window, each at most once.

    Args:
        discarding: panes hold what came since the one before, so nothing but their number is kept.
    """

    def __init__(self, accumulators: AccumulatorSet, discarding: bool) -> None:
        self.accumulators = accumulators
        self.discarding = discarding
        self.runs: list[ShownRun] = []

    def take_range(self, since: int, until: int) -> ShownRun | None:
        """Remove and return the groups of windows from ``since`` to before ``until``."""
        return self._take(lambda s: (s.run.index >= since) & (s.run.index < until))

    def take_windows(self, windows: IntArray) -> ShownRun | None:
        """Remove and return the groups of these windows."""
        low, high = int(windows.min()), int(windows.max())
        return self._take(lambda s: (s.run.index >= low) & (s.run.index <= high) & np.isin(s.run.index, windows))

    def _take(self, wanted: Callable[[ShownRun], BoolArray]) -> ShownRun | None:
        taken: list[ShownRun] = []
        for number, shown in enumerate(self.runs):
            mask = wanted(shown)
            if mask.any():
                taken.append(shown.where(mask))
                self.runs[number] = shown.where(~mask)
        self._sweep()
        if not taken:
            return None
        if self.discarding:
            taken = [
                ShownRun(Run(t.run.index, t.run.keys, without_rows(self.accumulators, len(t))), t.pane, t.timing)
                for t in taken
            ]
        return concat_shown(taken)

    def put(self, shown: ShownRun) -> None:
        """Keep groups that are not here."""
        if not len(shown):
            return
        if self.discarding:
            shown = ShownRun(Run(shown.run.index, shown.run.keys, []), shown.pane, shown.timing)
        self.runs.append(shown.sorted())
        if len(self.runs) > _RUNS_KEPT:
            # The runs share no group: putting them together needs no combining.
            self.runs = [concat_shown(self.runs).sorted()]

    def drop_below(self, limit: int) -> None:
        """Forget the windows before this one."""
        for number, shown in enumerate(self.runs):
            at = int(np.searchsorted(shown.run.index, limit))
            if at:
                self.runs[number] = ShownRun(shown.run.slice(at, len(shown)), shown.pane[at:], shown.timing[at:])
        self._sweep()

    def _sweep(self) -> None:
        self.runs = [s for s in self.runs if len(s)]

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    @property
    def nbytes(self) -> int:
        return sum(s.run.nbytes + s.pane.nbytes + s.timing.nbytes for s in self.runs)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of shown groups and changes to them.

    Attributes:
        now: all groups that were in either.
        changed: which of them there was a change to.
        pane: the number of their last pane, -1 for none.
        before: the groups that had been shown, as they were, and their place in ``now``.
    """

    now: Run
    changed: BoolArray
    pane: IntArray
    timing: TimingArray
    before: ShownRun | None
    place: IntArray


def updated(changed: Run | None, shown: ShownRun | None, accumulators: AccumulatorSet) -> Update:
    """Merge changes into what has been shown; one of the two there must be."""
    if changed is None:
        assert shown is not None
        changed = shown.run.slice(0, 0)
    if shown is None:
        count = len(changed)
        return Update(
            changed, np.ones(count, np.bool_), np.full(count, -1, np.int64), np.zeros(count, np.int8), None,
            np.zeros(0, np.int64),
        )  # fmt: skip
    keys = unify_keys([changed.keys, shown.run.keys])
    index = np.concatenate([changed.index, shown.run.index])
    columns: list[Column] = [concat(c) for c in zip(changed.columns, shown.run.columns, strict=True)]
    groups, index, keys = group_run(index, keys)
    place = groups.codes[len(changed) :]
    has_change = np.zeros(groups.count, np.bool_)
    has_change[groups.codes[: len(changed)]] = True
    pane, timing = np.full(groups.count, -1, np.int64), np.zeros(groups.count, np.int8)
    pane[place], timing[place] = shown.pane, shown.timing
    return Update(Run(index, keys, accumulators.combine(columns, groups)), has_change, pane, timing, shown, place)


def without_rows(accumulators: AccumulatorSet, count: int) -> list[Column]:
    """The accumulator columns of groups into which nothing has come."""
    none = np.zeros(0, np.int64)
    order = RowOrder(none, none) if accumulators.needs_order else None
    return accumulators.partial([pa.nulls(0) for _ in accumulators.inputs], Groups(none, count), order)
