"""Sinks in the calling process: print and collect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import pyarrow as pa

from millstream.batch import concat_columns
from millstream.connectors.base import Placement, Sink, Writer

_WIDTH_LIMIT: Final = 40


@dataclass(frozen=True)
class PrintSink(Sink):
    """Rows as a table on standard output, at most ``limit`` of them."""

    placement: ClassVar[Placement] = Placement.CALLER  # type: ignore[misc]
    limit: int | None = None

    def label(self) -> str:
        return "print()"

    def open(self, worker: int, workers: int) -> Writer:
        return PrintWriter(self.limit)


class PrintWriter(Writer):
    def __init__(self, limit: int | None) -> None:
        self._left = limit
        self._hidden = 0
        self._header: list[str] = []
        self._widths: list[int] = []

    def write(self, columns: pa.RecordBatch) -> None:
        shown = columns if self._left is None else columns.slice(0, self._left)
        if self._left is not None:
            self._left -= shown.num_rows
            self._hidden += columns.num_rows - shown.num_rows
        if shown.num_rows == 0:
            return
        rows = [[_text(v) for v in row] for row in zip(*(c.to_pylist() for c in shown.columns), strict=True)]
        names = shown.schema.names
        widths = [min(_WIDTH_LIMIT, max(len(n), *(len(r[i]) for r in rows))) for i, n in enumerate(names)]
        if names != self._header or any(w > old for w, old in zip(widths, self._widths, strict=False)):
            self._widths = (
                widths if names != self._header else [max(a, b) for a, b in zip(widths, self._widths, strict=True)]
            )
            self._header = names
            print("  ".join(n.ljust(w) for n, w in zip(names, self._widths, strict=True)).rstrip())
        for row in rows:
            print("  ".join(v[:_WIDTH_LIMIT].ljust(w) for v, w in zip(row, self._widths, strict=True)).rstrip())

    def close(self) -> None:
        if self._hidden:
            print(f"... and {self._hidden:,} more rows")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).replace("+00:00", "Z")
    return "" if value is None else str(value)


@dataclass(frozen=True)
class CollectSink(Sink):
    """Rows as one Arrow table in the calling process."""

    placement: ClassVar[Placement] = Placement.CALLER  # type: ignore[misc]
    name: str

    def label(self) -> str:
        return f"collect({self.name!r})"

    def open(self, worker: int, workers: int) -> Writer:
        return CollectWriter()


class CollectWriter(Writer):
    def __init__(self) -> None:
        self._parts: list[pa.RecordBatch] = []

    def write(self, columns: pa.RecordBatch) -> None:
        self._parts.append(columns)

    def table(self) -> pa.Table:
        return pa.Table.from_batches([concat_columns(self._parts)]) if self._parts else pa.table({})

    def close(self) -> None:
        return None
