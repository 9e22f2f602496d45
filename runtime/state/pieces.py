"""State by key in checkpoints: what has changed since the last one, as one more piece beside those that are on disk.

For each slot it is known in which piece its rows lie (`SlotPieces`), for each row where rows have no slots (`RowPieces`), and
for each piece of Python state which keys are in it (`KeyPieces`), so a snapshot costs what has changed and not what there is.
A piece takes the place of the rows that earlier ones have for the same keys, and may say which keys are gone. Small pieces
are written again as one when there are many, and all of them when most of what they hold does not count any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import ref

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import (
    EMPTY_COLUMNS,
    BoolArray,
    CodeArray,
    IntArray,
    Keys,
    concat_columns,
    index_array,
    make_columns,
    take_columns,
)
from millstream.checkpoints.manifest import Change
from millstream.checkpoints.tables import Part, Pause, PendingTable, Saved, StateTable
from millstream.runs import first_small, unify_keys
from millstream.state.columns import grown
from millstream.state.frozen import CHUNK_KEYS, Frozen

S = TypeVar("S")
E = TypeVar("E")

NEVER: Final = -1
"""In no piece."""
CHANGED: Final = -2
"""In a piece, but not as it is now."""
_PIECES_KEPT: Final = 24
_SPARE_KEYS: Final = 4_096
_MOST_BINARY_BYTES: Final = 1 << 31

PieceArray = npt.NDArray[np.int32]
"""By slot or row, the number of its piece, or `NEVER` or `CHANGED`."""

KeyedRows = tuple[Keys, pa.RecordBatch]
"""Rows: the key of each, and the rest."""

RowsOf = Callable[[IntArray], KeyedRows]
"""The rows of some slots."""

KeysOf = Callable[[IntArray], pa.RecordBatch]
"""The keys of some slots."""


class _TablesOf(Protocol):
    def __call__(self, slots: IntArray, gone: list[pa.RecordBatch], *, first: bool) -> Iterable[StateTable]:
        """The tables of a piece: rows of slots, and keys that are gone; ``first``: there is no other piece."""


class _TablesOfKeys(Protocol):
    def __call__(
        self, there: Collection[Any], gone: list[Any], change: Change, /
    ) -> Sequence[StateTable | PendingTable]:  # fmt: skip
        """The tables of a piece: what keys that are there have now, and keys that are gone."""


@dataclass(slots=True)
class _Piece:
    """What one snapshot wrote.

    Attributes:
        saved: of each of its tables, with the number of rows.
        size: how many keys it has rows of, or says are gone.
        gone: keys that earlier pieces have and that are not there any more.
        keys: those that it says something about; of the first piece, which says all, they are not kept.
    """

    number: int
    saved: list[tuple[Saved, int]]
    size: int
    gone: list[pa.RecordBatch] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)

    def on_disk(self) -> list[Part] | None:
        """Where its tables are; None where some of them are in no complete checkpoint."""
        files = [saved.part(0, rows) for saved, rows in self.saved]
        found: list[Part] = [f for f in files if f is not None]
        return found if len(found) == len(files) else None


class _NumberedPieces:
    """Pieces by number, of which slots or rows say in which they lie.

    Attributes:
        gone: keys that pieces have rows of and that have none since the last snapshot, or others.
    """

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._next = 0
        self.gone: list[pa.RecordBatch] = []

    @property
    def empty(self) -> bool:
        return not self._pieces

    def forget(self) -> None:
        self._pieces, self.gone = [], []

    def kept(self, live: int) -> tuple[list[Part], int]:
        """What is on disk of the pieces that stay, and the number from which on they are written again.

        Args:
            live: how many slots or rows there are.
        """
        kept = _kept(self._pieces, live)
        left = self._pieces[len(kept) :]
        gone = [batch for piece in left for batch in piece.gone] + self.gone
        self.gone = gone if kept else []
        number = 0 if not kept else left[0].number if left else self._next
        del self._pieces[len(kept) :]
        return [part for parts in kept for part in parts], number

    def written(self, tables: Sequence[StateTable], slots: int) -> int:
        """There is another piece, of these tables with the rows of so many slots; returns its number."""
        number, gone = self._next, self.gone
        if tables:
            size = slots + sum(batch.num_rows for batch in gone)
            self._pieces.append(_Piece(number, [(t.saved, t.num_rows) for t in tables], size, gone))
            self._next += 1
        self.gone = []
        return number


class SlotPieces:
    """Which slots have changed since which snapshot."""

    def __init__(self) -> None:
        self._piece: PieceArray = np.zeros(0, np.int32)
        self._pieces = _NumberedPieces()

    @property
    def empty(self) -> bool:
        """Whether there is no piece in which slots could have rows."""
        return self._pieces.empty

    def reach(self, capacity: int) -> None:
        """All slots are below this."""
        self._piece = grown(self._piece, capacity, NEVER)

    def changed(self, slots: IntArray) -> None:
        """The rows of these slots are others now."""
        if not self.empty:
            self._piece[slots[self._piece[slots] >= 0]] = CHANGED

    def freed(self, slots: IntArray, keys_of: KeysOf) -> None:
        """These slots have no rows any more, nor their keys."""
        if not self.empty:
            known = slots[self._piece[slots] != NEVER]
            if len(known):
                self._pieces.gone.append(keys_of(known))
            self._piece[known] = NEVER

    def keep(self, slots: IntArray) -> None:
        """Only these slots are left, ascending, and are numbered anew from 0; the others have been freed."""
        self._piece = self._piece[slots]

    def restored(self, table: StateTable, slots: IntArray) -> None:
        """A table that earlier snapshots wrote has been taken up: it has the rows of these slots, or has freed those of its keys.

        Called in the order in which they were written. Those of other workers are not on disk as they are now.
        """
        self._piece[slots] = self._pieces.written([table], len(slots))

    def forget(self) -> None:
        """Nothing is in any piece: the next snapshot has the rows of all slots."""
        self._pieces.forget()
        self._piece[:] = NEVER

    def snapshot(self, name: str, live: BoolArray, rows_of: RowsOf) -> list[Part]:
        """The rows of all slots that are live: what is on disk by its files, the rest as tables of this name."""

        def tables(slots: IntArray, gone: list[pa.RecordBatch], *, first: bool) -> Iterator[StateTable]:
            if gone:
                yield _removal(name, _all_of(concat_columns(gone)))
            if len(slots):
                yield StateTable(name, *rows_of(slots), change="adds" if first else "replaces")

        return self._snapshot(live, tables)

    def snapshot_in_parts(
        self, name: str, live: BoolArray, keys_of: KeysOf, parts_of: Callable[[IntArray], Iterable[KeyedRows]]
    ) -> list[Part]:
        """The same where the rows of one slot may be in several tables: what is on disk of its key is removed first."""

        def tables(slots: IntArray, gone: list[pa.RecordBatch], *, first: bool) -> Iterator[StateTable]:
            if len(slots) and not first:
                gone = [*gone, keys_of(slots)]
            if gone:
                yield _removal(name, _all_of(concat_columns(gone)))
            if len(slots):
                yield from (StateTable(name, *rows) for rows in parts_of(slots))

        return self._snapshot(live, tables)

    def _snapshot(self, live: BoolArray, tables_of: _TablesOf) -> list[Part]:
        kept, number = self._pieces.kept(int(live.sum()))
        held = self._piece[: len(live)]
        slots = np.flatnonzero(live & ((held < 0) | (held >= number)))
        tables = list(tables_of(slots, self._pieces.gone, first=not kept))
        held[slots] = self._pieces.written(tables, len(slots))
        return [*kept, *tables]

    @property
    def nbytes(self) -> int:
        return self._piece.nbytes


class RowPieces:
    """The same for rows without slots, which carry with them in which piece they lie.

    A row that is new is in none (`NEVER`), and one that was made of rows in pieces has `CHANGED`. A key of which any row
    has changed or has left is written anew, with all its rows.
    """

    def __init__(self) -> None:
        self._pieces = _NumberedPieces()

    def left(self, keys: Keys, piece: PieceArray) -> None:
        """Rows of these keys, in these pieces, are not there any more."""
        known = np.flatnonzero(piece != NEVER)
        if len(known) and not self._pieces.empty:
            self._pieces.gone.append(keys.distinct.take(index_array(np.unique(keys.codes[known]))))

    def forget(self) -> None:
        """Nothing is in any piece: the next snapshot has all rows."""
        self._pieces.forget()

    def snapshot(
        self, name: str, keys: Keys, piece: PieceArray, rows_of: RowsOf
    ) -> tuple[list[Part], PieceArray]:  # fmt: skip
        """All rows, of these keys and in these pieces: what is on disk by its files, the rest as tables of this name.

        Returns:
            The parts, and in which piece each row is now.
        """
        kept, number = self._pieces.kept(len(piece))
        anew = (piece < 0) | (piece >= number)
        tables: list[StateTable] = []
        if kept:
            touched, of_rows = self._touched(keys, piece)
            anew |= of_rows
            self._pieces.gone = [touched] if touched.num_rows else []
            if touched.num_rows:
                tables.append(_removal(name, _all_of(touched)))
        rows = np.flatnonzero(anew)
        if len(rows):
            tables.append(StateTable(name, *rows_of(rows)))
        now = np.where(anew, np.int32(self._pieces.written(tables, len(rows))), piece)
        return [*kept, *tables], now

    def _touched(self, keys: Keys, piece: PieceArray) -> tuple[pa.RecordBatch, BoolArray]:
        """The keys of which rows have changed or are gone, and which rows there are of them."""
        gone = self._pieces.gone
        together = unify_keys([keys, *map(_all_of, gone)]) if gone else keys
        touched = np.zeros(together.distinct.num_rows, np.bool_)
        codes = together.codes[: len(piece)]
        touched[together.codes[len(piece) :]] = True
        touched[codes[piece == CHANGED]] = True
        of_rows: BoolArray = touched[codes]
        return together.distinct.take(index_array(np.flatnonzero(touched))), of_rows


class ChangedKeys(Generic[S]):
    """The same for state in Python that is a dict by key: which keys have changed since which snapshot."""

    def __init__(self) -> None:
        self._pieces: list[_Piece] = []
        self._changed: set[Any] = set()

    def changed(self, keys: Collection[Any]) -> None:
        """The state of these keys is another one, or gone."""
        if self._pieces:
            self._changed.update(keys)

    def forget(self) -> None:
        """Nothing is in any piece: the next snapshot has the states of all keys."""
        self._pieces, self._changed = [], set()

    def restored(
        self, tables: Sequence[StateTable], values_of: Callable[[pa.RecordBatch], list[Any]]
    ) -> Iterator[tuple[list[Any], pa.RecordBatch]]:
        """The rows that count, with their keys, of tables that earlier snapshots wrote; where they lie on disk is noted.

        Args:
            tables: in the order in which they were written.
            values_of: makes keys of the dict of those of a table.
        """
        settled: set[Any] = set()  # what becomes of them is said by later tables
        for table in reversed(tables):
            assert table.keys is not None
            values = values_of(table.keys.distinct)
            keys = [values[code] for code in table.keys.codes.tolist()]
            self._pieces.insert(0, _Piece(0, [(table.saved, len(keys))], len(keys), keys=keys))
            counting = [row for row, key in enumerate(keys) if key not in settled]
            if table.change != "adds":
                settled.update(keys)
            if len(counting) == len(keys) and table.change != "removes":
                yield keys, table.columns
            elif counting and table.change != "removes":
                yield [keys[row] for row in counting], take_columns(table.columns, index_array(np.array(counting)))
        if self._pieces:
            self._pieces[0].keys = []

    def parts(self, states: dict[Any, S], tables_of: _TablesOfKeys) -> list[Part]:
        """The rows of all keys that have a state: what is on disk by its files, the rest as tables."""
        kept = _kept(self._pieces, len(states))
        touched = dict.fromkeys([*(k for piece in self._pieces[len(kept) :] for k in piece.keys), *self._changed])
        there: Collection[Any] = [k for k in touched if k in states] if kept else states
        gone = [k for k in touched if k not in states] if kept else []
        del self._pieces[len(kept) :]
        tables = tables_of(there, gone, "replaces" if kept else "adds")
        if tables:
            keys = list(touched) if kept else []
            size = len(there) + len(gone)
            self._pieces.append(_Piece(0, [(t.saved, t.num_rows) for t in tables], size, keys=keys))
        self._changed = set()
        return [*(part for parts in kept for part in parts), *tables]

    def snapshot_at_once(
        self, name: str, states: dict[Any, S], keys_of: Callable[[list[Any]], Keys],
        rows_of: Callable[[list[Any]], KeyedRows],
    ) -> list[Part]:  # fmt: skip
        """The same with rows that are made at once, any number for each key.

        Args:
            keys_of, rows_of: for keys.
        """

        def tables(there: Collection[Any], gone: list[Any], change: Change) -> list[StateTable]:
            made = [StateTable(name, *rows_of(list(there)), change=change)] if there else []
            return [_removal(name, keys_of(gone)), *made] if gone else made

        return self.parts(states, tables)


class KeyPieces(ChangedKeys[S], Generic[S, E]):
    """The same with rows that are made beside the operator (`Frozen`), one for each key.

    Args:
        encode: what is kept of the state of a key.
    """

    def __init__(self, encode: Callable[[Any, S], E]) -> None:
        super().__init__()
        self._encode, self._lock = encode, Lock()
        self._being_written: list[ref[Frozen[S, E]]] = []  # no WeakSet: the thread that writes lets go of them

    def changing(self, keys: Collection[Any]) -> None:
        """The state of these keys will be another one, or will be gone; called before that.

        Raises:
            StateError: one that a snapshot has to have as it is cannot be kept.
        """
        self.changed(keys)
        for reference in self._being_written:
            if (frozen := reference()) is not None:
                frozen.keep(keys)

    def snapshot(
        self, name: str, states: dict[Any, S], keys_of: Callable[[list[Any]], Keys],
        rows_of: Callable[[list[E]], pa.RecordBatch],
    ) -> list[Part]:  # fmt: skip
        """The rows of all keys that have a state: what is on disk by its files, the rest as tables of this name.

        Args:
            rows_of: the columns of states that have been encoded.
        """

        def tables(there: Collection[Any], gone: list[Any], change: Change) -> list[PendingTable]:
            made: list[PendingTable] = []
            if gone:
                keys = partial(_keys_alone, gone, keys_of)
                made.append(PendingTable(name, len(gone), keys, change="removes"))
            if there:
                frozen = Frozen(states, None if there is states else there, self._encode, self._lock)
                self._being_written = [*(r for r in self._being_written if r() is not None), ref(frozen)]
                rows = partial(_rows_made, frozen, keys_of, rows_of)
                made.append(PendingTable(name, len(there), rows, change=change))
            return made

        return self.parts(states, tables)


def _rows_made(
    frozen: Frozen[Any, E], keys_of: Callable[[list[Any]], Keys], rows_of: Callable[[list[E]], pa.RecordBatch], pause: Pause
) -> tuple[Keys, pa.RecordBatch]:  # fmt: skip
    keys: list[pa.RecordBatch] = []
    rows: list[pa.RecordBatch] = []
    for of_chunk, encoded in frozen.chunks(pause):
        keys.append(keys_of(of_chunk).distinct)
        rows.append(rows_of(encoded))
        pause()
    if sum(r.nbytes for r in rows) > _MOST_BINARY_BYTES:
        rows[0] = _with_long_offsets(rows[0])
    return _all_of(concat_columns(keys)), concat_columns(rows)


def _with_long_offsets(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same columns of types that hold more than 2 GiB; what is put to them becomes of these, too."""
    kinds = [pa.large_binary() if pa.types.is_binary(f.type) else f.type for f in rows.schema]
    return make_columns(rows.schema.names, [c.cast(kind) for c, kind in zip(rows.columns, kinds, strict=True)])


