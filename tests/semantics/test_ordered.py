"""Operators that look at the rows of a key in order, against brute force: sliding windows, neighbours, counts.

The oracle walks over lists of dicts: events by time, partition and row, those behind the watermark of their own
partition taken out. It knows no columns, batches or workers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from harness import oracle
from harness.oracle import Event, Timed, assign_times
from harness.running import Outcome, Rows, Way, run
from harness.sources import ColumnSource, fields
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.errors import FlowError, SchemaError, UserCodeError
from millstream.flow import Flow
from millstream.keyed import KeyedStream

SCHEMA = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), n=pa.int64(), x=pa.float64(), s=pa.string())

Partitions = Sequence[Sequence[Event]]


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


@st.composite
def partitions(draw: st.DrawFn, *, most: int = 30) -> Partitions:
    """Partitions whose times climb more or less, also before 1970, and often repeat."""
    result, number = [], 0
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        climb, jitter = draw(st.integers(0, 8)), draw(st.sampled_from([0, 2, 30]))
        start = draw(st.integers(-60, 20))
        for row in range(draw(st.integers(0, most))):
            rows.append(
                {
                    "id": number, "t": start + climb * row + draw(st.integers(-jitter, jitter)),
                    "k": draw(st.sampled_from(["a", "a", "b", "c", None])), "n": draw(st.one_of(st.none(), st.integers(-3, 8))),
                    "x": draw(st.one_of(st.none(), st.integers(-8, 8).map(lambda v: v / 4))),
                    "s": draw(st.sampled_from(["p", "q", "rr", "", None])),
                }
            )  # fmt: skip
            number += 1
        result.append(rows)
    return result


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.sampled_from([1, 1, 3]),
        batch_rows=st.one_of(st.just(1), st.integers(2, 6), st.integers(7, 40)),
        ingest=st.sampled_from(["coordinator", "workers"]),
    )


def read(flow: Flow, rows: Partitions, out_of_orderness: int) -> KeyedStream:
    stream = flow.source(ColumnSource(rows, SCHEMA))
    return stream.event_time("t", unit="ms", out_of_orderness=span(out_of_orderness)).key_by("k")


def in_order(rows: Partitions, out_of_orderness: int) -> tuple[dict[Any, list[Event]], list[Event]]:
    """The events of each key in order, and the late ones."""
    timed = assign_times(rows, lambda e: e["t"], out_of_orderness=out_of_orderness).timed
    late = [e for e in timed if e.before is not None and e.time < e.before]
    kept: dict[Any, list[Event]] = {}
    for e in sorted((e for e in timed if e not in late), key=lambda e: e.order):
        kept.setdefault(e.event["k"], []).append(e.event)
    return kept, [e.event for e in late]


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, float) and value is not None:
        return math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(value == expected)


def check_late(outcome: Outcome, late: Sequence[Event]) -> None:
    assert sorted(r["id"] for r in outcome.rows["late"]) == sorted(e["id"] for e in late)
    assert outcome.late == len(late)
    by_id = {e["id"]: e for e in late}
    for row in outcome.rows["late"]:
        assert list(row)[-1] == "late_reason"
        assert "the watermark" in row.pop("late_reason")
        assert row == by_id[row["id"]]


AGGREGATES = {
    "count": ms.count(), "count_n": ms.count("n"), "sum_n": ms.sum("n"), "sum_x": ms.sum("x"), "mean": ms.mean("x"),
    "min": ms.min("x"), "max": ms.max("s"), "most": ms.max("n"), "first": ms.first("s"), "last": ms.last("n"),
    "stddev": ms.stddev("x", ddof=0), "distinct": ms.count_distinct("s"), "collect": ms.collect("id"),
    "arg_max": ms.arg_max("s", by="n"),
}  # fmt: skip


def aggregated(events: Sequence[Event]) -> dict[str, Any]:
    def values(name: str) -> list[Any]:
        return [e[name] for e in events]

    deviation = oracle.variance(values("x"), 0)
    return {
        "count": len(events), "count_n": len(oracle.present(values("n"))), "sum_n": oracle.total(values("n")),
        "sum_x": oracle.total(values("x")), "mean": oracle.mean(values("x")), "min": oracle.smallest(values("x")),
        "max": oracle.largest(values("s")), "most": oracle.largest(values("n")), "first": oracle.first(values("s")),
        "last": oracle.last(values("n")), "stddev": None if deviation is None else math.sqrt(deviation),
        "distinct": len(set(oracle.present(values("s")))), "collect": values("id"),
        "arg_max": oracle.arg_best(values("s"), values("n"), largest=True),
    }  # fmt: skip


# --- sliding windows ---


@given(partitions(), st.sampled_from([0, 3, 40]), st.one_of(st.integers(1, 60).map(span), st.integers(1, 9)), ways())
def test_a_sliding_window_holds_what_lies_behind_each_event(
    rows: Partitions, out_of_orderness: int, size: timedelta | int, way: Way
) -> None:
    flow = Flow("sliding")
    windows = ms.sliding(rows=size) if isinstance(size, int) else ms.sliding(size)
    results = read(flow, rows, out_of_orderness).window(windows).agg(**AGGREGATES)
    results.collect("out")
    results.late.collect("late")
    outcome = run(flow, way)
    kept, late = in_order(rows, out_of_orderness)
    check_late(outcome, late)
    out = {r["id"]: r for r in outcome.rows["out"]}
    assert len(out) == len(outcome.rows["out"]) == sum(map(len, kept.values()))
    for events in kept.values():
        for at, event in enumerate(events):
            if isinstance(size, int):
                window = events[max(0, at - size + 1) : at + 1]
            else:
                window = [e for e in events if event["t"] - size / span(1) <= e["t"] <= event["t"]]
            expected = {**event, **aggregated(window)}
            row = out[event["id"]]
            assert row.keys() == expected.keys()
            for name, value in expected.items():
                assert same(row[name], value), f"{name} of {event} is {row[name]}, expected {value}"


@given(partitions(), ways())
def test_the_results_of_sliding_windows_come_in_order_and_go_on_in_time(rows: Partitions, way: Way) -> None:
    flow = Flow("sliding")
    results = read(flow, rows, 30).window(ms.sliding(span(10))).agg(number=ms.count())
    results.collect("out")
    windows = results.key_by("k").window(ms.tumbling(span(20))).agg(ids=ms.collect("id"), most=ms.max("n"))
    windows.collect("panes")
    windows.late.collect("late")
    outcome = run(flow, way)
    kept, _ = in_order(rows, 30)
    for key, events in kept.items():
        assert [r["id"] for r in outcome.rows["out"] if r["k"] == key] == [e["id"] for e in events]
        held: dict[int, list[int]] = {}
        for e in events:
            held.setdefault(e["t"] // 20, []).append(e["id"])
        assert [r["ids"] for r in outcome.rows["panes"] if r["k"] == key] == list(held.values())
    assert outcome.rows["late"] == []


def one_key(*values: float | None, step: int = 1) -> Partitions:
    return [[{"id": i, "t": step * i, "k": "a", "n": None, "x": v, "s": "p"} for i, v in enumerate(values)]]


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_sums_of_sliding_windows_do_not_drift_and_forget_infinities(batch_rows: int) -> None:
    values = [1e16, 1.0, -1e16, 1.0, math.inf, 2.0, 3.0, 4.0, math.nan, 5.0, 6.0, 7.0]
    flow = Flow("drift")
    read(flow, one_key(*values), 0).window(ms.sliding(rows=2)).agg(total=ms.sum("x")).collect("out")
    sums = [r["total"] for r in run(flow, Way(1, batch_rows)).rows["out"]]
    assert str(sums) == "[1e+16, 1e+16, -1e+16, -1e+16, inf, inf, 5.0, 7.0, nan, nan, 11.0, 13.0]"


def test_float_sums_of_sliding_windows_are_the_same_to_the_last_bit_however_the_stream_is_cut() -> None:
    values = [math.sin(7 * i) * 10 ** (i % 13) for i in range(200)]
    answers = []
    for way in (Way(1, 1), Way(1, 7), Way(3, 200)):
        flow = Flow("bits")
        read(flow, one_key(*values), 0).window(ms.sliding(span(37))).agg(total=ms.sum("x"), v=ms.mean("x")).collect(
            "out"
        )
        answers.append([(r["total"].hex(), r["v"].hex()) for r in run(flow, way).rows["out"]])
    assert answers[0] == answers[1] == answers[2]


def test_a_sliding_sum_that_does_not_fit_in_64_bits_is_an_error_and_one_that_fits_again_is_not() -> None:
    def sums(*values: int) -> Rows:
        flow = Flow("big")
        rows = [[{"id": i, "t": i, "k": "a", "n": v, "x": None, "s": None} for i, v in enumerate(values)]]
        read(flow, rows, 0).window(ms.sliding(rows=2)).agg(total=ms.sum("n")).collect("out")
        return run(flow).rows["out"]

    big = 2**62 + 1
    assert [r["total"] for r in sums(big, -big, big, 0, 5)] == [big, 0, 0, big, 5]
    with pytest.raises(Exception, match="does not fit"):
        sums(big, big)


def test_sliding_by_time_without_event_time_is_refused_and_by_rows_goes_by_arrival() -> None:
    def flow_of(windows: Any) -> Flow:
        flow = Flow("arrival")
        keyed = flow.source(ColumnSource(one_key(3.0, 1.0, 2.0), SCHEMA)).key_by("k")
        keyed.window(windows).agg(all=ms.collect("x")).collect("out")
        return flow

    with pytest.raises(FlowError, match=r"sliding\(10s\) looks back in event time"):
        run(flow_of(ms.sliding("10s")))
    assert [r["all"] for r in run(flow_of(ms.sliding(rows=2)), Way(1, 1)).rows["out"]] == [
        [3.0],
        [3.0, 1.0],
        [1.0, 2.0],
    ]


@pytest.mark.parametrize("arguments", [{}, {"size": "1m", "rows": 3}, {"rows": 0}, {"size": "0s"}, {"rows": 2.5}])
def test_a_sliding_window_is_either_by_time_or_by_rows(arguments: dict[str, Any]) -> None:
    with pytest.raises(FlowError, match="sliding"):
        ms.sliding(**arguments)


# --- neighbours ---


@given(
    partitions(), st.sampled_from([0, 3, 40]), st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([0, 1, 5, 25, None]), ways(),
)  # fmt: skip
def test_every_event_is_put_out_once_with_its_neighbours(
    rows: Partitions, out_of_orderness: int, back: int, on: int, within: int | None, way: Way
) -> None:
    flow = Flow("neighbours")
    results = read(flow, rows, out_of_orderness).with_previous(
        before=ms.lag("id", back), text=ms.lag("s"), change=ms.delta("n"), speed=ms.rate("x", per=span(1), rows=back),
        behind=ms.lead("id", on, within=None if within is None else span(within)),
    )  # fmt: skip
    results.collect("out")
    results.late.collect("late")
    times = results.key_by("k").window(ms.tumbling(span(20))).agg(ids=ms.collect("id"))
    times.late.collect("late_behind")
    times.collect("panes")
    outcome = run(flow, way)
    kept, late = in_order(rows, out_of_orderness)
    outcome_late = Outcome(outcome.rows, outcome.dead, outcome.late)
    check_late(outcome_late, late)
    assert outcome.rows["late_behind"] == [], "an event that waits holds the watermark back"
    out = {r["id"]: r for r in outcome.rows["out"]}
    assert len(out) == len(outcome.rows["out"]) == sum(map(len, kept.values()))
    for events in kept.values():
        for at, event in enumerate(events):
            assert out[event["id"]] == {**event, **neighbours(events, at, back, on, within)}


def neighbours(events: Sequence[Event], at: int, back: int, on: int, within: int | None) -> Event:
    event = events[at]
    previous = events[at - 1] if at else {"s": None, "n": None}
    earlier = events[at - back] if at >= back else {"id": None, "x": None, "t": 0}
    later = events[at + on] if at + on < len(events) else None
    if later is not None and within is not None and later["t"] - event["t"] > within:
        later = None
    elapsed = event["t"] - earlier["t"]
    return {
        "before": earlier["id"], "text": previous["s"],
        "change": None if None in (event["n"], previous["n"]) else event["n"] - previous["n"],
        "speed": None if None in (event["x"], earlier["x"]) or not elapsed else (event["x"] - earlier["x"]) / elapsed,
        "behind": None if later is None else later["id"],
    }  # fmt: skip


@given(partitions(), ways())
def test_without_a_lead_events_go_on_in_order(rows: Partitions, way: Way) -> None:
    flow = Flow("neighbours")
    read(flow, rows, 30).with_previous(before=ms.lag("id")).collect("out")
    kept, _ = in_order(rows, 30)
    out = run(flow, way).rows["out"]
    for key, events in kept.items():
        ids = [e["id"] for e in events]
        assert [(r["before"], r["id"]) for r in out if r["k"] == key] == list(zip([None, *ids], ids, strict=False))


def test_a_difference_that_does_not_fit_is_a_dead_letter_and_its_neighbours_are_not() -> None:
    big = 2**63 - 1
    values = [0, -5, big, big - 1]
    rows = [[{"id": i, "t": i, "k": "a", "n": v, "x": None, "s": None} for i, v in enumerate(values)]]
    flow = Flow("overflow")
    read(flow, rows, 0).with_previous(change=ms.delta("n")).collect("out")
    outcome = run(flow)
    assert [(r["id"], r["change"]) for r in outcome.rows["out"]] == [(0, None), (1, -5), (3, -1)]
    assert len(outcome.dead) == 1 and "overflow" in outcome.dead[0].reason


def test_with_previous_says_what_it_does_not_take() -> None:
    flow = Flow("mistakes")
    keyed = flow.source(ColumnSource(one_key(1.0), SCHEMA)).key_by("k")
    with pytest.raises(FlowError, match=r"name at least one field"):
        keyed.with_previous()
    with pytest.raises(FlowError, match=r"before= takes ms.lag"):
        keyed.with_previous(before="x")  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="at least 1"):
        ms.lag("x", 0)
    for fields_, message in (
        ({"x": ms.lag("id")}, "'x' is a field of the events already"),
        ({"speed": ms.rate("x")}, "goes by event time"),
        ({"change": ms.delta("s")}, "string"),
    ):
        keyed.with_previous(**fields_).collect("out")
        with pytest.raises(SchemaError if "string" in message else FlowError, match=message):
            run(flow)
        flow.nodes[-2:] = []


# --- count windows ---


def counted(events: Sequence[Event], size: int, every: int) -> list[Sequence[Event]]:
    """The count windows of one key's events, in order."""
    windows = [events[max(0, end - size) : end] for end in range(every, len(events) + 1, every)]
    left = len(events) % every
    if left:
        windows.append(events[-left:] if size == every else events[max(0, len(events) - size) :])
    return windows


