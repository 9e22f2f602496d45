"""Patterns: every match that the definition finds, for any cut and any number of workers.

The oracle looks at all series of events of a key, as the definition in `millstream.patterns` says, and knows nothing
of automata.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from harness.running import Way, run
from harness.sources import ColumnSource, fields
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.errors import FlowError, UnboundedStateWarning
from millstream.expr import col

SCHEMA = fields(at=pa.int64(), i=pa.int64(), k=pa.string(), v=pa.int64())
SECOND = 1_000_000
OUT_OF_ORDER_S = 5

Event = dict[str, Any]


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Events in order of arrival, never later than the watermark allows; times may be equal and negative."""
    events: list[Event] = []
    now = draw(st.integers(-20, 20))
    for i in range(draw(st.integers(0, 40))):
        now += draw(st.integers(0, 4))
        # The largest time so far is at most ``now``: no event is late.
        at = now - draw(st.integers(0, OUT_OF_ORDER_S - 1))
        events.append({"at": at, "i": i, "k": draw(st.sampled_from("ab")), "v": draw(st.integers(0, 3))})
    return events


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.sampled_from([1, 3]),
        batch_rows=st.integers(1, 30),
        ingest=st.sampled_from(["coordinator", "workers"]),
    )


def found(events: list[Event], pattern: ms.Pattern, way: Way, overlapping: bool = True) -> list[Any]:
    flow = ms.Flow("patterns")
    stream = flow.source(ColumnSource([events], SCHEMA)).event_time(
        "at", unit="s", out_of_orderness=f"{OUT_OF_ORDER_S}s"
    )
    matches = stream.key_by("k").match(pattern, overlapping=overlapping)
    matches.collect("out")
    matches.late.collect("late")
    outcome = run(flow, way)
    assert outcome.late == 0
    result = []
    for row in outcome.rows["out"]:
        rows = [e["i"] for name in pattern.names for e in (row[name] if isinstance(row[name], list) else [row[name]])]
        start, end = (int(row[n].timestamp()) for n in ("match_start", "match_end"))
        result.append((row["k"], start, end, tuple(rows)))
    return sorted(result)


# --- the oracle ---

Condition = Callable[[Event], bool]


def matches(
    events: list[Event],
    steps: list[Condition],
    *,
    strict: bool = False,
    guard: Condition | None = None,
    step_s: int | None = None,
    whole_s: int | None = None,
    absent: tuple[Condition, int] | None = None,
) -> list[tuple[str, int, int, tuple[int, ...]]]:
    """All matches; ``strict``, ``guard`` and ``step_s`` hold for every step but the first."""
    result = []
    for key in {e["k"] for e in events}:
        line = sorted((e for e in events if e["k"] == key), key=lambda e: (e["at"], e["i"]))
        for begin, event in enumerate(line):
            if not steps[0](event):
                continue
            series = [begin]
            for step in steps[1:]:
                later = range(series[-1] + 1, len(line))
                fitting = next((n for n in later if step(line[n])), None)
                if fitting is None or (strict and fitting != series[-1] + 1):
                    break
                between = line[series[-1] + 1 : fitting]
                if guard is not None and any(map(guard, between)):
                    break
                if step_s is not None and line[fitting]["at"] - line[series[-1]]["at"] > step_s:
                    break
                if whole_s is not None and line[fitting]["at"] - event["at"] > whole_s:
                    break
                series.append(fitting)
            if len(series) < len(steps):
                continue
            end = line[series[-1]]["at"]
            if absent is not None:
                unwanted, for_s = absent
                if any(unwanted(e) and e["at"] - end <= for_s for e in line[series[-1] + 1 :]):
                    continue
                end += for_s
            result.append((key, event["at"], end, tuple(line[n]["i"] for n in series)))
    return sorted(result)


def is_(v: int) -> Condition:
    return lambda e: e["v"] == v


A, B, C = col("v") == 0, col("v") == 1, col("v") == 2


# --- properties ---


@given(streams(), ways())
def test_a_then_b_takes_the_first_b_behind_each_a(events: list[Event], way: Way) -> None:
    pattern = ms.pattern("a", A).then("b", B)
    assert found(events, pattern, way) == matches(events, [is_(0), is_(1)])


@given(streams(), ways(), st.integers(1, 6), st.integers(1, 12))
def test_steps_and_the_whole_keep_within_their_times(events: list[Event], way: Way, step_s: int, whole_s: int) -> None:
    limit = f"{step_s}s"
    pattern = ms.pattern("a", A).then("b", B, within=limit).then("c", C, within=limit).within(f"{whole_s}s")
    expected = matches(events, [is_(0), is_(1), is_(2)], step_s=step_s, whole_s=whole_s)
    assert found(events, pattern, way) == expected


@given(streams(), ways())
def test_the_very_next_event_is_the_very_next(events: list[Event], way: Way) -> None:
    pattern = ms.pattern("a", A).next("b", B).within("1h")
    assert found(events, pattern, way) == matches(events, [is_(0), is_(1)], strict=True)


@given(streams(), ways())
def test_nothing_unwanted_lies_in_between(events: list[Event], way: Way) -> None:
    pattern = ms.pattern("a", A).without("c", C).then("b", B)
    assert found(events, pattern, way) == matches(events, [is_(0), is_(1)], guard=is_(2))


