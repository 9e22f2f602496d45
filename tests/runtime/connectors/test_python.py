"""The user's own sources and sinks."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from harness.running import run

from millstream.connectors.base import Reader
from millstream.connectors.discard import NullSink
from millstream.connectors.python import ForEachSink, PythonSink, PythonSource
from millstream.errors import FlowError, UserCodeError
from millstream.flow import Flow
from millstream.functions import UserFunction

BATCH = pa.record_batch({"a": [1, 2]})


class Readings:
    def partitions(self) -> list[str]:
        return ["north", "south"]

    def read(self, partition: str) -> Iterator[dict[str, Any]]:
        for n in range(3):
            yield {"where": partition, "n": n}


class Broken:
    def read(self, partition: str) -> Iterator[int]:
        yield 1
        raise ValueError("no more")


def numbers() -> Iterator[int]:
    yield from range(3)


def rows(reader: Reader) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (block := reader.read(2, 1000)) is not None:
        assert isinstance(block.payload, pa.RecordBatch)
        found += block.payload.to_pylist()
    assert reader.ended
    return found


def source_of(value: Any) -> PythonSource:
    source: PythonSource = pickle.loads(pickle.dumps(PythonSource(UserFunction(value))))
    return source


@pytest.mark.parametrize("value", [Readings, Readings()])
def test_a_source_of_the_users_has_partitions_of_rows(value: Any) -> None:
    source = source_of(value)
    assert source.partitions() == ["north", "south"]
    assert rows(source.open("south")) == [{"where": "south", "n": n} for n in range(3)]


@pytest.mark.parametrize("value", [numbers, lambda partition: iter(range(3))])
def test_a_function_that_gives_rows_is_a_source(value: Any) -> None:
    source = source_of(value)
    assert rows(source.open(source.partitions()[0])) == [{"value": n} for n in range(3)]


def test_what_a_source_raises_comes_with_its_row_and_traceback() -> None:
    with pytest.raises(UserCodeError, match=r"source\(Broken\)(.|\n)*row 1(.|\n)*no more"):
        rows(source_of(Broken).open("python"))
    with pytest.raises(FlowError, match="expected an object with read"):
        source_of(7).partitions()


class Collecting:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def open(self, worker: int, workers: int) -> None:
        self.calls.append((worker, workers))

    def write(self, rows: list[Any]) -> None:
        self.calls.append([row.a for row in rows])

    def close(self) -> None:
        self.calls.append("closed")


def test_a_sink_of_the_users_is_opened_written_and_closed() -> None:
    sink = Collecting()
    writer = PythonSink(UserFunction(sink)).open(1, 4)
    writer.write(BATCH)
    writer.flush()
    writer.close()
    assert sink.calls == [(1, 4), [1, 2], "closed"]


def test_a_sink_that_raises_or_cannot_write_is_named() -> None:
    class Failing:
        def write(self, rows: list[Any]) -> None:
            raise OSError("away")

    flow = Flow("away")
    flow.read_arrow(BATCH).sink(Failing)
    with pytest.raises(UserCodeError, match=r"2 rows, the first(.|\n)*away"):
        run(flow)
    with pytest.raises(FlowError, match=r"expected an object with write\(rows\)"):
        PythonSink(UserFunction(object())).open(0, 1)


def test_for_each_calls_the_function_with_every_row() -> None:
    seen: list[int] = []
    ForEachSink(UserFunction(lambda row: seen.append(row.a))).open(0, 1).write(BATCH)
    assert seen == [1, 2]
    flow = Flow("divided")
    flow.read_arrow(BATCH).for_each(lambda row: row.a / 0)
    with pytest.raises(UserCodeError, match=r"a=1(.|\n)*ZeroDivisionError"):
        run(flow)


def test_the_null_sink_takes_everything() -> None:
    writer = NullSink().open(0, 1)
    writer.write(BATCH)
    writer.close()
