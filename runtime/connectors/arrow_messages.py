"""Arrow IPC streams of strangers: read only when they can be trusted not to burst.

A message of a few bytes can say that it holds a billion rows, that its buffers are a gigabyte when they are decompressed, or that
each row is the same long text. Arrow believes all of that. So what a message claims is added up first, from its
metadata, and what its columns come to when they are made plain; and offsets, which Arrow follows without a look, are checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import SchemaError

MOST_BYTES: Final = 256 << 20
"""What a message may come to."""

_DICTIONARY_BATCH: Final = 2
_RECORD_BATCH: Final = 3

# Where the fields that matter are in the tables of Arrow's Message.fbs.
_HEADER_TYPE, _HEADER = 1, 2
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_DATA = 1


def read_batches(data: bytes) -> list[pa.RecordBatch]:
    """The record batches of a stream.

    Raises:
        SchemaError: it would come to more than `MOST_BYTES`.
        pa.ArrowException, OSError: it is no stream, or a damaged one.
    """
    _check_claims(data)
    with pa.ipc.open_stream(data) as reader:
        batches = list(reader)
    for columns in batches:
        columns.validate(full=True)
        _check_size(sum(map(_plain_bytes, columns.columns)))
    return batches


def _check_claims(data: bytes) -> None:
    reader = pa.ipc.MessageReader.open_stream(data)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        try:
            _check_size(_claimed_bytes(message.metadata.to_pybytes(), message.body))
        except (struct.error, IndexError) as error:
            raise pa.ArrowInvalid(f"its metadata is damaged: {error}") from error


def _check_size(nbytes: int) -> None:
    if nbytes > MOST_BYTES:
        raise SchemaError(f"the message would come to {nbytes:,} bytes; at most {MOST_BYTES:,} are taken")


def _claimed_bytes(metadata: bytes, body: pa.Buffer | None) -> int:
    """What a message says it holds: a byte for eight rows at least, and its buffers when they are decompressed."""
    table = _Table(metadata, struct.unpack_from("<I", metadata, 0)[0])
    kind, header = table.number(_HEADER_TYPE, "<B"), table.table(_HEADER)
    if kind == _DICTIONARY_BATCH and header is not None:
        header = header.table(_DATA)
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH) or header is None:
        return 0
    claimed = header.number(_LENGTH, "<q") // 8
    if header.table(_COMPRESSION) is not None and body is not None:
        view = memoryview(body)
        for offset, length in header.structs(_BUFFERS, "<qq"):
            if length >= 8:
                claimed += max(0, struct.unpack_from("<q", view, offset)[0])  # -1: as it is
    return claimed


class _Table:
    """A table of a flatbuffer."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        if self._fields < 0:
            raise IndexError("a table has its fields before the beginning")
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        offset = struct.unpack_from("<H", self._data, self._fields + entry)[0]
        return self._at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + struct.unpack_from("<I", self._data, place)[0]

    def table(self, field: int) -> _Table | None:
        target = self._target(field)
        return None if target is None else _Table(self._data, target)

    def structs(self, field: int, form: str) -> Iterator[tuple[Any, ...]]:
        target = self._target(field)
        if target is None:
            return
        count, size = struct.unpack_from("<I", self._data, target)[0], struct.calcsize(form)
        for number in range(count):
            yield struct.unpack_from(form, self._data, target + 4 + number * size)


def _plain_bytes(column: Any) -> int:
    """What a column comes to without dictionaries and runs, at most."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return len(column) * _longest(column.dictionary)
    if pa.types.is_run_end_encoded(kind):
        return len(column) * _longest(column.values)
    if pa.types.is_null(kind):
        return len(column) * 8
    if pa.types.is_struct(kind):
        return sum(map(_plain_bytes, column.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return int(column.nbytes) + _plain_bytes(column.flatten())
    return int(column.nbytes)


def _longest(values: Any) -> int:
    """The bytes of the longest of some values."""
    kind = values.type
    if (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    ):
        longest = pc.max(pc.binary_length(values)).as_py()
        return 8 + int(longest or 0)
    try:
        return 1 + int(kind.bit_width) // 8
    except ValueError:
        return 8 + int(values.nbytes)
