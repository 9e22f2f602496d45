"""Sessions against the oracle: the same late events and final sessions however a flow is run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from harness import oracle
from harness.oracle import Event, assign_times
from harness.running import Outcome, Way, run
from harness.sessions import Sessioned, into_sessions
from harness.sources import ColumnSource, fields
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream import col
from millstream.batch import Batch, Keys
from millstream.operators.base import Context
from millstream.operators.windows import sessions as sessions_module
from millstream.operators.windows import window_operator
from millstream.specs.triggers import Early
from millstream.specs.windows import WindowAggregateSpec

SCHEMA = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), n=pa.int64(), gap=pa.int64())
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Partitions = tuple[tuple[Event, ...], ...]
Panes = Literal["accumulating", "discarding", "retracting"]


def ms_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


@dataclass(frozen=True)
class Case:
    """Attributes:
    gap: milliseconds; None: that of each event's field.
    lateness: None: infinite.
    """

    partitions: Partitions
    gap: int | None
    lateness: int | None = 0
    out_of_orderness: int = 0
    final: bool = False
    early: Early | None = None
    panes: Panes = "accumulating"

    def flow(self) -> ms.Flow:
        flow = ms.Flow("sessions")
        stream = flow.source(ColumnSource(self.partitions, SCHEMA))
        stream = stream.event_time("t", unit="ms", out_of_orderness=span(self.out_of_orderness))
        gap = col("gap") * 1_000 if self.gap is None else span(self.gap)
        panes = (
            stream.key_by("k")
            .window(
                ms.session(gap),
                allowed_lateness=None if self.lateness is None else span(self.lateness),
                early=self.early,
                panes=self.panes,
                emit="final" if self.final else "updates",
            )
            .agg(count=ms.count(), total=ms.sum("n"), ids=ms.collect("id"), last=ms.last("n"))
        )
        panes.collect("panes")
        panes.late.collect("late")
        return flow

    def expected(self) -> Sessioned:
        timed = assign_times(self.partitions, lambda e: e["t"], out_of_orderness=self.out_of_orderness).timed
        return into_sessions(
            timed, lambda e: e["gap"] if self.gap is None else self.gap, self.lateness, lambda e: e["k"]
        )

    @property
    def fires_once(self) -> bool:
        return self.final or (self.lateness == 0 and self.early is None)


def said(row: dict[str, Any]) -> tuple[Any, ...]:
    """A pane as a value: key, start, end, and what it holds."""
    assert row["count"] == len(row["ids"])
    return row["k"], ms_of(row["window_start"]), ms_of(row["window_end"]), tuple(row["ids"]), row["total"], row["last"]


def check(case: Case, outcome: Outcome) -> None:
    expected = case.expected()
    assert sorted(r["id"] for r in outcome.rows["late"]) == sorted(e.event["id"] for e in expected.late)
    assert outcome.late == len(expected.late)
    sessions = Counter(
        (
            key, s.start, s.end, tuple(e.event["id"] for e in s.events), oracle.total([e.event["n"] for e in s.events]),
            oracle.last([e.event["n"] for e in s.events]),
        )
        for key, several in expected.sessions.items()
        for s in several
    )  # fmt: skip
    rows = outcome.rows["panes"]
    if case.fires_once:
        assert Counter(map(said, rows)) == sessions
        assert all((r["pane"], r["timing"]) == (0, "on_time") for r in rows)
    elif case.panes == "retracting":
        assert +folded(rows) == sessions
    elif case.panes == "discarding":
        held = Counter(i for r in rows for i in r["ids"])
        assert held == Counter(i for s in sessions for i in s[3])
        whole = {i: s for s in sessions for i in s[3]}
        for row in rows:
            assert len({whole[i] for i in row["ids"]}) <= 1, "a pane holds events of one session"
    else:
        panes = [said(r) for r in rows]
        assert not sessions - Counter(panes), "each session is a pane in the end"
        whole = {i: s for s in sessions for i in s[3]}
        for key, start, end, ids, *_ in panes:
            of = whole[ids[0]]
            assert key == of[0] and of[1] <= start < end <= of[2] and set(ids) <= set(of[3])
        last = {said(r)[:3]: r for r in rows}
        assert all(last[s[:3]]["timing"] != "early" for s in sessions), "a session fires at its end"


def folded(rows: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """What stands in the end, having checked that only what stands is taken back."""
    standing: Counter[tuple[Any, ...]] = Counter()
    full: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        at = (*said(row), row["pane"], row["timing"])
        change = 1 if row["change"] == "+" else -1
        standing[said(row)] += change
        full[at] += change
        assert full[at] >= 0, f"{at} is taken back and was never said"
    return standing


# --- cases ---


@st.composite
def events(draw: st.DrawFn, *, most: int = 30) -> Partitions:
    """Partitions whose times climb with the row, jump about by more or less, and often repeat."""
    partitions = []
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        climb, jitter = draw(st.integers(0, 8)), draw(st.sampled_from([0, 3, 40]))
        start = draw(st.integers(-60, 30))
        for row in range(draw(st.integers(0, most))):
            rows.append(
                {
                    "id": number,
                    "t": start + climb * row + draw(st.integers(-jitter, jitter)),
                    "k": draw(st.sampled_from(["a", "b", None])),
                    "n": draw(st.one_of(st.none(), st.integers(-3, 8))),
                    "gap": draw(st.integers(1, 20)),
                }
            )
            number += 1
        partitions.append(tuple(rows))
    return tuple(partitions)


triggers = st.sampled_from([ms.every_change(), ms.every_count(3), ms.every("7ms", clock="event"), ms.every("1s")])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lateness = draw(st.sampled_from([0, 0, 1, 7, 25, None]))
    final = lateness is not None and draw(st.booleans())
    early = None
    if not final and draw(st.booleans()):
        early = draw(st.one_of(triggers, st.tuples(triggers, triggers).map(lambda t: t[0] | t[1])))
    return Case(
        draw(events()), draw(st.sampled_from([1, 3, 10, 10, 25, None])), lateness,
        draw(st.sampled_from([0, 0, 1, 10, 30])), final, early,
        draw(st.sampled_from(["accumulating", "discarding", "retracting"])),
    )  # fmt: skip


def ways() -> st.SearchStrategy[Way]:
    return st.builds(
        Way,
        workers=st.sampled_from([1, 3]),
        batch_rows=st.one_of(st.just(1), st.integers(2, 6), st.integers(7, 40)),
        ingest=st.sampled_from(["coordinator", "workers"]),
    )


@given(cases(), ways())
def test_late_events_and_sessions_are_those_of_the_oracle_however_the_flow_is_run(case: Case, way: Way) -> None:
    check(case, run(case.flow(), way))


@given(cases(), ways())
def test_sessions_are_the_same_when_putting_them_together_waits(case: Case, way: Way) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # As with a great many keys: then a look at all of them is put off.
        patch.setattr(sessions_module, "_FEW_PARTS", -1)
        patch.setattr(sessions_module, "_SHARE_NEW", 0)
        patch.setattr(sessions_module, "_BATCHES_KEPT", 3)
        check(case, run(case.flow(), way))


@pytest.mark.parametrize("waits", [False, True])
@given(events(), st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 20))
def test_sessions_of_results_are_those_of_their_times(
    waits: bool, partitions: Partitions, gap: int, workers: int, batch_rows: int
) -> None:
    flow = ms.Flow("two-stages")
    timed = flow.source(ColumnSource(partitions, SCHEMA)).event_time("t", unit="ms", out_of_orderness=span(50))
    first = timed.key_by("k").window(ms.session(span(3))).agg(n=ms.count())
    first.collect("first")
    second = first.key_by(all=ms.lit(0)).window(ms.session(span(gap))).agg(n=ms.sum("n"))
    second.collect("second")
    second.late.collect("late")
    with pytest.MonkeyPatch.context() as patch:
        if waits:
            patch.setattr(sessions_module, "_FEW_PARTS", -1)
            patch.setattr(sessions_module, "_SHARE_NEW", 0)
        outcome = run(flow, Way(workers, batch_rows))
    assert outcome.rows["late"] == []
    results = sorted((r["window_end"] - timedelta(microseconds=1), r["n"]) for r in outcome.rows["first"])
    expected: list[list[Any]] = []
    for at, n in results:
        if expected and at <= expected[-1][1]:
            expected[-1][1] = at + span(gap)
            expected[-1][2] += n
        else:
            expected.append([at, at + span(gap), n])
    found = sorted([r["window_start"], r["window_end"], r["n"]] for r in outcome.rows["second"])
    assert found == expected


# --- the edges, one by one ---


def rows_of(*times: tuple[str, int]) -> Partitions:
    return (tuple({"id": i, "t": t, "k": k, "n": 1, "gap": 10} for i, (k, t) in enumerate(times)),)


def panes_of(case: Case, batch_rows: int) -> list[tuple[Any, ...]]:
    outcome = run(case.flow(), Way(1, batch_rows))
    check(case, outcome)
    signs = [(r["change"],) if "change" in r else () for r in outcome.rows["panes"]]
    return [
        (*sign, r["k"], ms_of(r["window_start"]), ms_of(r["window_end"]), r["pane"], r["timing"], r["count"])
        for sign, r in zip(signs, outcome.rows["panes"], strict=True)
    ]


@pytest.mark.parametrize("batch_rows", [1, 2, 10])
@pytest.mark.parametrize(("time", "sessions"), [(9, 1), (10, 1), (11, 2)])
def test_events_exactly_a_gap_apart_are_in_one_session(time: int, sessions: int, batch_rows: int) -> None:
    case = Case(rows_of(("a", 0), ("a", time)), 10, out_of_orderness=100)
    assert len(panes_of(case, batch_rows)) == sessions


@pytest.mark.parametrize("batch_rows", [1, 2, 3])
def test_an_event_at_exactly_the_gap_opens_a_session_once_the_one_before_has_expired(batch_rows: int) -> None:
    # The watermark before the last event is 10, where the session [0, 10) ends.
    case = Case(rows_of(("a", 0), ("b", 10), ("a", 10)), 10)
    assert sorted(panes_of(case, batch_rows)) == [
        ("a", 0, 10, 0, "on_time", 1), ("a", 10, 20, 0, "on_time", 1), ("b", 10, 20, 0, "on_time", 1)
    ]  # fmt: skip


def test_an_event_that_is_late_by_itself_is_taken_by_a_session_that_has_fired_and_not_expired() -> None:
    # Alone, the last event would end at 12 and expire at 17, which the watermark has passed; the session lasts to 22.
    case = Case(rows_of(("a", 12), ("b", 25), ("a", 2)), 10, lateness=5)
    assert panes_of(case, 1) == [
        ("a", 12, 22, 0, "on_time", 1), ("a", 2, 22, 1, "late", 2), ("b", 25, 35, 0, "on_time", 1)
    ]  # fmt: skip
    assert len(run(Case(rows_of(("a", 12), ("b", 27), ("a", 2)), 10, lateness=5).flow(), Way(1, 1)).rows["late"]) == 1


@pytest.mark.parametrize("panes", ["accumulating", "retracting"])
def test_a_late_event_that_bridges_two_sessions_that_have_fired_makes_them_one(panes: Panes) -> None:
    case = Case(rows_of(("a", 0), ("a", 15), ("b", 26), ("a", 8)), 10, lateness=30, panes=panes)
    before = [("a", 0, 10, 0, "on_time", 1), ("a", 15, 25, 0, "on_time", 1)]
    after, other = ("a", 0, 25, 1, "late", 3), ("b", 26, 36, 0, "on_time", 1)
    if panes == "accumulating":
        assert panes_of(case, 1) == [*before, after, other]
    else:
        retracted = [("+", *p) for p in before] + [("-", *p) for p in before] + [("+", *after), ("+", *other)]
        assert panes_of(case, 1) == retracted


def test_rows_count_together_when_sessions_merge() -> None:
    # Neither session has three events by itself.
    case = Case(
        rows_of(("a", 0), ("a", 1), ("a", 15), ("a", 8)), 10, out_of_orderness=100, early=ms.every_count(3)
    )  # fmt: skip
    assert panes_of(case, 1) == [("a", 0, 25, 0, "early", 4), ("a", 0, 25, 1, "on_time", 4)]


def test_a_late_event_says_which_watermark_had_passed_what() -> None:
    case = Case(rows_of(("b", 30), ("a", 5)), 10, lateness=2)
    for batch_rows in (1, 2):
        (row,) = run(case.flow(), Way(1, batch_rows)).rows["late"]
        assert row["late_reason"] == (
            "the watermark 1970-01-01T00:00:00.030000Z had passed the end of its session plus the allowed lateness "
            "of 2ms, 1970-01-01T00:00:00.017000Z"
        )


def test_events_without_a_gap_are_dead_letters() -> None:
    rows = [{"id": i, "t": i, "k": "a", "n": 1, "gap": gap} for i, gap in enumerate([5, None, 0, -3, 2])]
    flow = Case((tuple(rows),), None).flow()
    outcome = run(flow, Way())
    assert [r["ids"] for r in outcome.rows["panes"]] == [[0, 4]]
    assert [d.reason.partition(";")[0] for d in outcome.dead] == [
        'the gap col("gap") * 1000 is missing',
        'the gap col("gap") * 1000 is 0 microseconds',
        'the gap col("gap") * 1000 is -3000 microseconds',
    ]


def test_a_gap_may_be_a_duration() -> None:
    rows = [{"t": t, "k": "a", "gap": timedelta(milliseconds=g)} for t, g in ((0, 5), (5, 1), (7, 1))]
    schema = fields(t=pa.int64(), k=pa.string(), gap=pa.duration("ms"))
    flow = ms.Flow("durations")
    timed = flow.source(ColumnSource([rows], schema)).event_time("t", unit="ms")
    timed.key_by("k").window(ms.session(col("gap"))).agg(n=ms.count()).collect("panes")
    assert [r["n"] for r in run(flow).rows["panes"]] == [2, 1]


def test_a_gap_that_is_no_duration_is_refused() -> None:
    flow = ms.Flow("refused")
    timed = flow.source(ColumnSource([[]], SCHEMA)).event_time("t", unit="ms")
    timed.key_by("k").window(ms.session(col("k"))).agg(n=ms.count()).collect("panes")
    with pytest.raises(ms.SchemaError, match="the gap .* is string; expected a duration or a number of microseconds"):
        run(flow)


def test_sessions_by_processing_time_end_a_gap_after_the_last_event_and_ask_for_the_clock_no_more_than_that() -> None:
    now_us = [0]
    spec = WindowAggregateSpec(ms.session("10s"), 30_000_000, (("n", ms.count()),), final_only=False, event_time=False)
    operator = window_operator(spec, Context("sessions", 0, 1, lambda: now_us[0], lambda letter: None), False)

    def rows() -> Batch:
        keys = Keys(pa.RecordBatch.from_pydict({"k": ["a"]}), np.zeros(1, np.int32))
        return Batch(pa.RecordBatch.from_pydict({"n": [1]}), keys=keys)

    for second in (0, 5):
        now_us[0] = second * 1_000_000
        assert list(operator.on_batch(rows(), 0)) == []
    fired: list[tuple[int, int]] = []
    for _ in range(10):
        due_us = operator.due_us()
        if due_us is None:
            break
        now_us[0] = max(now_us[0], due_us)
        for output in operator.on_clock(now_us[0]):
            assert isinstance(output, tuple)
            fired += [(now_us[0] // 1_000_000, n) for n in output[1].columns.column("n").to_pylist()]
    assert fired == [(15, 2)]
    assert (due_us, operator.figures().get("groups")) == (None, None)