@given(streams(), ways(), st.integers(1, 8))
def test_a_match_is_complete_when_nothing_unwanted_came_for_a_while(events: list[Event], way: Way, for_s: int) -> None:
    pattern = ms.pattern("a", A).then("b", B).without("c", C, within=f"{for_s}s")
    assert found(events, pattern, way) == matches(events, [is_(0), is_(1)], absent=(is_(2), for_s))


@given(streams(), ways(), st.integers(1, 4))
def test_a_repeated_step_gives_a_list_of_events(events: list[Event], way: Way, count: int) -> None:
    pattern = ms.pattern("a", A).times(count).then("b", B)
    assert found(events, pattern, way) == matches(events, [is_(0)] * count + [is_(1)])


@given(streams(), ways())
def test_a_function_sees_the_event_and_what_was_matched(events: list[Event], way: Way) -> None:
    def larger(event: Any, matched: dict[str, Any]) -> bool:
        return bool(event.v > matched["a"].v)

    result = []
    for row in events:
        line = sorted((e for e in events if e["k"] == row["k"]), key=lambda e: (e["at"], e["i"]))
        later = line[line.index(row) + 1 :]
        match = next((e for e in later if e["v"] > row["v"]), None)
        if match is not None:
            result.append((row["k"], row["at"], match["at"], (row["i"], match["i"])))
    pattern = ms.pattern("a", col("v") >= 0).then("b", larger)
    assert found(events, pattern, way) == sorted(result)


@given(streams(), ways(), st.integers(1, 8))
def test_without_overlaps_matches_share_no_span_and_the_first_to_be_complete_counts(
    events: list[Event], way: Way, for_s: int
) -> None:
    every = matches(events, [is_(0), is_(1)])
    expected = []
    for key in "ab":
        line = sorted((e for e in events if e["k"] == key), key=lambda e: (e["at"], e["i"]))
        place = {e["i"]: n for n, e in enumerate(line)}
        last = -1
        for match in sorted((m for m in every if m[0] == key), key=lambda m: (place[m[3][-1]], place[m[3][0]])):
            if place[match[3][0]] > last:
                expected.append(match)
                last = place[match[3][-1]]
    pattern = ms.pattern("a", A).then("b", B)
    assert found(events, pattern, way, overlapping=False) == sorted(expected)


# --- by hand ---


def test_late_events_leave_with_their_reason_and_take_part_in_nothing() -> None:
    events = [
        {"at": 0, "i": 0, "k": "a", "v": 0},
        {"at": 100, "i": 1, "k": "a", "v": 3},
        {"at": 50, "i": 2, "k": "a", "v": 1},
        {"at": 101, "i": 3, "k": "a", "v": 1},
    ]
    flow = ms.Flow("patterns")
    stream = flow.source(ColumnSource([events], SCHEMA)).event_time("at", unit="s", out_of_orderness="5s")
    result = stream.key_by("k").match(ms.pattern("a", A).then("b", B).within("1h"))
    result.select(b=col("b").struct.field("i")).collect("out")
    result.late.collect("late")
    outcome = run(flow)
    assert outcome.rows["out"] == [{"b": 3}]
    (late,) = outcome.rows["late"]
    assert late["i"] == 2
    assert late["late_reason"] == (
        "the watermark 1970-01-01T00:01:35.000000Z had passed its time, 1970-01-01T00:00:50.000000Z"
    )


def test_without_event_time_events_are_taken_as_they_come() -> None:
    flow = ms.Flow("patterns")
    rows = [{"k": "x", "v": v} for v in (1, 0, 2, 1, 1)]
    flow.read_iterable(rows).key_by("k").match(ms.pattern("a", A).then("b", B)).collect("out")
    (match,) = flow.run_here(batch_size=1).tables["out"].to_pylist()
    assert (match["a"]["v"], match["b"]["v"], match["match_start"]) == (0, 1, None)


def refused(pattern: ms.Pattern, timed: bool = True) -> str:
    flow = ms.Flow("patterns")
    stream = flow.read_arrow(pa.table({"k": ["x"], "v": [1], "at": [1]}))
    stream = stream.event_time("at", unit="s") if timed else stream
    stream.key_by("k").match(pattern).collect("out")
    with pytest.raises(FlowError) as caught:
        flow.run_here()
    return str(caught.value)


def test_what_cannot_be_is_refused_before_anything_runs() -> None:
    assert "no event time" in refused(ms.pattern("a", A).within("1s"), timed=False) or "none is assigned" in refused(
        ms.pattern("a", A).within("1s"), timed=False
    )
    assert "needs within=" in refused(ms.pattern("a", A).without("c", C))
    assert "field of the result already" in refused(ms.pattern("k", A))
    with pytest.raises(FlowError, match="nothing can follow"):
        ms.pattern("a", A).without("c", C, within="1s").then("b", B)
    with pytest.raises(FlowError, match="nothing to be without"):
        ms.pattern("a", A).without("c", C).next("b", B)
    with pytest.raises(FlowError, match="cannot name a step"):
        ms.pattern("a b", A)


def test_a_pattern_without_a_limit_on_an_endless_stream_is_warned_of() -> None:
    flow = ms.Flow("patterns")
    stream = flow.generate({"k": ["a", "b"], "v": [0, 1]}, rate=10)
    stream.key_by("k").match(ms.pattern("a", A).then("b", B)).collect("out")
    from millstream.planner import make_plan

    with pytest.warns(UnboundedStateWarning, match="never completed is kept for ever"):
        make_plan(flow, workers=1)
