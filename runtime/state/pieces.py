"""State by key in checkpoints: what has changed since the last one, as one more piece beside those that are on disk.

For each slot it is known in which piece its rows lie (`SlotPieces`), and for each piece of Python state which keys are
in it (`KeyPieces`), so a snapshot costs what has changed and not what there is. A piece takes the place of the rows
that earlier ones have for the same keys, and may say which keys are gone. Small pieces are written again as one when
there are many, and all of them when most of what they hold does not count any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import ref

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import EMPTY_COLUMNS, BoolArray, CodeArray, IntArray, Keys, concat_columns, make_columns
from millstream.checkpoints.manifest import Change
from millstream.checkpoints.tables import Part, Pause, PendingTable, Saved, StateTable
from millstream.runs import first_small
from millstream.state.columns import grown
from millstream.state.frozen import CHUNK_KEYS, Frozen

S = TypeVar("S")
E = TypeVar("E")

_NEVER: Final = -1
"""In no piece."""
_CHANGED: Final = -2
"""In a piece, but not as it is now."""
_PIECES_KEPT: Final = 24
_SPARE_KEYS: Final = 4_096
_MOST_BINARY_BYTES: Final = 1 << 31

KeyedRows = tuple[Keys, pa.RecordBatch]
"""Rows: the key of each, and the rest."""

RowsOf = Callable[[IntArray], KeyedRows]
"""The rows of some slots."""

KeysOf = Callable[[IntArray], pa.RecordBatch]
"""The keys of some slots."""


class _TablesOf(Protocol):
    def __call__(self, slots: IntArray, gone: list[pa.RecordBatch], *, first: bool) -> Iterable[StateTable]:
        """The tables of a piece: rows of slots, and keys that are gone; ``first``: there is no other piece."""


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


class SlotPieces:
    """Which slots have changed since which snapshot."""

    def __init__(self) -> None:
        self._piece: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._pieces: list[_Piece] = []
        self._gone: list[pa.RecordBatch] = []
        self._next = 0

    @property
    def empty(self) -> bool:
        """Whether there is no piece in which slots could have rows."""
        return not self._pieces

    def reach(self, capacity: int) -> None:
        """All slots are below this."""
        self._piece = grown(self._piece, capacity, _NEVER)

    def changed(self, slots: IntArray) -> None:
        """The rows of these slots are others now."""
        if self._pieces:
            self._piece[slots[self._piece[slots] >= 0]] = _CHANGED

    def freed(self, slots: IntArray, keys_of: KeysOf) -> None:
        """These slots have no rows any more, nor their keys."""
        if self._pieces:
            known = slots[self._piece[slots] != _NEVER]
            if len(known):
                self._gone.append(keys_of(known))
            self._piece[known] = _NEVER

    def keep(self, slots: IntArray) -> None:
        """Only these slots are left, ascending, and are numbered anew from 0; the others have been freed."""
        self._piece = self._piece[slots]

    def restored(self, table: StateTable, slots: IntArray) -> None:
        """A table that earlier snapshots wrote has been taken up: it has the rows of these slots, or has freed those of its keys.

        Called in the order in which they were written. Those of other workers are not on disk as they are now.
        """
        self._pieces.append(_Piece(self._next, [(table.saved, table.num_rows)], table.num_rows, self._gone))
        self._piece[slots] = self._next
        self._gone = []
        self._next += 1

    def forget(self) -> None:
        """Nothing is in any piece: the next snapshot has the rows of all slots."""
        self._pieces, self._gone = [], []
        self._piece[:] = _NEVER

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
        kept = _kept(self._pieces, int(live.sum()))
        gone = [batch for piece in self._pieces[len(kept) :] for batch in piece.gone] + self._gone
        number = self._pieces[len(kept)].number if len(kept) < len(self._pieces) else self._next
        held = self._piece[: len(live)]
        slots = np.flatnonzero(live & ((held < 0) | (held >= number)))
        del self._pieces[len(kept) :]
        gone = gone if kept else []
        tables = list(tables_of(slots, gone, first=not kept))
        if tables:
            size = len(slots) + sum(batch.num_rows for batch in gone)
            self._pieces.append(_Piece(self._next, [(t.saved, t.num_rows) for t in tables], size, gone))
            held[slots] = self._next
            self._next += 1
        self._gone = []
        return [*(part for parts in kept for part in parts), *tables]

    @property
    def nbytes(self) -> int:
        return self._piece.nbytes


class KeyPieces(Generic[S, E]):
    """The same for state in Python that is a dict by key; its rows are made beside the operator (`Frozen`).

    Args:
        encode: what is kept of the state of a key.
    """

    def __init__(self, encode: Callable[[Any, S], E]) -> None:
        self._encode, self._lock = encode, Lock()
        self._pieces: list[_Piece] = []
        self._changed: set[Any] = set()
        self._being_written: list[ref[Frozen[S, E]]] = []  # no WeakSet: the thread that writes lets go of them

    def changing(self, keys: Collection[Any]) -> None:
        """The state of these keys will be another one, or will be gone; called before that.

        Raises:
            StateError: one that a snapshot has to have as it is cannot be kept.
        """
        if self._pieces:
            self._changed.update(keys)
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
        kept = _kept(self._pieces, len(states))
        touched = dict.fromkeys([*(k for piece in self._pieces[len(kept) :] for k in piece.keys), *self._changed])
        there: Collection[Any] = [k for k in touched if k in states] if kept else states
        gone = [k for k in touched if k not in states] if kept else []
        del self._pieces[len(kept) :]
        tables: list[PendingTable] = []
        if gone:
            tables.append(
                PendingTable(name, len(gone), lambda pause: _keys_alone(gone, keys_of, pause), change="removes")
            )
        if there:
            frozen = Frozen(states, there if kept else None, self._encode, self._lock)
            self._being_written = [*(r for r in self._being_written if r() is not None), ref(frozen)]
            change: Change = "replaces" if kept else "adds"
            tables.append(
                PendingTable(name, len(there), lambda pause: _rows_made(frozen, keys_of, rows_of, pause), change=change)
            )
        if tables:
            keys = list(touched) if kept else []
            size = len(there) + len(gone)
            self._pieces.append(_Piece(0, [(t.saved, t.num_rows) for t in tables], size, keys=keys))
        self._changed = set()
        return [*(part for parts in kept for part in parts), *tables]


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
