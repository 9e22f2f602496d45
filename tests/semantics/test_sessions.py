"""Sessions against the oracle: the same late events and final sessions however a flow is run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

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
from millstream.specs.triggers import Early

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
        return into_sessions(timed, lambda e: e["gap"] if self.gap is None else self.gap, self.lateness, lambda e: e["k"])

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
