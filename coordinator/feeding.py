"""The two ends of a flow under test: sources whose rows a test gives, and sinks that keep rows until it looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from millstream.connectors.base import Block, Placement, Reader, Sink, Source, Writer
from millstream.errors import SourceError, unknown_field
from millstream.rows import Row, columns_of
from millstream.schema import conform


class Feed(Source):
    """A source whose rows a test gives.

    Attributes:
        ended: whether nothing more will come.
    """

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.ended = False
        self.live = source.live
        self._label = source.label()
        try:
            self._schema = source.schema()
        except SourceError:
            self._schema = None  # its file is not here: the first rows show the fields
        self._fields: tuple[str, ...] | None = None
        self._batches: deque[pa.RecordBatch] = deque()
        self._rows = 0

    def put(self, rows: Iterable[Any]) -> None:
        if isinstance(rows, pa.Table | pa.RecordBatch):
            parts = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        else:
            parts = [self._columns(list(rows))]
        where = f"feed({self.name!r})"
        for part in parts:
            if part.num_rows:
                self._schema = part.schema if self._schema is None else self._schema
                self._batches.append(conform(part, self._schema, where))

    def _columns(self, rows: Sequence[Any]) -> pa.RecordBatch:
        where = f"feed({self.name!r})"
        if self._schema is None:
            return columns_of(rows, None, where)
        known = self._schema.names
        whole: list[Any] = []
        for row in rows:
            fields = row.to_dict() if isinstance(row, Row) else row
            if isinstance(fields, Mapping):
                strange = next((n for n in fields if n not in known), None)
                if strange is not None:
                    raise unknown_field(strange, known, where)
                fields = {n: fields.get(n) for n in known}
            whole.append(fields)
        return columns_of(whole, self._schema, where)

    def take(self, max_rows: int) -> Block | None:
        """The next rows, as the plan reads them."""
        if not self._batches:
            return None
        columns = self._batches.popleft()
        if columns.num_rows > max_rows:
            self._batches.appendleft(columns.slice(max_rows))
            columns = columns.slice(0, max_rows)
        start, self._rows = self._rows, self._rows + columns.num_rows
        return Block(columns, start, 0, self.name)

    @property
    def empty(self) -> bool:
        return not self._batches

    def label(self) -> str:
        return self._label

    def schema(self) -> pa.Schema | None:
        return self._schema

    def partitions(self) -> Sequence[str]:
        return ["test"]

    def with_fields(self, fields: Sequence[str]) -> Source:
        return _Narrowed(self, tuple(fields))

    def open(self, partition: str) -> Reader:
        return _FedReader(self, None)


class _Narrowed(Source):
    """A feed of which the flow reads some fields."""

    def __init__(self, feed: Feed, fields: tuple[str, ...]) -> None:
        self._feed = feed
        self._fields = fields
        self.live = feed.live

    def label(self) -> str:
        return self._feed.label()

    def schema(self) -> pa.Schema | None:
        schema = self._feed.schema()
        return None if schema is None else pa.schema([schema.field(f) for f in self._fields])

    def partitions(self) -> Sequence[str]:
        return self._feed.partitions()

    def open(self, partition: str) -> Reader:
        return _FedReader(self._feed, self._fields)


class _FedReader(Reader):
    def __init__(self, feed: Feed, fields: tuple[str, ...] | None) -> None:
        self._feed = feed
        self._fields = fields

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        block = self._feed.take(max_rows)
        self.ended = self._feed.ended and self._feed.empty
        if block is None or self._fields is None or not isinstance(block.payload, pa.RecordBatch):
            return block
        return replace(block, payload=block.payload.select(list(self._fields)))

    def close(self) -> None:
        return None


class Tap(Sink):
    """Takes what comes out, until a test looks."""

    placement = Placement.CALLER

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []

    def label(self) -> str:
        return "FlowTest"

    def open(self, worker: int, workers: int) -> Writer:
        return _TapWriter(self._batches)

    def take(self) -> list[dict[str, Any]]:
        rows = [row for batch in self._batches for row in batch.to_pylist()]
        self._batches.clear()
        return rows


class _TapWriter(Writer):
    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._batches = batches

    def write(self, columns: pa.RecordBatch) -> None:
        self._batches.append(columns)

    def close(self) -> None:
        return None
