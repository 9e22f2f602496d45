"""Sinks as operators: encoding in every worker, writing in one or in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, index_array, make_columns
from millstream.connectors.base import Placement, Prepared, Writer
from millstream.connectors.changes import CHANGE
from millstream.connectors.python import PythonWriter, RowWriter
from millstream.functions import Text
from millstream.operators.attempts import call_each, call_together
from millstream.operators.base import SLICE_ROWS, Context, Operator, Output
from millstream.operators.columnar import with_arrays
from millstream.rows import rows_of
from millstream.specs.base import MAIN
from millstream.specs.ends import EncodeSpec, SinkSpec
from millstream.specs.on_error import OnError
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
        self.signed = spec.signed

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        encoded = self.encoder.encode(with_change(batch) if self.signed else batch.all_columns())
        text = pa.array([encoded if isinstance(encoded, bytes) else encoded.to_pybytes()], pa.large_binary())
        yield MAIN, Batch(make_columns([ENCODED, ROWS], [text, pa.array([batch.num_rows])]))


def with_change(batch: Batch) -> pa.RecordBatch:
    """Whole rows of a stream that takes rows back, with the field that says which of them do."""
    columns = batch.all_columns()
    plus = np.ones(batch.num_rows, np.int8) if batch.sign is None else batch.sign > 0
    change = pa.array(["-", "+"]).take(index_array(plus.astype(np.int8)))
    return make_columns([CHANGE, *columns.schema.names], [change, *columns.columns])


class WriteSink(Operator):
    """The writing half: opened with the first batch or at the end, closed at the end."""

    def __init__(self, spec: SinkSpec, context: Context) -> None:
        super().__init__(context)
        self.sink = spec.sink
        self.with_time = spec.takes_what_is_there
        self.signed = spec.signed
        self.on_error = spec.on_error
        self.encodes = spec.sink.encoder() is not None
        self.writer: Writer | None = None
        self._flush_us: int | None = None
        self._closed = False
        self._states: list[dict[str, Any]] | None = None
        self._uncommitted: list[tuple[int, Any]] = []

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        writer = self._open()
        if ENCODED in batch.columns.schema.names and self.encodes:
            for encoded, rows in zip(batch.columns.column(0), batch.columns.column(1), strict=True):
                writer.append(encoded.as_buffer(), rows.as_py())
                self.context.counters.rows_out += rows.as_py()
        else:
            columns = with_change(batch) if self.signed else batch.all_columns()
            if self.with_time and batch.time_us is not None:
                columns = with_arrays(columns, ["event_time"], [pa.array(batch.time_us).view(STAMP)])
            if isinstance(writer, PythonWriter):
                yield from self._hand_over(writer, columns)
            else:
                writer.write(columns)
                self.context.counters.rows_out += batch.num_rows
        if self._flush_us is None:
            self._flush_us = self.context.now_us() + _FLUSH_US

    def _hand_over(self, writer: PythonWriter, columns: pa.RecordBatch) -> Iterator[Output]:
        """Rows to the user's Python, a slice at a time; what it goes on raising on is not written."""
        for start in range(0, columns.num_rows, SLICE_ROWS):
            rows = rows_of(columns.slice(start, SLICE_ROWS))
            if isinstance(writer, RowWriter):
                written, _ = yield from call_each(writer.write_row, rows, self.context, self.on_error)
                self.context.counters.rows_out += len(written)
            else:
                _, error = yield from call_together(writer.write_rows, rows, len(rows), self.context, self.on_error)
                if error is None:
                    self.context.counters.rows_out += len(rows)
                elif self.on_error.then is OnError.FAIL:
                    self.context.give_up(self.on_error, error, Text(f"{len(rows)} rows, the first {rows[0]!r}"))
                else:
                    for row in rows:
                        self.context.give_up(self.on_error, error, row, "the sink")
            if start + SLICE_ROWS < columns.num_rows:
                yield None

    def due_us(self) -> int | None:
        return self._flush_us

    def on_clock(self, now_us: int) -> Iterator[Output]:
        self._flush_us = None
        self._open().flush()
        return
        yield

    def on_end(self) -> Iterator[Output]:
        if not self.context.checkpoints:
            self._close()
        self._flush_us = None
        return
        yield

    def _close(self) -> None:
        # A single file exists after a run without rows, too; a worker without rows leaves no part.
        if self.writer is not None or self.sink.placement is not Placement.PARALLEL:
            self._open().close()
        self._closed = True

    # --- checkpoints ---

    def resume(self, states: list[dict[str, Any]]) -> None:
        """Go on from what all writers of this sink said at a checkpoint."""
        self._states = states

    def prepare(self, epoch: int, *, last: bool) -> Prepared:
        """Make durable what was written before the barrier of an epoch."""
        prepared = self._open().prepare(last=last)
        self._uncommitted += [(epoch, action) for action in prepared.commits]
        # Those of a checkpoint that was given up are for the next one to do.
        return Prepared(prepared.state, [action for _, action in self._uncommitted])

    def commit(self, epoch: int, *, last: bool) -> None:
        """The checkpoint of an epoch exists: show what it counts."""
        for made, action in self._uncommitted:
            if made <= epoch:
                self.sink.commit(action)
        self._uncommitted = [(made, action) for made, action in self._uncommitted if made > epoch]
        if last:
            self._close()

    def on_abort(self) -> None:
        if self.writer is not None and not self._closed:
            self.writer.abort()

    def _open(self) -> Writer:
        if self.writer is None:
            worker, workers = self.context.worker, self.context.workers
            if self.context.checkpoints:
                self.writer = self.sink.open_staged(worker, workers, self._states)
            else:
                self.writer = self.sink.open(worker, workers)
        return self.writer
