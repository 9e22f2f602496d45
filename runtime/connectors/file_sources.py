"""Sources that read files: JSON lines, CSV and plain text; Parquet and Arrow.

A path, a list of paths or a glob is one source partition, read file after file in natural order of names;
``partitions="files"`` makes a partition of each file. The schema is declared, or inferred once, from the
first MiB of the first file that holds anything.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from millstream.connectors.base import Decoder, Offset, Reader, Source
from millstream.connectors.blocks import csv_ends
from millstream.connectors.column_reader import ColumnReader, FileBatch
from millstream.connectors.decoders import LINE_SCHEMA, CsvFilesDecoder, LineDecoder, json_decoder
from millstream.connectors.files import (
    Compression,
    Paths,
    cannot_read,
    compression_of,
    matching,
    open_text,
    path_list,
)
from millstream.connectors.infer import csv_header, infer_csv, infer_json, split_header
from millstream.connectors.text import BOM
from millstream.connectors.text_reader import TextReader
from millstream.errors import FlowError, SchemaError, SourceError
from millstream.schema import conform, narrow, plain_schema

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Partitions = Literal["one", "files"]

SAMPLE_BYTES = 1 << 20
_COLUMN_ROWS = 65_536
_FOLLOWED_HEADER_BYTES = 64 << 10


class FileSource(Source):
    """What all sources of files have in common: which files, and how they make partitions."""

    verb = "read"
    replayable = True

    def __init__(self, paths: Paths, schema: pa.Schema | None, partitions: Partitions, limit: int | None) -> None:
        self.paths = path_list(paths)
        self.declared = schema
        self.limit = limit
        self._per_file = partitions == "files"
        if partitions not in ("one", "files"):
            raise FlowError(f"{self.label()}: partitions={partitions!r}: there are 'one' and 'files'")

    def label(self) -> str:
        shown = repr(self.paths[0]) if len(self.paths) == 1 else repr(self.paths)
        return f"{self.verb}({shown})"

    def files(self) -> list[str]:
        """The files there are now.

        Raises:
            SourceError: there are none, or one cannot be read.
        """
        return matching(self.paths)

    def partitions(self) -> Sequence[str]:
        files = self.files()
        return files if self._per_file else [", ".join(self.paths)]

    def open(self, partition: str) -> Reader:
        return self._open([partition] if self._per_file else self.files(), None)

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return self._open([partition] if self._per_file else self.files(), offset)

    def _open(self, files: Sequence[str], after: Offset | None) -> Reader:
        raise NotImplementedError


class TextFileSource(FileSource):
    """What the sources of text files have in common: compression, and following files as they grow."""

    def __init__(
        self,
        paths: Paths,
        schema: pa.Schema | None,
        compression: Compression,
        partitions: Partitions,
        follow: bool,
        limit: int | None,
    ) -> None:
        super().__init__(paths, schema, partitions, limit)
        self.compression, self.follow, self.live = compression, follow, follow
        self._known = schema
        for path in self.paths:
            if follow and compression_of(path, compression):
                raise FlowError(f"{self.label()}: a compressed file cannot be followed")

    def _open(self, files: Sequence[str], after: Offset | None) -> Reader:
        follow = files if self._per_file else self.paths
        return TextReader(
            files, self.compression, follow=follow if self.follow else None, limit=self.limit, after=after
        )

    def _sample(self) -> tuple[str, bytes] | None:
        """The path and the start of the first file that holds anything; None where none does."""
        for path in self.files():
            sample = self._start_of(path, SAMPLE_BYTES)
            if sample.strip():
                return path, sample
        return None

    def _start_of(self, path: str, nbytes: int) -> bytes:
        file = open_text(path, self.compression)
        try:
            return file.more(b"", nbytes)
        finally:
            file.close()


class JsonLinesSource(TextFileSource):
    """Files with one JSON object a line."""

    verb = "read_jsonl"

    def __init__(
        self,
        paths: Paths,
        *,
        schema: pa.Schema | None = None,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(paths, schema, compression, partitions, follow, limit)

    def schema(self) -> pa.Schema | None:
        if self._known is None:
            sample = self._sample()
            if sample is None:
                return None if self.follow else pa.schema([])
            try:
                self._known = infer_json(sample[1])
            except SourceError as error:
                raise SourceError(f"{sample[0]}: {error}") from error
        return self._known

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        return json_decoder(self.schema(), fields, self.label())


class TextSource(TextFileSource):
    """Files of plain text: each line, without its end, is an event with the one field ``line``."""

    verb = "read_text"

    def __init__(
        self,
        paths: Paths,
        *,
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(paths, LINE_SCHEMA, compression, partitions, follow, limit)

    def schema(self) -> pa.Schema:
        return LINE_SCHEMA

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        return LineDecoder()


class CsvSource(TextFileSource):
    """CSV files with a header line. All must name the same fields; their order may differ."""

    verb = "read_csv"

    def __init__(
        self,
        paths: Paths,
        *,
        schema: pa.Schema | None = None,
        delimiter: str = ",",
        quote: str = '"',
        null_values: Sequence[str] = ("",),
        compression: Compression = "infer",
        partitions: Partitions = "one",
        follow: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(paths, schema, compression, partitions, follow, limit)
        self.delimiter, self.quote, self.null_values = delimiter, quote, tuple(null_values)
        self._names: list[str] | None = None
        self._named_in = ""

    def schema(self) -> pa.Schema | None:
        if self._names is None and (sample := self._sample()) is not None:
            self._named_in = sample[0]
            try:
                self._names, inferred = infer_csv(sample[1], delimiter=self.delimiter, quote=self.quote)
            except SourceError as error:
                raise SourceError(f"{sample[0]}: {error}") from error
            if self._known is None:
                self._known = inferred
            else:
                narrow(pa.schema([(n, pa.string()) for n in self._names]), self._known.names, self._named_in)
        if self._known is None and not self.follow:
            return pa.schema([])
        return self._known

    def partitions(self) -> Sequence[str]:
        """As for every file source; a file with another header is found here, before anything runs."""
        self.schema()
        for path in self.files():
            start = self._start_of(path, _FOLLOWED_HEADER_BYTES).removeprefix(BOM)
            if start.strip() and b"\n" in start:
                self._header(path, start)
        return super().partitions()

    def decoder(self, fields: Sequence[str] | None) -> Decoder:
        schema = self.schema()
        return CsvFilesDecoder(
            self._names if self._names is not None or self.follow else [],
            schema,
            fields,
            delimiter=self.delimiter,
            quote=self.quote,
            null_values=self.null_values,
            label=self.label(),
        )

    def _open(self, files: Sequence[str], after: Offset | None) -> Reader:
        self.schema()
        follow = files if self._per_file else self.paths
        return TextReader(
            files,
            self.compression,
            ends_of=csv_ends(self.quote, self.delimiter),
            header=self._header,
            follow=follow if self.follow else None,
            limit=self.limit,
            after=after,
        )

    def _header(self, path: str, records: bytes) -> tuple[int, bytes | None]:
        """The length of a file's header, and the header itself where it is not that of the first file."""
        if not records.strip(b"\r\n"):
            return len(records), None
        header, _ = split_header(records, delimiter=self.delimiter, quote=self.quote)
        names = csv_header(header, delimiter=self.delimiter, quote=self.quote)
        if self._names is None:
            return len(header), header
        if sorted(names) != sorted(self._names):
            raise SourceError(
                f"{path}: the header is {', '.join(names)}, but that of {self._named_in} is {', '.join(self._names)}; "
                "files that are read together must name the same fields"
            )
        return len(header), None if names == self._names else header


