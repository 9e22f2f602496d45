"""Messages of other programs: one event, or a list of events, as JSON, msgpack or an Arrow IPC stream.

On the way in, a block holds messages as they came, each with its length in front; decoding happens where
blocks are decoded. A message, or an event of a list, that cannot be decoded is a bad record; its "line" is the
message's place in the block. On the way out, a message is a row or a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgpack
import msgspec
import pyarrow as pa

from millstream.batch import concat_columns
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

_LENGTH = struct.Struct("<I")
FRAME_BYTES = _LENGTH.size


class Message(NamedTuple):
    offset: int
    """Where its frame starts in the block."""
    data: bytes


class Bad(NamedTuple):
    """An event that cannot be decoded: the message it is in, and why."""

    message: int
    raw: bytes
    reason: str


def join_messages(messages: Sequence[bytes]) -> bytes:
    """The payload of a block."""
    return b"".join(piece for data in messages for piece in (_LENGTH.pack(len(data)), data))


def split_messages(payload: bytes) -> Iterator[Message]:
    offset = 0
    while offset < len(payload):
        start = offset + FRAME_BYTES
        end = start + _LENGTH.unpack_from(payload, offset)[0]
        yield Message(offset, payload[start:end])
        offset = end


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
        messages = list(split_messages(as_bytes(block)))
        lines, owners, bad = _json_lines(messages)
        columns, bad_lines = self._lines.decode(b"\n".join(lines))
        bad += [Bad(owners[record.line], record.raw, record.reason) for record in bad_lines]
        return Decoded(columns, _bad_records(messages, bad))

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        return infer_json(b"\n".join(_json_lines(list(split_messages(block)))[0]))


_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])


def _json_lines(messages: Sequence[Message]) -> tuple[list[bytes], list[int], list[Bad]]:
    """One line for each event, the number of the message it is from, and the messages that are no JSON."""
    lines: list[bytes] = []
    owners: list[int] = []
    bad: list[Bad] = []
    for number, (_, data) in enumerate(messages):
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


class MsgpackMessages:
    """One msgpack map, or an array of them. Timestamps are the extension type of the specification."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, block: Bytes) -> Decoded:
        messages = list(split_messages(as_bytes(block)))
        rows, owners, bad = _msgpack_rows(messages)
        try:
            return Decoded(self._columns(rows), _bad_records(messages, bad))
        except SchemaError:
            pass
        fit: list[dict[str, Any]] = []
        for row, owner in zip(rows, owners, strict=True):
            try:
                self._columns([row])
                fit.append(row)
            except SchemaError as error:
                bad.append(Bad(owner, msgpack.packb(row, datetime=True), str(error)))
        return Decoded(self._columns(fit), _bad_records(messages, bad))

    def _columns(self, rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
        if not len(self._schema):
            return without_columns(len(rows))
        columns = [array_of([row.get(f.name) for row in rows], f.type, f"field {f.name!r}") for f in self._schema]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        rows, _, _ = _msgpack_rows(list(split_messages(block)))
        if not rows:
            raise SourceError("no msgpack map in the first messages")
        try:
            schema = plain_schema(columns_of(rows, None, "the first messages").schema)
        except MillstreamError as error:
            raise SourceError(f"{error}; declare the fields with schema=") from error
        return pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in schema])


def _msgpack_rows(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[int], list[Bad]]:
    rows: list[dict[str, Any]] = []
    owners: list[int] = []
    bad: list[Bad] = []
    for number, (_, data) in enumerate(messages):
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


class ArrowMessages:
    """An Arrow IPC stream with any number of rows."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, block: Bytes) -> Decoded:
        messages = list(split_messages(as_bytes(block)))
        parts: list[pa.RecordBatch] = []
        bad: list[Bad] = []
        for number, (_, data) in enumerate(messages):
            try:
                parts += [conform(columns, self._schema, "the message") for columns in _arrow_batches(data)]
            except (pa.ArrowException, SchemaError, OSError) as error:
                bad.append(Bad(number, data, f"{error}"))
        columns = concat_columns(parts) if parts else pa.RecordBatch.from_pylist([], schema=self._schema)
        return Decoded(columns, _bad_records(messages, bad))

    @staticmethod
    def infer(block: bytes) -> pa.Schema:
        for _, data in split_messages(block):
            try:
                with pa.ipc.open_stream(data) as reader:
                    return plain_schema(reader.schema).remove_metadata()
            except (pa.ArrowException, OSError):
                continue
        raise SourceError("no Arrow IPC stream in the first messages")


def _arrow_batches(data: bytes) -> list[pa.RecordBatch]:
    with pa.ipc.open_stream(data) as reader:
        batches = list(reader)
    for columns in batches:
        # A stranger's offsets are not to be trusted: Arrow itself follows them without a look.
        columns.validate(full=True)
    return batches


_DECODERS: dict[Payload, type[JsonMessages] | type[MsgpackMessages] | type[ArrowMessages]]
_DECODERS = {"json": JsonMessages, "msgpack": MsgpackMessages, "arrow": ArrowMessages}


def _bad_records(messages: Sequence[Message], bad: Sequence[Bad]) -> list[BadRecord]:
    return [
        BadRecord(messages[one.message].offset, one.message, one.raw[:RAW_BYTES], one.reason)
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
