"""Rows that an operator remembers of each key: the last few, or those of the last while, columns and nothing else.

Operators that look back from a row at earlier rows of its key (sliding and count windows, lag and lead) keep
them here. Keys are numbered by a `KeyTable`; rows lie sorted by slot and, within it, in the order they came in, which
is that of event time. A batch of them is a `KeyRows`; `KeyHistory` keeps several, each at least twice the size of the
next, so that adding a batch costs a logarithm and reading touches only the keys that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import (
    Batch,
    BoolArray,
    IntArray,
    Keys,
    concat_columns,
    index_array,
    take_columns,
)
from millstream.checkpoints.tables import Saved, StateTable
from millstream.grouping import Groups, IndexArray
from millstream.operators.row_tables import fields_in, numbered_rows
from millstream.queries import Question
from millstream.ranges import ranges
from millstream.state.key_table import KeyTable
from millstream.times import MIN_US

ROWS_LOOKED_AT_EACH: Final = 32
"""How many remembered rows may be looked at for each new one before it is better to gather new ones."""

_NEARLY_ALL: Final = 0.8
_SLOTS_LEAST: Final = 1_024
_ASKED_AT_ONCE: Final = 256

_BESIDE: Final = ("time_us", "position", "number")


@dataclass(frozen=True)
class KeyRows:
    """Rows sorted by slot; those of one slot in the order they came.

    Attributes:
        slots: int64[n], the number of each row's key.
        time_us: int64[n], event time; of no meaning where rows have none.
        position: int64[n], the row's place in its source.
        number: int64[n], how many rows of the key came before it.
        columns: what is remembered of the rows.
        saved: where they lie on disk.
    """

    slots: IntArray
    time_us: IntArray
    position: IntArray
    number: IntArray
    columns: pa.RecordBatch
    saved: Saved = field(default_factory=Saved, compare=False)

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, rows: npt.NDArray[np.integer]) -> KeyRows:
        columns = take_columns(self.columns, index_array(rows))
        return KeyRows(self.slots[rows], self.time_us[rows], self.position[rows], self.number[rows], columns)

    def where(self, mask: BoolArray) -> KeyRows:
        return self if mask.all() else self.take(np.flatnonzero(mask))

    @cached_property
    def bounds(self) -> IndexArray:
        """Where each key starts, and the end of the last, intp[keys + 1]."""
        changes = np.flatnonzero(self.slots[1:] != self.slots[:-1]) + 1
        return np.concatenate([np.zeros(min(1, len(self.slots)), np.intp), changes, [len(self.slots)]])

    @cached_property
    def starts(self) -> IndexArray:
        """Where each row's key starts, intp[n]."""
        return np.repeat(self.bounds[:-1], np.diff(self.bounds))

    @cached_property
    def ends(self) -> IndexArray:
        """Where each row's key ends, intp[n]."""
        return np.repeat(self.bounds[1:], np.diff(self.bounds))

    @property
    def nbytes(self) -> int:
        beside = self.slots.nbytes + self.time_us.nbytes + self.position.nbytes + self.number.nbytes
        return beside + int(self.columns.nbytes)


def joined(parts: Sequence[KeyRows]) -> tuple[KeyRows, IndexArray]:
    """Several as one, rows of an earlier part before those of a later one.

    Returns:
        The rows, and for each the place that it had when all parts lay end to end.
    """
    if len(parts) == 1:
        return parts[0], np.arange(len(parts[0]))
    slots = np.concatenate([p.slots for p in parts])
    end_to_end = KeyRows(
        slots,
        np.concatenate([p.time_us for p in parts]),
        np.concatenate([p.position for p in parts]),
        np.concatenate([p.number for p in parts]),
        concat_columns([p.columns for p in parts]),
    )
    # Each part is sorted already: a stable sort merges them in linear time.
    order = np.argsort(slots, kind="stable")
    return end_to_end.take(order), order


