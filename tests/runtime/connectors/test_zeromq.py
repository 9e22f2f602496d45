"""ZeroMQ, over real sockets: payloads, malformed messages, linger and backpressure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
import zmq

from millstream.connectors.base import Block, Placement, Reader
from millstream.connectors.messages import join_messages, message_decoder, message_encoder
from millstream.connectors.zeromq import ZeroMQSink, ZeroMQSource
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


def test_messages_wait_five_milliseconds_for_more_unless_there_are_enough(
    endpoint: str, context: zmq.Context[Any]
) -> None:
    reader = ZeroMQSource(endpoint).open(endpoint)
    pusher = context.socket(zmq.PUSH)
    pusher.connect(endpoint)
    for n in range(3):
        pusher.send_json({"n": n})
    block = next_block(reader, max_rows=2)
    assert bytes(block.payload).count(b"n") == 2  # type: ignore[arg-type]
    started_s = time.monotonic()
    while (rest := reader.read(2, 1000)) is None:
        due_s = reader.due_s()
        assert due_s is None or due_s <= time.monotonic() + 0.005
        assert time.monotonic() - started_s < 5
    assert rest.offset == block.nbytes
    assert reader.due_s() is None
    assert reader.wait_on() is not None
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
    decoded = source.decoder(None).decode(next_block(reader).payload)  # type: ignore[arg-type]
    assert decoded.columns.to_pylist() == ROWS
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
