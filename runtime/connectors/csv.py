"""CSV to columns and back.

Arrow's reader splits the fields, once, as text; Arrow's casts then turn each column into its type. Two
steps cost no more than Arrow's own typed reading (docs/formats.md) and tell exactly which rows do not fit:
the reader reports rows with too few or too many fields one by one, and a column that does not cast is
halved until the rows are found.

What is accepted: RFC 4180 with any one-byte delimiter, LF or CRLF, and quotes inside plain fields as data.
An empty field is null; a quoted empty field is the empty string, or null in a field that is no string. So a
string column survives being written and read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from millstream.connectors.base import BadRecord, Decoded
from millstream.connectors.cells import (
    MISFIT,
    Array,
    Field,
    Times,
    has_byte,
    is_binary,
    is_text,
    joined_bytes,
    misfits,
    no_columns,
    reader_of_text,
    string_bytes,
    text_of,
)
from millstream.connectors.json_text import json_text
from millstream.connectors.text import (
    BOM,
    MAX_RECORD_BYTES,
    RAW_BYTES,
    Payload,
    Records,
    as_bytes,
    csv_records,
    is_utf8,
    record_pattern,
)
from millstream.errors import SchemaError, unknown_field

_SLICE_ROWS = 1 << 16


class CsvDecoder:
    """Blocks of CSV records, without the header, to columns.

    A record is bad when it has too few or too many fields, when a field of the schema does not fit, when a quote
    in it is never closed, when it is longer than `MAX_RECORD_BYTES`, is not UTF-8, or has a bare carriage return
    outside quotes. Blank lines are skipped. Spaces around numbers and times do not count.
    """

    def __init__(
        self,
        names: Sequence[str],
        schema: pa.Schema,
        *,
        delimiter: str = ",",
        quote: str = '"',
        null_values: Sequence[str] = ("",),
    ) -> None:
        """
        Args:
            names: the file's header.
            schema: the fields to read, in any order. Types as in `JsonDecoder`, but not nested.
            delimiter: one ASCII character.
            quote: one ASCII character, or "" where the format has no quotes.
            null_values: what an unquoted field holds when it is null.

        Raises:
            SchemaError: a field is not in the header, or there twice, or has a type that CSV cannot give.
        """
        for what, text in (("delimiter", delimiter), ("quote", quote)):
            if len(text) > 1 or not text.isascii() or text in ("\n", "\r") or (what == "delimiter" and not text):
                raise SchemaError(f"csv: the {what} must be one ASCII character, found {text!r}")
        self.schema = schema
        self._width = len(names)
        self._delimiter, self._quote = delimiter.encode(), quote.encode()
        self._columns = [_column(field, names) for field in schema]
        # Numbers stand for names: a header may have the same name twice, or none.
        self._read = arrow_csv.ReadOptions(use_threads=False, column_names=[str(i) for i in range(self._width)])
        # At least one, or Arrow would take it to mean all of them.
        self._used = [str(column.position) for column in self._columns] or ["0"]
        self._convert = arrow_csv.ConvertOptions(
            check_utf8=False,  # checked once for the block
            column_types=dict.fromkeys(self._used, pa.string()),
            include_columns=self._used,
            null_values=list(null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )

    def decode(self, block: Payload) -> Decoded:
        """Decode whole records. Never raises for what the block holds."""
        data = as_bytes(block)
        records = self._suspect(data)
        broken = self._broken(data, records) if records else {}
        if records and broken:
            text, uneven = self._split(
                b"".join(data[start:end] for n, start, end in _spans(records) if n not in broken)
            )
        else:
            text, uneven = self._split(data)
        converted: list[Array] = []
        unfit: dict[int, str] = {}
        for column, values in zip(self._columns, text.columns, strict=False):
            try:
                converted.append(column.read(values))
            except MISFIT:
                for row in misfits(values, column.read):
                    found = f"expected {column.field.type}, found {values[row].as_py()[:80]!r}"
                    unfit.setdefault(row, f"field {column.field.name!r}: {found}")
        if unfit:
            text = text.take(np.delete(np.arange(text.num_rows), list(unfit)))
            converted = [column.read(values) for column, values in zip(self._columns, text.columns, strict=False)]
        bad = []
        if broken or uneven or unfit:
            bad = _bad_records(data, records or self._records(data), broken, uneven, unfit)
        if not converted:
            return Decoded(no_columns(text.num_rows), bad)
        return Decoded(pa.RecordBatch.from_arrays(converted, schema=self.schema), bad)

    def _split(self, data: bytes) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The fields as text, and the rows that have too few or too many, by their number among all rows."""
        uneven: dict[int, str] = {}

        def note(row: arrow_csv.InvalidRow) -> Literal["skip"]:
            assert row.number is not None  # only threads would lose count
            uneven[row.number - 1] = f"expected {row.expected_columns} fields, found {row.actual_columns}"
            return "skip"

        if not data.strip(b"\r\n"):
            return _no_rows(self._used), uneven
        # Arrow drops a byte order mark at the start of what it reads; in the middle of a file it is data.
        data = BOM + data if data.startswith(BOM) else data
        source: Any = pa.BufferReader(data)
        self._read.block_size = len(data) + 1
        parse = arrow_csv.ParseOptions(
            delimiter=self._delimiter.decode(),
            quote_char=self._quote.decode() or False,
            newlines_in_values=bool(self._quote),
            invalid_row_handler=note,
        )
        table = arrow_csv.read_csv(source, self._read, parse, self._convert)
        return table.combine_chunks().to_batches()[0] if table.num_rows else _no_rows(self._used), uneven

    def _records(self, data: bytes) -> Records:
        return csv_records(data, at_end=True, quote=self._quote, delimiter=self._delimiter)

    def _suspect(self, data: bytes) -> Records | None:
        """The records of a block that may hold broken ones; None for plain text, which is not looked at twice."""
        quoted = bool(self._quote) and self._quote in data
        if quoted or len(data) > MAX_RECORD_BYTES or _has_bare_return(data) or not is_utf8(data):
            return self._records(data)
        return None

    def _broken(self, data: bytes, records: Records) -> dict[int, str]:
        """The records that must not reach Arrow's reader, by their number among all, blank ones counted."""
        broken = dict(records.broken)
        if _has_bare_return(data) or not is_utf8(data):
            for number, start, end in _spans(records):
                if number not in broken and (reason := self._unreadable(data[start:end])):
                    broken[number] = reason
        return broken

    def _unreadable(self, record: bytes) -> str | None:
        if not is_utf8(record):
            return "not valid UTF-8"
        body = record.removesuffix(b"\n").removesuffix(b"\r")
        if b"\r" in body:  # outside quotes Arrow would end the record there
            pattern = record_pattern(self._quote, self._delimiter, rb"[^%b\r\n]")
            if not pattern.fullmatch(body):
                return "a carriage return outside quotes"
        return None


