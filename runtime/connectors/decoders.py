"""Decoders around those of the formats: raw lines, CSV that brings its own header, schemas not known in advance.

Like every decoder, these see nothing but a block's bytes: blocks are decoded in other processes, and in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.connectors.base import BadRecord, Decoded, Decoder
from millstream.connectors.blocks import split_mark
from millstream.connectors.csv import CsvDecoder
from millstream.connectors.infer import csv_header, infer_csv, infer_json
from millstream.connectors.jsonl import JsonDecoder
from millstream.connectors.text import RAW_BYTES, as_bytes, is_utf8
from millstream.errors import InternalError, SourceError
from millstream.schema import narrow

LINE_SCHEMA: Final = pa.schema([("line", pa.string())])

Bytes = bytes | memoryview | pa.Buffer


class LineDecoder:
    """Lines of text to the one column ``line``: without the line's end, blank lines too. Invalid UTF-8 is bad."""

    def decode(self, block: Bytes) -> Decoded:
        data = as_bytes(block)
        if is_utf8(data):
            return Decoded(self._columns(data), [])
        good: list[bytes] = []
        bad: list[BadRecord] = []
        offset = 0
        for number, line in enumerate(data.splitlines(keepends=True) if b"\r" not in data else _lines(data)):
            if is_utf8(line):
                good.append(line)
            else:
                bad.append(BadRecord(offset, number, line.rstrip(b"\r\n")[:RAW_BYTES], "not valid UTF-8"))
            offset += len(line)
        return Decoded(self._columns(b"".join(good)), bad)

    def _columns(self, data: bytes) -> pa.RecordBatch:
        """The lines as slices of one buffer: no copy, but where lines end in CR LF."""
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        if data and not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        # Each string but the last runs on to its newline, which the cut below takes off.
        offsets = np.zeros(len(ends) + 1, np.int64)
        offsets[1:] = np.minimum(ends + 1, len(data))
        kept = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets.data), pa.py_buffer(data))
        lines = pc.utf8_rtrim(kept, "\n").cast(pa.string())
        if b"\r\n" in data:
            lines = pc.replace_substring_regex(lines, r"\r\z", "")
        return pa.RecordBatch.from_arrays([lines], schema=LINE_SCHEMA)


def _lines(data: bytes) -> list[bytes]:
    """Lines by LF alone: `bytes.splitlines` would also split at a carriage return."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


class FirstBlockDecoder:
    """Decodes by a schema that is inferred from the first block with a good record.

    Only for inputs that cannot be looked at before they run, and only where a single decoder sees all blocks.
    """

    def __init__(
        self,
        infer: Callable[[bytes], pa.Schema],
        make: Callable[[pa.Schema], Decoder],
        fields: Sequence[str] | None,
        label: str,
    ) -> None:
        """
        Args:
            infer: from a block to all its fields; raises SourceError where it holds no good record.
            make: the decoder for a schema.
            fields: those that the flow reads; None: all.
            label: the source, for errors.
        """
        self._infer, self._make, self._fields, self._label = infer, make, fields, label
        self._decoder: Decoder | None = None

    def decode(self, block: Bytes) -> Decoded:
        if self._decoder is None:
            try:
                schema = self._infer(as_bytes(block))
            except SourceError:
                return self._make(pa.schema([])).decode(block)
            where = f"{self._label} (schema of the first block; schema= declares it)"
            self._decoder = self._make(narrow(schema, self._fields, where))
        return self._decoder.decode(block)


def json_decoder(schema: pa.Schema | None, fields: Sequence[str] | None, label: str) -> Decoder:
    """A decoder for JSON lines; by the first block where no schema is known."""
    if schema is None:
        return FirstBlockDecoder(infer_json, JsonDecoder, fields, label)
    return JsonDecoder(narrow(schema, fields, label))


# ---------------------------------------------------------------- CSV


class CsvFilesDecoder:
    """CSV of files whose columns may stand in different orders.

    A block is read by the header it brings, else by that of the first file.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        schema: pa.Schema | None,
        fields: Sequence[str] | None,
        *,
        delimiter: str,
        quote: str,
        null_values: Sequence[str],
        label: str,
    ) -> None:
        """
        Args:
            names: the header of the first file; None: every block brings one.
            schema: the types of all fields; None: inferred from the first block.
            fields: those that the flow reads; None: all.
            delimiter: one character.
            quote: one character.
            null_values: what null looks like.
            label: the source, for errors.
        """
        self._schema, self._fields, self._label = schema, fields, label
        self._delimiter, self._quote, self._null_values = delimiter, quote, null_values
        self._by_header: dict[bytes, Decoder] = {}
        self._first = None if names is None else self._decoder(list(names), schema)

    def decode(self, block: Bytes) -> Decoded:
        data = as_bytes(block)
        header, records = split_mark(data)
        if header is None:
            if self._first is None:
                raise InternalError(f"{self._label}: a block came without its header")
            return self._first.decode(records)
        decoder = self._by_header.get(header)
        if decoder is None:
            names = csv_header(header, delimiter=self._delimiter, quote=self._quote)
            decoder = self._by_header[header] = self._decoder(names, self._schema_for(header, records))
        return decoder.decode(records)

    def _schema_for(self, header: bytes, records: bytes) -> pa.Schema:
        if self._schema is None:
            sample = header if header.endswith(b"\n") else header + b"\n"
            self._schema = infer_csv(sample + records, delimiter=self._delimiter, quote=self._quote)[1]
        return self._schema

    def _decoder(self, names: list[str], schema: pa.Schema | None) -> Decoder:
        assert schema is not None
        wanted = narrow(schema, self._fields, self._label)
        return CsvDecoder(names, wanted, delimiter=self._delimiter, quote=self._quote, null_values=self._null_values)
