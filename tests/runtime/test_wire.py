"""Every message survives the wire, and what is no message raises `WireError` and nothing else."""

from __future__ import annotations

import contextlib
import datetime
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import wire
from millstream.batch import EMPTY_COLUMNS, Batch, Keys, make_columns
from millstream.connectors.base import Block
from millstream.errors import WireError
from millstream.times import MAX_US, MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import (
    Answered,
    Ask,
    Beat,
    Checkpoint,
    ClockReading,
    Credit,
    Data,
    Failed,
    Finished,
    Hello,
    Message,
    Rescale,
    Start,
    Stop,
    Switch,
    TimeReport,
)

ATTEMPT = 3

int64 = st.integers(MIN_US, MAX_US)
status = st.sampled_from(InputStatus)
text = st.text(max_size=8)
name = st.sampled_from(["worker-0", "coordinator", "caller"])
small = st.integers(0, 2**40)
figures = st.dictionaries(
    text,
    st.recursive(
        st.none() | st.booleans() | int64 | text,
        lambda c: st.lists(c, max_size=2) | st.dictionaries(text, c, max_size=2),
    ),
)

plain_messages: st.SearchStrategy[Any] = st.one_of(
    st.builds(Credit, small, small, name, small),
    st.builds(TimeReport, small, name, small, small, int64, st.booleans()),
    st.builds(ClockReading, small, small, small, int64, int64, int64, status, st.booleans()),
    st.builds(Hello, name, small),
    st.builds(Start, small),
    st.builds(Beat, name, figures),
    st.builds(Failed, name, st.lists(text, max_size=3)),
    st.builds(Finished, name, figures),
    st.builds(Stop, st.booleans()),
    st.builds(Ask, small, name, small),
    st.builds(Answered, small, small, text, small),
    st.builds(Checkpoint, small, st.booleans(), st.booleans()),
    st.builds(Rescale, small, small, small),
    st.builds(Switch, small, small, small),
    st.builds(
        Data, small, name, st.tuples(small, st.integers(-1, 2**40)), small, st.booleans(), int64, status, st.none()
    ),
)


def sent(message: Message) -> Any:
    """The message as it arrives: every frame as bytes that belong to nobody else."""
    return wire.decode([bytes(memoryview(f)) for f in message.encode(ATTEMPT)], ATTEMPT)


def data(payload: Batch | Block | None) -> Data:
    return Data(1, "worker-0", (2, 3), 4, False, 5, InputStatus.ACTIVE, payload)


def arrived(payload: Batch | Block) -> Any:
    received = sent(data(payload))
    assert isinstance(received, Data)
    assert received.size_bytes == data(payload).size_bytes, "exactly the credit that was taken returns"
    return received.payload


@given(plain_messages)
def test_messages_arrive_as_they_were_sent(message: Any) -> None:
    assert sent(message) == message


def test_the_size_that_the_sender_counted_is_the_size_that_arrives() -> None:
    # A slice may hold on to more memory at one end than at the other, so it is measured once.
    batch = Batch(make_columns(["c"], [pa.array(["a", None, "bc"])])).slice(1, 2)
    message = Data(1, "worker-0", (2, 3), 4, False, 5, InputStatus.ACTIVE, batch, size_bytes=12_345)
    assert sent(message).size_bytes == 12_345
    assert data(None).size_bytes == 0


@pytest.mark.parametrize("size", [-1, 1.5, "1", None])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    header = msgpack.unpackb(data(None).encode(ATTEMPT)[0])
    header[-1] = size
    with pytest.raises(WireError, match="a size of"):
        wire.decode([msgpack.packb(header)], ATTEMPT)


# --- batches ---

