"""Joins against a brute-force oracle: every pair of rows is looked at, one by one, in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from harness.oracle import Event, Timed, WindowRule, assign_times
from harness.running import Outcome, Rows, Way, run
from harness.sessions import into_sessions
from harness.sources import ColumnSource, TextSource, fields
from hypothesis import given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.expr import col
from millstream.flow import Flow
from millstream.joins import JoinResult
from millstream.keyed import KeyedStream
from millstream.operators.joins import session as session_join_module
from millstream.operators.windows import sessions as sessions_module
from millstream.streams import Stream
from millstream.windows import hopping, session, tumbling

LEFT = fields(t=pa.int64(), k=pa.string(), j=pa.int64(), v=pa.int64(), tag=pa.list_(pa.int64()))
RIGHT = fields(t=pa.int64(), k=pa.string(), j=pa.int64(), w=pa.int64(), name=pa.string())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Partitions = list[list[Event]]
HOWS = ["inner", "left", "right", "full", "semi", "anti"]


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


@st.composite
def partitions(draw: st.DrawFn, left: bool, most: int = 12) -> Partitions:
    number = 0
    result: Partitions = []
    for _ in range(draw(st.integers(1, 2))):
        rows: list[Event] = []
        for _ in range(draw(st.integers(0, most))):
            number += 1
            row: dict[str, Any] = {
                "t": draw(st.integers(-20, 40)),
                "k": draw(st.sampled_from(["a", "b", "c", None])),
                "j": draw(st.sampled_from([1, 2])),
            }
            row |= {"v": number, "tag": [number]} if left else {"w": number, "name": draw(st.sampled_from(["x", None]))}
            rows.append(row)
        result.append(rows)
    return result


@st.composite
def ways(draw: st.DrawFn) -> Way:
    return Way(
        draw(st.sampled_from([1, 3])), draw(st.integers(1, 30)), draw(st.sampled_from(["coordinator", "workers"]))
    )


@dataclass(frozen=True)
class Sides:
    """Two streams to be joined; all durations in milliseconds."""

    left: Partitions
    right: Partitions
    out_of_orderness: int = 5
    keys: tuple[str, ...] = ("k",)
    text: bool = False

    def streams(self, flow: Flow) -> tuple[Stream, Stream]:
        source = TextSource if self.text else ColumnSource
        late = span(self.out_of_orderness)
        return (
            flow.source(source(self.left, LEFT)).event_time("t", unit="ms", out_of_orderness=late),
            flow.source(source(self.right, RIGHT)).event_time("t", unit="ms", out_of_orderness=late),
        )

    def keyed(self, flow: Flow) -> tuple[KeyedStream, KeyedStream]:
        left, right = self.streams(flow)
        return left.key_by(*self.keys), right.key_by(*self.keys)

    def timed(self) -> tuple[list[Timed], list[Timed]]:
        """The rows of both sides, and the watermark before each."""
        left, right = (
            assign_times(rows, lambda e: e["t"], out_of_orderness=self.out_of_orderness).timed
            for rows in (self.left, self.right)
        )
        return left, right

    def key(self, row: Timed) -> tuple[Any, ...] | None:
        values = tuple(row.event[k] for k in self.keys)
        return None if None in values else values


@st.composite
def sides(draw: st.DrawFn) -> Sides:
    return Sides(
        draw(partitions(left=True)),
        draw(partitions(left=False)),
        draw(st.sampled_from([0, 5, 1000])),
        draw(st.sampled_from([("k",), ("k", "j")])),
        draw(st.booleans()),
    )


Joined = tuple[int | None, int | None]
"""A row of a result: the numbers of the left row and of the right row; None: there is none."""


def expected(
    how: str, left: Sequence[Timed], right: Sequence[Timed], matches: Callable[[Timed, Timed], bool],
    late: Callable[[Timed], bool],
) -> tuple[Counter[Joined], list[int], list[int]]:  # fmt: skip
    """What comes out, and what of either side is late: by looking at every pair."""
    result: Counter[Joined] = Counter()
    on_time_left, on_time_right = [r for r in left if not late(r)], [r for r in right if not late(r)]
    met_left, met_right = set[int](), set[int]()
    for a in on_time_left:
        for b in on_time_right:
            if matches(a, b):
                met_left.add(a.event["v"])
                met_right.add(b.event["w"])
                if how not in ("semi", "anti"):
                    result[a.event["v"], b.event["w"]] += 1
    if how == "semi":
        result.update((v, None) for v in met_left)
    if how in ("left", "full", "anti"):
        result.update((a.event["v"], None) for a in left if a.event["v"] not in met_left)
    if how in ("right", "full"):
        result.update((None, b.event["w"]) for b in right if b.event["w"] not in met_right)
    keeps_left, keeps_right = how in ("left", "full", "anti"), how in ("right", "full")
    return (
        result,
        [] if keeps_left else sorted(a.event["v"] for a in left if late(a)),
        [] if keeps_right else sorted(b.event["w"] for b in right if late(b)),
    )


def behind(row: Timed) -> bool:
    return row.before is not None and row.time < row.before


def joined(rows: Rows) -> Counter[Joined]:
    return Counter((r["v"], r.get("w")) for r in rows)


def collect(result: JoinResult) -> None:
    result.collect("out")
    result.late_left.collect("late_left")
    result.late_right.collect("late_right")


def check_fields(sides: Sides, how: str, rows: Rows) -> None:
    """Every field comes from the row that it says it does."""
    left = {e["v"]: e for events in sides.left for e in events}
    right = {e["w"]: e for events in sides.right for e in events}
    for row in rows:
        a, b = left.get(row["v"]), right.get(row.get("w"))
        some = a or b
        assert some is not None
        for key in sides.keys:
            assert row[key] == some[key]
        assert row["t"] == (a and a["t"]) and row["tag"] == (a and a["tag"])
        if how in ("semi", "anti"):
            assert set(row) - {"change"} == {"t", "k", "j", "v", "tag"}
            continue
        assert row["t_right"] == (b and b["t"]) and row["name"] == (b and b["name"])
        if "j" not in sides.keys:
            assert row["j"] == (a and a["j"]) and row["j_right"] == (b and b["j"])


def check_late(outcome: Outcome, late_left: list[int], late_right: list[int]) -> None:
    assert sorted(r["v"] for r in outcome.rows["late_left"]) == late_left
    assert sorted(r["w"] for r in outcome.rows["late_right"]) == late_right
    for row in outcome.rows["late_left"] + outcome.rows["late_right"]:
        assert list(row)[-1] == "late_reason" and "had passed" in row["late_reason"]


# --- interval joins ---


@given(sides(), ways(), st.sampled_from(HOWS), st.tuples(st.integers(-15, 10), st.integers(0, 20)),
       st.sampled_from(["both", "left", "right", "none"]))  # fmt: skip
def test_an_interval_join_pairs_rows_that_are_close_in_time_however_it_is_run(
    sides: Sides, way: Way, how: str, interval: tuple[int, int], closed: str
) -> None:
    lower, upper = interval[0], interval[0] + interval[1]
    least, most = lower + (closed in ("right", "none")) / 1000, upper - (closed in ("left", "none")) / 1000
    if least > most:
        return
    flow = Flow("interval")
    left, right = sides.keyed(flow)
    collect(left.join(right, how, within=(span(lower), span(upper)), closed=closed))  # type: ignore[arg-type]
    outcome = run(flow, way)

    def matches(a: Timed, b: Timed) -> bool:
        return sides.key(a) == sides.key(b) and sides.key(a) is not None and least <= b.time - a.time <= most

    pairs, late_left, late_right = expected(how, *sides.timed(), matches, behind)
    assert joined(outcome.rows["out"]) == pairs
    check_late(outcome, late_left, late_right)
    check_fields(sides, how, outcome.rows["out"])


@given(sides(), ways(), st.sampled_from(HOWS), st.integers(-15, 10), st.integers(0, 20))
def test_windows_behind_an_interval_join_find_its_results_on_time(
    sides: Sides, way: Way, how: str, lower: int, width: int
) -> None:
    """Results carry the later of both times, rows without a match their own; none of them is late behind it but those
    that were late before."""
    upper = lower + width
    flow = Flow("behind")
    left, right = sides.keyed(flow)
    result = left.join(right, how, within=(span(lower), span(upper)))  # type: ignore[arg-type]
    panes = result.with_columns(all=1).key_by("all").window(tumbling("7ms")).agg(n=ms.count())
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)

    def matches(a: Timed, b: Timed) -> bool:
        return sides.key(a) == sides.key(b) and sides.key(a) is not None and lower <= b.time - a.time <= upper

    left_rows, right_rows = sides.timed()
    check_windows_behind(outcome, left_rows, right_rows, expected(how, left_rows, right_rows, matches, behind)[0])


def check_windows_behind(
    outcome: Outcome, left: Sequence[Timed], right: Sequence[Timed], results: Counter[Joined]
) -> None:
    """Each result is in the window of 7 ms in which the later of its rows is, unless a row came when that had ended."""
    rows_a, rows_b = {a.event["v"]: a for a in left}, {b.event["w"]: b for b in right}
    windows: Counter[int] = Counter()
    late = 0
    for (v, w), count in results.items():
        rows = [r for r in (rows_a.get(v), rows_b.get(w)) if r is not None]  # type: ignore[arg-type]
        before = max((r.before for r in rows if r.before is not None), default=None)
        start = max(r.time for r in rows) // 7 * 7
        if before is not None and start + 7 <= before:
            late += count
        else:
            windows[start] += count
    assert {(r["window_start"] - EPOCH) // span(1): r["n"] for r in outcome.rows["panes"]} == dict(windows)
    assert len(outcome.rows["late"]) == late


# --- joins without windows ---


def folded(rows: Rows) -> Counter[Joined]:
    """What stands in the end: rows that were not taken back. Nothing may be taken back that was not there."""
    standing: Counter[Joined] = Counter()
    for row in rows:
        standing[row["v"], row.get("w")] += 1 if row.get("change", "+") == "+" else -1
    assert all(count >= 0 for count in standing.values())
    return +standing


@given(sides(), ways(), st.sampled_from(HOWS), st.sampled_from([None, 0, 3, 12]), st.sampled_from(["updates", "final"]))
def test_an_updating_join_ends_with_what_sql_answers_however_it_is_run(
    sides: Sides, way: Way, how: str, ttl: int | None, emit: str
) -> None:
    flow = Flow("updating")
    left, right = sides.keyed(flow)
    collect(left.join(right, how, ttl=None if ttl is None else span(ttl), emit=emit))  # type: ignore[arg-type]
    outcome = run(flow, way)

    def matches(a: Timed, b: Timed) -> bool:
        same = sides.key(a) == sides.key(b) and sides.key(a) is not None
        return same and (ttl is None or abs(a.time - b.time) <= ttl)

    def late(row: Timed) -> bool:
        return ttl is not None and row.before is not None and row.time < row.before - ttl

    pairs, late_left, late_right = expected(how, *sides.timed(), matches, late)
    assert folded(outcome.rows["out"]) == pairs
    check_late(outcome, late_left, late_right)
    if how in ("inner", "semi") or emit == "final":
        assert joined(outcome.rows["out"]) == pairs  # nothing was ever taken back
        check_fields(sides, how, outcome.rows["out"])


@given(sides(), ways(), st.sampled_from(HOWS), st.sampled_from([None, 0, 3, 12]))
def test_windows_behind_a_final_join_find_its_results_on_time(
    sides: Sides, way: Way, how: str, ttl: int | None
) -> None:
    """Rows that wait until no match can come are not late behind the join because of that."""
    flow = Flow("behind_final")
    left, right = sides.keyed(flow)
    result = left.join(right, how, ttl=None if ttl is None else span(ttl), emit="final")  # type: ignore[arg-type]
    panes = result.with_columns(all=1).key_by("all").window(tumbling("7ms")).agg(n=ms.count())
    panes.collect("panes")
    panes.late.collect("late")
    outcome = run(flow, way)

    def matches(a: Timed, b: Timed) -> bool:
        same = sides.key(a) == sides.key(b) and sides.key(a) is not None
        return same and (ttl is None or abs(a.time - b.time) <= ttl)

    def late(row: Timed) -> bool:
        return ttl is not None and row.before is not None and row.time < row.before - ttl

    left_rows, right_rows = sides.timed()
    check_windows_behind(outcome, left_rows, right_rows, expected(how, left_rows, right_rows, matches, late)[0])


@given(sides(), partitions(left=False), ways(), st.sampled_from(["left", "right", "full", "anti"]),
       st.sampled_from(HOWS), st.booleans())  # fmt: skip
def test_a_join_understands_what_the_join_before_it_takes_back(
    sides: Sides, third: Partitions, way: Way, first: str, second: str, swapped: bool
) -> None:
    flow = Flow("chain")
    left, right = sides.keyed(flow)
    once: Stream = left.join(right, first)  # type: ignore[arg-type]
    once = once.select("k", "v") if first == "anti" else once.rename({"w": "w1"})
    other = flow.source(ColumnSource(third, RIGHT)).select("k", w2=col("w")).key_by("k")
    a, b = (other, once.key_by("k")) if swapped else (once.key_by("k"), other)
    a.join(b, second).collect("out")  # type: ignore[arg-type]
    rows = run(flow, way).rows["out"]
    standing: Counter[Any] = Counter()
    for row in rows:
        standing[row.get("v"), row.get("w1"), row.get("w2")] += 1 if row.get("change", "+") == "+" else -1
    assert all(count >= 0 for count in standing.values())
    assert +standing == _sql_chain(sides, third, first, second, swapped)


def _sql_chain(sides: Sides, third: Partitions, first: str, second: str, swapped: bool) -> Counter[Any]:
    rows = [{"k": e["k"], "v": e["v"], "on": sides.key(Timed(e, 0, 0, 0, None))} for p in sides.left for e in p]
    more = [{"k": e["k"], "w1": e["w"], "on": sides.key(Timed(e, 0, 0, 0, None))} for p in sides.right for e in p]
    once = [{**r, "on": r["k"]} for r in _sql_join(first, rows, more)]
    others = [{"k": e["k"], "w2": e["w"], "on": e["k"]} for p in third for e in p]
    result = _sql_join(second, others, once) if swapped else _sql_join(second, once, others)
    return Counter((r.get("v"), r.get("w1"), r.get("w2")) for r in result)


def _sql_join(how: str, left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pairs = [(a, b) for a in left for b in right if a["on"] is not None and a["on"] == b["on"]]
    if how == "semi":
        return [a for a in left if any(a is x for x, _ in pairs)]
    alone = [a for a in left if not any(a is x for x, _ in pairs)]
    if how == "anti":
        return alone
    result = [{**b, **a} for a, b in pairs]
    if how in ("left", "full"):
        result += alone
    if how in ("right", "full"):
        result += [b for b in right if not any(b is x for _, x in pairs)]
    return result


# --- window joins ---


@given(sides(), ways(), st.sampled_from(HOWS), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0, 4]))
def test_a_window_join_pairs_rows_of_the_same_window_however_it_is_run(
    sides: Sides, way: Way, how: str, slide: int, more: int, lateness: int
) -> None:
    size = slide + (more if more < 8 else 0)
    windows = tumbling(span(size)) if size == slide else hopping(span(size), span(slide))
    flow = Flow("windows")
    left, right = sides.keyed(flow)
    collect(left.window(windows, allowed_lateness=span(lateness)).join(right, how))  # type: ignore[arg-type]
    outcome = run(flow, way)

    def starts(row: Timed) -> list[int]:
        rule = WindowRule(size, slide, lateness=lateness)
        return [s for s in rule.starts(row.time) if not rule.expired(s, row.before)]

    all_starts = WindowRule(size, slide).starts
    result: Counter[Any] = Counter()
    left_rows, right_rows = sides.timed()
    late_left = [a for a in left_rows if not starts(a)]
    late_right = [b for b in right_rows if not starts(b)]
    for start in {s for r in left_rows + right_rows for s in starts(r)}:
        inside = [[r for r in rows if start in starts(r)] for rows in (left_rows, right_rows)]

        def matches(a: Timed, b: Timed) -> bool:
            return sides.key(a) == sides.key(b) and sides.key(a) is not None

        pairs = expected(how, inside[0], inside[1], matches, lambda _: False)[0]
        result.update({(start, *pair): count for pair, count in pairs.items()})
    keeps_left, keeps_right = how in ("left", "full", "anti"), how in ("right", "full")
    if keeps_left:
        result.update((s, a.event["v"], None) for a in late_left for s in all_starts(a.time))
    if keeps_right:
        result.update((s, None, b.event["w"]) for b in late_right for s in all_starts(b.time))
    out = outcome.rows["out"]
    assert Counter(((r["window_start"] - EPOCH) // span(1), r["v"], r.get("w")) for r in out) == result
    assert all(r["window_end"] - r["window_start"] == span(size) for r in out)
    check_late(
        outcome,
        [] if keeps_left else sorted(a.event["v"] for a in late_left),
        [] if keeps_right else sorted(b.event["w"] for b in late_right),
    )
    bare = [{k: v for k, v in r.items() if not k.startswith("window_")} for r in out]
    check_fields(sides, how, bare)


# --- session joins ---


@given(sides(), ways(), st.sampled_from(HOWS), st.sampled_from([1, 3, 10, None]), st.sampled_from([0, 4, 20]))
def test_a_session_join_pairs_rows_of_sessions_that_both_sides_make_however_it_is_run(
    sides: Sides, way: Way, how: str, gap: int | None, lateness: int
) -> None:
    flow = Flow("sessions")
    left, right = sides.keyed(flow)
    sessions = session(col("j") * 4_000 if gap is None else span(gap))
    collect(left.window(sessions, allowed_lateness=span(lateness)).join(right, how))  # type: ignore[arg-type]
    outcome = run(flow, way)
    check_sessions(sides, how, gap, lateness, outcome)


@given(sides(), ways(), st.sampled_from(HOWS), st.sampled_from([3, None]))
def test_session_joins_are_the_same_when_putting_them_together_waits(
    sides: Sides, way: Way, how: str, gap: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # As with a great many keys: then a look at all of them is put off.
        patch.setattr(sessions_module, "_FEW_PARTS", -1)
        patch.setattr(sessions_module, "_SHARE_NEW", 0)
        patch.setattr(sessions_module, "_BATCHES_KEPT", 3)
        patch.setattr(session_join_module, "PAIRS_AT_ONCE", 2)
        flow = Flow("sessions")
        left, right = sides.keyed(flow)
        sessions = session(col("j") * 4_000 if gap is None else span(gap))
        collect(left.window(sessions, allowed_lateness=span(4)).join(right, how))  # type: ignore[arg-type]
        check_sessions(sides, how, gap, 4, run(flow, way))


def check_sessions(sides: Sides, how: str, gap: int | None, lateness: int, outcome: Outcome) -> None:
    def gap_of(event: Event) -> int:
        return int(event["j"]) * 4 if gap is None else gap

    partitions = [*sides.left, *sides.right]
    timed = assign_times(partitions, lambda e: e["t"], out_of_orderness=sides.out_of_orderness).timed
    made = into_sessions(timed, gap_of, lateness, lambda e: tuple(e[k] for k in sides.keys))
    result: Counter[Any] = Counter()
    for key, several in made.sessions.items():
        for one in several:
            left, right = ([r for r in one.events if side in r.event] for side in ("v", "w"))
            pairs = expected(how, left, right, lambda a, b, key=key: None not in key, lambda _: False)[0]  # type: ignore[misc]
            result.update({(one.start, one.end, *pair): count for pair, count in pairs.items()})
    keeps_left, keeps_right = how in ("left", "full", "anti"), how in ("right", "full")
    late_left, late_right = ([r for r in made.late if side in r.event] for side in ("v", "w"))
    for kept, late in ((keeps_left, late_left), (keeps_right, late_right)):
        for r in late if kept else ():
            result[r.time, r.time + gap_of(r.event), r.event.get("v"), r.event.get("w")] += 1
    out = outcome.rows["out"]
    bounds = [tuple((r[name] - EPOCH) // span(1) for name in ("window_start", "window_end")) for r in out]
    assert Counter((*b, r["v"], r.get("w")) for b, r in zip(bounds, out, strict=True)) == result
    check_late(
        outcome,
        [] if keeps_left else sorted(a.event["v"] for a in late_left),
        [] if keeps_right else sorted(b.event["w"] for b in late_right),
    )
    assert outcome.late == len(made.late)
    check_fields(sides, how, [{k: v for k, v in r.items() if not k.startswith("window_")} for r in out])


@given(sides(), ways(), st.sampled_from(HOWS))
def test_windows_behind_a_session_join_find_its_results_on_time(sides: Sides, way: Way, how: str) -> None:
    flow = Flow("behind")
    left, right = sides.keyed(flow)
    result = left.window(session(span(5))).join(right, how)  # type: ignore[arg-type]
    panes = result.with_columns(all=1).key_by("all").window(tumbling("7ms")).agg(n=ms.count())
    panes.collect("panes")
    panes.late.collect("late")
    result.collect("out")
    outcome = run(flow, way)
    starts = Counter(((r["window_end"] - EPOCH) // span(1) - 1) // 7 * 7 for r in outcome.rows["out"])
    found = Counter({(r["window_start"] - EPOCH) // span(1): r["n"] for r in outcome.rows["panes"]})
    missing = starts - found
    assert found <= starts
    assert missing.total() == len(outcome.rows["late"]) <= outcome.late


# --- as-of joins ---


@given(sides(), ways(), st.sampled_from(["inner", "left"]), st.sampled_from([None, 0, 6]))
def test_an_as_of_join_takes_the_latest_version_at_the_time_however_it_is_run(
    sides: Sides, way: Way, how: str, tolerance: int | None
) -> None:
    flow = Flow("as_of")
    left, right = sides.keyed(flow)
    collect(left.join_as_of(right, how, tolerance=None if tolerance is None else span(tolerance)))  # type: ignore[arg-type]
    outcome = run(flow, way)
    left_rows, right_rows = sides.timed()
    result: Counter[Joined] = Counter()
    versions = [b for b in right_rows if not behind(b)]
    ties = set[tuple[int, int]]()
    for a in left_rows:
        known = [
            b
            for b in versions
            if sides.key(a) == sides.key(b) and sides.key(a) is not None and b.time <= a.time
            and (tolerance is None or b.time >= a.time - tolerance)
        ]  # fmt: skip
        best = max(known, key=lambda b: (b.time, b.row), default=None)
        if best is not None and not behind(a):
            result[a.event["v"], best.event["w"]] += 1
            # Two source partitions have no order of their own.
            ties |= {(best.event["w"], b.event["w"]) for b in known if b.time == best.time}
        elif how == "left":
            result[a.event["v"], None] += 1
    out = joined(outcome.rows["out"])
    assert sum(out.values()) == sum(result.values())
    for (v, w), count in result.items():
        assert sum(out[v, x] for x in [w, *(b for a, b in ties if a == w and b != w)]) >= count
    check_late(
        outcome,
        [] if how == "left" else sorted(a.event["v"] for a in left_rows if behind(a)),
        sorted(b.event["w"] for b in right_rows if behind(b)),
    )
    check_fields(sides, how, outcome.rows["out"])


@given(sides(), st.sampled_from(["inner", "left"]))
def test_an_as_of_join_gives_one_answer_for_every_way_of_running_it(sides: Sides, how: str) -> None:
    answers = []
    for way in (Way(1, 100), Way(3, 1), Way(1, 4, "workers"), Way(3, 7, "workers")):
        flow = Flow("as_of")
        left, right = sides.keyed(flow)
        left.join_as_of(right, how).collect("out")  # type: ignore[arg-type]
        answers.append(joined(run(flow, way).rows["out"]))
    assert all(a == answers[0] for a in answers)


# --- broadcasts and lookups ---


@given(sides(), ways(), st.sampled_from(["inner", "left", "semi", "anti"]), st.sampled_from([None, 8]))
def test_a_broadcast_join_pairs_rows_on_other_fields_than_the_key(
    sides: Sides, way: Way, how: str, within: int | None
) -> None:
    flow = Flow("broadcast")
    left, right = sides.streams(flow)
    result = left.key_by("j").join_broadcast(
        right,
        "k",
        how,
        within=None if within is None else (span(-within), span(within)),  # type: ignore[arg-type]
    )
    collect(result)
    outcome = run(flow, way)

    def matches(a: Timed, b: Timed) -> bool:
        same = a.event["k"] == b.event["k"] and a.event["k"] is not None
        return same and (within is None or abs(a.time - b.time) <= within)

    def late(row: Timed) -> bool:
        return within is not None and behind(row)

    pairs, late_left, late_right = expected(how, *sides.timed(), matches, late)
    assert folded(outcome.rows["out"]) == pairs
    assert sorted(r["v"] for r in outcome.rows["late_left"]) == late_left
    assert sorted(r["w"] for r in outcome.rows["late_right"]) == late_right
    if how == "inner":
        check_fields(Sides(sides.left, sides.right), how, outcome.rows["out"])


@given(partitions(left=True), partitions(left=False), ways(), st.sampled_from(["inner", "left"]), st.booleans())
def test_a_lookup_finds_the_row_of_the_table(
    rows: Partitions, other: Partitions, way: Way, how: str, text: bool
) -> None:
    table = {(e["k"], e["j"]): e for part in other for e in part}
    flow = Flow("lookup")
    stream = flow.source((TextSource if text else ColumnSource)(rows, LEFT))
    given = pa.Table.from_pylist([dict(e) for e in table.values()], schema=RIGHT)
    stream.lookup(given, {"k": "k", "j": "j"}, how, columns=["w", "name"]).collect("out")  # type: ignore[arg-type]
    expected_rows = []
    for e in (e for part in rows for e in part):
        found = table.get((e["k"], e["j"])) if e["k"] is not None else None
        if found or how == "left":
            expected_rows.append({**e, "w": found and found["w"], "name": found and found["name"]})
    out = run(flow, way).rows["out"]
    assert sorted(out, key=lambda r: r["v"]) == sorted(expected_rows, key=lambda r: r["v"])