@given(partitions(), st.sampled_from([0, 3, 40]), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)), ways())
def test_count_windows_hold_so_many_events_in_order(
    rows: Partitions, out_of_orderness: int, size: int, every: int | None, way: Way
) -> None:
    flow = Flow("counting")
    results = read(flow, rows, out_of_orderness).window(ms.count_window(size, every)).agg(**AGGREGATES)
    results.collect("out")
    results.late.collect("late")
    outcome = run(flow, way)
    kept, late = in_order(rows, out_of_orderness)
    check_late(outcome, late)
    for key in {r["k"] for r in outcome.rows["out"]} | kept.keys():
        out = [r for r in outcome.rows["out"] if r["k"] == key]
        windows = counted(kept[key], size, every or size)
        assert len(out) == len(windows)
        for row, window in zip(out, windows, strict=True):
            assert (row["window_start"], row["window_end"]) == (moment(window[0]["t"]), moment(window[-1]["t"], 1))
            assert (row["pane"], row["timing"]) == (0, "on_time")
            assert all(same(row[name], value) for name, value in aggregated(window).items()), (row, window)


def moment(milliseconds: int, microseconds: int = 0) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds, microseconds=microseconds)


def test_count_windows_without_event_time_count_as_events_arrive_and_have_no_times() -> None:
    for way in (Way(1, 1), Way(1, 2), Way(3, 10)):
        flow = Flow("arrival")
        keyed = flow.source(ColumnSource(one_key(3.0, 1.0, 2.0, 5.0, 4.0), SCHEMA)).key_by("k")
        keyed.window(ms.count_window(2)).agg(all=ms.collect("x"), total=ms.sum("x")).collect("out")
        out = run(flow, way).rows["out"]
        assert [(r["window_start"], r["all"], r["total"]) for r in out] == [
            (None, [3.0, 1.0], 4.0), (None, [2.0, 5.0], 7.0), (None, [4.0], 4.0),
        ]  # fmt: skip


