"""Streams that claim to be large are refused before anything is made of them."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from millstream.connectors import arrow_messages
from millstream.connectors.arrow_messages import read_batches
from millstream.connectors.messages import join_messages, message_decoder
from millstream.errors import SchemaError


def stream(columns: pa.RecordBatch, compression: Any = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(columns)
        writer.write_batch(columns)
    return sink.getvalue().to_pybytes()


BOMBS = {
    "compressed": lambda: stream(pa.record_batch({"n": pa.repeat(pa.scalar(0, pa.int64()), 1_000_000)}), "zstd"),
    "rows of nothing": lambda: stream(pa.record_batch({"n": pa.nulls(1_000_000_000)})),
    "one long text": lambda: stream(
        pa.record_batch(
            {"n": pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), 100_000), ["x" * 100_000])}
        )
    ),
    "one long run": lambda: stream(
        pa.record_batch({"n": pa.RunEndEncodedArray.from_arrays(pa.array([1_000_000_000], pa.int32()), pa.array([7]))})
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_what_would_burst_is_a_dead_letter(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_messages, "MOST_BYTES", 4 << 20)
    data = BOMBS[what]()
    assert len(data) < 1 << 20
    before = pa.default_memory_pool().max_memory() or 0
    with pytest.raises(SchemaError, match=r"the message would come to [\d,]+ bytes; at most 4,194,304 are taken"):
        read_batches(data)
    assert (pa.default_memory_pool().max_memory() or 0) <= before + (1 << 20)
    decoder = message_decoder("arrow", pa.schema({"n": pa.int64()}), None, "here")
    columns, (bad,) = decoder.decode(join_messages([data]))
    assert columns.num_rows == 0
    assert "would come to" in bad.reason


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_what_is_no_larger_than_it_says_is_read(compression: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.datetime(2024, 5, 14, tzinfo=datetime.UTC)
    batch = pa.record_batch(
        {
            "n": [1, None, 3],
            "s": pa.array(["a", "b", "a"]).dictionary_encode(),
            "l": [[1], None, []],
            "o": [{"x": at}, None, {"x": None}],
            "nothing": pa.nulls(3),
            "text": ["x" * 10_000, None, ""],
        }
    )
    assert read_batches(stream(batch, compression)) == [batch, batch]
    monkeypatch.setattr(arrow_messages, "MOST_BYTES", 5_000)
    with pytest.raises(SchemaError, match="would come to"):
        read_batches(stream(batch, compression))
    assert read_batches(stream(batch.slice(0, 0), compression))[0].num_rows == 0
