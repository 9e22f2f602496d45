"""Sinks that write files: JSON lines, CSV, Parquet; one file, or a directory of part files.

A path that ends with "/", or is a directory, gets part files ``part-<worker>-<n>.<suffix>`` from every
worker; they appear under their names when they are whole. Any other path is one file that one worker
writes. Text is appended in whole lines, so ``tail -f`` works; a Parquet file appears when it is finished. What an
earlier run left under the same names is replaced.
"""

from __future__ import annotations

import os
import re
import stat
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import pyarrow as pa

from millstream.connectors.base import Encoder, Guarantee, Placement, Prepared, Sink, Writer
from millstream.connectors.cells import Times
from millstream.connectors.csv import encode_csv
from millstream.connectors.files import compression_of
from millstream.connectors.jsonl import encode_jsonl
from millstream.connectors.output_files import (
    OutputFile,
    ParquetCompression,
    ParquetOutput,
    TextOutput,
    cannot_write,
    make_visible,
)
from millstream.connectors.staged_parquet import StagedParquetWriter, assemble
from millstream.errors import SinkError

PART_BYTES: Final = 128 << 20
PART_S: Final = 10.0
"""A part is finished when it is this large, or this old."""

_PART = re.compile(r"\.?part-(\d+)-(\d+)\..+")


class FileSink(Sink):
    """What all sinks of files have in common: where they write."""

    verb: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        # Settled once: a directory that appears later must not change where writers run.
        self.directory = self.path.endswith("/") or os.path.isdir(self.path)
        self.placement = Placement.PARALLEL if self.directory else Placement.GATHER
        self.guarantee = Guarantee.EXACTLY_ONCE if self.directory else Guarantee.AFTER_RECOVERY

    def label(self) -> str:
        return f"{self.verb}({self.path!r})"

    def owns(self) -> str | None:
        # Pipes, terminals and /dev/null take what several write.
        mine = not os.path.exists(self.path) or os.path.isfile(self.path) or self.directory
        return os.path.realpath(self.path) if mine else None

    def check(self) -> None:
        """Make the folders, and see that files can be made in them."""
        folder = self.path if self.directory else os.path.dirname(self.path) or "."
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        if not self.directory and os.path.isdir(self.path):
            raise SinkError(f"{self.path}: is a directory; end the path with '/' to write part files into it")
        in_place = os.path.exists(self.path) and not self.directory
        if not os.access(self.path if in_place else folder, os.W_OK):
            raise cannot_write(self.path, PermissionError())

    def open(self, worker: int, workers: int) -> Writer:
        self.check()
        if not self.directory:
            return FileWriter(self._output(self.path))
        remove_parts(self.path, worker, workers)
        return PartsWriter(self, worker)

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        self.check()
        if not self.directory:
            return FileWriter(self._output(self.path, after=states[0] if states else None))
        # No number is used twice, also when there were more workers before, or are again.
        first = max((s["next_part"] for s in states or ()), default=0)
        counted = {s["worker"]: s["next_part"] for s in states or ()}
        remove_parts(self.path, worker, workers, lambda owner, number: number < counted.get(owner, first))
        return StagedPartsWriter(self, worker, first)

    def commit(self, action: Any) -> None:
        hidden, path = action
        make_visible(hidden, path)

    def part(self, worker: int, number: int) -> OutputFile:
        """A part file, to be written under a dot-name."""
        return self._output(os.path.join(self.path, f"part-{worker}-{number}.{self.suffix}"), hidden=True)

    @abstractmethod
    def _output(self, path: str, *, hidden: bool = False, after: dict[str, Any] | None = None) -> OutputFile: ...


class JsonLinesSink(FileSink):
    """One JSON object a line."""

    verb, suffix = "write_jsonl", "jsonl"

    def __init__(self, path: str | os.PathLike[str], *, times: Times = "iso") -> None:
        super().__init__(path)
        self.times = times

    def encoder(self) -> Encoder:
        return JsonLinesEncoder(self.times)

    def _output(self, path: str, *, hidden: bool = False, after: dict[str, Any] | None = None) -> OutputFile:
        return TextOutput(path, self.encoder(), compression_of(path, "infer"), hidden=hidden, after=after)


class JsonLinesEncoder:
    def __init__(self, times: Times) -> None:
        self._times = times

    def encode(self, columns: pa.RecordBatch) -> pa.Buffer:
        return encode_jsonl(columns, times=self._times)


class CsvSink(FileSink):
    """CSV with a header line. Its fields and their types are those of the first batch, to the end."""

    verb, suffix = "write_csv", "csv"

    def __init__(self, path: str | os.PathLike[str], *, delimiter: str = ",", times: Times = "iso") -> None:
        super().__init__(path)
        self.delimiter, self.times = delimiter, times

    def encoder(self) -> Encoder:
        return CsvEncoder(self.delimiter, self.times)

    def _output(self, path: str, *, hidden: bool = False, after: dict[str, Any] | None = None) -> OutputFile:
        codec = compression_of(path, "infer")
        return TextOutput(path, self.encoder(), codec, hidden=hidden, header=self._header, after=after)

    def _header(self, schema: pa.Schema) -> bytes:
        return bytes(encode_csv(pa.RecordBatch.from_pylist([], schema=schema), header=True, delimiter=self.delimiter))