# --- functions over the rows of windows ---


def row_and_window(key: Any, window: ms.Window, events: pa.RecordBatch) -> list[dict[str, Any]]:
    return [{"k": key, "start": window.start, "pane": window.pane, "ids": events.column("id").to_pylist()}]


def newest(a: Any, b: Any) -> Any:
    return b.with_(n=(a.n or 0) + (b.n or 0))


@given(partitions(), st.sampled_from([0, 3, 40]), st.sampled_from([(10, 10), (15, 5)]), ways())
def test_functions_over_windows_get_their_events_in_order(
    rows: Partitions, out_of_orderness: int, shape: tuple[int, int], way: Way
) -> None:
    flow = Flow("functions")
    size, slide = shape
    windowed = read(flow, rows, out_of_orderness).window(ms.hopping(span(size), span(slide)))
    processed = windowed.process_window(row_and_window)
    processed.collect("processed")
    processed.late.collect("late")
    windowed.reduce(newest).collect("reduced")
    windowed.collect(ids="id").collect("collected")
    outcome = run(flow, way)
    timed = assign_times(rows, lambda e: e["t"], out_of_orderness=out_of_orderness).timed
    expected = oracle.into_windows(timed, oracle.WindowRule(size, slide), lambda e: e["k"])
    held = {at: [e.event for e in events] for at, events in expected.held.items()}
    assert sorted(r["id"] for r in outcome.rows["late"]) == sorted(e.event["id"] for e in expected.late)
    ids = {at: [e["id"] for e in events] for at, events in held.items()}
    assert {(ms_of(r["start"]), r["k"]): r["ids"] for r in outcome.rows["processed"]} == ids
    assert {(ms_of(r["window_start"]), r["k"]): r["ids"] for r in outcome.rows["collected"]} == ids
    assert len(outcome.rows["processed"]) == len(outcome.rows["collected"]) == len(ids)
    sums = {at: events[0]["n"] if len(events) == 1 else sum(e["n"] or 0 for e in events) for at, events in held.items()}
    assert {(ms_of(r["window_start"]), r["k"]): r["n"] for r in outcome.rows["reduced"]} == sums
    assert all(r["id"] == ids[ms_of(r["window_start"]), r["k"]][-1] for r in outcome.rows["reduced"])


