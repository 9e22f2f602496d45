"""Files as sinks write them: text that grows by whole records, Parquet that appears when it is finished.

Whatever fails, no torn record is left behind: a text file is cut back to its last whole record.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from millstream.connectors.base import Encoder
from millstream.errors import SinkError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROW_GROUP_BYTES: Final = 64 << 20

ParquetCompression = Literal["gzip", "brotli", "lz4", "zstd", "snappy", "none"]
Encoded = bytes | memoryview | pa.Buffer


def cannot_write(path: str, error: OSError) -> SinkError:
    """What went wrong with a file, and what to do about it."""
    sentences = {
        errno.ENOSPC: "the disk is full; free some space, or write elsewhere",
        errno.EDQUOT: "the disk quota is used up; free some space, or write elsewhere",
        errno.EROFS: "the file system is read only; write elsewhere",
        errno.EISDIR: "is a directory; end the path with '/' to write part files into it",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a file is in the place of the folder",
        errno.EFBIG: "the file is larger than the file system allows; end the path with '/' to write part files",
    }
    if isinstance(error, PermissionError):
        return SinkError(f"{path}: no permission to write it; check its mode and owner and those of its folders")
    return SinkError(f"{path}: {sentences.get(error.errno or 0) or f'cannot be written: {error.strerror or error}'}")


class OutputFile(ABC):
    """A file that is being written.

    Attributes:
        nbytes: how much was given to it so far.
    """

    nbytes: int = 0

    @abstractmethod
    def write(self, columns: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            SinkError: they cannot be written, or their fields are not those of the rows before.
        """

    def append(self, encoded: Encoded) -> None:
        """Add rows that the sink's encoder made into bytes."""
        raise NotImplementedError

    def flush(self) -> None:
        """Let readers see what there is, where the format allows it."""
        return None

    def sync(self) -> dict[str, Any]:
        """Make durable what was given so far; returns what `resume` takes after a failure."""
        raise NotImplementedError

    @abstractmethod
    def seal(self) -> tuple[str, str]:
        """Make it a whole file, durably, under a name that is not yet its own: (that name, its own)."""

    @abstractmethod
    def finish(self) -> None:
        """Make it a whole file under its own name."""

    @abstractmethod
    def abandon(self) -> None:
        """Stop without making it look whole."""