class CsvEncoder:
    """Records with their schema in front: the writer makes one header of it, and sees when it changes.

    Layout: the length of the serialized Arrow schema (4 bytes, little endian), the schema, the records.
    """

    def __init__(self, delimiter: str, times: Times) -> None:
        self._delimiter, self._times = delimiter, times

    def encode(self, columns: pa.RecordBatch) -> bytes:
        schema = columns.schema.remove_metadata().serialize()
        records = encode_csv(columns, header=False, delimiter=self._delimiter, times=self._times)
        return b"".join((schema.size.to_bytes(4, "little"), schema, records))


class ParquetSink(FileSink):
    """Parquet. Its fields and their types are those of the first batch, to the end."""

    verb, suffix = "write_parquet", "parquet"

    def __init__(self, path: str | os.PathLike[str], *, compression: ParquetCompression = "zstd") -> None:
        super().__init__(path)
        self.compression = compression

    def _output(self, path: str, *, hidden: bool = False, after: dict[str, Any] | None = None) -> OutputFile:
        return ParquetOutput(path, self.compression)

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        if self.directory:
            return super().open_staged(worker, workers, states)
        self.check()
        return StagedParquetWriter(self.path, states[0]["pieces"] if states else None)

    def commit(self, action: Any) -> None:
        if self.directory:
            super().commit(action)
        else:
            assemble(self.path, action, self._output)


class FileWriter(Writer):
    """One file from the first row to the last."""

    def __init__(self, output: OutputFile) -> None:
        self._output = output

    def write(self, columns: pa.RecordBatch) -> None:
        self._output.write(columns)

    def append(self, encoded: bytes | memoryview | pa.Buffer, rows: int) -> None:
        self._output.append(encoded)

    def flush(self) -> None:
        self._output.flush()

    def prepare(self, *, last: bool) -> Prepared:
        return Prepared(self._output.sync(), [])

    def close(self) -> None:
        self._output.finish()

    def abort(self) -> None:
        self._output.abandon()


class PartsWriter(Writer):
    """One worker's part files."""

    def __init__(self, sink: FileSink, worker: int, first: int = 0) -> None:
        self._sink, self._worker = sink, worker
        self._number = first
        self._output: OutputFile | None = None
        self._opened_s = 0.0

    def write(self, columns: pa.RecordBatch) -> None:
        self._part().write(columns)
        self._finish_large()

    def append(self, encoded: bytes | memoryview | pa.Buffer, rows: int) -> None:
        self._part().append(encoded)
        self._finish_large()

    def flush(self) -> None:
        if self._output is not None and time.monotonic() - self._opened_s >= PART_S:
            self._finish()

    def close(self) -> None:
        self._finish()

    def abort(self) -> None:
        if self._output is not None:
            self._output.abandon()
            self._output = None

    def _part(self) -> OutputFile:
        if self._output is None:
            self._output = self._sink.part(self._worker, self._number)
            self._opened_s = time.monotonic()
            self._number += 1
        return self._output

    def _finish_large(self) -> None:
        if self._output is not None and self._output.nbytes >= PART_BYTES:
            self._finish()

    def _finish(self) -> None:
        if self._output is not None:
            output, self._output = self._output, None
            output.finish()


class StagedPartsWriter(PartsWriter):
    """Part files that appear when the checkpoint that counts them is complete."""

    def __init__(self, sink: FileSink, worker: int, first: int) -> None:
        super().__init__(sink, worker, first)
        self._sealed: list[tuple[str, str]] = []

    def flush(self) -> None:
        return None  # a part ends with the checkpoint

    def prepare(self, *, last: bool) -> Prepared:
        self._finish()
        sealed, self._sealed = self._sealed, []
        state = {"worker": self._worker, "next_part": self._number}
        return Prepared(state, [list(names) for names in sealed])

    def _finish(self) -> None:
        if self._output is not None:
            output, self._output = self._output, None
            self._sealed.append(output.seal())


def remove_parts(
    directory: str, worker: int, workers: int, counts: Callable[[int, int], bool] = lambda owner, number: False
) -> None:
    """Remove what an earlier run left: the worker's own parts, and worker 0 those of workers that are no more.

    No two workers look at the same file, so none removes what another has already written in this run.

    Args:
        counts: whether the part of a worker with a number is one that the checkpoint counts from which the run goes
            on. Others can be there under their own names, too: they were shown by a later checkpoint, since damaged.
    """
    try:
        for name in os.listdir(directory):
            match = _PART.fullmatch(name)
            if match is None:
                continue
            owner, number = int(match.group(1)), int(match.group(2))
            if owner != worker and (worker != 0 or owner < workers):
                continue  # not even looked at: its owner may be removing it
            if not name.startswith(".") and counts(owner, number):
                continue
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)
    except OSError as error:
        raise cannot_write(directory, error) from error
