"""State by key: scan, running aggregates and event handlers, for any cut and any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from harness.oracle import Event
from harness.running import Rows, Way, run
from harness.sources import ColumnSource, TextSource, fields
from hypothesis import example, given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.aggregates import Aggregate
from millstream.errors import SchemaError, UserCodeError
from millstream.expr import col
from millstream.flow import Flow
from millstream.streams import Stream
from millstream.windows import hopping, tumbling

SCHEMA = fields(p=pa.int64(), i=pa.int64(), k=pa.string(), x=pa.float64(), type=pa.string())

Partitions = list[list[Event]]


@st.composite
def partitions(draw: st.DrawFn) -> Partitions:
    number = st.one_of(st.none(), st.integers(-4, 4).map(lambda v: v / 2))
    return [
        [
            {
                "p": partition, "i": row, "k": draw(st.sampled_from(["a", "b", "c", "d", None])), "x": draw(number),
                "type": draw(st.sampled_from(["order", "refund", "ping", None])),
            }
            for row in range(draw(st.integers(0, 25)))
        ]
        for partition in range(draw(st.integers(1, 3)))
    ]  # fmt: skip


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.integers(1, 4),
        batch_rows=st.integers(1, 30),
        ingest=st.sampled_from(["coordinator", "workers"]),
        two_phase=st.sampled_from(["always", "auto", "never"]),
    )


def read(flow: Flow, rows: Partitions, text: bool = False) -> Stream:
    return flow.source((TextSource if text else ColumnSource)(rows, SCHEMA))


def by_partition(rows: Rows, key: str = "k") -> dict[tuple[Any, int], list[int]]:
    """For each key and source partition, the rows in the order in which they came out."""
    result: dict[tuple[Any, int], list[int]] = {}
    for row in rows:
        result.setdefault((row[key], row["p"]), []).append(row["i"])
    return result


def in_source_order(rows: Partitions, key: Any = lambda e: e["k"]) -> dict[tuple[Any, int], list[int]]:
    result: dict[tuple[Any, int], list[int]] = {}
    for events in rows:
        for e in events:
            result.setdefault((key(e), e["p"]), []).append(e["i"])
    return result


# --- scan ---


def count_on(state: int, event: Any) -> tuple[int, dict[str, Any]]:
    return state + 1, {"k": event.k, "p": event.p, "i": event.i, "number": state}


@given(partitions(), ways(), st.booleans())
def test_scan_sees_the_events_of_a_key_in_the_order_of_their_source_partition(
    rows: Partitions, way: Way, text: bool
) -> None:
    flow = Flow("scan")
    read(flow, rows, text).key_by("k").scan(0, count_on).collect("out")
    out = run(flow, way).rows["out"]
    assert by_partition(out) == in_source_order(rows)
    for key in {r["k"] for r in out}:
        assert [r["number"] for r in out if r["k"] == key] == list(range(sum(r["k"] == key for r in out)))


@given(partitions(), ways(), st.booleans())
def test_scan_keeps_the_order_behind_functions_and_explode(rows: Partitions, way: Way, text: bool) -> None:
    flow = Flow("scan")
    stream = (
        read(flow, rows, text)
        .filter(col("i") % 5 != 3)
        .flat_map(lambda e: [e, e.with_(i=-1 - e.i)] if e.x is None else [e])
    )
    stream.key_by(lambda e: f"{e.k}!").scan(0, lambda s, e: (s, {"key": e.key, "p": e.p, "i": e.i})).collect("out")
    doubled = [
        [x for e in es if e["i"] % 5 != 3 for x in ([e, {**e, "i": -1 - e["i"]}] if e["x"] is None else [e])]
        for es in rows
    ]
    assert by_partition(run(flow, way).rows["out"], "key") == in_source_order(doubled, lambda e: f"{e['k']}!")


@given(partitions(), ways())
def test_scan_keeps_the_order_behind_event_time(rows: Partitions, way: Way) -> None:
    flow = Flow("scan")
    read(flow, rows).event_time(col("i") * -1, unit="s", out_of_orderness="1s").key_by("k").scan(0, count_on).collect(
        "out"
    )
    assert by_partition(run(flow, way).rows["out"]) == in_source_order(rows)


def test_keys_that_scan_cannot_tell_apart_by_is_are_one_key() -> None:
    schema = fields(k=pa.float64())
    flow = Flow("nan")
    values = [float("nan"), 0.0, None, -0.0, float("nan"), None]
    flow.source(ColumnSource([[{"k": v} for v in values]], schema)).key_by("k").scan(
        0, lambda s, e: (s + 1, {"n": s + 1})
    ).collect("out")
    for way in (Way(1, 1), Way(3, 2), Way(2, 10)):
        assert sorted(r["n"] for r in run(flow, way).rows["out"]) == [1, 1, 1, 2, 2, 2]


def test_a_scan_that_raises_names_the_operator_the_event_and_the_users_line() -> None:
    def fail(state: int, event: Any) -> tuple[int, None]:
        return state // (event.i - 2), None

    flow = Flow("raises")
    rows: Partitions = [[{"p": 0, "i": i, "k": "a", "x": None, "type": None} for i in range(4)]]
    read(flow, rows).key_by("k").scan(1, fail, name="divide").collect("out")
    with pytest.raises(UserCodeError, match=r"(?s)divide.*i=2.*state // \(event.i - 2\).*ZeroDivisionError"):
        run(flow, Way(2, 2))


def test_a_scan_that_returns_no_pair_says_so() -> None:
    flow = Flow("pair")
    read(flow, [[{"p": 0, "i": 0, "k": "a", "x": None, "type": None}]]).key_by("k").scan(1, lambda s, e: s).collect(
        "out"
    )
    with pytest.raises(SchemaError, match="must return \\(state, output\\)"):
        run(flow)


def test_a_scan_behind_windows_goes_by_time_and_then_upstream_key_for_any_number_of_workers() -> None:
    rows: Partitions = [
        [{"p": p, "i": i, "k": "abcdefgh"[(3 * i) % 8], "x": 1.0, "type": "t"} for i in range(64)] for p in range(2)
    ]
    answers = []
    for way in (Way(1, 64), Way(4, 3), Way(3, 64, "workers")):
        flow = Flow("behind")
        panes = (
            read(flow, rows)
            .event_time("i", unit="s", out_of_orderness="5s")
            .key_by("k")
            .window(tumbling("4s"))
            .agg(n=ms.count())
        )
        panes.with_columns(all=1).key_by("all").scan(
            (), lambda s, e: ((*s, (e.window_end, e.k)), {"seen": str((*s, e.k))})
        ).collect("out")
        answers.append(max((r["seen"] for r in run(flow, way).rows["out"]), key=len))
    assert answers[0] == answers[1] == answers[2]


# --- running aggregates ---


@given(partitions(), ways(), st.sampled_from([("k",), ("k", "type")]))
def test_the_last_running_aggregate_of_each_key_is_that_of_all_its_events(
    rows: Partitions, way: Way, keys: Sequence[str]
) -> None:
    flow = Flow("running")
    aggregates = {
        "n": ms.count(),
        "x": ms.sum("x"),
        "most": ms.max("x"),
        "text": ms.max("type"),
        "mean": ms.mean("x"),
        "d": ms.count_distinct("type"),
    }
    read(flow, rows).key_by(*keys).agg(**aggregates).collect("out")
    last = {tuple(r[k] for k in keys): r for r in run(flow, way).rows["out"]}
    events = [e for es in rows for e in es]
    assert last.keys() == {tuple(e[k] for k in keys) for e in events}
    for key, row in last.items():
        mine = [e for e in events if tuple(e[k] for k in keys) == key]
        xs, texts = [e["x"] for e in mine if e["x"] is not None], [e["type"] for e in mine if e["type"] is not None]
        assert row["n"] == len(mine)
        assert (row["x"], row["most"], row["mean"]) == (
            (sum(xs), max(xs), sum(xs) / len(xs)) if xs else (None, None, None)
        )
        assert (row["text"], row["d"]) == (max(texts, default=None), len(set(texts)))


@given(partitions(), ways())
def test_running_first_last_and_collect_go_by_source_position(rows: Partitions, way: Way) -> None:
    flow = Flow("running")
    read(flow, rows[:1]).key_by("k").agg(first=ms.first("i"), last=ms.last("type"), all=ms.collect("i")).collect("out")
    last = {r["k"]: r for r in run(flow, way).rows["out"]}
    for key, row in last.items():
        mine = [e for e in rows[0] if e["k"] == key]
        assert row["all"] == [e["i"] for e in mine]
        assert row["first"] == mine[0]["i"]
        assert row["last"] == next((e["type"] for e in reversed(mine) if e["type"] is not None), None)


# --- handlers ---


@given(partitions(), ways())
def test_handlers_get_the_events_of_their_type_in_the_order_of_subscription(rows: Partitions, way: Way) -> None:
    flow = Flow("handlers")
    handled = (
        read(flow, rows)
        .on("order", lambda e: {"p": e.p, "i": e.i, "k": e.k, "by": "first"})
        .on("refund", lambda e: [{"p": e.p, "i": e.i, "k": e.k, "by": by} for by in ("one", "two")])
        .on("order", lambda e: {"p": e.p, "i": e.i, "k": e.k, "by": "second"} if e.i % 2 else None)
    )
    handled.collect("out")
    flow_rows = run(flow, way).rows["out"]
    expected: list[tuple[int, int, str]] = []
    for events in rows:
        for e in events:
            made = {"order": ["first", "second"][: 1 + e["i"] % 2], "refund": ["one", "two"]}.get(e["type"], [])
            expected += [(e["p"], e["i"], by) for by in made]
    assert sorted((r["p"], r["i"], r["by"]) for r in flow_rows) == sorted(expected)
    for p, i in {(r["p"], r["i"]) for r in flow_rows}:
        assert [r["by"] for r in flow_rows if (r["p"], r["i"]) == (p, i)] == [
            b for q, j, b in expected if (q, j) == (p, i)
        ]


def test_events_that_no_handler_is_subscribed_to_are_counted() -> None:
    flow = Flow("unmatched")
    kinds = ["order", "ping", None, "order", "pong"]
    rows: Partitions = [[{"p": 0, "i": i, "k": "a", "x": None, "type": kind} for i, kind in enumerate(kinds)]]
    read(flow, rows).on("order", lambda e: e).collect("out")
    result = flow.run_here(batch_size=2)
    assert (result.unmatched, result.tables["out"].num_rows) == (3, 2)


# --- functions whose results show their type late ---


def typed_by_row(values: list[float | None], way: Way, windowed: bool, **aggregates: Aggregate) -> dict[str, Any]:
    """The last result for a field that a function makes: null, an integer where it is whole, else a float."""
    flow = Flow("types")
    rows: Partitions = [[{"p": 0, "i": i, "k": "a", "x": v, "type": None} for i, v in enumerate(values)]]
    stream = read(flow, rows).event_time("i", unit="s")
    keyed = stream.map(lambda e: {"k": e.k, "v": int(e.x) if e.x is not None and e.x == int(e.x) else e.x}).key_by("k")
    panes = keyed.window(hopping("2h", "1h", offset="30m")).agg(**aggregates) if windowed else keyed.agg(**aggregates)
    panes.collect("out")
    row = run(flow, way).rows["out"][-1]
    return {name: row[name] for name in aggregates}


@given(st.lists(st.sampled_from([None, 1.0, 2.0, -3.0, 0.5]), min_size=1, max_size=12), ways(), st.booleans())
@example([None, None, 1.0, 2.0, 0.5, None], Way(1, 1), True)
@example([None, None, 1.0, 2.0, 0.5, None], Way(1, 2), False)
def test_a_mapped_field_that_is_now_null_now_whole_now_broken_is_aggregated_right(
    values: list[float | None], way: Way, windowed: bool
) -> None:
    aggregates = {
        "n": ms.count("v"),
        "mean": ms.mean("v"),
        "most": ms.max("v"),
        "first": ms.first("v"),
        "last": ms.last("v"),
        "all": ms.collect("v"),
        "different": ms.count_distinct("v"),
    }
    there = [v for v in values if v is not None]
    assert typed_by_row(values, way, windowed, **aggregates) == {
        "n": len(there),
        "mean": sum(there) / len(there) if there else None,
        "most": max(there, default=None),
        "first": there[0] if there else None,
        "last": there[-1] if there else None,
        "all": values,
        "different": len(set(there)),
    }


@given(st.lists(st.sampled_from([None, 1.0, 2.0, -3.0, 0.5]), max_size=12), ways(), st.booleans())
def test_the_sum_of_a_mapped_field_widens_with_its_type(values: list[float | None], way: Way, windowed: bool) -> None:
    values = [1.0, *values]
    assert typed_by_row(values, way, windowed, s=ms.sum("v")) == {"s": sum(v for v in values if v is not None)}


def test_the_sum_of_a_field_that_was_only_null_so_far_is_null() -> None:
    assert typed_by_row([None, None], Way(), True, s=ms.sum("v")) == {"s": None}
