"""Sinks as operators: encoding in every worker, writing in one or in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from millstream.batch import Batch, make_columns
from millstream.connectors.base import Placement, Writer
from millstream.operators.base import Context, Operator, Output
from millstream.operators.columnar import with_arrays
from millstream.specs.base import MAIN
from millstream.specs.ends import EncodeSpec, SinkSpec
from millstream.times import SECOND_US, STAMP

ENCODED: Final = "encoded"
ROWS: Final = "rows"
_FLUSH_US: Final = SECOND_US


class Encode(Operator):
    """The parallel half of a gathered sink: a batch becomes one value of bytes, and its row count."""

    def __init__(self, spec: EncodeSpec, context: Context) -> None:
        super().__init__(context)
        encoder = spec.sink.encoder()
        assert encoder is not None
        self.encoder = encoder

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        encoded = self.encoder.encode(batch.all_columns())
        text = pa.array([encoded if isinstance(encoded, bytes) else encoded.to_pybytes()], pa.large_binary())
        yield MAIN, Batch(make_columns([ENCODED, ROWS], [text, pa.array([batch.num_rows])]))


class WriteSink(Operator):
    """The writing half: opened with the first batch or at the end, closed at the end."""

    def __init__(self, spec: SinkSpec, context: Context) -> None:
        super().__init__(context)
        self.sink = spec.sink
        self.with_time = spec.takes_what_is_there
        self.encodes = spec.sink.encoder() is not None
        self.writer: Writer | None = None
        self._flush_us: int | None = None
        self._closed = False

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        writer = self._open()
        if ENCODED in batch.columns.schema.names and self.encodes:
            for encoded, rows in zip(batch.columns.column(0), batch.columns.column(1), strict=True):
                writer.append(encoded.as_buffer(), rows.as_py())
                self.context.counters.rows_out += rows.as_py()
        else:
            columns = batch.all_columns()
            if self.with_time and batch.time_us is not None:
                columns = with_arrays(columns, ["event_time"], [pa.array(batch.time_us).view(STAMP)])
            writer.write(columns)
            self.context.counters.rows_out += batch.num_rows
        if self._flush_us is None:
            self._flush_us = self.context.now_us() + _FLUSH_US
        return
        yield  # a generator without outputs

    def due_us(self) -> int | None:
        return self._flush_us

    def on_clock(self, now_us: int) -> Iterator[Output]:
        self._flush_us = None
        self._open().flush()
        return
        yield

    def on_end(self) -> Iterator[Output]:
        # A single file exists after a run without rows, too; a worker without rows leaves no part.
        if self.writer is not None or self.sink.placement is not Placement.PARALLEL:
            self._open().close()
        self._closed = True
        self._flush_us = None
        return
        yield

    def on_abort(self) -> None:
        if self.writer is not None and not self._closed:
            self.writer.abort()

    def _open(self) -> Writer:
        if self.writer is None:
            self.writer = self.sink.open(self.context.worker, self.context.workers)
        return self.writer
