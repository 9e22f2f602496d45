"""State as tables: what an operator holds, as columns with the key in front.

A table travels as an Arrow IPC file, so that DuckDB, Polars and `millstream state` can read it. Key fields are
dictionary columns that share their indices; the schema's metadata says which they are. Making the file copies
nothing but what is written: a snapshot of immutable columns costs the operator no more than the reference to them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import Array, Keys, index_array, make_columns, take_columns
from millstream.checkpoints.manifest import Change, TableFile
from millstream.errors import CheckpointError
from millstream.keys import group_owners, hash_keys, key_groups

_KEYS: Final = b"millstream.keys"


class Saved:
    """Where some rows that never change lie on disk: what a complete checkpoint has written is not written again.

    An operator that keeps immutable rows keeps one of these with them. Of rows that were written some at the front may go;
    what is left is still found in the file.

    Args:
        file: the rows as a complete checkpoint has written them; None: none has.
        first: which of the rows is the first in the file.
    """

    __slots__ = ("_file", "_first")

    def __init__(self, file: TableFile | None = None, first: int = 0) -> None:
        self._file, self._first = file, first

    def written(self, file: TableFile, first: int) -> None:
        """The checkpoint that has written these rows is complete."""
        self._file, self._first = file, first

    def part(self, first: int, rows: int) -> TableFile | None:
        """So many rows from ``first`` on, if they are on disk."""
        file, skipped = self._file, first - self._first
        if file is None or skipped < 0 or skipped + rows > file.rows:
            return None
        return replace(file, first=file.first + skipped, rows=rows)


@dataclass(frozen=True, slots=True)
class StateTable:
    """A part of an operator's state.

    Attributes:
        name: which part: an operator may have several, and several tables of one name (restored, they add up).
        keys: the key of each row; None where the rows belong to the worker and to no key.
        columns: the rest; as many rows as there are keys.
        saved: where the rows lie on disk already, if they do; first: the first of them among the rows that it speaks of.
        change: what becomes of the rows that tables of this name before it have for its keys.
    """

    name: str
    keys: Keys | None
    columns: pa.RecordBatch
    saved: Saved = field(default_factory=Saved, compare=False)
    first: int = 0
    change: Change = "adds"

    @property
    def num_rows(self) -> int:
        return len(self.keys.codes) if self.keys is not None else int(self.columns.num_rows)

    @property
    def on_disk(self) -> TableFile | None:
        """The table in an earlier checkpoint, if it is there."""
        return self.saved.part(self.first, self.num_rows) if self.keys is not None else None

    def slice(self, first: int, rows: int) -> StateTable:
        keys = None if self.keys is None else Keys(self.keys.distinct, self.keys.codes[first : first + rows])
        columns = self.columns.slice(first, rows)
        return replace(self, keys=keys, columns=columns, first=self.first + first)

    def take(self, rows: npt.NDArray[np.integer]) -> StateTable:
        """Some of the rows; on disk they are not by themselves."""
        assert self.keys is not None
        columns = take_columns(self.columns, index_array(rows))
        return StateTable(self.name, self.keys.take(rows), columns, change=self.change)


Pause = Callable[[], None]
"""Called now and then by what takes long beside the loop, so that the loop can go on."""


def no_pause() -> None:
    pass


@dataclass(frozen=True, slots=True)
class PendingTable:
    """A table that is not made before it is written, by whoever writes it, while the operator goes on.

    Attributes:
        make: its keys and columns, as they were when the snapshot was taken; can be called once.
        name, num_rows, saved, change: as of `StateTable`.
    """

    name: str
    num_rows: int
    make: Callable[[Pause], tuple[Keys, pa.RecordBatch]] = field(compare=False)
    saved: Saved = field(default_factory=Saved, compare=False)
    first: Literal[0] = 0
    change: Change = "adds"

    def made(self, pause: Pause = no_pause) -> StateTable:
        """
        Raises:
            StateError: what is to be in it cannot be kept.
        """
        return StateTable(self.name, *self.make(pause), self.saved, self.first, self.change)


Part = StateTable | PendingTable | TableFile
"""A part of an operator's state: as it is now, the same yet to be made, or the file in which a complete checkpoint has it."""


