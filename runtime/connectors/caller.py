"""Sinks in the calling process: print and collect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import pyarrow as pa
import xxhash

from millstream.batch import concat_columns
from millstream.checkpoints.disk import DirectoryDisk
from millstream.connectors.base import Guarantee, Placement, Prepared, Sink, Writer
from millstream.errors import CheckpointError, SinkError

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
    """Rows as one Arrow table in the calling process.

    Attributes:
        folder: where a run with checkpoints keeps the rows that these count; None: nowhere.
    """

    placement: ClassVar[Placement] = Placement.CALLER  # type: ignore[misc]
    guarantee: ClassVar[Guarantee] = Guarantee.EXACTLY_ONCE  # type: ignore[misc]
    name: str
    folder: Path | None = None

    def label(self) -> str:
        return f"collect({self.name!r})"

    def open(self, worker: int, workers: int) -> Writer:
        return CollectWriter()

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        if self.folder is None:
            return CollectWriter()
        return StagedCollectWriter(DirectoryDisk(self.folder), states[0]["files"] if states else [])


class CollectWriter(Writer):
    """Keeps rows in memory."""

    def __init__(self) -> None:
        self._parts: list[pa.RecordBatch] = []

    def write(self, columns: pa.RecordBatch) -> None:
        self._parts.append(columns)

    def table(self) -> pa.Table:
        return pa.Table.from_batches([concat_columns(self._parts)]) if self._parts else pa.table({})

    def close(self) -> None:
        return None


class StagedCollectWriter(CollectWriter):
    """Keeps rows in memory, and those that a checkpoint counts on disk as well: a file for each checkpoint with new rows.

    Args:
        files: name and checksum of those that the checkpoint counts from which the run goes on.
    Raises:
        CheckpointError: one of them is missing or damaged.
    """

    def __init__(self, disk: DirectoryDisk, files: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self._disk = disk
        self._files = [list(file) for file in files]
        for name, checksum in self._files:
            self._parts += self._read(name, checksum)
        self._kept = len(self._parts)

    def prepare(self, *, last: bool) -> Prepared:
        new, self._kept = self._parts[self._kept :], len(self._parts)
        if new:
            batch = concat_columns(new)
            with pa.BufferOutputStream() as out, pa.ipc.new_file(out, batch.schema) as writer:
                writer.write_batch(batch)
            data = out.getvalue()
            name = f"{len(self._files)}.arrow"
            try:
                self._disk.write(name, [data])
            except OSError as error:
                where = self._disk.root / name
                raise SinkError(f"{where}: cannot be written: {error.strerror or error}") from error
            self._files.append([name, xxhash.xxh3_128_hexdigest(memoryview(data))])
        return Prepared({"files": list(self._files)}, [])

    def _read(self, name: str, checksum: str) -> list[pa.RecordBatch]:
        where = self._disk.root / name
        try:
            data = self._disk.read(name)
        except FileNotFoundError:
            raise CheckpointError(f"{where}: is missing, and the checkpoint counts on it") from None
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read: {error.strerror or error}") from error
        if xxhash.xxh3_128_hexdigest(memoryview(data)) != checksum:
            raise CheckpointError(f"{where}: damaged: its content is not what the checkpoint says")
        with pa.ipc.open_file(data) as reader:
            return [reader.get_batch(i) for i in range(reader.num_record_batches)]
