"""Messages of other programs: one event, or a list of events, as JSON, msgpack or an Arrow IPC stream.

On the way in, a block holds messages as they came, behind the length of each; decoding happens where
blocks are decoded. A message, or an event of a list, that cannot be decoded is a bad record; its "line" is the
message's place in the block. On the way out, a message is a row or a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import msgpack
import msgspec
import numpy as np
import pyarrow as pa

from millstream.batch import concat_columns
from millstream.connectors.arrow_messages import read_batches
from millstream.connectors.base import BadRecord, Decoded, Decoder
from millstream.connectors.decoders import Bytes, FirstBlockDecoder
from millstream.connectors.infer import infer_json
from millstream.connectors.jsonl import JsonDecoder, encode_jsonl
from millstream.connectors.text import RAW_BYTES, as_bytes
from millstream.errors import MillstreamError, SchemaError, SourceError
from millstream.rows import columns_of
from millstream.schema import array_of, conform, narrow, plain_schema, without_columns

Payload = Literal["json", "msgpack", "arrow"]
Per = Literal["row", "batch"]

_LENGTH = np.dtype("<u4")
FRAME_BYTES = _LENGTH.itemsize
"""What a message takes of a block beside its own bytes."""


class Messages(NamedTuple):
    """The messages of a block, and where each starts in it."""

    data: list[bytes]
    offsets: list[int]


class Bad(NamedTuple):
    """An event that cannot be decoded: the message it is in, and why."""

    message: int
    raw: bytes
    reason: str


def join_messages(messages: Sequence[bytes]) -> bytes:
    """The payload of a block: how many messages, the length of each, and all of them."""
    numbers = np.fromiter((len(messages), *map(len, messages)), _LENGTH, len(messages) + 1)
    return b"".join((numbers.tobytes(), *messages))


def split_messages(payload: bytes) -> Messages:
    count = int(np.frombuffer(payload, _LENGTH, 1)[0])
    ends = np.cumsum(np.frombuffer(payload, _LENGTH, count, FRAME_BYTES), dtype=np.int64) + (1 + count) * FRAME_BYTES
    cuts = [(1 + count) * FRAME_BYTES, *ends.tolist()]
    return Messages([payload[start:end] for start, end in pairwise(cuts)], cuts[:-1])


# ---------------------------------------------------------------- in


def message_decoder(payload: Payload, schema: pa.Schema | None, fields: Sequence[str] | None, label: str) -> Decoder:
    """The decoder for blocks of messages; by the first of them where no schema is known.

    Args:
        payload: how events are encoded.
        schema: all fields, or None.
        fields: those that the flow reads; None: all.
        label: the source, for errors.
    """
    kind = _DECODERS[payload]
    if schema is None:
        return FirstBlockDecoder(kind.infer, kind, fields, label)
    return kind(narrow(schema, fields, label))


class JsonMessages:
    """One JSON object, or an array of them. They are decoded as JSON lines, all of a block at once."""

    def __init__(self, schema: pa.Schema) -> None:
        self._lines = JsonDecoder(schema)

    def decode(self, block: Bytes) -> Decoded:
        messages = split_messages(as_bytes(block))
        lines, owners, bad = _json_lines(messages.data)
        columns, bad_lines = self._lines.decode(b"\n".join(lines))
        bad += [Bad(owners[record.line], record.raw, record.reason) for record in bad_lines]
        return Decoded(columns, _bad_records(messages, bad))

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        return infer_json(b"\n".join(_json_lines(split_messages(block).data)[0]))


_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])


def _json_lines(messages: Sequence[bytes]) -> tuple[list[bytes], list[int], list[Bad]]:
    """One line for each event, the number of the message it is from, and the messages that are no JSON."""
    lines: list[bytes] = []
    owners: list[int] = []
    bad: list[Bad] = []
    for number, data in enumerate(messages):
        if data.startswith(b"{") and b"\n" not in data:  # nearly all of them
            lines.append(data)
            owners.append(number)
            continue
        try:
            events = _json_events(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            bad.append(Bad(number, data, f"not well-formed JSON: {error}"))
            continue
        lines += events
        owners += [number] * len(events)
    return lines, owners, bad


def _json_events(data: bytes) -> list[bytes]:
    text = data.strip(b" \t\r\n")
    if not text:
        raise ValueError("the message is empty")
    if b"\n" in text:
        # In well-formed JSON a newline can only stand between tokens, where a space is as good.
        msgspec.json.decode(text)
        text = text.replace(b"\n", b" ")
    if text.startswith(b"["):
        return [bytes(event).strip() for event in _EVENTS.decode(text)]
    return [text]


_PLAIN_NAME = re.compile(r'[^\\"\x00-\x1f]*')


class MsgpackMessages:
    """One msgpack map, or an array of them. Timestamps are the extension type of the specification."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        places = {f"f{i}": name for i, name in enumerate(schema.names)}
        fields = [(place, Any, None) for place in places]
        plain = all(map(_PLAIN_NAME.fullmatch, schema.names))  # others msgspec does not take
        self._event = msgspec.defstruct("Event", fields, rename=places if plain else None, gc=False, omit_defaults=True)
        self._values = [attrgetter(place) for place in places]
        # msgspec rounds the nanoseconds of a timestamp: one just before midnight would become midnight.
        exact = plain and not any(pa.types.is_temporal(f.type) or pa.types.is_nested(f.type) for f in schema)
        self._decoder = msgspec.msgpack.Decoder(self._event | list[self._event]) if exact else None  # type: ignore[name-defined]

    def decode(self, block: Bytes) -> Decoded:
        messages = split_messages(as_bytes(block))
        events, owners, bad = self._events(messages.data)
        try:
            return Decoded(self._columns(events), _bad_records(messages, bad))
        except SchemaError:
            pass
        # One at a time, and put together as columns: values that fit, each by itself, may not go into one list together.
        fit = [self._columns([])]
        for event, owner in zip(events, owners, strict=True):
            try:
                fit.append(self._columns([event]))
            except SchemaError as error:
                bad.append(Bad(owner, msgspec.msgpack.encode(event), str(error)))
        return Decoded(concat_columns(fit), _bad_records(messages, bad))

    def _events(self, messages: Sequence[bytes]) -> tuple[list[msgspec.Struct], list[int], list[Bad]]:
        """The events, the number of the message that each is from, and the messages or parts of them that are none."""
        if self._decoder is None:
            rows, owners, bad = _msgpack_rows(messages)
            return self._from_rows(rows), owners, bad
        events: list[msgspec.Struct] = []
        owners, bad = [], []
        for number, data in enumerate(messages):
            try:
                found = self._decoder.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                rows, _, faults = _msgpack_rows([data])  # some of a list may be all right, and this says what is not
                found = self._from_rows(rows)
                bad += [Bad(number, fault.raw, fault.reason) for fault in faults]
            if isinstance(found, list):
                events += found
                owners += [number] * len(found)
            else:
                events.append(found)
                owners.append(number)
        return events, owners, bad

    def _from_rows(self, rows: Sequence[dict[str, Any]]) -> list[msgspec.Struct]:
        return [self._event(*map(row.get, self._schema.names)) for row in rows]

    def _columns(self, events: Sequence[msgspec.Struct]) -> pa.RecordBatch:
        if not self._values:
            return without_columns(len(events))
        columns = [list(map(value, events)) for value in self._values]
        arrays = [array_of(c, f.type, f"field {f.name!r}") for c, f in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        rows, _, _ = _msgpack_rows(split_messages(block).data)
        if not rows:
            raise SourceError("no msgpack map in the first messages")
        try:
            schema = plain_schema(columns_of(rows, None, "the first messages").schema)
        except MillstreamError as error:
            raise SourceError(f"{error}; declare the fields with schema=") from error
        return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in schema])