def to_ipc(table: StateTable) -> list[bytes | pa.Buffer]:
    """The table as an Arrow IPC file, in pieces: those that are long are columns as they lie in memory, and no copies."""
    names: list[str] = []
    arrays: list[Array] = []
    keys = None if table.keys is None else _used(table.keys)
    if keys is not None:
        names += [f"key.{n}" for n in keys.distinct.schema.names]
        arrays += [pa.DictionaryArray.from_arrays(index_array(keys.codes), c) for c in keys.distinct.columns]
    names += table.columns.schema.names
    arrays += table.columns.columns
    batch = make_columns(names, arrays)
    described = None if keys is None else keys.distinct.schema.names
    batch = batch.replace_schema_metadata({_KEYS: json.dumps(described).encode()})
    pieces = _Pieces()
    with pa.ipc.new_file(pa.PythonFile(pieces, "w"), batch.schema) as writer:
        writer.write_batch(batch)
    return pieces.written


class _Pieces(io.RawIOBase):
    """A file that keeps what is written to it as it is given; Arrow gives columns by reference, and their headers as bytes."""

    def __init__(self) -> None:
        self.written: list[bytes | pa.Buffer] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.written.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size


def from_ipc(name: str, data: pa.Buffer) -> StateTable:
    """The table in an Arrow IPC file; its columns are views of the file.

    Raises:
        CheckpointError: it is none, or not one of ours.
    """
    try:
        return _read(name, data)
    except CheckpointError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"state table {name}: not a table of state: {error}") from error


def _read(name: str, data: pa.Buffer) -> StateTable:
    with pa.ipc.open_file(data) as reader:
        if reader.num_record_batches != 1:
            raise CheckpointError(f"state table {name}: {reader.num_record_batches} record batches, expected 1")
        batch = reader.get_batch(0)
    batch.validate(full=True)
    key_names = json.loads((batch.schema.metadata or {})[_KEYS])
    if key_names is None:
        return StateTable(name, None, batch.replace_schema_metadata(None))
    if not key_names or batch.schema.names[: len(key_names)] != [f"key.{n}" for n in key_names]:
        raise CheckpointError(f"state table {name}: its key fields are not where they are said to be")
    columns = batch.columns[: len(key_names)]
    dictionaries: list[Array] = []
    for column in columns:
        if not isinstance(column, pa.DictionaryArray) or column.indices.type != pa.int32() or column.indices.null_count:
            raise CheckpointError(f"state table {name}: a key field is not what it is said to be")
        dictionaries.append(column.dictionary)
    codes = columns[0].indices.to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]  # seen above
    rest = batch.select(range(len(key_names), batch.num_columns)).replace_schema_metadata(None)
    return StateTable(name, Keys(make_columns(key_names, dictionaries), codes), rest)


def owned(table: StateTable, worker: int, workers: int) -> StateTable:
    """The rows whose keys belong to a worker; rows of no key belong to everyone."""
    if table.keys is None or workers == 1:
        return table
    owners = group_owners(workers)[key_groups(hash_keys(table.keys.distinct.columns))]
    rows = np.flatnonzero((owners == worker)[table.keys.codes])
    if len(rows) == table.num_rows:
        return table
    return table.take(rows)


def key_fields(data: pa.Buffer) -> list[str] | None:
    """The key fields of the table in an Arrow IPC file, of which nothing else is looked at; None: its rows have no keys.

    Raises:
        CheckpointError: it is none, or not one of ours.
    """
    try:
        with pa.ipc.open_file(data) as reader:
            fields: list[str] | None = json.loads((reader.schema.metadata or {})[_KEYS])
            return fields
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"not a table of state: {error}") from error


def in_memory(parts: Iterable[Part]) -> list[StateTable] | None:
    """The parts of a state, where none of them is on disk or yet to be made."""
    tables = list(parts)
    return [t for t in tables if isinstance(t, StateTable)] if all(isinstance(t, StateTable) for t in tables) else None


def _used(keys: Keys) -> Keys:
    """The keys without those that belong to no row: a slice of a large run would carry all of them."""
    if keys.distinct.num_rows <= 2 * len(keys.codes):
        return Keys(keys.distinct, np.ascontiguousarray(keys.codes, np.int32))
    used, codes = np.unique(keys.codes, return_inverse=True)
    return Keys(keys.distinct.take(index_array(used)), codes.astype(np.int32))
