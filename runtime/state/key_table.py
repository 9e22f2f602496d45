"""A number for every key, and the key for every number.

Keys are found by their 64-bit hashes (runtime/keys.py, state/hash_table.py) and compared themselves, so two keys of
one hash stay two. A number, the slot, is reused when its key has been freed. The keys are columns by slot: there is no
Python object for each of them, but for some that come often in small batches, where a dict is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.accumulators import as_column, to_arrow
from millstream.batch import Array, BoolArray, CodeArray, IntArray, Keys, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.grouping import IndexArray
from millstream.keys import HashArray, hash_keys
from millstream.operators.scan import key_values
from millstream.queries import Question
from millstream.state.columns import SlotColumn, grown
from millstream.state.hash_table import HashTable
from millstream.state.pieces import RowsOf, SlotPieces

_SMALL_BATCH: Final = 256  # above, looking each key up in a dict takes longer
_REMEMBERED: Final = 1 << 15
_ROWS_AT_ONCE: Final = 1 << 19
"""Of a table that is restored: what is made of them on the way stays in caches, and its memory is used again."""

PutRows = Callable[[IntArray, StateTable], None]


class KeyTable:
    """Slots for keys, from 0; those of freed keys are given out again before new ones.

    Attributes:
        capacity: all slots are below it.
        room: for so many slots columns by slot should have room; they may have more.
    """

    def __init__(self) -> None:
        self.capacity = 0
        self.room = 0
        self._names: list[str] = []
        self._columns: list[SlotColumn] = []
        self._hashes: HashArray = np.zeros(0, np.uint64)
        self._live: BoolArray = np.zeros(0, np.bool_)
        self._free: IntArray = np.zeros(0, np.int64)
        self._table = HashTable()
        self._remembered: dict[Any, int] = {}
        self._pieces = SlotPieces()

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def reserve(self, keys: int) -> None:
        """So many keys are about to be added: what grows by and by touches all of its memory several times."""
        self.room = self.capacity + keys + keys // 8  # some more are likely to follow

    def find(self, keys: pa.RecordBatch) -> IntArray:
        """The slot of each key, -1 for one that has none, int64[n]."""
        hashes = hash_keys(keys.columns)
        return self._find(keys, hashes, self._table.in_order(hashes))

    def asked(self, question: Question) -> IntArray:
        """The slots of the keys that are asked for, ascending; of all, no more than one beyond what an answer has."""
        wanted = question.of(self.keys(np.zeros(0, np.int64)).schema) if self._columns else None
        if wanted is None:
            return self.live()[: question.most + 1]
        slots = np.unique(self.find(wanted))
        return slots[slots >= 0]

    def add(self, keys: pa.RecordBatch, *, come_again: bool = True) -> tuple[IntArray, BoolArray]:
        """The slot of each key; keys that have none get one.

        Args:
            keys: each at most once.
            come_again: whether small batches are likely to hold the same keys as those before.
        Returns:
            The slots, int64[n], and which of them are new, bool[n].
        """
        if come_again and keys.num_rows <= _SMALL_BATCH:
            return self._add_few(keys)
        return self._add(keys)

    def _add_few(self, keys: pa.RecordBatch) -> tuple[IntArray, BoolArray]:
        values = key_values(keys)
        recall = self._remembered.get
        slots = np.fromiter((recall(v, -1) for v in values), np.int64, len(values))
        if not (slots < 0).any():
            return slots, np.zeros(len(slots), np.bool_)
        slots, new = self._add(keys)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.clear()
        self._remembered.update(zip(values, slots.tolist(), strict=True))
        return slots, new

    def _add(self, keys: pa.RecordBatch) -> tuple[IntArray, BoolArray]:
        hashes = hash_keys(keys.columns)
        order = self._table.in_order(hashes)
        slots = self._find(keys, hashes, order)
        new = slots < 0
        rows = np.flatnonzero(new)
        if len(rows):
            slots[rows] = given = self._give(len(rows))
            self._hashes[given] = hashes[rows]
            self._live[given] = True
            self._store(given, keys if len(rows) == keys.num_rows else keys.take(index_array(rows)))
            if self._table.has_room(len(rows)):
                self._table.insert(self._hashes, slots[order[new[order]]])
            else:
                self._table.rebuild(self._hashes, self.live(), self.room)  # with the new ones
        return slots, new

    def slots_of(self, keys: Keys) -> IntArray:
        """The slot of each row's key, int64[n]; keys that have none get one, keys of no row do not."""
        if keys.one_each:
            return self.add(keys.used())[0]
        used = np.zeros(keys.distinct.num_rows, np.bool_)
        used[keys.codes] = True
        codes = np.flatnonzero(used)
        of_code = np.full(len(used), -1)
        of_code[codes], _ = self.add(
            keys.distinct if len(codes) == len(used) else keys.distinct.take(index_array(codes))
        )
        return of_code[keys.codes]

    def row_keys(self, slots: IntArray, counts: IntArray | None = None) -> Keys:
        """The keys of rows: one of each of these slots, or so many."""
        codes: CodeArray = np.arange(len(slots), dtype=np.int32)
        return Keys(self.keys(slots), codes if counts is None else np.repeat(codes, counts))

    def keys(self, slots: IntArray) -> pa.RecordBatch:
        """The keys of these slots."""
        return make_columns(self._names, [to_arrow(c.take(slots)) for c in self._columns])

    def free(self, slots: IntArray) -> None:
        """Forget the keys of these slots, each given once."""
        if len(slots) == 0:
            return
        self._remembered.clear()
        self._pieces.freed(slots, self.keys)
        self._table.remove(self._hashes, slots)
        self._live[slots] = False
        self._free = np.concatenate([self._free, slots])
        for column in self._columns:
            column.forget(slots)

    def live(self) -> IntArray:
        """All slots that have a key, ascending."""
        return np.flatnonzero(self._live[: self.capacity])

    # --- checkpoints ---

    def changed(self, slots: IntArray) -> None:
        """What an operator keeps by these slots is not what it was: the next snapshot has it anew."""
        self._pieces.changed(slots)

    def restore(
        self, tables: Sequence[StateTable], put: PutRows, free: Callable[[IntArray], None] | None = None
    ) -> None:
        """Take up what snapshots wrote, table by table: later ones replace or remove rows of earlier ones.

        What is not changed afterwards is not written again.

        Args:
            tables: with a row for each key at most.
            put: keeps the rows of slots, whatever these had before.
            free: lets go of slots, and calls `free`; None: that is all there is to do.
        """
        self.reserve(sum(table.num_rows for table in tables if table.change != "removes"))
        for table in tables:
            slots = [np.zeros(0, np.int64)]
            for first in range(0, table.num_rows, _ROWS_AT_ONCE):
                rows = table.slice(first, min(_ROWS_AT_ONCE, table.num_rows - first))
                assert rows.keys is not None
                if table.change == "removes":
                    gone = self.find(rows.keys.used())
                    (free or self.free)(gone[gone >= 0])
                else:
                    slots.append(self.slots_of(rows.keys))
                    put(slots[-1], rows)
            self._pieces.restored(table, np.concatenate(slots))

    def snapshot(self, name: str, rows_of: RowsOf) -> list[Part]:
        """The rows that an operator keeps by slot, those of them as tables that have changed since the last checkpoint."""
        return self._pieces.snapshot(name, self._live[: self.capacity], rows_of)

    def forget_snapshots(self) -> None:
        """The next snapshot has all rows, as if it were the first."""
        self._pieces.forget()

    @property
    def nbytes(self) -> int:
        beside = self._hashes.nbytes + self._table.nbytes + self._free.nbytes + self._live.nbytes + self._pieces.nbytes
        return beside + sum(c.nbytes for c in self._columns)

    # --- looking up ---

    def _find(self, keys: pa.RecordBatch, hashes: HashArray, rows: IndexArray) -> IntArray:
        if not self.capacity:
            return np.full(len(hashes), -1)
        return self._table.find(self._hashes, hashes, rows, lambda slots, rows: self._equal(slots, keys, rows))

    def _equal(self, slots: IntArray, keys: pa.RecordBatch, rows: IndexArray) -> BoolArray:
        result = np.ones(len(rows), np.bool_)
        for held, given in zip(self._columns, keys.columns, strict=True):
            mine, theirs = held.take(slots), as_column(given)
            if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray) and mine.dtype.kind in "iu":
                result &= mine == theirs[rows]
            else:
                result &= equal_values(to_arrow(mine), given.take(index_array(rows)))
        return result

    # --- slots ---

    def _give(self, count: int) -> IntArray:
        reused, self._free = self._free[:count], self._free[count:]
        fresh = np.arange(self.capacity, self.capacity + count - len(reused))
        self.capacity += len(fresh)
        self.room = max(self.room, self.capacity)
        self._hashes = grown(self._hashes, self.room)
        self._live = grown(self._live, self.room)
        self._pieces.reach(self.room)
        return np.concatenate([reused, fresh])

    def _store(self, slots: IntArray, keys: pa.RecordBatch) -> None:
        if not self._columns:
            self._names = keys.schema.names
            self._columns = [SlotColumn() for _ in keys.columns]
        for column, values in zip(self._columns, keys.columns, strict=True):
            column.put(slots, as_column(values), self.room)


def equal_values(a: Array, b: Array) -> BoolArray:
    """Row by row, whether two columns hold the same key: null equals null, NaN equals NaN."""
    if pa.types.is_null(a.type) or pa.types.is_null(b.type):
        both: BoolArray = (a.is_null() if pa.types.is_null(b.type) else b.is_null()).to_numpy(zero_copy_only=False)
        return both
    equal = pc.equal(a, b)
    if pa.types.is_floating(a.type) and pa.types.is_floating(b.type):
        equal = pc.or_(equal, pc.and_(pc.is_nan(a), pc.is_nan(b)))
    result: BoolArray = equal.fill_null(False).to_numpy(zero_copy_only=False)
    if a.null_count and b.null_count:
        result = result | (a.is_null().to_numpy(zero_copy_only=False) & b.is_null().to_numpy(zero_copy_only=False))
    return result