def _msgpack_rows(messages: Sequence[bytes]) -> tuple[list[dict[str, Any]], list[int], list[Bad]]:
    rows: list[dict[str, Any]] = []
    owners: list[int] = []
    bad: list[Bad] = []
    for number, data in enumerate(messages):
        try:
            value = msgpack.unpackb(data, timestamp=3)
        except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
            bad.append(Bad(number, data, f"not well-formed msgpack: {error or type(error).__name__}"))
            continue
        for event in value if isinstance(value, list) else [value]:
            if isinstance(event, dict):
                rows.append(event)
                owners.append(number)
            else:
                bad.append(Bad(number, data, f"expected a map or an array of maps, found {type(event).__name__}"))
    return rows, owners, bad


_NOT_ARROW = (pa.ArrowException, SchemaError, OSError, ValueError, KeyError, TypeError)
"""What pyarrow raises over a damaged stream: not its own errors alone, where a name is no text or a type has no class."""


class ArrowMessages:
    """An Arrow IPC stream with any number of rows."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, block: Bytes) -> Decoded:
        messages = split_messages(as_bytes(block))
        parts: list[pa.RecordBatch] = []
        bad: list[Bad] = []
        for number, data in enumerate(messages.data):
            try:
                parts += [conform(columns, self._schema, "the message") for columns in read_batches(data)]
            except _NOT_ARROW as error:
                bad.append(Bad(number, data, f"{error}"))
        columns = concat_columns(parts) if parts else pa.RecordBatch.from_pylist([], schema=self._schema)
        return Decoded(columns, _bad_records(messages, bad))

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        for data in split_messages(block).data:
            try:
                with pa.ipc.open_stream(data) as reader:
                    schema = plain_schema(reader.schema).remove_metadata()
                _look_at_names(schema)
                return schema
            except _NOT_ARROW:
                continue
        raise SourceError("no Arrow IPC stream in the first messages")


def _look_at_names(fields: Iterable[pa.Field[Any]]) -> None:
    """Arrow takes any bytes for a name, as often as you like, and pyarrow finds out when it is asked for one.

    Raises:
        ValueError: a name is no text, or there twice.
    """
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise ValueError(f"the field {field.name!r} is there twice")
        seen.add(field.name)
        _look_at_names(field.type.field(number) for number in range(field.type.num_fields))


_DECODERS: dict[Payload, type[JsonMessages] | type[MsgpackMessages] | type[ArrowMessages]]
_DECODERS = {"json": JsonMessages, "msgpack": MsgpackMessages, "arrow": ArrowMessages}


def _bad_records(messages: Messages, bad: Sequence[Bad]) -> list[BadRecord]:
    return [
        BadRecord(messages.offsets[one.message], one.message, one.raw[:RAW_BYTES], one.reason)
        for one in sorted(bad, key=lambda one: one.message)
    ]


# ---------------------------------------------------------------- out

Encode = Callable[[pa.RecordBatch], list[bytes]]


def message_encoder(payload: Payload, per: Per) -> Encode:
    """From rows to messages."""
    return {
        ("json", "row"): _json_each,
        ("json", "batch"): _json_array,
        ("msgpack", "row"): _msgpack_each,
        ("msgpack", "batch"): _msgpack_array,
        ("arrow", "row"): _arrow_each,
        ("arrow", "batch"): _arrow_stream,
    }[payload, per]


def _json_each(columns: pa.RecordBatch) -> list[bytes]:
    return bytes(encode_jsonl(columns)).splitlines()


def _json_array(columns: pa.RecordBatch) -> list[bytes]:
    # Inside JSON text a newline is always escaped, so those between the lines are all there are.
    return [b"[" + bytes(encode_jsonl(columns))[:-1].replace(b"\n", b",") + b"]"]


def _msgpack_each(columns: pa.RecordBatch) -> list[bytes]:
    return [_packed(row) for row in columns.to_pylist()]


def _msgpack_array(columns: pa.RecordBatch) -> list[bytes]:
    return [_packed(columns.to_pylist())]


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, datetime=True, default=_packable)
    return packed


def _packable(value: Any) -> Any:
    """What msgpack has no type for, as in JSON; naive times are UTC."""
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent as msgpack")


def _arrow_stream(columns: pa.RecordBatch) -> list[bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as writer:
        writer.write_batch(columns)
    return [sink.getvalue().to_pybytes()]


def _arrow_each(columns: pa.RecordBatch) -> list[bytes]:
    return [message for row in range(columns.num_rows) for message in _arrow_stream(columns.slice(row, 1))]