# ---------------------------------------------------------------- files of columns


class ColumnFileSource(FileSource):
    """What Parquet and Arrow files have in common: their schema is their own, and fields can be left unread."""

    def __init__(
        self, paths: Paths, *, schema: pa.Schema | None = None, partitions: Partitions = "one", limit: int | None = None
    ) -> None:
        super().__init__(paths, schema, partitions, limit)
        self.fields: list[str] | None = None
        self._known: pa.Schema | None = None

    def with_fields(self, fields: Sequence[str]) -> ColumnFileSource:
        narrowed = copy.copy(self)
        narrowed.fields = list(fields)
        return narrowed

    def schema(self) -> pa.Schema:
        if self._known is None:
            first = self.files()[0]
            self._known = plain_schema(self.declared or self._schema_of(first)).remove_metadata()
        return narrow(self._known, self.fields, self.label())

    def _open(self, files: Sequence[str], after: Offset | None) -> Reader:
        if after is not None and after["file"]:
            if after["file"] not in files:
                raise SourceError(f"{after['file']}: was being read, and is not among the files any more")
            files = files[files.index(after["file"]) :]
        return ColumnReader(self._batches(files, self.schema()), self.limit, after)

    def _batches(self, files: Sequence[str], schema: pa.Schema) -> Iterator[FileBatch]:
        for path in files:
            try:
                for columns in self._batches_of(path, schema):
                    yield path, conform(columns, schema, path)
            except SchemaError as error:
                raise SourceError(f"{error} (the schema is that of the first file, or declared)") from error
            except OSError as error:
                raise cannot_read(path, error) from error
            except pa.ArrowInvalid as error:
                raise self._damaged(path, error) from error

    def _damaged(self, path: str, error: Exception) -> SourceError:
        return SourceError(f"{path}: damaged, or not the format that {self.verb} reads: {error}")

    def _schema_of(self, path: str) -> pa.Schema:
        raise NotImplementedError

    def _batches_of(self, path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


def _parquet_file(path: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq  # brings file systems of the network, for which other flows need not wait

    return pq.ParquetFile(path, memory_map=True)


class ParquetSource(ColumnFileSource):
    """Parquet files. Only the columns that the flow reads are decoded."""

    verb = "read_parquet"

    def _schema_of(self, path: str) -> pa.Schema:
        try:
            with _parquet_file(path) as file:
                return file.schema_arrow
        except OSError as error:
            raise cannot_read(path, error) from error
        except pa.ArrowInvalid as error:
            raise self._damaged(path, error) from error

    def _batches_of(self, path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        with _parquet_file(path) as file:
            names = _present(file.schema_arrow, schema, path)
            yield from file.iter_batches(batch_size=_COLUMN_ROWS, columns=names, use_threads=False)


class ArrowSource(ColumnFileSource):
    """Arrow IPC files or streams, memory-mapped: columns are views of the file."""

    verb = "read_arrow"

    def _schema_of(self, path: str) -> pa.Schema:
        try:
            with pa.memory_map(path) as mapped:
                return _ipc_reader(mapped).schema
        except OSError as error:
            raise cannot_read(path, error) from error
        except pa.ArrowInvalid as error:
            raise self._damaged(path, error) from error

    def _batches_of(self, path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # Not closed: batches downstream are views of the mapping, which goes when the last of them does.
        mapped = pa.memory_map(path)
        reader = _ipc_reader(mapped)
        wanted = _present(reader.schema, schema, path)
        # Told to leave columns out, Arrow copies the others instead of giving views; that pays where they are
        # compressed, and so are no views anyway.
        if len(wanted) < len(reader.schema) and not _gives_views(mapped, reader):
            reader = _ipc_reader(mapped, [reader.schema.get_field_index(name) for name in wanted])
        else:
            reader = _ipc_reader(mapped)
        yield from _batches_in(reader)


_IpcReader = pa.RecordBatchFileReader | pa.RecordBatchStreamReader


def _ipc_reader(mapped: pa.MemoryMappedFile, fields: Sequence[int] = ()) -> _IpcReader:
    """A reader from the start of the mapped file, for the fields with these numbers; none: all."""
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=list(fields))
    mapped.seek(0)
    is_file = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    return pa.ipc.open_file(mapped, options=options) if is_file else pa.ipc.open_stream(mapped, options=options)


def _batches_in(reader: _IpcReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from reader


def _gives_views(mapped: pa.MemoryMappedFile, reader: _IpcReader) -> bool:
    """Whether the first batch lies in the mapped file."""
    first = next(_batches_in(reader), None)
    mapped.seek(0)
    whole = mapped.read_buffer()
    buffers = [b for column in first.columns for b in column.buffers() if b is not None and b.size] if first else []
    return all(whole.address <= buffer.address < whole.address + whole.size for buffer in buffers)


def _present(found: pa.Schema, wanted: pa.Schema, path: str) -> list[str]:
    narrow(found, wanted.names, path)
    return list(wanted.names)
