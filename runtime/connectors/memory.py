"""Sources that are Python values of the user's: an Arrow table, or any iterable of rows.

A row is a dict, a dataclass, a named tuple or a plain value (the one field ``value``); record batches and
tables may come instead, and keep their columns as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from millstream.connectors.base import Block, Offset, Reader, Source
from millstream.connectors.column_reader import ColumnReader
from millstream.connectors.files import cannot_read
from millstream.errors import SchemaError, SourceError
from millstream.rows import columns_of
from millstream.schema import conform, narrow, plain_schema

LINGER_S = 0.005


class TableSource(Source):
    """An Arrow table: in memory, or in an IPC file that it was stored in for another process to map."""

    replayable = True

    def __init__(self, table: pa.Table | None, *, path: str | None = None, schema: pa.Schema | None = None) -> None:
        """
        Args:
            table: the table; None where it was stored.
            path: the file.
            schema: of what is in the file.
        """
        self._table, self._path = table, path
        known = table.schema if table is not None else schema
        assert known is not None, "a stored table comes with its schema"
        self._schema = plain_schema(known).remove_metadata()

    def label(self) -> str:
        return "read_arrow(<table>)"

    def schema(self) -> pa.Schema:
        return self._schema

    def partitions(self) -> Sequence[str]:
        return ["table"]

    def with_fields(self, fields: Sequence[str]) -> TableSource:
        schema = narrow(self._schema, fields, self.label())
        table = None if self._table is None else self._table.select(schema.names)
        narrowed = TableSource(table, path=self._path, schema=schema)
        narrowed._schema = schema
        return narrowed

    def stored(self, path: str) -> TableSource:
        """The same source, its table in a file: what goes to another process, instead of the table's bytes.

        Raises:
            SourceError: the file cannot be written.
        """
        if self._table is None:
            return self
        try:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, self._table.schema) as writer:
                writer.write_table(self._table)
        except OSError as error:
            raise SourceError(f"{self.label()}: cannot be stored in {path}: {error.strerror or error}") from error
        return TableSource(None, path=path, schema=self._schema)

    def open(self, partition: str) -> Reader:
        return self._reader(None)

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return self._reader(offset)

    def _reader(self, after: Offset | None) -> Reader:
        batches = (("table", conform(columns, self._schema, self.label())) for columns in self._batches())
        return ColumnReader(batches, after=after)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self._table is not None:
            yield from self._table.to_batches()
            return
        assert self._path is not None
        try:
            reader = pa.ipc.open_file(pa.memory_map(self._path))
        except OSError as error:
            raise cannot_read(self._path, error) from error
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class IterableSource(Source):
    """Any Python iterable, read in the process that runs the flow.

    One that can be iterated over again, as a list can, is read again after a failure, and what was counted is passed over.
    An iterator cannot: what it has given is gone.
    """

    in_caller = True

    def __init__(self, rows: Iterable[Any], *, schema: pa.Schema | None = None, live: bool = False) -> None:
        """
        Args:
            rows: one event each; or record batches or tables.
            schema: the fields; None: those of the first block.
            live: rows come as things happen, so a block leaves when its first row has waited for 5 ms.
        """
        self.rows, self.declared, self.live = rows, schema, live
        self.replayable = not isinstance(rows, Iterator)

    def __getstate__(self) -> dict[str, Any]:
        # It stays in this process; only what it is called and its fields go to the others.
        return {**self.__dict__, "rows": ()}

    def label(self) -> str:
        return "read_iterable()"

    def schema(self) -> pa.Schema | None:
        return self.declared

    def partitions(self) -> Sequence[str]:
        return ["iterable"]

    def open(self, partition: str) -> Reader:
        return self._reader(0)

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return self._reader(offset["row"])

    def _reader(self, skip: int) -> RowReader:
        return RowReader(
            iter(self.rows), self.declared, self.label(), live=self.live, skip=skip, replayable=self.replayable
        )


class RowReader(Reader):
    """Python rows from an iterator, as columns; the first ones are passed over, where an earlier life has read them.

    How long a read takes is up to the iterator: one that waits belongs into a process, or a thread, of its own.
    """

    def __init__(
        self,
        rows: Iterator[Any],
        schema: pa.Schema | None,
        label: str,
        *,
        live: bool = False,
        skip: int = 0,
        replayable: bool = False,
    ) -> None:
        self._rows, self._schema, self._label, self._live = rows, schema, label, live
        self._declared = schema is not None
        self._ready: ColumnReader | None = None
        self._held: list[Any] = []
        self._offset = 0
        self._skip = skip
        self._replayable = replayable

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        while not self.ended:
            if self._ready is None and not self._gather(max_rows):
                self.ended = True
                break
            assert self._ready is not None
            block = self._ready.read(max_rows, max_bytes)
            if block is not None:
                rows = block.payload
                assert isinstance(rows, pa.RecordBatch)
                start, self._offset = self._offset, self._offset + rows.num_rows
                if self._offset <= self._skip:
                    continue  # read all the same: the first rows may have settled the fields
                passed = max(0, self._skip - start)
                return Block(rows.slice(passed), start + passed, 0, self._label)
            self._ready = None
        return None

    def offset(self) -> Offset | None:
        return {"row": max(self._offset, self._skip)} if self._replayable else None

    def close(self) -> None:
        self.ended = True
        close = getattr(self._rows, "close", None)  # generators: their ``finally`` runs now, not some day
        if close is not None:
            close()

    def _gather(self, max_rows: int) -> bool:
        """Take rows from the iterator and make them columns; False at its end."""
        rows = self._held or list(islice(self._rows, 1))
        self._held = []
        if not rows:
            return False
        if isinstance(rows[0], pa.RecordBatch | pa.Table):
            self._ready = ColumnReader(iter([("", self._fitted(b)) for b in _batches_of(rows[0])]))
            return True
        rows += self._take_while_quick(max_rows - 1) if self._live else islice(self._rows, max_rows - 1)
        for position, row in enumerate(rows):
            if isinstance(row, pa.RecordBatch | pa.Table):
                number = self._offset + position
                raise SourceError(f"{self._label}: row {number} is a {type(row).__name__}, those before it are rows")
        where = f"{self._label}, rows from {self._offset}"
        try:
            columns = columns_of(rows, None, where)
        except SchemaError as error:
            raise SourceError(f"{error}") from error
        self._ready = ColumnReader(iter([("", self._fitted(columns))]))
        return True

    def _take_while_quick(self, rows: int) -> Iterator[Any]:
        due = time.monotonic() + LINGER_S
        for row in islice(self._rows, rows):
            yield row
            if time.monotonic() >= due:
                return

    def _fitted(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        """Columns in the source's schema: that of the first block, if none was declared."""
        if self._schema is None:
            self._schema = _lasting(columns.schema)
        where = f"{self._label}, rows from {self._offset}"
        new = [name for name in columns.schema.names if name not in self._schema.names]
        if new and not self._declared:  # a declared schema says what is read; an inferred one must lose nothing
            known = ", ".join(self._schema.names)
            raise SourceError(f"{where}: field {new[0]!r} is new; the first rows have {known}; declare it with schema=")
        try:
            return conform(_with_all(columns, self._schema), self._schema, where)
        except SchemaError as error:
            raise SourceError(f"{error}; the first rows settled the schema, schema= declares it") from error


def _batches_of(columns: pa.RecordBatch | pa.Table) -> list[pa.RecordBatch]:
    return columns.to_batches() if isinstance(columns, pa.Table) else [columns]


def _lasting(schema: pa.Schema) -> pa.Schema:
    """The schema of a first block for all that follow: a field that was always null becomes a string."""
    plain = plain_schema(schema).remove_metadata()
    return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in plain])


def _with_all(columns: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """With a column of nulls for each field that none of these rows has."""
    for field in schema:
        if field.name not in columns.schema.names:
            columns = columns.append_column(field, pa.nulls(columns.num_rows, field.type))
    return columns
