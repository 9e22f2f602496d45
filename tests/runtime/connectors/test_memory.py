"""Tables and Python iterables as sources."""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import millstream as ms
from millstream.connectors.base import Reader
from millstream.connectors.memory import IterableSource, TableSource
from millstream.errors import SourceError
from millstream.schema import to_schema


class Point(NamedTuple):
    x: int
    y: str


@dataclasses.dataclass
class Order:
    x: int
    y: str


def columns(reader: Reader, max_rows: int = 65_536) -> list[pa.RecordBatch]:
    found = []
    while (block := reader.read(max_rows, 1 << 20)) is not None:
        assert isinstance(block.payload, pa.RecordBatch)
        found.append(block.payload)
    assert reader.ended
    return found


def rows(source: Any, max_rows: int = 65_536) -> list[dict[str, Any]]:
    return [row for batch in columns(source.open(source.partitions()[0]), max_rows) for row in batch.to_pylist()]


def test_a_table_is_read_without_a_copy_and_stays_whole_in_a_file(tmp_path: Path) -> None:
    table = pa.table({"n": [1, 2, 3], "s": pa.array(["a", "b", "a"]).dictionary_encode()})
    source = TableSource(table)
    assert source.schema() == to_schema({"n": pa.int64(), "s": pa.string()})
    stored = pickle.loads(pickle.dumps(source.stored(str(tmp_path / "table"))))
    for one in (source, stored):
        assert rows(one, 2) == table.to_pylist()
        assert rows(one.with_fields(["s"])) == [{"s": "a"}, {"s": "b"}, {"s": "a"}]
    (batch,) = columns(source.open("table"))
    mine, given = batch.column("n").buffers()[1], table.to_batches()[0].column("n").buffers()[1]
    assert mine is not None
    assert given is not None
    assert mine.address == given.address


@pytest.mark.parametrize(
    "given", [[{"x": 1, "y": "a"}, {"x": 2, "y": "b"}], [Point(1, "a"), Point(2, "b")], [Order(1, "a"), Order(2, "b")]]
)
@pytest.mark.parametrize("max_rows", [1, 100])
def test_rows_of_any_kind_become_columns(given: list[Any], max_rows: int) -> None:
    source = IterableSource(given)
    assert source.in_caller
    assert rows(source, max_rows) == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]


def test_plain_values_are_the_field_value() -> None:
    assert rows(IterableSource(range(3))) == [{"value": 0}, {"value": 1}, {"value": 2}]


def test_tables_and_batches_keep_their_columns() -> None:
    batch = pa.record_batch({"n": [1, 2, 3]})
    reader = IterableSource([batch, pa.table({"n": [4]})]).open("")
    assert [b.num_rows for b in columns(reader, 2)] == [2, 1, 1]


def test_offsets_count_rows_over_all_blocks() -> None:
    reader = IterableSource(range(5)).open("")
    offsets = []
    while (block := reader.read(2, 1000)) is not None:
        offsets.append(block.offset)
    assert offsets == [0, 2, 4]


def test_a_field_that_comes_later_or_is_missing_is_null_where_it_was_declared() -> None:
    schema = to_schema({"a": pa.int64(), "b": pa.float64()})
    assert rows(IterableSource([{"a": 1}, {"b": 2}], schema=schema), 1) == [{"a": 1, "b": None}, {"a": None, "b": 2.0}]


@pytest.mark.parametrize(
    ("later", "says"),
    [
        ({"a": 1.5}, "field 'a': expected int64, found double"),
        ({"a": "x"}, "field 'a'"),
        ({"b": 1}, "field 'b' is new"),
    ],
)
def test_rows_that_do_not_fit_the_first_ones_are_refused(later: dict[str, Any], says: str) -> None:
    reader = IterableSource([{"a": 1}, later]).open("")
    assert reader.read(1, 1000) is not None
    with pytest.raises(SourceError, match=f"rows from 1.*{says}"):
        reader.read(1, 1000)


def test_fields_outside_a_declared_schema_are_not_read() -> None:
    assert rows(IterableSource([{"a": 1, "b": 2}], schema=to_schema({"a": pa.int64()}))) == [{"a": 1}]


def test_a_float_does_not_lose_its_fraction_in_a_declared_integer_field() -> None:
    with pytest.raises(SourceError, match="field 'a'"):
        rows(IterableSource([{"a": 1.5}], schema=to_schema({"a": pa.int64()})))


def test_a_live_iterable_gives_what_it_has_after_five_milliseconds() -> None:
    def slow() -> Iterator[int]:
        for n in range(3):
            yield n
            time.sleep(0.006)

    assert [batch.num_rows for batch in columns(IterableSource(slow(), live=True).open(""))] != [3]


def test_the_rows_themselves_never_leave_the_process() -> None:
    source = pickle.loads(pickle.dumps(IterableSource(n for n in range(3))))
    assert list(source.rows) == []


def all_rows(reader: Reader) -> list[Any]:
    return [row for block in iter(lambda: reader.read(2, 1 << 20), None) for row in block.payload.to_pylist()]  # type: ignore[union-attr]


@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_a_list_is_gone_on_with_and_an_iterator_is_not(first: int) -> None:
    rows = [{"n": 1}, {"n": 2}, pa.table({"n": [3, 4, 5]}), pa.table({"n": [6]})]
    for given in ([{"n": n} for n in range(1, 7)], rows[2:]):
        source = IterableSource(given)
        assert source.replayable
        whole = source.open("")
        before = whole.read(first, 1 << 20)
        assert before is not None
        again = source.open_at("", whole.offset() or {})
        assert all_rows(again) == all_rows(whole)
        assert again.offset() == whole.offset()
    assert not IterableSource(iter(rows)).replayable
    assert IterableSource(iter(rows)).open("").offset() is None


def test_closing_early_ends_a_generator() -> None:
    ended = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            ended.append(True)

    reader = IterableSource(numbers()).open("")
    reader.read(1, 100)
    reader.close()
    assert ended == [True]


def test_a_part_of_a_nested_field_is_read_from_a_table_as_from_text() -> None:
    table = pa.table({"kind": [1, 2], "a.b": [5, 6], "bid": [{"price": 7, "url": "x"}, None], "left": ["out", "out"]})
    flow = ms.Flow("nested")
    prices = flow.read_arrow(table).filter(ms.col("kind") > 0)
    prices.select(ms.col("bid").struct.field("price"), dotted=ms.col("a.b")).collect("prices")
    assert flow.run_here().tables["prices"].to_pylist() == [{"price": 7, "dotted": 5}, {"price": None, "dotted": 6}]
