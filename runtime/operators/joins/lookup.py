"""Lookups: each row of a stream with the row of a table that has its key.

The table does not change while the flow runs: it is read when the operator is made, its keys are numbered, and a
batch looks up its distinct keys. There is no state, so a lookup runs wherever its rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, BoolArray, IntArray, Keys, concat_columns, index_array, make_columns
from millstream.connectors.base import Block, Decoder, Source
from millstream.errors import SchemaError, SourceError, unknown_field
from millstream.grouping import factorize
from millstream.operators.base import Context, Operator, Output
from millstream.operators.columnar import with_arrays
from millstream.operators.joins.growing import plain
from millstream.operators.joins.key_index import NO_KEY, KeyIndex
from millstream.specs.base import MAIN
from millstream.specs.joins import JoinKind
from millstream.specs.lookup import LookupSpec, table_schema

_READ_ROWS = 1 << 20
_READ_BYTES = 1 << 24


class Lookup(Operator):
    def __init__(self, spec: LookupSpec, context: Context) -> None:
        super().__init__(context)
        self.how = spec.how
        self.fields = [field for field, _ in spec.on]
        self.names = list(spec.columns)
        keys = [key for _, key in spec.on]
        self.table = read_table(spec.table, [*keys, *spec.columns], context.name)
        self.columns = [self.table.column(c) for c in spec.columns]
        self.index = KeyIndex(context.name)
        self.row_of = self._numbered(keys)

    def _numbered(self, keys: Sequence[str]) -> IntArray:
        """The table's row of each key number.

        Raises:
            SchemaError: a key is there twice.
        """
        columns = [self.table.column(k) for k in keys]
        codes, first = factorize(columns)
        index = index_array(first)
        distinct = make_columns(list(keys), [c.take(index) for c in columns])
        rows, numbers = np.arange(self.table.num_rows), self.index.numbers(Keys(distinct, codes.astype(np.int32)))
        rows, numbers = rows[numbers != NO_KEY], numbers[numbers != NO_KEY]
        row_of = np.empty(len(self.index), np.int64)
        row_of[numbers[::-1]] = rows[::-1]  # of several rows the first
        again = np.flatnonzero(row_of[numbers] != rows)
        if len(again):
            at = int(again[0])
            row = int(rows[at])
            key = ", ".join(f"{k}={c[row]}" for k, c in zip(keys, columns, strict=True))
            raise SchemaError(
                f"{self.context.name}: the table has {key} twice, in rows {int(row_of[numbers[at]])} and {row}; "
                "a lookup finds one row for each key"
            )
        return row_of

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if batch.num_rows == 0:
            return
        row = self._rows(batch)
        missing: BoolArray = row < 0
        if self.how is JoinKind.INNER and missing.any():
            batch, row, missing = batch.where(~missing), row[~missing], missing[~missing]
        if batch.num_rows:
            index = index_array(row, missing if missing.any() else None)
            found = [column.take(index) for column in self.columns]
            yield MAIN, batch.with_columns(with_arrays(batch.columns, self.names, found))

    def _rows(self, batch: Batch) -> IntArray:
        """The table's row for each row of the batch, -1 where there is none."""
        arrays: list[Array] = []
        for field in self.fields:
            if field not in batch.columns.schema.names:
                raise unknown_field(field, batch.columns.schema.names, self.context.name)
            arrays.append(plain(batch.columns.column(field)))
        codes, first = factorize(arrays)
        rows = index_array(first)
        number = self.index.find([a.take(rows) for a in arrays])
        found = np.full(len(number), -1, np.int64)
        known = number != NO_KEY
        found[known] = self.row_of[number[known]]
        return found[codes]


def read_table(source: Source, columns: Sequence[str], where: str) -> pa.RecordBatch:
    """Columns of all of a source's rows.

    Raises:
        SourceError: it cannot be read, or a record of it is bad: a table with holes would give wrong answers.
    """
    names = list(dict.fromkeys(columns))
    schema = pa.schema([table_schema(source).field(n) for n in names])
    narrowed = source.with_fields(names)
    decoder = narrowed.decoder(names)
    parts: list[pa.RecordBatch] = [pa.RecordBatch.from_pylist([], schema=schema)]
    for partition in narrowed.partitions():
        reader = narrowed.open(partition)
        try:
            while not reader.ended:
                block = reader.read(_READ_ROWS, _READ_BYTES)
                if block is not None:
                    parts.append(_decoded(block, decoder, where).select(names))
        finally:
            reader.close()
    together = concat_columns(parts)
    return make_columns(names, [plain(c) for c in together.columns])


def _decoded(block: Block, decoder: Decoder | None, where: str) -> pa.RecordBatch:
    if isinstance(block.payload, pa.RecordBatch):
        return block.payload
    assert decoder is not None
    decoded = decoder.decode(block.text())
    if decoded.bad:
        bad = decoded.bad[0]
        raise SourceError(f"{where}: {block.origin}, line {block.line + bad.line}: {bad.reason}")
    return decoded.columns
