"""A sink that takes rows and does nothing with them: what a flow costs without its output."""

from __future__ import annotations

import pyarrow as pa

from millstream.connectors.base import Sink, Writer


class NullSink(Sink):
    """Takes everything, in every worker."""

    def label(self) -> str:
        return "write_null()"

    def open(self, worker: int, workers: int) -> Writer:
        return _NullWriter()


class _NullWriter(Writer):
    def write(self, columns: pa.RecordBatch) -> None:
        pass

    def close(self) -> None:
        pass
