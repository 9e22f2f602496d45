"""Aggregation in two steps: which plans get them, and that a row which came when a window had ended goes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from harness.running import Way, run
from harness.sources import TextSource, fields

import millstream as ms
from millstream.coordinator.local import LocalRun
from millstream.expr import col
from millstream.operators.base import Operator
from millstream.operators.grouped import GroupRows
from millstream.operators.merged import MergedRunning, MergedWindows
from millstream.plan import ExchangeKind, PhysicalPlan
from millstream.planner import Ingest, make_plan
from millstream.specs.groups import GroupRowsSpec
from millstream.two_phase import TwoPhase

SCHEMA = fields(t=pa.int64(), k=pa.string(), n=pa.int64(), s=pa.string())
Build = Callable[[ms.Stream], ms.Stream]


def rows(count: int = 0, keys: int = 1) -> list[dict[str, Any]]:
    return [{"t": i, "k": f"k{i % keys}", "n": i, "s": str(i % 3)} for i in range(count)]


def flow_of(build: Build, events: list[dict[str, Any]]) -> ms.Flow:
    flow = ms.Flow("grouped")
    build(flow.source(TextSource([events], SCHEMA))).collect("out")
    return flow


def plan_of(
    build: Build, *, workers: int = 2, ingest: Ingest = "workers", two_phase: TwoPhase = "auto"
) -> PhysicalPlan:
    return make_plan(flow_of(build, rows(1)), workers=workers, ingest=ingest, two_phase=two_phase)


def is_grouped(plan: PhysicalPlan) -> bool:
    return any(isinstance(n.spec, GroupRowsSpec) for n in plan.nodes.values())


def timed(events: ms.Stream, **options: Any) -> ms.Stream:
    return events.event_time("t", unit="s", **options)


def windowed(events: ms.Stream) -> ms.Stream:
    return timed(events).key_by("k").window(ms.tumbling("10s")).agg(n=ms.count(), top=ms.max("n"), first=ms.first("s"))


def running(events: ms.Stream) -> ms.Stream:
    return events.key_by("k").agg(n=ms.count(), top=ms.max("n"))


# --- which ---


@pytest.mark.parametrize("build", [windowed, running])
def test_rows_are_grouped_where_several_workers_decode(build: Build) -> None:
    plan = plan_of(build)
    assert is_grouped(plan)
    (groups,) = (n for n in plan.nodes.values() if isinstance(n.spec, GroupRowsSpec))
    assert any("in each worker before the exchange by key" in note for note in groups.spec.notes())
    assert [e.kind for e in plan.exchanges].count(ExchangeKind.KEY) == 2
    assert not is_grouped(plan_of(build, workers=1))
    assert not is_grouped(plan_of(build, ingest="coordinator"))
    assert not is_grouped(plan_of(build, two_phase="never"))


ONE_STEP: dict[str, Build] = {
    "a partition may become idle": lambda e: (
        timed(e, idle="5s").key_by("k").window(ms.tumbling("10s")).agg(n=ms.count())
    ),
    "sessions": lambda e: timed(e).key_by("k").window(ms.session("10s")).agg(n=ms.count()),
    "panes by the number of rows": lambda e: (
        timed(e).key_by("k").window(ms.tumbling("10s"), early=ms.every_count(3)).agg(n=ms.count())
    ),
    "processing time": lambda e: e.key_by("k").window(ms.tumbling("10s")).agg(n=ms.count()),
    "an aggregate of the user's": lambda e: e.key_by("k").agg(
        own=ms.aggregate(on="n", init=int, add=lambda s, n: s + n, merge=lambda a, b: a + b, result=float)
    ),
    "a ttl": lambda e: timed(e).key_by("k").agg(n=ms.count(), ttl="10s"),
    "types that nobody knows": lambda e: e.map(lambda row: row.with_(n=1)).key_by("k").agg(n=ms.sum("n")),
    "a key named as a column of groups": lambda e: e.key_by(**{"slice of time": col("k")}).agg(n=ms.count()),
    "a second aggregation": lambda e: (
        timed(e)
        .key_by("k")
        .window(ms.session("5s"))
        .agg(n=ms.count())
        .key_by("n")
        .window(ms.tumbling("10s"))
        .agg(m=ms.count())
    ),
}


@pytest.mark.parametrize("why", ONE_STEP)
def test_one_step_is_left_where_two_would_not_do(why: str) -> None:
    assert not is_grouped(plan_of(ONE_STEP[why], two_phase="always"))


def test_operators_that_share_an_exchange_go_on_sharing_it() -> None:
    def both(events: ms.Stream) -> ms.Stream:
        keyed = timed(events).key_by("k")
        keyed.window(ms.tumbling("10s")).agg(n=ms.count()).collect("windows")
        return keyed.agg(n=ms.count())

    assert not is_grouped(plan_of(both))


def test_accumulators_as_large_as_their_rows_are_grouped_only_when_asked_for() -> None:
    def collected(events: ms.Stream) -> ms.Stream:
        return events.key_by("k").agg(all=ms.collect("n"))

    assert not is_grouped(plan_of(collected))
    assert is_grouped(plan_of(collected, two_phase="always"))


# --- what ---


def local(build: Build, events: list[dict[str, Any]], batch_rows: int, two_phase: TwoPhase) -> LocalRun:
    plan = make_plan(flow_of(build, events), workers=2, batch_rows=batch_rows, ingest="workers", two_phase=two_phase)
    done = LocalRun(plan, lambda letter: None)
    done.run()
    return done


def operators(done: LocalRun) -> list[Operator]:
    return [o for w in done.workers.values() for s in w.runner.stages.values() for o in s.operators.values()]


def sent(done: LocalRun) -> tuple[int, int]:
    """How many rows were looked at by operators that group, and how many groups and rows went on to owners."""
    looked = sum(o.context.counters.rows_in for o in operators(done) if isinstance(o, GroupRows))
    received = sum(o.context.counters.rows_in for o in operators(done) if isinstance(o, MergedWindows | MergedRunning))
    return looked, received


def test_of_each_key_one_row_a_block_and_slice_is_sent() -> None:
    assert sent(local(windowed, rows(1_000), 100, "auto")) == (1_000, 100)
    assert sent(local(running, rows(1_000, keys=4), 100, "auto")) == (1_000, 40)


def test_of_many_keys_only_the_rows_of_a_hot_one_are_grouped() -> None:
    events = [{**row, "k": "hot"} if i % 2 else row for i, row in enumerate(rows(1_000, keys=1_000))]
    assert sent(local(running, events, 100, "auto")) == (1_000, 500 + 10)
    assert sent(local(running, rows(1_000, keys=1_000), 100, "auto")) == (1_000, 1_000)


def test_rows_alone_are_counted_without_any_field() -> None:
    def counted(events: ms.Stream) -> ms.Stream:
        return events.key_by("k").agg(n=ms.count(), ones=ms.sum(ms.lit(1)))

    for mode in ("always", "auto", "never"):
        found = run(flow_of(counted, rows(100, keys=2)), Way(2, 40, "workers", mode)).rows["out"]
        assert {r["k"]: (r["n"], r["ones"]) for r in found} == {"k0": (50, 50), "k1": (50, 50)}


def test_a_key_that_cannot_be_computed_is_one_dead_letter() -> None:
    events = [*rows(40), {"t": 41, "k": "k0", "n": 0, "s": "no number"}]

    def keyed(stream: ms.Stream) -> ms.Stream:
        return stream.key_by(g=col("s").cast(int)).agg(n=ms.count())

    outcomes = [
        run(flow_of(keyed, events), Way(2, 50, "workers", mode)) for mode in ("never", "always")
    ]  # fmt: skip
    assert [len(o.dead) for o in outcomes] == [1, 1]
    assert outcomes[0].dead[0].operator == outcomes[1].dead[0].operator
    counts = [{r["g"]: r["n"] for r in o.rows["out"]} for o in outcomes]
    assert counts[0] == counts[1] == {0: 14, 1: 13, 2: 13}


def test_late_rows_are_the_same_and_say_the_same() -> None:
    events = [{"t": t, "k": "k0", "n": t, "s": ""} for t in (*range(30), 5, 21, 40, 19, 8, 60, 39)]

    def late(stream: ms.Stream) -> ms.Stream:
        return timed(stream).key_by("k").window(ms.hopping("20s", "10s")).agg(n=ms.count(), last=ms.last("n")).late

    for batch_rows in (3, 11, 100):
        one, two = (
            sorted(map(str, run(flow_of(late, events), Way(3, batch_rows, "workers", mode)).rows["out"]))
            for mode in ("never", "always")
        )
        assert one == two
        assert len(one) == 4
