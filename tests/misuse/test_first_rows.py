"""Where fields are known only when rows have come, a mistake is told as it would have been before: the same sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream import col

EVENTS = [
    {"k": "a", "t": 1_000, "n": 3, "x": 1.5, "tags": ["new", "old"], "at": {"city": "Oslo"}},
    {"k": "b", "t": 2_000, "n": 4, "x": 2.5, "tags": [], "at": {"city": "Rome"}},
]
TABLE = pa.Table.from_pylist(EVENTS)

Make = Callable[[ms.Stream], ms.Stream]


def timed(rows: ms.Stream) -> ms.Stream:
    return rows.event_time("t", unit="ms")


def keyed(rows: ms.Stream) -> ms.KeyedStream:
    return timed(rows).key_by("k")


def minutes(rows: ms.Stream) -> ms.WindowedStream:
    return keyed(rows).window(ms.tumbling("1m"))


def numbered(rows: ms.Stream) -> ms.KeyedStream:
    return timed(rows).key_by("n")


MISTAKES: dict[str, Make] = {
    "filter, unknown field": lambda rows: rows.filter(col("m") > 3),
    "filter, unlike types": lambda rows: rows.filter(col("k") > 3),
    "filter, no condition": lambda rows: rows.filter(col("n") + 1),
    "select, unknown field": lambda rows: rows.select("k", "y"),
    "select, cast that cannot be": lambda rows: rows.select(col("tags").cast("int64").alias("z")),
    "select, text of a number": lambda rows: rows.select(z=col("n").str.to_uppercase()),
    "select, then nobody reads it": lambda rows: rows.select("k", z=col("y") + 1).select("k"),
    "with_columns, arithmetic on text": lambda rows: rows.with_columns(z=col("k") * 2),
    "with_columns, no such child": lambda rows: rows.with_columns(z=col("at").struct.field("street")),
    "drop, unknown field": lambda rows: rows.drop("y"),
    "rename, unknown field": lambda rows: rows.rename({"y": "z"}),
    "rename, two of one name": lambda rows: rows.rename({"k": "n"}),
    "explode, no list": lambda rows: rows.explode("k"),
    "explode, unknown field": lambda rows: rows.explode("tag"),
    "event_time, unknown field": lambda rows: rows.event_time("time"),
    "event_time, number without unit": lambda rows: rows.event_time("t"),
    "event_time, no time": lambda rows: rows.event_time("tags"),
    "key_by, unknown field": lambda rows: rows.key_by("key").agg(n=ms.count()),
    "key_by, expression of unlike types": lambda rows: rows.key_by(y=col("k") + col("n")).agg(c=ms.count()),
    "agg, sum of text": lambda rows: rows.key_by("k").agg(total=ms.sum("k")),
    "agg, unknown field": lambda rows: rows.key_by("k").agg(total=ms.sum("y")),
    "agg, max of a list": lambda rows: rows.key_by("k").agg(top=ms.max("tags")),
    "agg, ttl": lambda rows: keyed(rows).agg(ttl="1h", total=ms.sum("k")),
    "window, sum of text": lambda rows: minutes(rows).agg(total=ms.sum("k")),
    "window, mean of a struct": lambda rows: minutes(rows).agg(total=ms.mean("at")),
    "window, stddev of text": lambda rows: minutes(rows).agg(total=ms.stddev("k")),
    "window, arg_max by a list": lambda rows: minutes(rows).agg(best=ms.arg_max("k", "tags")),
    "hopping, sum of text": lambda rows: keyed(rows).window(ms.hopping("1m", "10s")).agg(total=ms.sum("k")),
    "session, sum of text": lambda rows: keyed(rows).window(ms.session("1m")).agg(total=ms.sum("k")),
    "session, gap of text": lambda rows: keyed(rows).window(ms.session(col("k"))).agg(n=ms.count()),
    "count_window, sum of text": lambda rows: keyed(rows).window(ms.count_window(3)).agg(total=ms.sum("k")),
    "sliding, sum of text": lambda rows: keyed(rows).window(ms.sliding("1m")).agg(total=ms.sum("k")),
    "global, sum of text": lambda rows: keyed(rows).window(ms.global_window()).agg(total=ms.sum("k")),
    "top_n, unknown field": lambda rows: keyed(rows).top_n(1, by="y"),
    "top_n, by a list": lambda rows: keyed(rows).top_n(1, by="tags"),
    "top_n, rank is a field": lambda rows: keyed(rows).top_n(1, by="n", rank="n"),
    "window.top_n, rank is a field": lambda rows: minutes(rows).top_n(1, by="n", rank="n"),
    "window.top_n, by a list": lambda rows: minutes(rows).top_n(1, by="tags"),
    "window.collect, unknown field": lambda rows: minutes(rows).collect(pages="page"),
    "lag, unknown field": lambda rows: keyed(rows).with_previous(before=ms.lag("y")),
    "lag, name of a field": lambda rows: keyed(rows).with_previous(n=ms.lag("x")),
    "delta of text": lambda rows: keyed(rows).with_previous(change=ms.delta("k")),
    "rate of text": lambda rows: keyed(rows).with_previous(change=ms.rate("k")),
    "match, unknown field": lambda rows: keyed(rows).match(ms.pattern("a", col("y") == 1).then("b", col("n") == 2)),
    "match, no condition": lambda rows: keyed(rows).match(ms.pattern("a", col("n")).then("b", col("n") == 2)),
    "join, keys of unlike types": lambda rows: keyed(rows).join(numbered(rows), within=("0s", "1m")),
    "join, two of one name": lambda rows: keyed(rows.with_columns(n_right=1)).join(keyed(rows), within=("0s", "1m")),
    "join without a bound, keys of unlike types": lambda rows: keyed(rows).join(numbered(rows), ttl="1m"),
    "window.join, keys of unlike types": lambda rows: minutes(rows).join(numbered(rows)),
    "join_as_of, keys of unlike types": lambda rows: keyed(rows).join_as_of(numbered(rows), "inner"),
    "join_broadcast, unknown field": lambda rows: keyed(rows).join_broadcast(timed(rows), "y", within=("0s", "1m")),
    "lookup, unknown field": lambda rows: rows.lookup(pa.table({"y": ["a"], "z": [1]}), "y"),
    "lookup, keys of unlike types": lambda rows: rows.lookup(pa.table({"k": [1], "z": [1]}), "k"),
    "lookup, two of one name": lambda rows: rows.lookup(pa.table({"k": ["a"], "n": [1]}), "k"),
    "union, unlike fields": lambda rows: rows.union(rows.select("k")),
    "union, unlike types": lambda rows: rows.select("k").union(rows.select(k=col("n"))),
    "behind a filter, unknown field": lambda rows: rows.filter(col("n") > 0).select("y"),
    "behind two exchanges": lambda rows: keyed(rows).agg(total=ms.sum("n")).key_by("total").agg(worst=ms.max("y")),
}


def said(flow: ms.Flow, **run: Any) -> str:
    with pytest.raises(ms.FlowError) as caught:
        flow.run_here(**run)
    return str(caught.value)


def known(make: Make) -> ms.Flow:
    flow = ms.Flow("known")
    make(flow.read_arrow(TABLE)).collect("out")
    return flow


@pytest.mark.parametrize("make", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_alike_whether_types_are_known_or_not(make: Make) -> None:
    flow = ms.Flow("unknown")
    make(flow.read_iterable(EVENTS)).collect("out")
    told = said(known(make))
    assert said(flow) == told
    assert " (test_first_rows.py:" in told


@pytest.mark.parametrize("make", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_behind_a_function_is_told_as_well(make: Make) -> None:
    flow = ms.Flow("unknown")
    make(flow.read_arrow(TABLE).map(lambda row: row)).collect("out")
    assert said(flow) == said(known(make))


def test_a_field_of_nothing_but_null_may_still_be_anything() -> None:
    flow = ms.Flow("null")
    rows = flow.read_iterable([{"k": "a"}]).map(lambda row: {"k": row.k, "n": None}).key_by("k").agg(total=ms.sum("n"))
    rows.collect("out")
    assert flow.run_here().tables["out"].num_rows == 1


@pytest.mark.slow
def test_a_mistake_behind_a_function_in_a_worker_is_told() -> None:
    flow = ms.Flow("workers")
    flow.read_iterable(EVENTS).map(lambda row: row).key_by("k").agg(total=ms.sum("nn")).collect("out")
    with pytest.raises(ms.SchemaError, match=r"agg \(test_first_rows.py:\d+\).*'nn'.*did you mean 'n'"):
        flow.run(workers=2)