class TextOutput(OutputFile):
    """A text file, in place or (hidden) under a dot-name until it is finished."""

    def __init__(
        self,
        path: str,
        encoder: Encoder,
        compression: Literal["gzip", "zstd"] | None,
        *,
        hidden: bool,
        header: Callable[[pa.Schema], bytes] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            path: where; what is there is replaced, or cut back to what `sync` had said in ``after``.
            encoder: makes bytes of rows.
            compression: of the whole file.
            hidden: write under a dot-name first.
            header: what comes before the first record. The encoder then puts each batch's schema in front.
        """
        self._path, self._encoder, self._header = path, encoder, header
        self._schema_bytes: bytes | None = None
        self._schema = pa.schema([])
        self._hidden = _hidden_name(path) if hidden else None
        self._compressor = _COMPRESSORS[compression]() if compression else None
        self._length = 0
        self._named = False
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_TRUNC if after is None else 0)
            self._descriptor = os.open(self._hidden or path, flags, 0o666)
            self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            if after is not None:
                self._cut_back(after)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, columns: pa.RecordBatch) -> None:
        self.append(self._encoder.encode(columns))

    def append(self, encoded: Encoded) -> None:
        records = memoryview(encoded)
        self.nbytes += len(records)
        if self._header is not None:
            end = 4 + int.from_bytes(records[:4], "little")
            self._see_schema(bytes(records[4:end]))
            records = records[end:]
        self._put(records if self._compressor is None else self._compressor.add(records))

    def flush(self) -> None:
        if self._compressor is not None:
            self._put(self._compressor.flush())

    def sync(self) -> dict[str, Any]:
        if self._compressor is not None:
            # What follows is a member of its own: readers take a file of several as one.
            self._put(self._compressor.end())
            self._compressor = type(self._compressor)()
        try:
            if self._regular:  # a pipe or a device cannot be asked
                os.fsync(self._descriptor)
            if self._regular and not self._named:
                sync_folder(self._path)
                self._named = True
        except OSError as error:
            raise cannot_write(self._path, error) from error
        schema = None if self._schema_bytes is None else base64.b64encode(self._schema_bytes).decode()
        return {"length": self._length, "schema": schema}

    def _cut_back(self, after: dict[str, Any]) -> None:
        """Go on from what `sync` had said: what came behind it is of a life of the run that failed."""
        if not self._regular:
            return  # a pipe or a terminal: what is gone is gone
        self._length = int(after["length"])
        if (found := os.fstat(self._descriptor).st_size) < self._length:
            raise SinkError(
                f"{self._path}: has {found} bytes, and the checkpoint counts on {self._length}: it was cut short or "
                "replaced; put it back, or start anew with --fresh"
            )
        os.ftruncate(self._descriptor, self._length)
        if after["schema"] is not None:
            self._schema_bytes = base64.b64decode(after["schema"])
            self._schema = pa.ipc.read_schema(pa.py_buffer(self._schema_bytes))

    def seal(self) -> tuple[str, str]:
        assert self._hidden is not None
        if self._compressor is not None:
            self._put(self._compressor.end())
        try:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            sync_folder(self._hidden)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self._hidden, self._path

    def finish(self) -> None:
        if self._hidden is not None:
            make_visible(*self.seal())
            return
        if self._compressor is not None:
            self._put(self._compressor.end())
        try:
            os.close(self._descriptor)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def abandon(self) -> None:
        os.close(self._descriptor)
        if self._hidden is not None:
            _remove(self._hidden)

    def _see_schema(self, schema_bytes: bytes) -> None:
        """Write the header before the first records, and let no other fields follow."""
        if schema_bytes == self._schema_bytes:
            return
        schema = pa.ipc.read_schema(pa.py_buffer(schema_bytes))
        if self._schema_bytes is None:
            self._schema_bytes, self._schema = schema_bytes, schema
            assert self._header is not None
            header = memoryview(self._header(schema))
            self._put(header if self._compressor is None else self._compressor.add(header))
            return
        check_same(self._path, self._schema, schema)

    def _put(self, data: bytes | memoryview) -> None:
        """Write all of it, or leave the file as it was."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            if self._regular:
                os.ftruncate(self._descriptor, self._length)
            raise cannot_write(self._path, error) from error
        self._length += len(data)


class ParquetOutput(OutputFile):
    """A Parquet file, under a dot-name until it is finished: without its end it cannot be read."""

    def __init__(self, path: str, compression: ParquetCompression) -> None:
        self._path, self._compression = path, compression
        self._hidden = _hidden_name(path)
        try:
            _remove(path)  # what an earlier run wrote must not be taken for the result of this one
        except OSError as error:
            raise cannot_write(path, error) from error
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def write(self, columns: pa.RecordBatch) -> None:
        if self._schema is None:
            self._schema = columns.schema.remove_metadata()
        check_same(self._path, self._schema, columns.schema)
        # Built anew, as whether a field may be null can differ from batch to batch.
        self._waiting.append(pa.RecordBatch.from_arrays(columns.columns, schema=self._schema))
        self._waiting_bytes += columns.nbytes
        self.nbytes += columns.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def seal(self) -> tuple[str, str]:
        self._write_group()
        try:
            self._open().close()
            self._writer = None
            with open(self._hidden, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(self._hidden)
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self._hidden, self._path

    def finish(self) -> None:
        make_visible(*self.seal())

    def abandon(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError:
            pass  # it is thrown away; why it failed was said when it did
        _remove(self._hidden)

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            import pyarrow.parquet as pq  # brings file systems of the network, for which other flows need not wait

            # A run without a row still replaces what an earlier one left, by a file without fields.
            self._writer = pq.ParquetWriter(
                self._hidden, self._schema or pa.schema([]), compression=self._compression, store_schema=True
            )
        return self._writer

    def _write_group(self) -> None:
        """Write what waits as one row group: many small ones would make the file slow to read."""
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_bytes = [], 0
        try:
            self._open().write_table(table, row_group_size=max(table.num_rows, 1))
        except OSError as error:
            raise cannot_write(self._path, error) from error


def make_visible(hidden: str, path: str) -> None:
    """Give a sealed file its own name, durably. Doing it twice is doing it once.

    Raises:
        SinkError: there is neither the one nor the other.
    """
    try:
        os.replace(hidden, path)
        sync_folder(path)
    except FileNotFoundError as error:
        if not os.path.exists(path):
            raise SinkError(f"{path}: was written as {hidden}, which is not there any more") from error
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_folder(path: str) -> None:
    """Make the name of a file durable: after a power cut it may be gone, though its content is not."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_same(path: str, first: pa.Schema, later: pa.Schema) -> None:
    """Refuse fields that are not those of the rows before.

    Raises:
        SinkError: names the field and both types.
    """
    if first.equals(later):
        return
    hint = "a file has one schema: cast it with .with_columns(), or declare it where it is made"
    for field in later:
        if field.name not in first.names:
            known = ", ".join(first.names)
            raise SinkError(f"{path}: field {field.name!r} is new; the first rows have {known}; {hint}")
        before = first.field(field.name).type
        if field.type != before:
            change = f"was {before} in the first rows and is {field.type} now"
            raise SinkError(f"{path}: field {field.name!r} {change}; {hint}")
    gone = [name for name in first.names if name not in later.names]
    if gone:
        raise SinkError(f"{path}: field {gone[0]!r} is missing, the first rows have it; {hint}")
    if first.names != later.names:
        order = f"were {', '.join(first.names)} and are {', '.join(later.names)} now"
        raise SinkError(f"{path}: the fields {order}; {hint}")


def _hidden_name(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def add(self, data: bytes | memoryview) -> bytes:
        return self._stream.compress(data)

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._stream.flush()


class _Zstd:
    """Arrow compresses into a sink only; what lies there is taken out after each step."""

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._stream: Any = pa.CompressedOutputStream(self._sink, "zstd")
        self._pending = 0

    def add(self, data: bytes | memoryview) -> bytes:
        self._stream.write(data)
        self._pending += len(data)
        return self.flush() if self._pending >= _FRAME_BYTES else b""

    def flush(self) -> bytes:
        if not self._pending:
            return b""
        self._stream.close()
        frame = self._sink.getvalue().to_pybytes()
        self._open()
        return frame

    def end(self) -> bytes:
        return self.flush()


_FRAME_BYTES = 4 << 20
_COMPRESSORS: Final[dict[str, Callable[[], _Gzip | _Zstd]]] = {"gzip": _Gzip, "zstd": _Zstd}
