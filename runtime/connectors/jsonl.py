"""JSON lines to columns and back.

Two decoders share the work. `json_rows` reads any line and says why a bad one is bad. `json_columns` reads the lines
that are laid out like others of the block, which are nearly all, without parsing each, and leaves the rest to the
first. Both take the same records and make the same columns of them; the faster one is found by trying.

Encoding is `json_text`'s, with Arrow's joins.
"""

from __future__ import annotations

import math
import time

import pyarrow as pa

from millstream.connectors.base import Decoded
from millstream.connectors.cells import Times, joined_bytes
from millstream.connectors.json_columns import ColumnDecoder
from millstream.connectors.json_rows import RowDecoder
from millstream.connectors.json_text import json_objects
from millstream.connectors.text import Payload, as_bytes

_SMALL_BYTES = 32 << 10
"""A block below this is decoded by rows: it would not pay for the steps that a look at the whole block takes."""


class JsonDecoder:
    """Blocks of JSON lines to columns.

    A record is one line with one JSON object. A field of the schema that is missing or null is null; one that
    holds another type makes the record bad, except that integers fit float fields. Of a field given twice the
    last counts. Fields outside the schema may hold any well-formed value. Blank lines are skipped.
    """

    def __init__(self, schema: pa.Schema) -> None:
        """
        Args:
            schema: the fields to read, structs with the children to read. Times are ISO 8601, or integers where
                the field's metadata has a ``unit``; dates are ISO 8601; binary is base64; decimals are numbers
                or strings, taken to the digit.

        Raises:
            SchemaError: a field is there twice or has a type that JSON cannot give.
        """
        self.schema = schema
        self._rows = RowDecoder(schema)
        self._columns = ColumnDecoder.for_schema(schema, self._rows)
        self._contest = _Contest()

    def decode(self, block: Payload) -> Decoded:
        """Decode whole lines. Never raises for what the block holds."""
        data = as_bytes(block)
        if self._columns is None or len(data) < _SMALL_BYTES:
            return self._rows.decode(data)
        way = self._contest.next()
        start_s = time.thread_time()
        decoded = (self._rows if way == _BY_ROWS else self._columns).decode(data)
        self._contest.took(way, (time.thread_time() - start_s) / len(data))
        return decoded


_BY_ROWS, _BY_COLUMNS = 0, 1
_CLEARLY = 0.95


class _Contest:
    """Which of two ways to the same columns is the faster: it depends on the lines, and on the fields read.

    Long lines of which little is read are parsed faster than cut. Both ways are tried at first, and the slower one
    again now and then, as lines may change; ever less often while it loses.
    """

    _TRIALS = 4
    _FIRST_WAIT = 32
    _LONGEST_WAIT = 1024

    def __init__(self) -> None:
        self._blocks = 0
        self._cost = [math.inf, math.inf]
        self._faster = _BY_COLUMNS
        self._wait = self._FIRST_WAIT
        self._next_trial = self._TRIALS + self._wait

    def next(self) -> int:
        """The way for the next block."""
        self._blocks += 1
        if self._blocks <= self._TRIALS:
            return _BY_COLUMNS if self._blocks % 2 else _BY_ROWS
        return 1 - self._faster if self._blocks == self._next_trial else self._faster

    def took(self, way: int, cost: float) -> None:
        """Note what a block cost, in processor time for a byte."""
        known = self._cost[way]
        if self._blocks <= self._TRIALS:  # at first nothing is in the caches, and no layout is known
            self._cost[way] = min(known, cost)
        else:  # a block that something else held up must not decide
            self._cost[way] = known + (cost - known) / 4 if way == self._faster else cost
        if self._cost[1 - self._faster] < _CLEARLY * self._cost[self._faster]:
            self._faster, self._wait = 1 - self._faster, self._FIRST_WAIT
        elif self._blocks == self._next_trial:
            self._wait = min(2 * self._wait, self._LONGEST_WAIT)
        if self._blocks >= self._next_trial:
            self._next_trial = self._blocks + self._wait


# ---------------------------------------------------------------- columns to lines

_SLICE_ROWS = 1 << 16


def encode_jsonl(batch: pa.RecordBatch, *, times: Times = "iso") -> pa.Buffer:
    """A batch as JSON lines: one compact object for each row, with a newline after each.

    Args:
        batch: any columns, nested ones too. NaN and infinity become null; decimals and durations (in
            microseconds) are numbers; binary is base64; a map with string keys is an object.
        times: "iso" for ISO 8601 in UTC, else whole seconds, milliseconds or microseconds since 1970.
    """
    # By slices: a column of joined lines must stay below 2 GiB, and close to the cache.
    parts = [_encode_slice(batch.slice(start, _SLICE_ROWS), times) for start in range(0, batch.num_rows, _SLICE_ROWS)]
    whole: pa.Buffer = parts[0] if len(parts) == 1 else pa.py_buffer(b"".join(parts))
    return whole


def _encode_slice(batch: pa.RecordBatch, times: Times) -> pa.Buffer:
    if not batch.num_columns:
        return pa.py_buffer(b"{}\n" * batch.num_rows)
    return joined_bytes(json_objects(batch.schema.names, batch.columns, times, "}\n"))
