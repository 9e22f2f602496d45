"""Windows against the oracle: the same late events and final panes however a flow is run."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pytest
from harness import oracle
from harness.oracle import Event, Windowed, WindowRule, assign_times, into_windows
from harness.running import Outcome, Rows, Way, run
from harness.sources import ColumnSource, TextSource, fields
from hypothesis import example, given
from hypothesis import strategies as st

import millstream as ms
from millstream.expr import col
from millstream.flow import Flow
from millstream.specs.triggers import Early
from millstream.windows import hopping, tumbling

SCHEMA = fields(
    id=pa.int64(),
    t=pa.int64(),
    k=pa.string(),
    j=pa.int32(),
    n=pa.int64(),
    x=pa.float64(),
    s=pa.string(),
    keep=pa.bool_(),
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Partitions = tuple[tuple[Event, ...], ...]


def ms_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


@dataclass(frozen=True)
class Case:
    """A flow over events of the schema above; all durations in milliseconds."""

    partitions: Partitions
    rule: WindowRule
    out_of_orderness: int
    final: bool = False
    early: Early | None = None
    panes: Literal["accumulating", "discarding", "retracting"] = "accumulating"
    keys: tuple[str, ...] = ("k",)
    filter_first: bool = False
    filter_behind: bool = False
    text: bool = False

    def flow(self) -> Flow:
        flow = Flow("windows")
        source = (TextSource if self.text else ColumnSource)(self.partitions, SCHEMA)
        stream = flow.source(source)
        if self.filter_first:
            stream = stream.filter(col("keep"))
        stream = stream.event_time("t", unit="ms", out_of_orderness=span(self.out_of_orderness))
        if self.filter_behind:
            stream = stream.filter(col("n") > 0)
        rule = self.rule
        if rule.slide == rule.size:
            windows = tumbling(span(rule.size), offset=span(rule.offset))
        else:
            windows = hopping(span(rule.size), span(rule.slide), offset=span(rule.offset))
        lateness = None if rule.lateness is None else span(rule.lateness)
        panes = (
            stream.key_by(*self.keys)
            .window(
                windows, allowed_lateness=lateness, early=self.early, panes=self.panes,
                emit="final" if self.final else "updates",
            )
            .agg(
                count=ms.count(), count_n=ms.count("n"), sum_n=ms.sum("n"), sum_x=ms.sum("x"), mean=ms.mean("x"), min=ms.min("n"),
                max=ms.max("s"), first=ms.first("s"), last=ms.last("n"), variance=ms.variance("x"), stddev=ms.stddev("x", ddof=0),
                distinct=ms.count_distinct("s"), collect=ms.collect("id"), arg_min=ms.arg_min("id", by="x"),
                arg_max=ms.arg_max("s", by="n"),
            )
        )  # fmt: skip
        panes.collect("panes")
        panes.late.collect("late")
        return flow

    @property
    def fires_once(self) -> bool:
        return self.final or (self.rule.lateness == 0 and self.early is None)

    def dead(self) -> list[int]:
        return [e["id"] for e in self._times().dead]

    def expected(self) -> Windowed:
        timed = [t for t in self._times().timed if not self.filter_behind or (t.event["n"] or 0) > 0]
        return into_windows(timed, self.rule, self.key)

    def key(self, event: Event) -> Hashable:
        return tuple(event[k] for k in self.keys)

    def _times(self) -> oracle.Times:
        kept = [[e for e in rows if not self.filter_first or e["keep"]] for rows in self.partitions]
        return assign_times(kept, lambda e: e["t"], out_of_orderness=self.out_of_orderness)


def aggregates(events: list[oracle.Timed]) -> dict[str, Any]:
    def values(name: str) -> list[Any]:
        return [e.event[name] for e in events]

    deviation = oracle.variance(values("x"), ddof=0)
    return {
        "count": len(events),
        "count_n": len(oracle.present(values("n"))),
        "sum_n": oracle.total(values("n")),
        "sum_x": oracle.total(values("x")),
        "mean": oracle.mean(values("x")),
        "min": oracle.smallest(values("n")),
        "max": oracle.largest(values("s")),
        "first": oracle.first(values("s")),
        "last": oracle.last(values("n")),
        "variance": oracle.variance(values("x")),
        "stddev": None if deviation is None else math.sqrt(deviation),
        "distinct": len(set(oracle.present(values("s")))),
        "collect": values("id"),
        "arg_min": oracle.arg_best(values("id"), values("x"), largest=False),
        "arg_max": oracle.arg_best(values("s"), values("n"), largest=True),
    }


def last_panes(rows: Rows, keys: tuple[str, ...]) -> dict[tuple[int, Hashable], dict[str, Any]]:
    """The last pane of each window and key, having checked that panes are numbered from 0 without gaps."""
    panes: dict[tuple[int, Hashable], dict[str, Any]] = {}
    for row in rows:
        at = (ms_of(row["window_start"]), tuple(row[k] for k in keys))
        before = panes.get(at)
        assert row["pane"] == (0 if before is None else before["pane"] + 1), (
            f"pane {row['pane']} of {at} follows {before}"
        )
        assert (
            before is None
            or row["count"] > before["count"]
            or (before["timing"], row["timing"]) == ("early", "on_time")
        ), f"pane {row['pane']} of {at} changes nothing"
        panes[at] = row
    return panes


def check(case: Case, outcome: Outcome) -> None:
    expected = case.expected()
    assert sorted(r["id"] for r in outcome.rows["late"]) == sorted(e.event["id"] for e in expected.late)
    assert outcome.late == len(expected.late)
    by_id = {e["id"]: e for rows in case.partitions for e in rows}
    for row in outcome.rows["late"]:
        assert list(row)[-1] == "late_reason"
        assert {**by_id[row["id"]], "late_reason": row["late_reason"]} == row, "a late event is the event as it came"
    assert len(outcome.dead) == len(case.dead())
    if case.panes == "discarding" and not case.fires_once:
        check_discarded(case, outcome.rows["panes"], expected)
        return
    panes = last_panes(standing(case, outcome.rows["panes"]), case.keys)
    assert panes.keys() == expected.held.keys()
    for at, events in expected.held.items():
        pane = panes[at]
        assert ms_of(pane["window_end"]) == at[0] + case.rule.size
        for name, value in aggregates(events).items():
            same = (
                math.isclose(pane[name], value, rel_tol=1e-9, abs_tol=1e-9)
                if isinstance(value, float) and pane[name] is not None
                else pane[name] == value
            )
            assert same, f"{name} of {at} is {pane[name]}, expected {value}"
        if case.fires_once:
            assert (pane["pane"], pane["timing"]) == (0, "on_time")
        assert pane["timing"] != "early", "a window fires at its end"


def standing(case: Case, rows: Rows) -> Rows:
    """The panes in order; where they are taken back, having checked that each is when the next one comes."""
    if case.panes != "retracting" or case.fires_once:
        return rows
    last: dict[Any, dict[str, Any]] = {}
    said: Rows = []
    for row in rows:
        pane = {name: value for name, value in row.items() if name != "change"}
        at = (pane["window_start"], *(pane[k] for k in case.keys))
        if row["change"] == "-":
            assert last.pop(at) == pane, "what is taken back is what was said last"
        else:
            assert at not in last, "the pane before is taken back first"
            last[at] = pane
            said.append(pane)
    return said


def check_discarded(case: Case, rows: Rows, expected: Windowed) -> None:
    """Discarded panes add up to what their windows hold, and one of them is on time or late."""
    counts: dict[Any, int] = {}
    ids: dict[Any, list[int]] = {}
    timings: dict[Any, list[str]] = {}
    for row in rows:
        at = (ms_of(row["window_start"]), tuple(row[k] for k in case.keys))
        assert row["pane"] == len(timings.setdefault(at, [])), "panes are numbered from 0"
        timings[at].append(row["timing"])
        counts[at] = counts.get(at, 0) + row["count"]
        ids.setdefault(at, []).extend(row["collect"] or [])
    assert counts == {at: len(events) for at, events in expected.held.items()}
    for at, events in expected.held.items():
        assert sorted(ids[at]) == sorted(e.event["id"] for e in events)
        assert timings[at][-1] != "early"


# --- cases ---


@st.composite
def events(draw: st.DrawFn, *, most: int = 30) -> Partitions:
    """Partitions whose times climb with the row, jump about by more or less, and often repeat."""
    partitions = []
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        climb, jitter = draw(st.integers(0, 12)), draw(st.sampled_from([0, 3, 40]))
        start = draw(st.integers(-100, 30))
        for row in range(draw(st.integers(0, most))):
            time = start + climb * row + draw(st.integers(-jitter, jitter))
            rows.append(
                {
                    "id": number,
                    "t": draw(st.sampled_from([time] * 19 + [None])),
                    "k": draw(st.sampled_from(["a", "b", "c", None])),
                    "j": draw(st.sampled_from([1, 2, None])),
                    "n": draw(st.one_of(st.none(), st.integers(-3, 8))),
                    "x": draw(st.one_of(st.none(), st.integers(-8, 8).map(lambda v: v / 4))),
                    "s": draw(st.sampled_from(["p", "q", "rr", "", None])),
                    "keep": draw(st.sampled_from([True, True, False, None])),
                }
            )
            number += 1
        partitions.append(tuple(rows))
    return tuple(partitions)


@st.composite
def rules(draw: st.DrawFn) -> WindowRule:
    size = draw(st.integers(1, 30))
    slide = draw(st.one_of(st.just(size), st.integers(max(1, size // 6), size)))
    lateness = draw(st.sampled_from([0, 0, 1, 7, 25, None]))
    return WindowRule(size, slide, draw(st.sampled_from([0, 0, 3, -5, 40])), lateness)


triggers = st.sampled_from([ms.every_change(), ms.every_count(3), ms.every("7ms", clock="event"), ms.every("1s")])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rule = draw(rules())
    final = rule.lateness is not None and draw(st.booleans())
    early = None
    if not final:
        early = draw(st.one_of(st.none(), triggers, st.tuples(triggers, triggers).map(lambda t: t[0] | t[1])))
    return Case(
        draw(events()), rule,
        out_of_orderness=draw(st.sampled_from([0, 1, 10, 30])),
        final=final, early=early, panes=draw(st.sampled_from(["accumulating", "discarding", "retracting"])),
        keys=draw(st.sampled_from([("k",), ("k",), ("j", "k"), ("j",), ("n", "x")])),
        filter_first=draw(st.booleans()), filter_behind=draw(st.booleans()), text=draw(st.booleans()),
    )  # fmt: skip


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.integers(1, 4),
        batch_rows=st.one_of(st.just(1), st.integers(2, 6), st.integers(7, 40)),
        ingest=st.sampled_from(["coordinator", "workers"]),
        two_phase=st.sampled_from(["always", "auto", "never"]),
    )


@given(cases(), ways())
def test_late_events_and_final_panes_are_those_of_the_oracle_however_the_flow_is_run(case: Case, way: Way) -> None:
    check(case, run(case.flow(), way))


def random_case(seed: int, rows: int, rule: WindowRule, **options: Any) -> Case:
    dice = random.Random(seed)
    partitions = tuple(
        tuple(
            {
                "id": partition * rows + row, "t": 2 * row - dice.choice([0, 0, 3, 15, 80]), "k": dice.choice("abcde"), "j": dice.randrange(40),
                "n": dice.randrange(-3, 9), "x": dice.randrange(-8, 8) / 4, "s": dice.choice(["p", "q", None]), "keep": True,
            }
            for row in range(rows)
        )
        for partition in range(2)
    )  # fmt: skip
    return Case(partitions, rule, out_of_orderness=10, **options)


@pytest.mark.parametrize(
    "rule", [WindowRule(40, 40, 0, 0), WindowRule(40, 15, 7, 30), WindowRule(30, 10, 0, None)], ids=str
)
@pytest.mark.parametrize("way", [Way(1, 1), Way(3, 3, "workers"), Way(4, 64, "coordinator")], ids=str)
def test_many_batches_make_the_stores_merge_and_change_nothing(rule: WindowRule, way: Way) -> None:
    # More batches than a store keeps runs apart, and more panes than it keeps fired ones apart.
    case = random_case(5, 150, rule, keys=("j", "k"))
    check(case, run(case.flow(), way))


def test_run_here_gives_what_the_oracle_gives() -> None:
    case = random_case(11, 100, WindowRule(25, 10, 3, 20))
    result = case.flow().run_here(batch_size=7)
    outcome = Outcome({name: table.to_pylist() for name, table in result.tables.items()}, [], result.late)
    check(case, outcome)
    assert result.events_in == 200


# --- the edges, one by one ---


def one_partition(*times: int) -> Partitions:
    event = {"k": "a", "j": 1, "n": 1, "x": 0.5, "s": "p", "keep": True}
    return (tuple({"id": i, "t": t, **event} for i, t in enumerate(times)),)


@pytest.mark.parametrize("batch_rows", [1, 2, 3])
@pytest.mark.parametrize(
    ("lateness", "max_time", "late"), [(0, 9, 0), (0, 10, 1), (0, 11, 1), (5, 14, 0), (5, 15, 1), (5, 16, 1)]
)
def test_an_event_is_late_from_the_watermark_at_which_its_window_expires(
    batch_rows: int, lateness: int, max_time: int, late: int
) -> None:
    case = Case(one_partition(5, max_time, 9), WindowRule(10, 10, 0, lateness), out_of_orderness=0)
    outcome = run(case.flow(), Way(1, batch_rows))
    check(case, outcome)
    assert outcome.late == late


def test_an_event_behind_the_watermark_counts_while_its_window_has_not_fired() -> None:
    case = Case(one_partition(1985, 1980), WindowRule(10, 10), out_of_orderness=0)
    for batch_rows in (1, 2):
        outcome = run(case.flow(), Way(1, batch_rows))
        check(case, outcome)
        assert outcome.late == 0


def test_a_hopping_event_counts_in_the_windows_that_are_open_and_is_late_only_for_all() -> None:
    # At watermark 20 the window [10, 20) has expired, [15, 25) has not.
    case = Case(one_partition(10, 20, 17, 12), WindowRule(10, 5), out_of_orderness=0)
    for batch_rows in (1, 2, 3, 4):
        outcome = run(case.flow(), Way(1, batch_rows))
        check(case, outcome)
        assert [r["t"] for r in outcome.rows["late"]] == [12]


def test_an_event_of_an_early_partition_is_not_late_because_another_partition_is_ahead() -> None:
    ahead, behind = one_partition(0, 1000)[0], one_partition(5, 15, 25)[0]
    case = Case((ahead, tuple({**e, "id": e["id"] + 10} for e in behind)), WindowRule(10, 10), out_of_orderness=0)
    for way in (Way(1, 1), Way(2, 2, "workers"), Way(3, 10)):
        outcome = run(case.flow(), way)
        check(case, outcome)
        assert outcome.late == 0


def test_times_at_the_ends_of_what_fits_do_not_wrap() -> None:
    far = 4_000_000_000_000  # 2096, in milliseconds
    case = Case(
        (one_partition(-far, -far + 1)[0], one_partition(far)[0][:1]), WindowRule(7, 3, 1, None), out_of_orderness=30
    )
    check(case, run(case.flow(), Way(2, 1)))


@given(events(most=12), st.integers(2, 4))
@example(one_partition(3, 1, 2, 100), 2)
def test_distinct_keys_of_every_order_stay_with_their_rows(partitions: Partitions, workers: int) -> None:
    # All keys of a batch different is the case in which key codes may be in another order than rows.
    case = Case(partitions, WindowRule(1_000, 1_000), out_of_orderness=2_000, keys=("id",))
    check(case, run(case.flow(), Way(workers)))


# --- windows of results that are revised ---


@st.composite
def revising(draw: st.DrawFn) -> Case:
    """First windows that put out several panes, so that their results are taken back behind them."""
    early = draw(st.one_of(st.none(), triggers))
    return Case(
        draw(events(most=20)), WindowRule(10, draw(st.sampled_from([10, 5])), 0, draw(st.sampled_from([3, 15, 40]))),
        out_of_orderness=draw(st.sampled_from([0, 5, 20])), early=early,
    )  # fmt: skip


@given(revising(), ways(), st.sampled_from([0, 8]))
def test_windows_of_windows_that_fire_again_hold_what_the_first_finally_say(
    case: Case, way: Way, lateness: int
) -> None:
    flow = Flow("revised")
    stream = flow.source(ColumnSource(case.partitions, SCHEMA))
    timed = stream.event_time("t", unit="ms", out_of_orderness=span(case.out_of_orderness))
    rule = case.rule
    windows = tumbling(span(10)) if rule.slide == rule.size else hopping(span(10), span(rule.slide))
    assert rule.lateness is not None
    first = timed.key_by("k").window(windows, allowed_lateness=span(rule.lateness), early=case.early)
    counts = first.agg(n=ms.count(), x=ms.sum("x"), top=ms.max("n"))
    second = counts.key_by("k").window(tumbling(span(20)), allowed_lateness=span(lateness))
    results = second.agg(windows=ms.count(), n=ms.sum("n"), x=ms.sum("x"), mean=ms.mean("n"), top=ms.max("top"))
    results.collect("results")
    results.late.collect("late")
    outcome = run(flow, way)
    assert outcome.rows["late"] == []
    expected: dict[Any, list[list[oracle.Timed]]] = {}
    for (start, key), events in case.expected().held.items():
        expected.setdefault(((start + 9) // 20 * 20, key), []).append(events)
    standing: dict[Any, dict[str, Any]] = {}
    for row in outcome.rows["results"]:
        at = (ms_of(row["window_start"]), (row["k"],))
        if row.pop("change", "+") == "-":
            assert standing.pop(at) == row
        else:
            assert at not in standing
            standing[at] = row
    assert standing.keys() == expected.keys()
    for at, several in expected.items():
        row = standing[at]
        assert (row["windows"], row["n"]) == (len(several), sum(map(len, several)))
        everything = [e.event for events in several for e in events]
        assert row["x"] == pytest.approx(oracle.total([e["x"] for e in everything]))
        assert row["mean"] == pytest.approx(row["n"] / row["windows"])
        assert row["top"] == oracle.largest([e["n"] for e in everything])


def test_aggregates_that_cannot_take_rows_back_are_refused_behind_windows_that_fire_again() -> None:
    flow = Flow("refused")
    timed = flow.source(ColumnSource([[]], SCHEMA)).event_time("t", unit="ms")
    first = timed.key_by("k").window(tumbling("1s"), early=ms.every_change()).agg(n=ms.count())
    first.key_by("k").window(tumbling("1m")).agg(first=ms.first("n")).collect("panes")
    with pytest.raises(ms.FlowError, match="first= cannot take rows back"):
        run(flow)


@pytest.mark.parametrize("windows", [tumbling("1s"), ms.session("1s")])
def test_final_panes_and_early_ones_do_not_go_together(windows: Any) -> None:
    keyed = Flow("refused").source(ColumnSource([[]], SCHEMA)).key_by("k")
    with pytest.raises(ms.FlowError, match="emit='final' puts out one pane for each window, early= several"):
        keyed.window(windows, early=ms.every_change(), emit="final")


def test_a_late_event_says_which_watermark_had_passed_what() -> None:
    for rule, window, window_end in ((WindowRule(10, 10), "window", 10), (WindowRule(10, 5), "last window", 15)):
        case = Case(one_partition(30, 7), rule, out_of_orderness=0)
        for batch_rows in (1, 2):
            (row,) = run(case.flow(), Way(1, batch_rows)).rows["late"]
            assert row["late_reason"] == (
                f"the watermark 1970-01-01T00:00:00.030000Z had passed the end of its {window}, "
                f"1970-01-01T00:00:00.0{window_end}000Z"
            )
