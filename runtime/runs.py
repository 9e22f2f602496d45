"""Columnar state: runs of (index, key) groups with their accumulators, merged a few at a time.

A run is what one batch was reduced to: a row for each (window, key) it touched. Runs are appended and
later merged, as in a log-structured merge tree (O'Neil et al., 1996), so that adding a batch costs the
same however many keys there are, no key is looked up one by one, and what falls due is a prefix of
every run because runs are sorted by index. Memory follows the live groups: rows that were taken are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.accumulators import AccumulatorSet, Column, concat, nbytes, take
from millstream.batch import IntArray, Keys, concat_columns, index_array, make_columns
from millstream.checkpoints.tables import Saved
from millstream.few_repeats import numbered
from millstream.grouping import CodeArray, Groups, distinct_keys, group_codes

_RUNS_KEPT: Final = 48
_ROWS_KEPT: Final = 1 << 17
ROWS_APART: Final = 1 << 12
"""A part of a run that is smaller costs more as a batch of its own than to merge with its neighbours."""


@dataclass(frozen=True, slots=True)
class Run:
    """Groups sorted by index, each (index, key) at most once.

    Attributes:
        index: int64[n], ascending: the window (or slice of one) of each group.
        keys: the key of each group.
        columns: the accumulators, one row for each group.
        saved: where the run lies on disk, or that of which it is a slice; first: where it begins in that.
    """

    index: IntArray
    keys: Keys
    columns: list[Column]
    saved: Saved = field(default_factory=Saved, compare=False)
    first: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def slice(self, start: int, stop: int) -> Run:
        keys = Keys(self.keys.distinct, self.keys.codes[start:stop])
        columns = [c[start:stop] for c in self.columns]
        return Run(self.index[start:stop], keys, columns, self.saved, self.first + start)

    def take(self, rows: npt.NDArray[np.integer]) -> Run:
        return Run(self.index[rows], self.keys.take(rows), [take(c, rows) for c in self.columns])

    def split(self, limit: int) -> tuple[Run, Run]:
        """The groups with index < limit, and the others."""
        at = int(np.searchsorted(self.index, limit))
        return self.slice(0, at), self.slice(at, len(self))

    def between(self, start: int, stop: int) -> Run:
        """The groups with start <= index < stop."""
        first, end = np.searchsorted(self.index, [start, stop]).tolist()
        return self if end - first == len(self) else self.slice(first, end)

    def compact(self) -> Run:
        """The same groups without the memory of those that were in front of them, once most have gone."""
        if 2 * len(self) > self.keys.distinct.num_rows:
            return self
        return replace(self.take(np.arange(len(self))), keys=trimmed(self.keys))

    @property
    def nbytes(self) -> int:
        return (
            self.index.nbytes + self.keys.codes.nbytes + int(self.keys.distinct.nbytes) + sum(map(nbytes, self.columns))
        )


def unify_keys(parts: Sequence[Keys]) -> Keys:
    """The keys of several runs in one numbering."""
    if len({id(p.distinct) for p in parts}) == 1:
        return Keys(parts[0].distinct, np.concatenate([p.codes for p in parts]) if len(parts) > 1 else parts[0].codes)
    parts = [trimmed(p) for p in parts]
    sets = {id(p.distinct): p.distinct for p in parts}
    together = concat_columns(list(sets.values()))
    codes, columns = distinct_keys(together.columns)
    distinct = make_columns(together.schema.names, columns)
    ends = np.cumsum([s.num_rows for s in sets.values()])
    renumbered = dict(zip(sets, np.split(codes, ends[:-1]), strict=True))
    merged = np.concatenate([renumbered[id(p.distinct)][p.codes] for p in parts])
    return trimmed(Keys(distinct, merged.astype(np.int32, copy=False)))


def trimmed(keys: Keys) -> Keys:
    """The same keys without those of no row, where these are most: memory follows live keys."""
    used = np.zeros(keys.distinct.num_rows, np.bool_)
    used[keys.codes] = True
    count = int(used.sum())
    if 2 * count >= len(used):
        return keys
    number = (np.cumsum(used) - 1).astype(np.int32)
    return Keys(keys.distinct.take(index_array(np.flatnonzero(used))), number[keys.codes])


def index_codes(index: IntArray) -> tuple[CodeArray, int, int]:
    """Window indices as small codes: (codes, cardinality, lowest index)."""
    if len(index) == 0:
        return np.zeros(0, np.int32), 1, 0
    low = int(index.min())
    span = int(index.max()) - low + 1
    relative = index - low
    return (relative.astype(np.int32) if span < 2**31 else relative), span, low


def sort_run(run: Run) -> Run:
    if len(run) < 2 or (run.index[1:] >= run.index[:-1]).all():
        return run
    codes, span, _ = index_codes(run.index)
    # NumPy sorts stably by radix only up to 16 bits, several times faster than by timsort.
    return run.take(np.argsort(codes.astype(np.uint16) if span <= 1 << 16 else codes, kind="stable"))


def group_run(index: IntArray, keys: Keys) -> tuple[Groups, IntArray, Keys]:
    """Group rows by (index, key): the groups, and the index and key of each."""
    codes, span, _ = index_codes(index)
    rows, distinct = len(index), max(1, keys.distinct.num_rows)
    among = np.flatnonzero(np.bincount(keys.codes)[keys.codes] > 1) if 2 * distinct > rows else None
    if among is None or 2 * len(among) > rows:
        groups, first = group_codes([(codes, span), (keys.codes, distinct)])
    else:
        # A row whose key no other has is a group, whatever its window: that is nearly every row where keys hardly repeat.
        few, few_first = group_codes([(codes[among], span), (keys.codes[among], distinct)])
        first_row = among[few_first[few.codes]]
        later = first_row != among
        of_each, first = numbered(rows, among[later], first_row[later])
        groups = Groups(of_each, len(first))
    return groups, index[first], keys.take(first)


def merge_runs(runs: Sequence[Run], accumulators: AccumulatorSet) -> Run:
    """One run of several: groups that are in more than one are combined."""
    if len(runs) == 1:
        return runs[0]
    keys = unify_keys([r.keys for r in runs])
    index = np.concatenate([r.index for r in runs])
    columns = [concat(parts) for parts in zip(*(r.columns for r in runs), strict=True)]
    return combine(Run(index, keys, columns), accumulators)


def merge_overlaps(runs: Sequence[Run], accumulators: AccumulatorSet, apart: int = ROWS_APART) -> list[Run]:
    """Several runs as runs that share no index, in ascending order: what only one of them has is left as it is.

    To merge means to hash keys. Of runs that follow one another in time only the ends have indices in common.

    Args:
        apart: how many groups of its own a run must have for these not to be merged with their neighbours.
    """
    lowest = np.array([r.index[0] for r in runs])
    beyond = np.array([r.index[-1] + 1 for r in runs])
    bounds = np.unique(np.concatenate([lowest, beyond]))
    inside = (lowest <= bounds[:-1, None]) & (beyond >= bounds[1:, None])
    found: list[Run] = []
    shared: list[Run] = []

    def merge_shared() -> None:
        if shared:
            found.append(merge_runs(shared, accumulators))
            shared.clear()

    for start, stop, covers in zip(bounds[:-1].tolist(), bounds[1:].tolist(), inside, strict=True):
        parts = [part for i in np.flatnonzero(covers).tolist() if len(part := runs[i].between(start, stop))]
        if len(parts) == 1 and len(parts[0]) >= apart:
            merge_shared()
            found += parts
        else:
            shared += parts
    merge_shared()
    return found


def combine(rows: Run, accumulators: AccumulatorSet) -> Run:
    """A run of rows in any order in which a group may be there several times."""
    groups, index, keys = group_run(rows.index, rows.keys)
    if groups.count == len(rows):
        return sort_run(rows)
    return sort_run(Run(index, keys, accumulators.combine(rows.columns, groups)))


def first_small(sizes: Sequence[int]) -> int:
    """Where among these sizes those begin that go together: the newer half, and those before it that are no larger."""
    at = len(sizes) // 2
    behind = sum(sizes[at:])
    while at and sizes[at - 1] <= behind:
        at -= 1
        behind += sizes[at]
    return at


class RunStore:
    """Runs in the order they came, merged when they get many."""

    def __init__(self, accumulators: AccumulatorSet) -> None:
        self.accumulators = accumulators
        self.runs: list[Run] = []
        self._merged_rows = 0

    def add(self, run: Run) -> None:
        if len(run) == 0:
            return
        self.runs.append(run)
        if len(self.runs) > 4 and self.rows > max(_ROWS_KEPT, 2 * self._merged_rows):
            self.runs = [merge_runs(self.runs, self.accumulators)]
            self._merged_rows = len(self.runs[0])
        elif len(self.runs) > _RUNS_KEPT:
            # Large runs stay as they are, and need not be written again, until as much is behind them.
            at = first_small([len(r) for r in self.runs])
            self.runs[at:] = [merge_runs(self.runs[at:], self.accumulators)]

    def take_below(self, limit: int) -> list[Run]:
        """Remove and return the groups with index < limit."""
        due: list[Run] = []
        left: list[Run] = []
        for run in self.runs:
            below, above = run.split(limit)
            if len(below):
                due.append(below)
            if len(above):
                left.append(above.compact() if len(below) else above)
        self.runs = left
        return due

    def drop_below(self, limit: int) -> None:
        if self.runs:
            self.take_below(limit)

    def lowest(self) -> int | None:
        return min((int(r.index[0]) for r in self.runs), default=None)

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in self.runs)