class TimesByKey:
    """Finds rows by key and time, many at once."""

    def __init__(self, rows: KeyRows) -> None:
        self._starts = rows.starts
        self._lowest_us = int(rows.time_us.min(initial=0))
        span = int(rows.time_us.max(initial=0)) - self._lowest_us + 2
        self._known: IntArray | None = None
        times = rows.time_us - self._lowest_us
        if span * (len(rows) + 1) >= 2**62:
            # Times too far apart to stand beside the row number of a key in one integer: count the different ones.
            self._known, times = np.unique(rows.time_us, return_inverse=True)
            span = len(self._known) + 1
        self._span = span
        self._places = self._starts * span + times

    def first_from(self, starts: IndexArray, time_us: IntArray) -> IndexArray:
        """The first row with at least this time, of the key that starts there; if none, where the key ends."""
        if self._known is None:
            times = np.clip(time_us - self._lowest_us, 0, self._span - 1)
        else:
            times = np.searchsorted(self._known, time_us)
        return np.searchsorted(self._places, starts * self._span + times)


def sorted_by_key(batch: Batch, slots: IntArray, columns: pa.RecordBatch) -> tuple[KeyRows, IndexArray]:
    """A batch's rows, in the order of their keys' slots.

    Args:
        slots: of each row's key.
        columns: what is remembered of each row.
    Returns:
        The rows, numbered from 0 for each key, and for each the place that it had in the batch.
    """
    order = Groups(slots, int(slots.max(initial=0)) + 1).order
    nothing = np.zeros(len(slots), np.int64)
    time_us = nothing if batch.time_us is None else batch.time_us[order]
    position = nothing if batch.position is None else batch.position[order]
    rows = KeyRows(slots[order], time_us, position, nothing, take_columns(columns, index_array(order)))
    return replace(rows, number=np.arange(len(rows)) - rows.starts), order


