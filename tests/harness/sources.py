"""Sources for tests: rows in memory, in several partitions, as columns or as text to be decoded.

Both cut a partition into blocks of exactly as many rows as the run asks for, so that a test chooses
where batches end. Both can be read again from where a reader was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from millstream.connectors.base import BadRecord, Block, Decoded, Decoder, Offset, Reader, Source

Event = Mapping[str, Any]


def fields(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema(list(kinds.items()))


class ColumnSource(Source):
    """Partitions of rows as columns; a partition may be empty."""

    replayable = True

    def __init__(self, partitions: Sequence[Sequence[Event]], schema: pa.Schema) -> None:
        self._batches = [pa.RecordBatch.from_pylist([dict(e) for e in rows], schema=schema) for rows in partitions]
        self._schema = schema

    def label(self) -> str:
        return "columns in memory"

    def schema(self) -> pa.Schema:
        return self._schema

    def partitions(self) -> Sequence[str]:
        return [str(i) for i in range(len(self._batches))]

    def with_fields(self, fields: Sequence[str]) -> Source:
        narrowed = ColumnSource([], pa.schema([self._schema.field(f) for f in fields]))
        narrowed._batches = [b.select(list(fields)) for b in self._batches]
        return narrowed

    def open(self, partition: str) -> Reader:
        return _ColumnReader(self._batches[int(partition)])

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return _ColumnReader(self._batches[int(partition)], offset["row"])


class _ColumnReader(Reader):
    def __init__(self, columns: pa.RecordBatch, row: int = 0) -> None:
        self._columns = columns
        self._row = row

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        start = self._row
        if start >= self._columns.num_rows:
            self.ended = True
            return None
        self._row += max_rows
        # Half of all partitions learn with the last block that it was the last, the others only when asked again.
        self.ended = self._row >= self._columns.num_rows and self._columns.num_rows % 2 == 0
        return Block(self._columns.slice(start, max_rows), start, 0, "memory")

    def offset(self) -> Offset:
        return {"row": self._row}

    def close(self) -> None:
        return None


class TextSource(Source):
    """Partitions of rows as JSON lines, decoded wherever the run decodes; lines that are no JSON are bad records."""

    replayable = True

    def __init__(self, partitions: Sequence[Sequence[Event | str]], schema: pa.Schema) -> None:
        self._lines = [[e if isinstance(e, str) else json.dumps(dict(e)) for e in rows] for rows in partitions]
        self._schema = schema

    def label(self) -> str:
        return "lines in memory"

    def schema(self) -> pa.Schema:
        return self._schema

    def partitions(self) -> Sequence[str]:
        return [str(i) for i in range(len(self._lines))]

    def open(self, partition: str) -> Reader:
        return _LineReader(self._lines[int(partition)])

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return _LineReader(self._lines[int(partition)], offset["row"])

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        return _JsonDecoder(self._schema if fields is None else pa.schema([self._schema.field(f) for f in fields]))


class _LineReader(Reader):
    def __init__(self, lines: Sequence[str], row: int = 0) -> None:
        self._lines = lines
        self._row = row

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        start, part = self._row, self._lines[self._row : self._row + max_rows]
        self._row += len(part)
        self.ended = self._row >= len(self._lines)
        if not part:
            return None
        return Block("".join(f"{line}\n" for line in part).encode(), start, start + 1, "memory")

    def offset(self) -> Offset:
        return {"row": self._row}

    def close(self) -> None:
        return None


class _JsonDecoder:
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, block: bytes | memoryview | pa.Buffer) -> Decoded:
        rows: list[dict[str, Any]] = []
        bad: list[BadRecord] = []
        for number, line in enumerate(bytes(memoryview(block)).splitlines()):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                bad.append(BadRecord(0, number, line, str(error)))
        return Decoded(pa.RecordBatch.from_pylist(rows, schema=self._schema), bad)
