"""The rows of one side of a join as tables of state, and rows again.

A row travels with the key that decides which worker takes it up. That is the key which is compared, unless the right
side is a broadcast: then left rows are wherever the key of their stream puts them, each worker has all right rows, and
what is compared is a column of the table (`on.`). Rows that are done with are not taken out but marked, so that columns
go to the checkpoint as they lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.grouping import factorize
from millstream.operators.joins.key_index import KeyIndex
from millstream.operators.joins.rows import KeptRows, RowNumbers, SideRows
from millstream.operators.row_tables import fields_in, marked

DONE: Final = "done"
_TIME: Final = "time_us"
_POSITION: Final = "position"
_BEFORE: Final = "before_us"
_ON: Final = "on."
"""Before the names of the fields of a key."""


def few_columns(kept: KeptRows, rows: RowNumbers, notes: Mapping[str, IntArray]) -> dict[str, Array]:
    """The same as `state_columns` for rows by their numbers, copied."""
    rare = {_POSITION: kept.position.take(rows), _BEFORE: kept.before_us.take(rows)}
    return {
        DONE: pa.array(np.zeros(len(rows), np.bool_)),
        _TIME: pa.array(kept.time_us.values[rows]),
        **{name: pa.array(values) for name, values in rare.items() if values is not None},
        **marked({name: kept.columns.take(name, rows) for name in kept.columns.names}),
        **{name: pa.array(values[rows]) for name, values in notes.items()},
    }


def state_columns(
    kept: KeptRows, done: BoolArray, notes: Mapping[str, IntArray], start: int, stop: int
) -> dict[str, Array]:  # fmt: skip
    """Some of the rows that are kept, by the names that their columns have in tables.

    Args:
        done: which of all rows are done with, or not asked for.
        notes: what is noted of all rows, by name; copied, for it changes.
    """
    rare = {_POSITION: kept.position.slice(start, stop), _BEFORE: kept.before_us.slice(start, stop)}
    return {
        DONE: pa.array(done[start:stop]),
        _TIME: pa.array(kept.time_us.values[start:stop]),
        **{name: pa.array(values) for name, values in rare.items() if values is not None},
        **marked({name: kept.columns.slice(name, start, stop) for name in kept.columns.names}),
        **{name: pa.array(values[start:stop].copy()) for name, values in notes.items()},
    }


def compared_keys(key: IntArray, index: KeyIndex, names: Sequence[str]) -> Keys:
    """The keys that are compared, by their numbers."""
    return Keys(index.all(names), key.astype(np.int32))


def stream_keys(kept: KeptRows, names: Sequence[str], rows: RowNumbers) -> Keys:
    """The key of the stream that rows came by, whose fields are among theirs."""
    columns = [kept.columns.take(n, rows) for n in names]
    codes, first = factorize(columns)
    at = index_array(first)
    return Keys(make_columns(names, [c.take(at) for c in columns]), codes.astype(np.int32, copy=False))


def key_columns(keys: Keys) -> dict[str, Array]:
    """Keys as columns of a table whose rows travel by another one."""
    fields = zip(keys.distinct.schema.names, keys.distinct.columns, strict=True)
    codes = index_array(keys.codes)
    return {_ON + name: pa.DictionaryArray.from_arrays(codes, column) for name, column in fields}


def rows_in(table: StateTable, index: KeyIndex) -> tuple[SideRows, pa.RecordBatch]:
    """The rows of a table that are not done with, and all its columns for those."""
    columns, keys = table.columns, table.keys
    compared = [n for n in columns.schema.names if n.startswith(_ON)]
    if compared:
        keys = _keys_in(columns, compared)
    assert keys is not None
    left = np.flatnonzero(~columns.column(DONE).to_numpy(zero_copy_only=False))
    if len(left) < columns.num_rows:
        columns, keys = columns.take(index_array(left)), keys.take(left)
    rows = SideRows(
        index.numbers(keys),
        fields_in(columns),
        numbers_in(columns, _TIME),
        numbers_in(columns, _BEFORE),
        numbers_in(columns, _POSITION),
    )
    return rows, columns


def numbers_in(columns: pa.RecordBatch, name: str) -> IntArray | None:
    """A column of numbers; None: there is none of that name."""
    return columns.column(name).to_numpy() if name in columns.schema.names else None


def of_one_worker(tables: Iterable[StateTable]) -> list[StateTable]:
    """Of tables that each former worker wrote alike, under a name of its own, those of one."""
    tables = list(tables)
    return [t for t in tables if t.name == tables[0].name]


def _keys_in(columns: pa.RecordBatch, names: Sequence[str]) -> Keys:
    arrays = [columns.column(n) for n in names]
    dictionaries: list[Array] = []
    for array in arrays:
        assert isinstance(array, pa.DictionaryArray)
        dictionaries.append(array.dictionary)
        codes = array.indices.to_numpy()
    return Keys(make_columns([n.removeprefix(_ON) for n in names], dictionaries), codes)
