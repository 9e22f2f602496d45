"""The different values of each key, for `count_distinct` without windows: a hash table of (slot of the key, value).

A batch costs a look-up for each different pair in it, however many values a key has. Where rows can be taken back, every
pair has the number of its rows, and goes with the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.accumulators import retype
from millstream.accumulators.columns import Input
from millstream.accumulators.distinct import DistinctCount
from millstream.batch import Array, IntArray, index_array, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.grouping import factorize, group_codes, raw_values
from millstream.state.columns import grown
from millstream.state.key_table import KeyTable


class DistinctValues:
    """The values of one input.

    Args:
        name: of the table in checkpoints.
        signed: whether rows are taken back.
    """

    def __init__(self, name: str, signed: bool) -> None:
        self.name = name
        self._signed = signed
        self._pairs = KeyTable()
        self._rows: IntArray = np.zeros(0, np.int64)  # of each pair, where signed
        self._type: pa.DataType | None = None
        self._fewer: IntArray = np.zeros(0, np.int64)  # by slot of the key: values that have become one by widening

    def add(self, slots: IntArray, values: Input, part: DistinctCount) -> IntArray:
        """Take the values of a batch; returns by how much the number of values changes for each key, int64[groups].

        Args:
            slots: of the keys, by group.
            values: grouped by key; nulls do not count.
        """
        array = retype(values.array, part.type)
        if self._type != part.type:
            self._widen(part.type)
        codes, first = factorize([array])
        pairs, rows = group_codes([(values.groups.codes, values.groups.count), (codes, len(first))])
        totals = pairs.sizes
        if values.sign is not None:
            totals = np.zeros(pairs.count, np.int64)
            np.add.at(totals, pairs.codes, values.sign)
            rows, totals = rows[totals != 0], totals[totals != 0]
        groups = values.groups.codes[rows]
        change = np.zeros(values.groups.count, np.int64)
        np.add.at(change, groups, self._add(slots[groups], array.take(index_array(rows)), totals))
        return change - self._take_fewer(slots)

    def clear(self) -> None:
        self._pairs, self._rows = KeyTable(), np.zeros(0, np.int64)

    @property
    def nbytes(self) -> int:
        return self._pairs.nbytes + self._rows.nbytes + self._fewer.nbytes

    def _add(self, slots: IntArray, values: Array, totals: IntArray) -> IntArray:
        """Add so many rows of pairs, each given once; returns 1 for those that are there now, -1 for those that went."""
        pairs = make_columns(["slot", "value"], [pa.array(slots), values])
        at, new = self._pairs.add(pairs, come_again=False)  # some are new nearly always
        if not self._signed:
            return new.astype(np.int64)
        self._rows = grown(self._rows, self._pairs.capacity)
        before = self._rows[at]
        after = before + totals
        self._rows[at] = after
        self._pairs.free(at[after == 0])
        return (after > 0).astype(np.int64) - (before > 0)

    # --- types ---

    def _widen(self, kind: pa.DataType) -> None:
        """Keep values of another type: whole numbers become doubles, say, of which fewer may be different."""
        held = self._all()
        self._type = kind
        if held is None:
            return
        slots, values, totals = held
        self.clear()
        values = retype(values, kind)
        codes, first = factorize([values])
        keys, slot_first = factorize([pa.array(slots)])
        pairs, rows = group_codes([(keys, len(slot_first)), (codes, len(first))])
        together = np.zeros(pairs.count, np.int64)
        np.add.at(together, pairs.codes, totals)
        self._add(slots[rows], values.take(index_array(rows)), together)
        self._fewer = grown(self._fewer, int(slots.max()) + 1)
        np.add.at(self._fewer, slots, 1)
        np.add.at(self._fewer, slots[rows], -1)

    def _take_fewer(self, slots: IntArray) -> IntArray:
        """What widening has taken of these keys, once."""
        if not self._fewer.any():
            return np.zeros(len(slots), np.int64)
        self._fewer = grown(self._fewer, int(slots.max()) + 1)
        fewer = self._fewer[slots]
        self._fewer[slots] = 0
        return fewer

    # --- checkpoints ---

    def _all(self) -> tuple[IntArray, Array, IntArray] | None:
        """Slot of the key, value and number of rows of each pair, by slot; None: there are none."""
        at = self._pairs.live()
        if not len(at):
            return None
        slots, values = self._pairs.keys(at).columns
        order = np.argsort(raw_values(slots), kind="stable")
        totals = self._rows[at] if self._signed else np.ones(len(at), np.int64)
        return raw_values(slots)[order], values.take(index_array(order)), totals[order]

    def snapshot(self, keys: KeyTable) -> list[StateTable]:
        """A row for each value of a key, with the number of its rows where rows are taken back."""
        held = self._all()
        if held is None:
            return []
        slots, values, totals = held
        distinct, counts = np.unique(slots, return_counts=True)
        columns = make_columns(["value", "rows"], [values, pa.array(totals)])
        return [StateTable(self.name, keys.row_keys(distinct, counts), columns)]

    def restore(self, tables: Sequence[StateTable], keys: KeyTable) -> None:
        """Take what there was before; the keys have their slots already."""
        for table in tables:
            if table.name == self.name and table.keys is not None and table.num_rows:
                values, totals = table.columns.columns
                self._type = values.type
                self._add(keys.slots_of(table.keys), values, raw_values(totals))
