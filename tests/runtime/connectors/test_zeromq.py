"""ZeroMQ, over real sockets: payloads, malformed messages, linger and backpressure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
import zmq

from millstream.connectors.base import Block, Placement, Reader
from millstream.connectors.messages import (
    ArrowMessages,
    join_messages,
    message_decoder,
    message_encoder,
    split_messages,
)
from millstream.connectors.zeromq import ZeroMQSink, ZeroMQSource, pause_s
from millstream.errors import FlowError, SinkError, SourceError
from millstream.schema import to_schema

SCHEMA = to_schema({"n": pa.int64(), "s": pa.string()})
ROWS: list[dict[str, Any]] = [{"n": 1, "s": "x"}, {"n": 2, "s": None}]


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/events"


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def next_block(reader: Reader, max_rows: int = 65_536, timeout_s: float = 5.0) -> Block:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        block = reader.read(max_rows, 1 << 20)
        if block is not None:
            return block
        time.sleep(0.001)
    raise AssertionError("no block came")


@pytest.mark.parametrize("payload", ["json", "msgpack", "arrow"])
@pytest.mark.parametrize("per", ["row", "batch"])
@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_what_a_sink_sends_a_source_reads(endpoint: str, payload: Any, per: Any, schema: pa.Schema | None) -> None:
    source = ZeroMQSource(endpoint, payload=payload, schema=schema)
    reader = source.open(source.partitions()[0])
    sink = ZeroMQSink(endpoint, payload=payload, per=per)
    assert sink.placement is Placement.PARALLEL
    writer = sink.open(0, 2)
    writer.write(pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA))
    writer.close()
    decoded = source.decoder(None).decode(next_block(reader).payload)  # type: ignore[arg-type]
    assert decoded.columns.to_pylist() == ROWS
    assert decoded.bad == []
    reader.close()


def test_a_subscriber_gets_the_last_part_of_messages_on_its_topic(endpoint: str, context: zmq.Context[Any]) -> None:
    publisher = context.socket(zmq.XPUB)
    publisher.bind(endpoint)
    source = ZeroMQSource(endpoint, kind="sub", bind=False, topics=["good"], schema=SCHEMA)
    reader = source.open(endpoint)
    assert publisher.recv() == b"\x01good"
    publisher.send_multipart([b"bad", b'{"n":0}'])
    publisher.send_multipart([b"good", b'{"n":1}'])
    block = next_block(reader)
    assert source.decoder(["n"]).decode(block.payload).columns.to_pylist() == [{"n": 1}]  # type: ignore[arg-type]
    reader.close()


def test_a_block_leaves_when_it_is_full_or_five_milliseconds_after_the_one_before(
    endpoint: str, context: zmq.Context[Any]
) -> None:
    reader = ZeroMQSource(endpoint).open(endpoint)
    pusher = context.socket(zmq.PUSH)
    pusher.connect(endpoint)
    pusher.send_json({"n": 0})
    first = next_block(reader)  # nothing came before: it leaves at once
    left_s = time.monotonic()
    for n in range(3):
        pusher.send_json({"n": n})
    full = next_block(reader, max_rows=2)
    assert bytes(full.payload).count(b"n") == 2  # type: ignore[arg-type]
    assert full.offset == first.nbytes
    left_s = time.monotonic()
    while (rest := reader.read(2, 1000)) is None:
        due_s = reader.due_s()
        assert due_s is None or due_s <= time.monotonic() + 0.005
        assert time.monotonic() - left_s < 5
    assert time.monotonic() - left_s > 0.004
    assert rest.offset == full.offset + full.nbytes
    assert reader.due_s() is None
    assert reader.wait_on() is not None
    reader.close()


@pytest.mark.parametrize(
    ("elapsed_s", "taken", "pause"),
    [(0.001, 50, 0.005), (0.001, 125, 0.002), (0.001, 10_000, 0.001), (3.0, 1, 0.005), (0.001, 0, 0.005)],
)
def test_the_socket_is_looked_at_again_before_much_of_its_mark_has_come(
    elapsed_s: float, taken: int, pause: float
) -> None:
    assert pause_s(elapsed_s, taken, 1_000) == pytest.approx(pause)


def test_of_a_message_with_several_parts_the_last_counts_also_among_others(
    endpoint: str, context: zmq.Context[Any]
) -> None:
    source = ZeroMQSource(endpoint, schema=SCHEMA)
    reader = source.open(endpoint)
    pusher = context.socket(zmq.PUSH)
    pusher.connect(endpoint)
    for n in range(20):
        pusher.send_multipart([b'{"n":-1}'] * (n % 3) + [b'{"n":%d}' % n])
    seen: list[Any] = []
    while len(seen) < 20:
        decoded = source.decoder(["n"]).decode(next_block(reader).payload)  # type: ignore[arg-type]
        seen += decoded.columns["n"].to_pylist()
    assert seen == list(range(20))
    reader.close()


def test_a_source_that_is_not_read_makes_its_pusher_wait(endpoint: str, context: zmq.Context[Any]) -> None:
    reader = ZeroMQSource(endpoint, high_water_mark=10).open(endpoint)
    pusher = context.socket(zmq.PUSH)
    pusher.sndhwm = 10
    pusher.sndtimeo = 300
    pusher.connect(endpoint)
    sent = 0
    with pytest.raises(zmq.Again):
        # Large ones, so that what the kernel holds of a stream does not hide the marks.
        while sent < 10_000:
            pusher.send(b"x" * 100_000)
            sent += 1
    assert sent < 200
    next_block(reader)
    pusher.send(b"x")
    pusher.close(linger=0)
    reader.close()


def test_a_receiver_that_is_away_is_an_error_after_the_deadline(endpoint: str) -> None:
    writer = ZeroMQSink(endpoint, timeout="100ms").open(0, 1)
    started_s = time.monotonic()
    with pytest.raises(SinkError, match=r"ipc://.*no receiver took a message for 0.1 s"):
        writer.write(pa.RecordBatch.from_pylist(ROWS))
    assert 0.09 < time.monotonic() - started_s < 3
    writer.abort()


def test_a_binding_sink_tells_its_port() -> None:
    sink = ZeroMQSink("tcp://127.0.0.1:*", bind=True)
    assert sink.placement is Placement.GATHER
    writer = sink.open(0, 1)
    source = ZeroMQSource(writer.address, bind=False, schema=SCHEMA)
    reader = source.open("")
    writer.write(pa.RecordBatch.from_pylist(ROWS))
    found: list[dict[str, Any]] = []
    while len(found) < len(ROWS):  # the first may leave before the second has come
        found += source.decoder(None).decode(next_block(reader).payload).columns.to_pylist()  # type: ignore[arg-type]
    assert found == ROWS
    reader.close()
    writer.close()


def test_an_address_that_is_taken_is_named() -> None:
    reader = ZeroMQSource("tcp://127.0.0.1:*").open("")
    with pytest.raises(SourceError, match="another program has it"):
        ZeroMQSource(reader.address).open("")
    with pytest.raises(SinkError, match="another program has it"):
        ZeroMQSink(reader.address, bind=True).open(0, 1)
    reader.close()


@pytest.mark.parametrize("options", [{"payload": "xml"}, {"kind": "push"}, {"high_water_mark": 0}])
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FlowError, match="there are|at least 1"):
        ZeroMQSource("ipc:///x", **options)
    with pytest.raises(FlowError, match="an endpoint looks like"):
        ZeroMQSource("5555")


# ---------------------------------------------------------------- payloads


def decode(payload: Any, *messages: bytes) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    block = join_messages(messages)
    columns, bad = message_decoder(payload, SCHEMA, None, "here").decode(block)
    for record in bad:
        # Behind the number of messages and the length of each.
        start = 4 + 4 * len(messages) + sum(map(len, messages[: record.line]))
        assert record.offset == start
        assert block[start:].startswith(messages[record.line])
    return columns.to_pylist(), [(record.line, record.reason) for record in bad]


def test_json_messages_hold_an_object_or_an_array_over_any_number_of_lines() -> None:
    rows, bad = decode("json", b'{"n":1}', b'[{"n":2},\n {"n":3,\n"s":"a"}]', b"[]", b' {\n"n": 4}\n')
    assert [row["n"] for row in rows] == [1, 2, 3, 4]
    assert bad == []


def test_malformed_json_messages_are_bad_records_each_by_itself() -> None:
    messages = [b'{"n":1}', b"{", b"", b'{"n":"x"}', b'[{"n":2},{"n":1.5},{"n":3}]']
    messages += [b'[{"n":4},]', b'{"n":5}{"n":6}', b'{"s":"\n"}', b'"\xff"']
    rows, bad = decode("json", *messages)
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert [number for number, _ in bad] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "expected int64" in bad[3][1]


def test_malformed_msgpack_messages_are_bad_records_each_by_itself() -> None:
    pack = msgpack.packb
    messages = [pack({"n": 1}), b"\xc1", b"", pack([{"n": 2}, 7, {"n": "x"}, {"n": 3, "more": [1]}])]
    messages += [pack({"n": 1.5}), pack({"n": True})]
    rows, bad = decode("msgpack", *messages)
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert [number for number, _ in bad] == [1, 2, 3, 3, 4, 5]


def test_fields_of_msgpack_may_have_any_name() -> None:
    event = {'a"b': 1, "\n": "x"}
    columns, bad = message_decoder("msgpack", None, None, "here").decode(join_messages([msgpack.packb(event)]))
    assert (columns.to_pylist(), bad) == ([event], [])


def test_values_that_fit_each_by_itself_fit_together() -> None:
    schema = to_schema({"d": pa.decimal128(38, 9)})
    messages = [msgpack.packb({"d": value}) for value in ("1.50", 2, None, "x")]
    columns, bad = message_decoder("msgpack", schema, None, "here").decode(join_messages(messages))
    assert columns.to_pylist() == [{"d": Decimal("1.50")}, {"d": Decimal(2)}, {"d": None}]
    assert [record.line for record in bad] == [3]


def test_malformed_arrow_messages_are_bad_records() -> None:
    (good,) = message_encoder("arrow", "batch")(pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA))
    (other,) = message_encoder("arrow", "batch")(pa.record_batch({"n": ["x"], "s": ["y"]}))
    for cut in range(0, len(good), 37):
        rows, bad = decode("arrow", good[:cut], good)
        assert rows[-2:] == ROWS
        assert len(rows) == (4 if not bad else 2)
    rows, bad = decode("arrow", b"nonsense", good, other)
    assert rows == ROWS
    assert [number for number, _ in bad] == [0, 2]


def test_a_field_whose_name_is_no_text_or_there_twice_settles_no_schema() -> None:
    (good,) = message_encoder("arrow", "batch")(pa.record_batch({"nn": [1]}))
    rows, bad = decode("arrow", good.replace(b"nn", b"n\xff"))
    assert rows == []
    assert "'utf-8' codec can't decode byte 0xff" in bad[0][1]
    (twice,) = message_encoder("arrow", "batch")(pa.record_batch([pa.array([1])] * 2, ["n", "n"]))
    for damaged in (good.replace(b"nn", b"n\xff"), twice):
        block = join_messages([damaged])
        with pytest.raises(SourceError, match="no Arrow IPC stream"):
            ArrowMessages.infer(block)
        assert len(message_decoder("arrow", None, None, "here").decode(block).bad) <= 1


def test_damaged_arrow_messages_never_reach_the_flow() -> None:
    (good,) = message_encoder("arrow", "batch")(pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA))
    for at in range(0, len(good), 3):
        damaged = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
        columns, _ = message_decoder("arrow", SCHEMA, None, "here").decode(join_messages([damaged]))
        columns.validate(full=True)


def test_times_travel_as_msgpack_timestamps() -> None:
    moment = datetime(2025, 1, 1, 12, tzinfo=UTC)
    times = pa.record_batch({"t": pa.array([moment], pa.timestamp("us", "UTC"))})
    (message,) = message_encoder("msgpack", "row")(times)
    schema = to_schema({"t": pa.timestamp("us", "UTC")})
    for declared in (schema, None):
        columns, bad = message_decoder("msgpack", declared, None, "here").decode(join_messages([message]))
        assert (columns.schema, columns.to_pylist(), bad) == (schema, [{"t": moment}], [])


def test_fields_that_are_missing_are_null_and_those_not_asked_for_do_not_matter() -> None:
    messages = [msgpack.packb(event) for event in ({"s": "a", "other": {"x": [1]}}, {}, {"n": None, "s": None})]
    columns, bad = message_decoder("msgpack", SCHEMA, None, "here").decode(join_messages(messages))
    assert (columns.to_pylist(), bad) == ([{"n": None, "s": "a"}, {"n": None, "s": None}, {"n": None, "s": None}], [])
    columns, bad = message_decoder("msgpack", SCHEMA, [], "here").decode(join_messages(messages))
    assert (columns.num_rows, bad) == (3, [])


@pytest.mark.parametrize("name", ["from", "a-b", "f0", "", "é"])
def test_fields_may_have_any_name(name: str) -> None:
    schema = to_schema({name: pa.int64()})
    block = join_messages([msgpack.packb({name: 1}), msgpack.packb([{name: 2}, {"more": 3, name: 4}])])
    columns, bad = message_decoder("msgpack", schema, None, "here").decode(block)
    assert ([list(row.values()) for row in columns.to_pylist()], bad) == ([[1], [2], [4]], [])


def test_a_msgpack_event_that_does_not_fit_is_told_as_it_was() -> None:
    block = join_messages([msgpack.packb({"n": 1}), msgpack.packb([{"n": "x", "s": "y"}, 5])])
    columns, bad = message_decoder("msgpack", SCHEMA, None, "here").decode(block)
    assert columns.to_pylist() == [{"n": 1, "s": None}]
    told = {record.reason.partition(":")[0]: msgpack.unpackb(record.raw) for record in bad}
    assert told["field 'n'"] == {"n": "x", "s": "y"}
    assert told["expected a map or an array of maps, found int"] == [{"n": "x", "s": "y"}, 5]


def test_the_nanoseconds_of_a_timestamp_are_cut_off_and_never_make_it_later() -> None:
    last = msgpack.packb({"t": msgpack.Timestamp(1_735_689_599, 999_999_999)})
    schema = to_schema({"t": pa.timestamp("us", "UTC")})
    columns, bad = message_decoder("msgpack", schema, None, "here").decode(join_messages([last]))
    assert (columns.to_pylist(), bad) == ([{"t": datetime(2024, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)}], [])


@pytest.mark.parametrize("messages", [[], [b""], [b"", b"abc", b""], [b"x" * 70_000, b"y"]])
def test_messages_leave_a_block_as_they_came(messages: list[bytes]) -> None:
    data, offsets = split_messages(join_messages(messages))
    assert data == messages
    block = join_messages(messages)
    assert [block[o : o + len(m)] for o, m in zip(offsets, messages, strict=True)] == messages