class KeyHistory:
    """The rows of each key that may still be looked at.

    Args:
        last: how many rows of each key are kept; None: as many as `forget_before` leaves.
        together: a key's rows are of use in groups of so many, by their number, until the group is full.

    Attributes:
        levels: rows, the oldest first; of each key, all rows of a level come before those of the next.
        horizon_us: rows with an earlier time are of no use any more.
    """

    def __init__(self, last: int | None = None, together: int | None = None) -> None:
        self.last = last
        self.together = together
        self.keys = KeyTable()
        self.levels: list[KeyRows] = []
        self.horizon_us = MIN_US

    def of(self, slots: IntArray) -> KeyRows | None:
        """The rows of these slots (ascending, each once), perhaps of others, too, and some that are of no use any more."""
        found = self._parts(slots)
        return joined(found)[0] if found else None

    def followed_by(self, new: KeyRows) -> tuple[KeyRows, IndexArray, KeyRows]:
        """What is remembered of the keys of new rows, and the new rows behind it; nothing is added.

        Returns:
            All these rows, perhaps those of other keys, too; where among them the new ones are; and the new ones,
            numbered on.
        """
        old = self._parts(new.slots[new.bounds[:-1]])
        if not old:
            return new, np.arange(len(new)), new
        seen, order = joined([*old, new])
        at = np.flatnonzero(order >= sum(map(len, old)))
        first = at - new.number  # of the new rows of its key
        known = np.where(first > seen.starts[at], seen.number[first - 1] + 1, 0)
        seen.number[at] += known
        return seen, at, replace(new, number=new.number + known)

    def _parts(self, slots: IntArray) -> list[KeyRows]:
        found: list[KeyRows] = []
        for level in self.levels:
            first = np.searchsorted(level.slots, slots, "left")
            after = np.searchsorted(level.slots, slots, "right")
            count = int((after - first).sum())
            if count > _NEARLY_ALL * len(level):
                found.append(level)  # looking at a few more rows costs less than taking the others out
            elif count:
                part = level.take(ranges(first, np.maximum(after - first, 0)))
                found.append(part.where(part.time_us >= self.horizon_us))
        return found

    def asked(self, question: Question) -> Iterator[KeyRows]:
        """The rows of the keys that are asked for and have any, some keys at a time."""
        slots = self.keys.live() if question.keys is None else self.keys.asked(question)
        for start in range(0, len(slots), _ASKED_AT_ONCE):
            some = slots[start : start + _ASKED_AT_ONCE]
            found = self.of(some)
            if found is not None:
                rows = self._of_use(found.where(np.isin(found.slots, some)), bottom=True)
                if len(rows):
                    yield rows

    def add(self, rows: KeyRows) -> None:
        """Remember rows that come behind all that are here."""
        rows = self._of_use(rows, bottom=not self.levels)
        if len(rows):
            self.levels.append(rows)
        while len(self.levels) > 1 and len(self.levels[-2]) <= 2 * len(self.levels[-1]):
            merged, _ = joined(self.levels[-2:])
            self.levels[-2:] = [self._of_use(merged, bottom=len(self.levels) == 2)]
        self.levels = [level for level in self.levels if len(level)]
        self._free_slots()

    def forget_before(self, horizon_us: int) -> None:
        """Rows with an earlier time are of no use any more; the memory of keys without rows returns."""
        self.horizon_us = horizon_us
        self.levels = [level for level in self.levels if int(level.time_us.max()) >= horizon_us]
        self._free_slots()

    def _free_slots(self) -> None:
        if len(self.keys) > max(_SLOTS_LEAST, 2 * self.rows):
            self._renumber()

    def all_rows(self) -> KeyRows | None:
        """Everything, as one."""
        if not self.levels:
            return None
        self.levels = [self._of_use(joined(self.levels)[0], bottom=True)]
        return self.levels[0]

    def clear(self) -> None:
        self.levels, self.keys = [], KeyTable()

    # --- checkpoints ---

    def snapshot(self, name: str) -> list[StateTable]:
        """What is remembered, a table for each level."""
        if not self.levels:
            return []
        distinct = self.keys.keys(self.keys.live())
        return [_as_table(name, level, distinct) for level in self.levels]

    def restore(self, tables: Sequence[StateTable]) -> None:
        """Remember what histories before remembered."""
        parts: list[KeyRows] = []
        for table in tables:
            if table.keys is not None and table.num_rows:
                time_us, position, number = (table.columns.column(n).to_numpy() for n in _BESIDE)
                slots = self.keys.slots_of(table.keys)
                order = np.lexsort((number, position, time_us, slots))
                parts.append(KeyRows(slots, time_us, position, number, fields_in(table.columns)).take(order))
        if parts:
            merged, _ = joined(parts)
            order = np.lexsort((merged.number, merged.position, merged.time_us, merged.slots))
            self.levels = [merged.take(order)]

    @property
    def rows(self) -> int:
        return sum(map(len, self.levels))

    @property
    def nbytes(self) -> int:
        return sum(level.nbytes for level in self.levels) + self.keys.nbytes

    def _of_use(self, rows: KeyRows, bottom: bool) -> KeyRows:
        """Args:
        bottom: no older rows lie below.
        """
        useful = rows.time_us >= self.horizon_us
        if self.last is not None:
            useful &= rows.ends - np.arange(len(rows)) <= self.last
        if self.together is not None:
            begun = (rows.number[rows.ends - 1] + 1) // self.together
            useful &= rows.number // self.together == begun
            if not bottom:
                # The last row of a key tells that older ones below it are done with.
                useful |= np.arange(len(rows)) + 1 == rows.ends
        return rows.where(useful)

    def _renumber(self) -> None:
        live = np.unique(np.concatenate([level.slots for level in self.levels] or [np.zeros(0, np.int64)]))
        kept, self.keys = self.keys.keys(live), KeyTable()
        self.keys.add(kept)  # which numbers them from 0, in this order
        for at, level in enumerate(self.levels):
            slots = np.searchsorted(live, level.slots)  # in the same order as before: the level stays sorted
            self.levels[at] = replace(level, slots=slots)


def _as_table(name: str, level: KeyRows, distinct: pa.RecordBatch) -> StateTable:
    notes = dict(zip(_BESIDE, (level.time_us, level.position, level.number), strict=True))
    return StateTable(
        name, Keys(distinct, level.slots.astype(np.int32)), numbered_rows(notes, level.columns), level.saved
    )
