"""Which keys of one side of a join have rows that are not in a complete checkpoint as they are.

Rows of a join are added at the end, some of what is noted of them changes in place, and some leave. All that is seen
at the next snapshot, by comparing what is noted of each row with what was noted at the last one; only of rows that leave in between
the keys have to be noted at once. Keys whose rows have changed are written anew, with all their rows.

Rows go to checkpoints by the key that is compared, which has a number (`Increments`); or, where that is not the key by which
they came to their worker, by that one, which has none (`StreamIncrements`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa

from millstream.batch import BoolArray, IntArray, Keys
from millstream.checkpoints.tables import Part
from millstream.state.pieces import CHANGED, NEVER, PieceArray, RowPieces, SlotPieces


class _Noted:
    """What was noted of rows at the last snapshot, of those that were there."""

    def __init__(self) -> None:
        self.done: BoolArray = np.zeros(0, np.bool_)
        self._notes: dict[str, IntArray] = {}

    def __len__(self) -> int:
        return len(self.done)

    def changed(self, done: BoolArray, notes: Mapping[str, IntArray]) -> BoolArray:
        """Of all rows, which are not as they were, and not done with for as long."""
        known = len(self)
        changed = ~done
        changed[:known] = done[:known] != self.done
        for column, before in self._notes.items():
            changed[:known] |= (notes[column][:known] != before) & ~done[:known]
        return changed

    def note(self, done: BoolArray, notes: Mapping[str, IntArray]) -> None:
        self.done, self._notes = done.copy(), {column: values.copy() for column, values in notes.items()}

    def keep(self, rows: IntArray) -> BoolArray:
        """Only these rows are left, in this order; returns which leave, of those that counted."""
        left = rows[rows < len(self)]  # ascending: only before the first snapshot are rows put in another order
        leaving = ~self.done
        leaving[left] = False
        self.done = self.done[left]
        self._notes = {name: values[left] for name, values in self._notes.items()}
        return leaving

    @property
    def nbytes(self) -> int:
        return self.done.nbytes + sum(v.nbytes for v in self._notes.values())


class Increments:
    """Of one side; keys are their numbers (`KeyIndex`)."""

    def __init__(self) -> None:
        self._pieces = SlotPieces()
        self._noted = _Noted()
        self._live: BoolArray = np.zeros(0, np.bool_)  # at the last snapshot, which keys had rows
        self._touched: BoolArray = np.zeros(0, np.bool_)  # of those, which have lost rows since

    def keep(self, rows: IntArray, key: IntArray) -> None:
        """Only these rows are left, in this order; ``key`` has the keys of all that there were."""
        known = len(self._noted)
        if known:
            self._touched[key[:known][self._noted.keep(rows)]] = True

    def keep_keys(self, live: IntArray, gone: IntArray, keys_of: Callable[[IntArray], pa.RecordBatch]) -> None:
        """Only these keys are left, ascending, and are numbered anew from 0; the others have no rows."""
        self._pieces.reach(len(live) + len(gone))
        self._pieces.freed(gone, keys_of)
        self._pieces.keep(live)
        known = live[live < len(self._live)]
        self._live, self._touched = self._live[known], self._touched[known]

    def snapshot(
        self,
        name: str,
        key: IntArray,
        keys: int,
        done: BoolArray,
        notes: Mapping[str, IntArray],
        keys_of: Callable[[IntArray], pa.RecordBatch],
        tables_of: Callable[[BoolArray], Iterable[tuple[Keys, pa.RecordBatch]]],
    ) -> list[Part]:
        """The rows that are not done with: what is on disk by its files, the rest as tables of this name.

        Args:
            key: of each row; there are so many ``keys``.
            notes: by name, what is noted of each row and may change.
            tables_of: the rows that are asked for.
        """
        changed = self._noted.changed(done, notes)
        touched, live = _of_keys(self._touched, keys), _of_keys(self._live, keys)
        touched[key[changed]] = True
        rows = touched[key] & ~done if touched.any() else touched[:0]
        if len(rows):
            live[touched] = False
            live[key[rows]] = True
        else:
            live &= ~touched
        self._pieces.reach(keys)
        if not self._pieces.empty:
            self._pieces.changed(np.flatnonzero(touched))
            self._pieces.freed(np.flatnonzero(touched & ~live), keys_of)
        self._live, self._touched = live, np.zeros(keys, np.bool_)
        self._noted.note(done, notes)

        def tables(asked: IntArray) -> Iterable[tuple[Keys, pa.RecordBatch]]:
            wanted = np.zeros(keys, np.bool_)
            wanted[asked] = True
            same = np.array_equal(wanted, touched & live)
            return tables_of(rows if same else wanted[key] & ~done)

        return self._pieces.snapshot_in_parts(name, live, keys_of, tables)

    @property
    def nbytes(self) -> int:
        return self._pieces.nbytes + self._noted.nbytes + self._live.nbytes + self._touched.nbytes


class StreamIncrements:
    """Of one side; keys are those of its stream.

    Args:
        keys_of: the keys of some rows, by their numbers.
    """

    def __init__(self, keys_of: Callable[[IntArray], Keys]) -> None:
        self._keys_of = keys_of
        self._pieces = RowPieces()
        self._noted = _Noted()
        self._piece: PieceArray = np.zeros(0, np.int32)

    def keep(self, rows: IntArray, key: IntArray) -> None:
        """Only these rows are left, in this order; called before the others are gone."""
        known = len(self._noted)
        if known:
            self._leave(np.flatnonzero(self._noted.keep(rows)))
            self._piece = self._piece[rows[rows < known]]

    def keep_keys(self, live: IntArray, gone: IntArray, keys_of: Callable[[IntArray], pa.RecordBatch]) -> None:
        """The keys that are compared get other numbers, which are not those that count here."""

    def snapshot(
        self, name: str, done: BoolArray, notes: Mapping[str, IntArray], rows_of: Callable[[IntArray], pa.RecordBatch]
    ) -> list[Part]:
        """The rows that are not done with: what is on disk by its files, the rest as tables of this name.

        Args:
            notes: by name, what is noted of each row and may change.
            rows_of: the columns of rows, by their numbers.
        """
        piece = np.full(len(done), NEVER, np.int32)
        piece[: len(self._piece)] = self._piece
        changed = self._noted.changed(done, notes)
        self._piece = piece
        self._leave(np.flatnonzero(changed & done))
        piece[changed & (piece != NEVER)] = CHANGED
        live = np.flatnonzero(~done)
        keys = self._keys_of(live)
        parts, piece[live] = self._pieces.snapshot(
            name, keys, piece[live], lambda rows: (keys.take(rows), rows_of(live[rows]))
        )
        self._noted.note(done, notes)
        return parts

    def _leave(self, rows: IntArray) -> None:
        if len(rows):
            self._pieces.left(self._keys_of(rows), self._piece[rows])
            self._piece[rows] = NEVER

    @property
    def nbytes(self) -> int:
        return self._piece.nbytes + self._noted.nbytes


def _of_keys(flags: BoolArray, keys: int) -> BoolArray:
    """The same with room for so many keys, which are at least as many."""
    result = np.zeros(keys, np.bool_)
    result[: len(flags)] = flags
    return result
