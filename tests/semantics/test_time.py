"""Event time: poisoned timestamps, streams put together, windows of windows; the same answer for every cut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from harness.oracle import Event, Windowed, WindowRule, assign_times, into_windows
from harness.running import Outcome, Way, run
from harness.sources import ColumnSource, fields
from hypothesis import example, given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.expr import col
from millstream.flow import Flow
from millstream.streams import Stream
from millstream.windows import hopping, tumbling

SCHEMA = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), list=pa.list_(pa.int64()))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def ms_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


@st.composite
def partitions(draw: st.DrawFn, *, jumps: bool = False) -> list[list[Event]]:
    """Partitions of events whose times climb; some are out of order, some, if asked for, far ahead."""
    result: list[list[Event]] = []
    for partition in range(draw(st.integers(1, 3))):
        off = st.sampled_from([0, 0, 0, -3, -20, *([95, 105, 400] if jumps else [])])
        result.append(
            [
                {
                    "id": 100 * partition + row, "t": 5 * row + draw(off), "k": draw(st.sampled_from(["a", "b", None])),
                    "list": draw(st.sampled_from([None, [], [1], [2, 3], [4, None]])),
                }
                for row in range(draw(st.integers(0, 20)))
            ]
        )  # fmt: skip
    return result


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.integers(1, 4),
        batch_rows=st.integers(1, 25),
        ingest=st.sampled_from(["coordinator", "workers"]),
        two_phase=st.sampled_from(["always", "auto", "never"]),
    )


def read(flow: Flow, rows: Sequence[Sequence[Event]]) -> Stream:
    return flow.source(ColumnSource(rows, SCHEMA))


def final(outcome: Outcome, *values: str) -> dict[tuple[int, Any], Any]:
    """The last pane of each window and key: the named fields of it."""
    return {(ms_of(r["window_start"]), r["k"]): tuple(r[v] for v in values) for r in outcome.rows["panes"]}


def late_ids(outcome: Outcome) -> list[int]:
    return sorted(r["id"] for r in outcome.rows["late"])


# --- max_ahead ---


@given(partitions(jumps=True), ways())
@example([[{"id": i, "t": t, "k": "a", "list": None} for i, t in enumerate([0, 100, 201, 200, 301, 300])]], Way())
def test_timestamps_too_far_ahead_are_dead_letters_and_move_no_watermark(rows: list[list[Event]], way: Way) -> None:
    flow = Flow("ahead")
    panes = (
        read(flow, rows)
        .event_time("t", unit="ms", max_ahead=span(100))
        .key_by("k")
        .window(tumbling(span(10)))
        .agg(ids=ms.collect("id"))
    )
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)
    times = assign_times(rows, lambda e: e["t"], out_of_orderness=0, max_ahead=100)
    expected = into_windows(times.timed, WindowRule(10, 10), lambda e: e["k"])
    assert sorted(dead.record for dead in outcome.dead if "max_ahead" in dead.reason) == sorted(
        _text(e) for e in times.dead
    )
    assert final(outcome, "ids") == {at: ([e.event["id"] for e in events],) for at, events in expected.held.items()}
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)


def _text(event: Event) -> str:
    return str(dict(event))


@pytest.mark.parametrize(("time", "dead"), [(99, 0), (100, 0), (101, 1)])
def test_the_limit_itself_is_not_too_far_ahead(time: int, dead: int) -> None:
    rows = [{"id": i, "t": t, "k": "a", "list": None} for i, t in enumerate([0, time])]
    for batch_rows in (1, 2):
        flow = Flow("edge")
        read(flow, [rows]).event_time("t", unit="ms", max_ahead=span(100)).select("id").collect("out")
        assert len(run(flow, Way(1, batch_rows)).dead) == dead


def test_text_that_is_no_time_is_a_dead_letter_and_the_others_go_on() -> None:
    schema = fields(at=pa.string())
    texts = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:01", "yesterday", None, "2024-01-01T01:00:02+01:00"]
    flow = Flow("text")
    source = flow.source(ColumnSource([[{"at": t} for t in texts]], schema))
    source.event_time("at").with_columns(k=1).key_by("k").window(tumbling("1h")).agg(n=ms.count()).collect("panes")
    for batch_rows in (1, 2, 5):
        outcome = run(flow, Way(1, batch_rows))
        assert [r["n"] for r in outcome.rows["panes"]] == [3]
        assert len(outcome.dead) == 2


# --- union ---


@given(partitions(), partitions(), ways(), st.booleans(), st.booleans())
def test_streams_put_together_behind_event_time_keep_their_own_watermarks(
    one: list[list[Event]], other: list[list[Event]], way: Way, function: bool, twice: bool
) -> None:
    flow = Flow("union")
    left = read(flow, one).event_time("t", unit="ms", out_of_orderness=span(4))
    right = read(flow, other).with_columns(id=col("id") + 1_000)
    if function:
        right = right.map(lambda e: e, schema=SCHEMA)
    right = right.event_time("t", unit="ms", out_of_orderness=span(11))
    streams = [right, left] if twice else [right]
    panes = (
        left.union(*streams)
        .key_by("k")
        .window(hopping(span(20), span(10)), allowed_lateness=span(5))
        .agg(n=ms.count(), s=ms.sum("id"))
    )
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)
    timed = assign_times(one, lambda e: e["t"], out_of_orderness=4).timed * (2 if twice else 1)
    shifted = [[{**e, "id": e["id"] + 1_000} for e in rows] for rows in other]
    timed += assign_times(shifted, lambda e: e["t"], out_of_orderness=11).timed
    expected = into_windows(timed, WindowRule(20, 10, 0, 5), lambda e: e["k"])
    assert final(outcome, "n", "s") == {
        at: (len(events), sum(e.event["id"] for e in events)) for at, events in expected.held.items()
    }
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)


def branches(stream: Stream, shape: str) -> Stream:
    """A stream taken apart and put together again, so that its events are those that it had."""
    even, odd = stream.split(col("id") % 2 == 0)
    match shape:
        case "expressions":
            return even.union(odd)
        case "functions":
            return odd.map(lambda e: e, schema=SCHEMA).union(even.filter(lambda e: True))
        case "one function":
            return even.map(lambda e: e, schema=SCHEMA).union(odd)
        case _:
            third, rest = odd.split(col("id") % 3 == 0)
            return even.union(rest.union(third))


shapes = st.sampled_from(["expressions", "functions", "one function", "three"])


@given(partitions(), ways(), shapes)
@example([[{"id": i, "t": 10 * i, "k": "a", "list": None} for i in range(10)]], Way(), "expressions")
def test_branches_of_one_stream_put_together_before_event_time_are_in_the_order_of_the_source(
    rows: list[list[Event]], way: Way, shape: str
) -> None:
    flow = Flow("branches")
    timed = branches(read(flow, rows), shape).event_time("t", unit="ms", out_of_orderness=span(4))
    panes = timed.key_by("k").window(tumbling(span(10))).agg(ids=ms.collect("id"))
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)
    times = assign_times(rows, lambda e: e["t"], out_of_orderness=4)
    expected = into_windows(times.timed, WindowRule(10, 10), lambda e: e["k"])
    assert final(outcome, "ids") == {at: ([e.event["id"] for e in events],) for at, events in expected.held.items()}
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)


@given(partitions(), ways(), shapes, st.booleans())
def test_branches_of_one_stream_put_together_keep_the_order_for_a_scan(
    rows: list[list[Event]], way: Way, shape: str, timed: bool
) -> None:
    flow = Flow("branches")
    stream = read(flow, rows)
    stream = branches(stream.event_time("t", unit="ms") if timed else stream, shape)
    stream.key_by("k").scan(0, lambda s, e: (s, {"k": e.k, "id": e.id})).collect("out")
    out = run(flow, way).rows["out"]
    for partition, events in enumerate(rows):
        for key in {e["k"] for e in events}:
            found = [r["id"] for r in out if r["k"] == key and r["id"] // 100 == partition]
            assert found == [e["id"] for e in events if e["k"] == key]


@pytest.mark.parametrize("workers", [1, 3])
def test_keys_of_two_types_that_are_equal_are_one_key_for_any_number_of_workers(workers: int) -> None:
    flow = Flow("types")
    whole = flow.source(ColumnSource([[{"k": k, "t": 0} for k in range(20)]], fields(k=pa.int32(), t=pa.int64())))
    broken = flow.source(
        ColumnSource([[{"k": k / 2, "t": 0} for k in range(40)]], fields(k=pa.float64(), t=pa.int64()))
    )
    whole.union(broken).event_time("t", unit="ms").key_by("k").window(tumbling("1s")).agg(n=ms.count()).collect("panes")
    counts = {r["k"]: r["n"] for r in run(flow, Way(workers)).rows["panes"]}
    assert counts == {k / 2: 2 if k % 2 == 0 else 1 for k in range(40)}
    assert len(run(flow, Way(workers)).rows["panes"]) == 40


# --- keyed twice ---


@given(partitions(), ways(), st.sampled_from([0, 7]))
def test_windows_of_windows_hold_each_pane_in_the_window_it_came_from(
    rows: list[list[Event]], way: Way, lateness: int
) -> None:
    flow = Flow("twice")
    timed = read(flow, rows).event_time("t", unit="ms", out_of_orderness=span(3))
    first = (
        timed.key_by("k", third=col("id") % 3)
        .window(tumbling(span(10)), allowed_lateness=span(lateness), emit="final")
        .agg(n=ms.count())
    )
    second = first.key_by("k").window(tumbling(span(20))).agg(n=ms.sum("n"), parts=ms.count())
    second.collect("panes")
    first.late.collect("late")
    second.late.collect("late again")
    outcome = run(flow, way)
    expected = into_windows(
        assign_times(rows, lambda e: e["t"], out_of_orderness=3).timed,
        WindowRule(10, 10, 0, lateness),
        lambda e: (e["k"], e["id"] % 3),
    )
    sums: dict[tuple[int, Any], list[int]] = {}
    for (start, (key, _)), events in expected.held.items():
        sums.setdefault((start // 20 * 20, key), []).append(len(events))
    assert final(outcome, "n", "parts") == {at: (sum(counts), len(counts)) for at, counts in sums.items()}
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)
    assert outcome.rows["late again"] == []


@given(partitions(), ways())
def test_two_windows_put_together_and_windowed_again(rows: list[list[Event]], way: Way) -> None:
    flow = Flow("joined")
    timed = read(flow, rows).event_time("t", unit="ms", out_of_orderness=span(1_000))
    small = timed.key_by("k").window(tumbling(span(10))).agg(n=ms.count())
    large = timed.key_by("k").window(tumbling(span(40))).agg(n=ms.count())
    small.union(large).key_by("k").window(tumbling(span(40))).agg(n=ms.sum("n")).collect("panes")
    outcome = run(flow, way)
    expected = into_windows(
        assign_times(rows, lambda e: e["t"], out_of_orderness=1_000).timed, WindowRule(40, 40), lambda e: e["k"]
    )
    assert final(outcome, "n") == {at: (2 * len(events),) for at, events in expected.held.items()}


@pytest.mark.parametrize("workers", [1, 3])
def test_first_and_last_of_panes_go_by_their_time(workers: int) -> None:
    rows: list[Event] = [{"id": i, "t": 5 * i, "k": "a", "list": None} for i in range(40)]
    flow = Flow("order")
    small = read(flow, [rows]).event_time("t", unit="ms").key_by("k").window(tumbling(span(10))).agg(least=ms.min("id"))
    small.key_by("k").window(tumbling(span(100))).agg(
        first=ms.first("least"), last=ms.last("least"), all=ms.collect("least")
    ).collect("panes")
    outcome = run(flow, Way(workers, 3))
    assert final(outcome, "first", "last", "all") == {
        (0, "a"): (0, 18, list(range(0, 20, 2))), (100, "a"): (20, 38, list(range(20, 40, 2))),
    }  # fmt: skip


# --- one event becomes several ---


@given(partitions(), ways())
def test_exploded_events_count_once_for_each_element(rows: list[list[Event]], way: Way) -> None:
    flow = Flow("explode")
    timed = read(flow, rows).event_time("t", unit="ms")
    panes = timed.explode("list").key_by("k").window(tumbling(span(10))).agg(n=ms.count(), values=ms.sum("list"))
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)
    exploded = [
        e for e in assign_times(rows, lambda e: e["t"], out_of_orderness=0).timed for _ in e.event["list"] or []
    ]
    expected = into_windows(exploded, WindowRule(10, 10), lambda e: e["k"])
    assert {at: n for at, (n,) in final(outcome, "n").items()} == {
        at: len(events) for at, events in expected.held.items()
    }
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)


@given(partitions(), ways())
def test_elements_of_one_event_stay_in_order(rows: list[list[Event]], way: Way) -> None:
    panes, expected = elements_of(rows, way)
    for at, (every, first, _) in panes.items():
        elements = [element for e in expected.held[at] for element in e.event["list"] or []]
        assert every == elements
        assert first == next((e for e in elements if e is not None), None)


def test_the_last_element_of_the_last_event_is_the_last() -> None:
    panes, _ = elements_of([[{"id": 0, "t": 0, "k": "a", "list": [2, 3]}]], Way())
    assert [last for _, _, last in panes.values()] == [3, 3]


def elements_of(rows: list[list[Event]], way: Way) -> tuple[dict[tuple[int, Any], Any], Windowed]:
    flow = Flow("elements")
    timed = read(flow, rows).event_time("t", unit="ms", out_of_orderness="1h")
    aggregates = {"all": ms.collect("list"), "first": ms.first("list"), "last": ms.last("list")}
    timed.explode("list").key_by("k").window(hopping(span(20), span(10))).agg(**aggregates).collect("panes")
    times = assign_times(rows, lambda e: e["t"], out_of_orderness=3_600_000)
    expected = into_windows(times.timed, WindowRule(20, 10), lambda e: e["k"])
    return final(run(flow, way), "all", "first", "last"), expected


@given(partitions(), ways())
def test_time_behind_a_flat_map_is_judged_in_the_order_of_its_results(rows: list[list[Event]], way: Way) -> None:
    def spread(event: Any) -> list[dict[str, Any]]:
        return [{"id": event.id, "k": event.k, "at": event.t + 7 * (value or 0) - 10} for value in event.list or []]

    flow = Flow("flat")
    stream = read(flow, rows).flat_map(spread).event_time("at", unit="ms", out_of_orderness=span(2))
    panes = stream.key_by("k").window(tumbling(span(10))).agg(n=ms.count())
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)

    class Fields(dict[str, Any]):
        __getattr__ = dict.__getitem__

    made = [[x for e in events for x in spread(Fields(e))] for events in rows]
    expected = into_windows(
        assign_times(made, lambda e: e["at"], out_of_orderness=2).timed, WindowRule(10, 10), lambda e: e["k"]
    )
    assert {at: n for at, (n,) in final(outcome, "n").items()} == {
        at: len(events) for at, events in expected.held.items()
    }
    assert late_ids(outcome) == sorted(e.event["id"] for e in expected.late)