def _has_bare_return(data: bytes) -> bool:
    return b"\r" in data and data.count(b"\r") != data.count(b"\r\n")


def _spans(records: Records) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each record."""
    start = 0
    for number, end in enumerate(records.ends.tolist()):
        yield number, start, end
        start = end


def _bad_records(
    data: bytes, records: Records, broken: dict[int, str], uneven: dict[int, str], unfit: dict[int, str]
) -> list[BadRecord]:
    """Every bad record in order, traced back from row numbers to bytes.

    Args:
        data: the block.
        records: where its records end.
        broken: why, by number among all records.
        uneven: why, by number among the records that are neither broken nor blank.
        unfit: why, by number among those of them that are not uneven.
    """
    spans = list(_spans(records))
    read = [n for n, start, end in spans if n not in broken and data[start:end].strip(b"\r\n")]
    even = [n for row, n in enumerate(read) if row not in uneven]
    reasons = broken | {read[row]: why for row, why in uneven.items()} | {even[row]: why for row, why in unfit.items()}
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    bad = []
    for number, reason in sorted(reasons.items()):
        _, start, end = spans[number]
        raw = data[start:end].removesuffix(b"\n").removesuffix(b"\r")[:RAW_BYTES]
        bad.append(BadRecord(start, int(np.searchsorted(newlines, start)), raw, reason))
    return bad


def _no_rows(names: Sequence[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.string()) for _ in names], names=list(names))


class _Column(NamedTuple):
    """A field of the schema, where it stands in a record, and what makes a column of its text."""

    field: Field
    position: int
    read: Callable[[Array], Array]


def _column(field: Field, names: Sequence[str]) -> _Column:
    if field.name not in names:
        raise unknown_field(field.name, names, "csv")
    if names.count(field.name) > 1:
        raise SchemaError(f"csv: the header has the name {field.name!r} twice; it cannot be read by name")
    read = _reader(field)
    try:
        read(pa.array([None], pa.string()))
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaError(f"field {field.name!r}: CSV cannot be read as {field.type}: {error}") from error
    return _Column(field, names.index(field.name), read)


def _reader(field: Field) -> Callable[[Array], Array]:
    read: Callable[[Array], Array] = reader_of_text(field)
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if is_text(type_) or is_binary(type_):
        return read

    def read_lenient(text: Array) -> Array:
        try:
            return read(text)
        except MISFIT:
            trimmed: Array = pc.utf8_trim_whitespace(text)
            return read(pc.if_else(pc.equal(trimmed, pa.scalar("")), pa.scalar(None, pa.string()), trimmed))

    return read_lenient


# ---------------------------------------------------------------- columns to CSV


def encode_csv(batch: pa.RecordBatch, *, header: bool, delimiter: str = ",", times: Times = "iso") -> pa.Buffer:
    """A batch as CSV, with LF after each record.

    Strings are quoted where they must be, and where they are empty: null is the empty field. NaN and infinity are
    null. Nested columns become JSON. In a batch of a single column a null is written as an empty string, as an empty
    line would be skipped by every reader.

    Args:
        batch: any columns.
        header: start with the names.
        delimiter: one character.
        times: as in `encode_jsonl`.
    """
    parts: list[Any] = []
    if header:
        parts.append(pa.py_buffer(encode_header(batch.schema.names, delimiter=delimiter)))
    for start in range(0, batch.num_rows if batch.num_columns else 0, _SLICE_ROWS):
        parts.append(_encode_slice(batch.slice(start, _SLICE_ROWS), delimiter, times))
    whole: pa.Buffer = parts[0] if len(parts) == 1 else pa.py_buffer(b"".join(parts))
    return whole


def encode_header(names: Sequence[str], *, delimiter: str = ",") -> bytes:
    """The header record."""
    return (delimiter.join(_quoted(pa.array(names, pa.string()), delimiter).to_pylist()) + "\n").encode()


@dataclass(frozen=True, slots=True)
class CsvEncoder:
    """`encode_csv` as a sink's encoder. The header is the writer's, which knows where a file begins."""

    delimiter: str = ","
    times: Times = "iso"

    def encode(self, columns: pa.RecordBatch) -> pa.Buffer:
        return encode_csv(columns, header=False, delimiter=self.delimiter, times=self.times)


def _encode_slice(batch: pa.RecordBatch, delimiter: str, times: Times) -> pa.Buffer:
    columns: list[Any] = [_fields(column, delimiter, times) for column in batch.columns]
    null = '""' if len(columns) == 1 else ""
    columns = [column.fill_null(null) if column.null_count else column for column in columns]
    # The newline is part of the last field: a separator is put between fields only.
    columns[-1] = pc.binary_join_element_wise(columns[-1], "\n", "")
    return joined_bytes(pc.binary_join_element_wise(*columns, delimiter))


def _fields(column: Array, delimiter: str, times: Times) -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        text = pc.if_else(column.is_valid(), json_text(column, times), pa.scalar(None, pa.string()))
    else:
        text = text_of(column, times)
        if not is_text(column.type) and delimiter in ",;|\t":  # in no number, time or base64
            return text
    return _quoted(text, delimiter)


def _quoted(text: Array, delimiter: str) -> Array:
    """Quotes around what needs them. One look at all bytes finds that, nearly always, nothing does."""
    # The last one might start a byte order mark.
    special = has_byte(string_bytes(text), delimiter + '"\n\r\xef')
    empty = bool(pc.any(pc.equal(text, pa.scalar(""))).as_py())
    if not special and not empty:
        return text
    needs = pc.match_substring_regex(text, rf'^$|^\x{{FEFF}}|["\n\r{re.escape(delimiter)}]')
    doubled = pc.replace_substring(text, '"', '""')
    return pc.if_else(needs, pc.binary_join_element_wise('"', doubled, '"', ""), text)