TYPES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None, None, None]),
    (pa.bool_(), [True, None, False]),
    (pa.int8(), [-128, None, 127]),
    (pa.uint64(), [2**64 - 1, None, 0]),
    (pa.float16(), [np.float16(0.5), None, np.float16(2)]),
    (pa.float64(), [float("inf"), None, -0.0]),
    (pa.decimal128(10, 2), [Decimal("1.50"), None, Decimal("-2.25")]),
    (pa.decimal256(50, 2), [Decimal("1.50"), None, Decimal("-2.25")]),
    (pa.string(), ["", None, "é€😀"]),
    (pa.large_string(), ["a", None, "b" * 300]),
    (pa.string_view(), ["a", None, "longer than twelve bytes"]),
    (pa.binary(), [b"\x00", None, b""]),
    (pa.binary(2), [b"ab", None, b"cd"]),
    (pa.date32(), [datetime.date(1969, 12, 31), None, datetime.date(2024, 2, 29)]),
    (pa.time64("us"), [datetime.time(1, 2, 3), None, datetime.time(0)]),
    (pa.timestamp("us", "UTC"), [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), None, datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)]),
    (pa.timestamp("ms", "Europe/Paris"), [datetime.datetime(2024, 7, 1, tzinfo=datetime.UTC), None, None]),
    (pa.duration("s"), [datetime.timedelta(seconds=-3), None, datetime.timedelta(0)]),
    (pa.list_(pa.int64()), [[1, None], None, []]),
    (pa.large_list(pa.string()), [["a"], None, []]),
    (pa.list_(pa.int8(), 2), [[1, 2], None, [3, None]]),
    (pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), [{"a": 1, "b": ["x", None]}, None, {"a": None, "b": None}]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], None, []]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"]),
    (pa.list_(pa.dictionary(pa.int32(), pa.string())), [["a", "b"], None, ["a"]]),
    (pa.struct([("d", pa.dictionary(pa.int32(), pa.string()))]), [{"d": "a"}, None, {"d": None}]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values"), TYPES, ids=[str(k) for k, _ in TYPES])
@pytest.mark.parametrize(("start", "length"), [(0, 3), (1, 2), (2, 1), (1, 0)])
def test_columns_of_every_type_arrive_in_any_slice(
    kind: pa.DataType, values: list[Any], start: int, length: int
) -> None:
    batch = Batch(make_columns(["c"], [pa.array(values, kind)])).slice(start, length)
    assert arrived(batch).columns.to_pydict() == {"c": batch.columns.column(0).to_pylist()}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    rows = draw(st.integers(0, 6))
    kinds = draw(st.lists(st.sampled_from(TYPES), max_size=3))
    arrays = [pa.array([values[i % 3] for i in range(rows)], kind) for kind, values in kinds]
    columns = make_columns([f"c{i}" for i in range(len(arrays))], arrays) if arrays else EMPTY_COLUMNS

    def beside() -> Any:
        return np.array(draw(st.lists(int64, min_size=rows, max_size=rows)), np.int64) if draw(st.booleans()) else None

    keys = None
    if draw(st.booleans()) or not arrays:
        distinct = make_columns(["k"], [pa.array(["a", None, "b"])])
        keys = Keys(distinct, np.array(draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)), np.int32))
    batch = Batch(columns, beside(), beside(), beside(), keys)
    start = draw(st.integers(0, rows))
    return batch.slice(start, draw(st.integers(0, rows - start))) if draw(st.booleans()) else batch


@given(batches())
def test_batches_arrive_with_all_that_is_beside_their_columns(batch: Batch) -> None:
    there = arrived(batch)
    assert there.num_rows == batch.num_rows
    assert there.columns.to_pydict() == batch.columns.to_pydict()
    for field in ("time_us", "before_us", "position"):
        mine, theirs = getattr(batch, field), getattr(there, field)
        assert (None if theirs is None else theirs.tolist()) == (None if mine is None else mine.tolist())
    assert (there.keys is None) == (batch.keys is None)
    if batch.keys is not None:
        assert [c.to_pylist() for c in there.keys.columns()] == [c.to_pylist() for c in batch.keys.columns()]


@pytest.mark.parametrize("payload", [b"line\n", memoryview(b"line\n"), pa.py_buffer(b"line\n"), b""])
def test_blocks_of_text_arrive_with_their_place(payload: Any) -> None:
    block = arrived(Block(payload, 10, 2, "file.csv"))
    assert (bytes(memoryview(block.payload)), block.offset, block.line, block.origin) == (
        bytes(memoryview(payload)),
        10,
        2,
        "file.csv",
    )


