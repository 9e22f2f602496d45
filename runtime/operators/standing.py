"""What stands for each key: the accumulators of an aggregation without windows, columns by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, concat
from millstream.batch import BoolArray, IntArray, Keys, make_columns
from millstream.checkpoints.tables import Part, StateTable
from millstream.grouping import Groups
from millstream.operators.accumulator_tables import AccumulatorTables
from millstream.state.columns import SlotColumn, grown
from millstream.state.key_table import KeyTable
from millstream.times import MIN_US

STANDING: Final = "standing"
"""The name of its tables, of which it takes later ones in the place of earlier ones by itself."""
_TIME: Final = "time_us"


class Merged(NamedTuple):
    """What became of some keys.

    Attributes:
        slots: of the keys.
        known: the keys (rows) that were there before.
        held: the accumulators of those, as they were, and held_us their times.
        columns: the accumulators of all, as they are now, and time_us their times.
    """

    slots: IntArray
    known: IntArray
    held: list[Column]
    held_us: IntArray
    columns: list[Column]
    time_us: IntArray


class Standing:
    """Accumulators by key, and the largest event time of each key's rows.

    Attributes:
        keys: their slots.
        time_us: by slot; `MIN_US` where nothing stands.
    """

    def __init__(self) -> None:
        self.keys = KeyTable()
        self.columns: list[SlotColumn] = []
        self.time_us: IntArray = np.zeros(0, np.int64)

    def merge(
        self, slots: IntArray, new: BoolArray, partial: list[Column], time_us: IntArray, accumulators: AccumulatorSet
    ) -> Merged:
        """Merge a row for each of these keys into what stands.

        Args:
            slots: of keys, each at most once; new: which of them have just been added.
            partial: their accumulators, for some rows.
            time_us: the largest time of those.
        """
        known = np.flatnonzero(~new)
        held, held_us = list[Column](), np.zeros(0, np.int64)
        if len(known):
            held, held_us = self.take(slots[known]), self.time_us[slots[known]]
            groups = Groups(np.concatenate([np.arange(len(slots)), known]), len(slots))
            partial = accumulators.combine([concat([p, h]) for p, h in zip(partial, held, strict=True)], groups)
            time_us = time_us.copy()
            time_us[known] = np.maximum(time_us[known], held_us)
        self.put(slots, partial, time_us)
        return Merged(slots, known, held, held_us, partial, time_us)

    def take(self, slots: IntArray) -> list[Column]:
        return [c.take(slots) for c in self.columns]

    def put(self, slots: IntArray, columns: list[Column], time_us: IntArray) -> None:
        self.keys.changed(slots)
        self.columns = self.columns or [SlotColumn() for _ in columns]
        for state, values in zip(self.columns, columns, strict=True):
            state.put(slots, values, self.keys.room)
        self.time_us = grown(self.time_us, self.keys.room, MIN_US)
        self.time_us[slots] = time_us

    def free(self, slots: IntArray) -> None:
        self.keys.free(slots)
        self.time_us[slots] = MIN_US
        for state in self.columns:
            state.forget(slots)

    def snapshot(self, tables: AccumulatorTables) -> list[Part]:
        """A row for each key."""

        def rows_of(slots: IntArray) -> tuple[Keys, pa.RecordBatch]:
            arrays = {_TIME: pa.array(self.time_us[slots]), **tables.columns(self.take(slots))}
            return self.keys.row_keys(slots), make_columns(list(arrays), list(arrays.values()))

        return self.keys.snapshot(STANDING, rows_of)

    def restore(self, tables: Sequence[StateTable], from_table: AccumulatorTables) -> None:
        """Take what stood before."""

        def put(slots: IntArray, rows: StateTable) -> None:
            self.put(slots, from_table.from_table(rows), rows.columns.column(_TIME).to_numpy())

        self.keys.restore([table for table in tables if table.name == STANDING], put, self.free)

    def figures(self) -> dict[str, int]:
        state_bytes = self.keys.nbytes + self.time_us.nbytes + sum(c.nbytes for c in self.columns)
        return {"keys": len(self.keys), "state_bytes": state_bytes}


def latest(groups: Groups, time_us: IntArray | None) -> IntArray:
    """The largest time of each group's rows; without event time all are alike."""
    result = np.full(groups.count, MIN_US)
    if time_us is not None:
        np.maximum.at(result, groups.codes, time_us)
    return result


def live_rows(accumulators: AccumulatorSet, columns: list[Column]) -> BoolArray | None:
    """Which keys have rows left; None: all."""
    if not accumulators.retractable:
        return None
    left = accumulators.left(columns)
    return None if left.all() else left
