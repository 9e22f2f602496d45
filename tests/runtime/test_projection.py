"""Of a nested event a source decodes the parts that are read, and all of it where that cannot be told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from millstream.expr import Expr, col
from millstream.flow import Flow
from millstream.planner import make_plan
from millstream.streams import Stream

BID = pa.struct(
    {"price": pa.int64(), "at": pa.timestamp("us", "UTC"), "by": pa.struct({"id": pa.int64(), "x": pa.int64()})}
)
SCHEMA = pa.schema({"kind": pa.int64(), "bid": BID, "b.c": pa.struct({"d": pa.int64(), "e": pa.int64()})})

bid = col("bid").struct


def events(flow: Flow, tmp_path: Path) -> Stream:
    path = tmp_path / "events.jsonl"
    one = {"price": 7, "at": "2024-01-01T00:00:00Z", "by": {"id": 1, "x": 2}}
    path.write_text(json.dumps({"kind": 1, "bid": one, "b.c": {"d": 3, "e": 4}}) + "\n" + '{"kind": 2}\n')
    return flow.read_jsonl(path, schema=SCHEMA)


CASES: list[tuple[Callable[[Stream], Stream], tuple[str, ...], list[dict[str, object]]]] = [
    (lambda e: e.select(bid.field("price")), ("bid.price",), [{"price": 7}, {"price": None}]),
    (
        lambda e: e.filter(col("kind") == 1).select("kind", id=bid.field("by").struct.field("id")),
        ("kind", "bid.by.id"),
        [{"kind": 1, "id": 1}],
    ),
    (
        lambda e: e.filter(bid.field("price") > 1).with_columns(id=bid.field("by").struct.field("id")).select("id"),
        ("bid.by.id", "bid.price"),
        [{"id": 1}],
    ),
    (
        lambda e: e.filter(col("kind") == 1).event_time(bid.field("at")).select(bid.field("price")),
        ("kind", "bid.at", "bid.price"),
        [{"price": 7}],
    ),
    (lambda e: e.select("bid").select(bid.field("by").struct.field("x")), ("bid",), [{"x": 2}, {"x": None}]),
    (lambda e: e.with_columns(bid=col("kind")).select("bid"), ("kind",), [{"bid": 1}, {"bid": 2}]),
    (lambda e: e.rename({"bid": "b"}).select(p=col("b").struct.field("price")), ("bid",), [{"p": 7}, {"p": None}]),
    (lambda e: e.select(d=col("b.c").struct.field("d")), ("b.c",), [{"d": 3}, {"d": None}]),
    (
        lambda e: e.filter(col("bid").is_not_null()).select(bid.field("price")),
        ("bid",),
        [{"price": 7}],
    ),
]


@pytest.mark.parametrize(("build", "read", "rows"), CASES, ids=[", ".join(read) for _, read, _ in CASES])
def test_a_source_decodes_what_is_read_of_a_struct(
    build: Callable[[Stream], Stream], read: tuple[str, ...], rows: list[dict[str, object]], tmp_path: Path
) -> None:
    flow = Flow("f")
    build(events(flow, tmp_path)).collect("out")
    assert list(make_plan(flow, workers=1).reads.values()) == [read]
    assert flow.run_here().tables["out"].to_pylist() == rows


def test_a_struct_that_two_streams_take_apart_is_read_for_both(tmp_path: Path) -> None:
    flow = Flow("f")
    stream = events(flow, tmp_path)
    stream.select(bid.field("price")).collect("one")
    stream.select(id=bid.field("by").struct.field("id")).collect("other")
    assert list(make_plan(flow, workers=1).reads.values()) == [("bid.by.id", "bid.price")]
    tables = flow.run_here().tables
    assert (tables["one"]["price"].to_pylist(), tables["other"]["id"].to_pylist()) == ([7, None], [1, None])


@pytest.mark.parametrize(
    ("expr", "paths"),
    [
        (col("a") + 1, {"a"}),
        (col("a").struct.field("b") + col("c"), {"a.b", "c"}),
        (col("a").struct.field("b").struct.field("c"), {"a.b.c"}),
        (col("a").struct.field("b").cast("int64").alias("x"), {"a.b"}),
        (col("a").struct.field("b.c"), {"a"}),
    ],
    ids=lambda value: str(value) if isinstance(value, Expr) else " ".join(sorted(value)),
)
def test_an_expression_knows_which_parts_of_fields_it_reads(expr: Expr, paths: set[str]) -> None:
    assert expr.paths() == paths


def test_a_field_of_a_struct_keeps_its_own_name() -> None:
    assert col("bid").struct.field("price").name() == "price"
    assert (col("bid").struct.field("price") * 2).name() == "price"