def _keys_alone(
    gone: list[Any], keys_of: Callable[[list[Any]], Keys], pause: Pause
) -> tuple[Keys, pa.RecordBatch]:  # fmt: skip
    keys: list[pa.RecordBatch] = []
    for start in range(0, len(gone), CHUNK_KEYS):
        keys.append(keys_of(gone[start : start + CHUNK_KEYS]).distinct)
        pause()
    return _all_of(concat_columns(keys)), EMPTY_COLUMNS


def _kept(pieces: Sequence[_Piece], live: int) -> list[list[Part]]:
    """What is on disk of the pieces that are not written again, the oldest first."""
    kept: list[list[Part]] = []
    for piece in pieces:
        parts = piece.on_disk()
        if parts is None:
            break
        kept.append(parts)
    sizes = [piece.size for piece in pieces[: len(kept)]]
    if sum(sizes) > 2 * live + _SPARE_KEYS:
        return []
    return kept[: first_small(sizes)] if len(kept) > _PIECES_KEPT else kept


def _all_of(keys: pa.RecordBatch) -> Keys:
    codes: CodeArray = np.arange(keys.num_rows, dtype=np.int32)
    return Keys(keys, codes)


def _removal(name: str, keys: Keys) -> StateTable:
    return StateTable(name, keys, EMPTY_COLUMNS, change="removes")