def ms_of(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(partitions(), ways())
def test_functions_over_count_windows_and_sessions_get_whole_events(rows: Partitions, way: Way) -> None:
    flow = Flow("functions")
    keyed = read(flow, rows, 40)
    keyed.window(ms.count_window(3)).process_window(lambda key, window, events: events).collect("counted")
    sessions = keyed.window(ms.session(span(5))).process_window(lambda key, window, events: events)
    sessions.collect("sessions")
    sessions.late.collect("late")
    outcome = run(flow, way)
    kept, _ = in_order(rows, 40)
    for key, events in kept.items():
        assert [r for r in outcome.rows["counted"] if r["k"] == key] == events
    late = [{n: v for n, v in r.items() if n != "late_reason"} for r in outcome.rows["late"]]
    events = [e for es in rows for e in es]
    assert sorted(outcome.rows["sessions"] + late, key=lambda e: e["id"]) == events


@pytest.mark.parametrize("way", [Way(1, 1), Way(3, 4)], ids=str)
def test_a_function_that_raises_over_a_window_is_a_dead_letter_or_the_end(way: Way) -> None:
    def fail(key: Any, window: ms.Window, events: pa.RecordBatch) -> dict[str, Any]:
        return {"rest": 1 // (events.num_rows - 2)}

    rows = one_key(1.0, 2.0, 3.0, step=4)  # two in [0, 8), one in [8, 16)

    def flow_of(on_error: Any) -> Flow:
        flow = Flow("raises")
        windowed = read(flow, rows, 0).window(ms.tumbling(span(8)))
        windowed.process_window(fail, on_error=on_error, name="divide").collect("out")
        return flow

    outcome = run(flow_of("dead_letter"), way)
    assert [r["rest"] for r in outcome.rows["out"]] == [-1]
    assert len(outcome.dead) == 1 and "ZeroDivisionError" in outcome.dead[0].reason and "'a'" in outcome.dead[0].record
    with pytest.raises(UserCodeError, match=r"(?s)divide.*key 'a' of Window.*events.num_rows - 2.*ZeroDivisionError"):
        run(flow_of("fail"), way)


def test_functions_over_sliding_windows_are_refused() -> None:
    windowed = read(Flow("sliding"), one_key(1.0), 0).window(ms.sliding("1s"))
    with pytest.raises(FlowError, match=r"sliding\(1s\) gives a result for each event.*collect"):
        windowed.process_window(row_and_window)
    with pytest.raises(FlowError, match="gives a result for each event"):
        windowed.reduce(newest)


def test_a_function_over_windows_that_returns_something_else_says_so() -> None:
    flow = Flow("wrong")
    read(flow, one_key(1.0), 0).window(ms.tumbling("1s")).process_window(lambda k, w, e: 5).collect("out")
    with pytest.raises(SchemaError, match="returns None, a row .* found int"):
        run(flow)


# --- windows without a raster ---


def windows_of(event: Any) -> list[tuple[int, int]]:
    """For odd n none; a window to the next multiple of 10, and for even ids another of 25 from 5 before the event."""
    if event.n is not None and event.n % 2:
        return []
    named = [(event.t // 10 * 10_000, event.t // 10 * 10_000 + 10_000)]
    return [*named, ((event.t - 5) * 1000, (event.t + 20) * 1000)] if event.id % 2 == 0 else named


@given(partitions(), st.sampled_from([0, 3, 40]), st.sampled_from([0, 7]), st.booleans(), ways())
def test_custom_windows_hold_the_events_that_the_function_puts_there(
    rows: Partitions, out_of_orderness: int, lateness: int, final: bool, way: Way
) -> None:
    flow = Flow("custom")
    windowed = read(flow, rows, out_of_orderness).window(
        ms.custom_windows(windows_of), allowed_lateness=span(lateness), emit="final" if final else "updates"
    )
    results = windowed.agg(ids=ms.collect("id"), total=ms.sum("n"))
    results.collect("out")
    results.late.collect("late")
    outcome = run(flow, way)
    held: dict[tuple[int, int, Any], list[Timed]] = {}
    late = []
    for timed in assign_times(rows, lambda e: e["t"], out_of_orderness=out_of_orderness).timed:
        named = [(a // 1000, b // 1000) for a, b in windows_of(Named(timed.event))]
        open_ = [(a, b) for a, b in named if timed.before is None or b + lateness > timed.before]
        late += [] if open_ else [timed.event["id"]]
        for window in open_:
            held.setdefault((*window, timed.event["k"]), []).append(timed)
    assert sorted(r["id"] for r in outcome.rows["late"]) == sorted(late)
    last = {(ms_of(r["window_start"]), ms_of(r["window_end"]), r["k"]): r for r in outcome.rows["out"]}
    assert last.keys() == held.keys()
    for at, events in held.items():
        events.sort(key=lambda e: e.order)
        assert last[at]["ids"] == [e.event["id"] for e in events]
        assert last[at]["total"] == oracle.total([e.event["n"] for e in events])
    if final or not lateness:
        assert len(outcome.rows["out"]) == len(held)


class Named:
    """An event whose fields are attributes."""

    def __init__(self, event: Event) -> None:
        self.__dict__.update(event)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda e: [(0, 5)], r"a window holds the event time of its events.*not in \[1970"),
        (lambda e: [7], "returns a list of \\(start, end\\)"),
        (lambda e: [("a", "b")], "returns a list of \\(start, end\\)"),
        (lambda e: [(e.t // 0, 1)], "ZeroDivisionError"),
    ],
)
def test_custom_windows_that_are_none_are_refused(function: Callable[[Any], Any], message: str) -> None:
    flow = Flow("custom")
    read(flow, one_key(1.0, 2.0), 0).window(ms.custom_windows(function)).agg(n=ms.count()).collect("out")
    with pytest.raises((SchemaError, UserCodeError), match=message):
        run(flow)


def test_custom_windows_need_event_time() -> None:
    flow = Flow("custom")
    keyed = flow.source(ColumnSource(one_key(1.0), SCHEMA)).key_by("k")
    keyed.window(ms.custom_windows(lambda e: [(0, 1)])).agg(number=ms.count()).collect("out")
    with pytest.raises(FlowError, match="names windows of event time"):
        run(flow)


@given(partitions(), st.one_of(st.none(), st.integers(1, 5)), st.sampled_from(["accumulating", "discarding"]), ways())
def test_the_global_window_puts_out_early_panes_and_one_at_the_end(
    rows: Partitions, count: int | None, panes: Any, way: Way
) -> None:
    flow = Flow("global")
    early = None if count is None else ms.every_count(count)
    results = read(flow, rows, 0).window(ms.global_window(), early=early, panes=panes).agg(
        number=ms.count(), ids=ms.collect("id"), total=ms.sum("n")
    )  # fmt: skip
    results.collect("out")
    results.late.collect("late")
    outcome = run(flow, way)
    assert outcome.rows["late"] == [], "nothing is late for a window without an end"
    events = [e for es in rows for e in es]
    for key in {e["k"] for e in events} | {r["k"] for r in outcome.rows["out"]}:
        mine = [e for e in events if e["k"] == key]
        out = [r for r in outcome.rows["out"] if r["k"] == key]
        assert [r["pane"] for r in out] == list(range(len(out)))
        assert [r["timing"] for r in out] == ["early"] * (len(out) - 1) + ["on_time"]
        assert all(r["window_start"] is None and r["window_end"] is None for r in out)
        if panes == "discarding":
            assert sorted(i for r in out for i in r["ids"]) == sorted(e["id"] for e in mine)
            assert sum(r["number"] for r in out) == len(mine)
        else:
            assert sorted(out[-1]["ids"]) == sorted(e["id"] for e in mine)
            assert out[-1]["total"] == oracle.total([e["n"] for e in mine])
        if count is None:
            assert len(out) == 1


def test_windows_by_rows_refuse_what_is_for_windows_of_time() -> None:
    keyed = Flow("refused").source(ColumnSource(one_key(1.0), SCHEMA)).key_by("k")
    for windows in (ms.sliding(rows=2), ms.sliding("1s"), ms.count_window(3)):
        for options in ({"allowed_lateness": "1s"}, {"early": ms.every_change()}, {"emit": "final"}):
            with pytest.raises(FlowError, match="for windows of time"):
                keyed.window(windows, **options)  # type: ignore[arg-type]
    with pytest.raises(FlowError, match="global window has no end"):
        keyed.window(ms.global_window(), allowed_lateness="1s")