def test_blocks_of_columns_arrive_with_their_place() -> None:
    columns = make_columns(["a", "d"], [pa.array([1, 2, 3]), pa.array(["x", "y", "x"]).dictionary_encode()]).slice(1)
    block = arrived(Block(columns, 7, 0, "file"))
    assert (block.payload.to_pydict(), block.offset) == ({"a": [2, 3], "d": ["y", "x"]}, 7)
    assert arrived(Block(EMPTY_COLUMNS, 7, 0, "file")).payload.num_columns == 0


# --- what is no message ---


def frames() -> list[bytes]:
    keys = Keys(make_columns(["k"], [pa.array(["a", "b"])]), np.array([0, 1, 0], np.int32))
    batch = Batch(make_columns(["x"], [pa.array([1, 2, 3])]), np.arange(3), None, np.arange(3), keys)
    return [bytes(memoryview(f)) for f in data(batch).encode(ATTEMPT)]


def test_a_message_of_another_attempt_is_nothing() -> None:
    assert wire.decode(Hello("worker-0", 1).encode(ATTEMPT - 1), ATTEMPT) is None
    assert wire.decode(frames(), ATTEMPT + 1) is None


def test_another_version_of_the_protocol_is_refused_by_number() -> None:
    with pytest.raises(WireError, match=f"protocol version 99, expected {wire.VERSION}"):
        wire.decode([msgpack.packb([Hello.TAG, 99, ATTEMPT, "worker-0", 1])], ATTEMPT)


@pytest.mark.parametrize(
    "header", [[], [1], [99, 1, ATTEMPT], ["a", 1, ATTEMPT], [[1], 1, ATTEMPT], {"a": 1}, 5, None, "text"]
)
def test_a_header_that_is_none_is_refused(header: Any) -> None:
    with pytest.raises(WireError):
        wire.decode([msgpack.packb(header)], ATTEMPT)


@given(st.lists(st.binary(max_size=20), max_size=3))
def test_random_frames_are_refused(random: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode(random, ATTEMPT)


@given(
    plain_messages,
    st.lists(
        st.one_of(
            st.none(), st.text(max_size=2), st.integers(-5, 5), st.lists(st.integers(-(2**63), 2**64 - 1), max_size=2)
        ),
        max_size=12,
    ),
)
def test_a_message_with_other_fields_decodes_or_is_refused(message: Any, fields: list[Any]) -> None:
    with contextlib.suppress(WireError):
        wire.decode([msgpack.packb([message.TAG, wire.VERSION, ATTEMPT, *fields])], ATTEMPT)


@pytest.mark.parametrize("count", range(1, len(frames())))
def test_a_batch_with_missing_frames_is_refused(count: int) -> None:
    with pytest.raises(WireError):
        wire.decode(frames()[:count], ATTEMPT)


def test_frames_that_the_header_does_not_announce_are_refused() -> None:
    with pytest.raises(WireError):
        wire.decode([*Hello("worker-0", 1).encode(ATTEMPT), b"x"], ATTEMPT)
    with pytest.raises(WireError):
        wire.decode([*data(None).encode(ATTEMPT), b"x"], ATTEMPT)
    with pytest.raises(WireError):
        wire.decode([*frames(), b"x"], ATTEMPT)
    with pytest.raises(WireError):
        wire.decode([*data(Block(b"a\n", 0, 1, "f")).encode(ATTEMPT), b"x"], ATTEMPT)


@pytest.mark.parametrize("number", range(3, len(frames())))
def test_columns_of_different_lengths_are_refused(number: int) -> None:
    # Frames: header, columns' schema, columns, time, position, keys' schema, keys, codes.
    cut = frames()
    if number in (5, 6):
        pytest.skip("keys may be fewer than rows")
    cut[number] = cut[number][: len(cut[number]) // 3]
    with pytest.raises(WireError):
        wire.decode(cut, ATTEMPT)


def test_key_codes_that_name_no_key_are_refused() -> None:
    for code in (2, -1):
        cut = frames()
        cut[7] = np.array([0, code, 0], np.int32).tobytes()
        with pytest.raises(WireError):
            wire.decode(cut, ATTEMPT)


@given(st.integers(1, 7), st.integers(0, 400))
def test_a_frame_cut_short_is_refused_or_holds_fewer_rows(number: int, length: int) -> None:
    cut = frames()
    cut[number] = cut[number][: min(length, len(cut[number]) - 1)]
    with pytest.raises(WireError):
        wire.decode(cut, ATTEMPT)
