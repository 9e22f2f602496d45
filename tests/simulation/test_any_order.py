"""Any order of events gives one answer: seeds choose the order, the oracle and a plain run the answer.

``SIMULATION_SEEDS=5000 pytest tests/simulation`` tries more seeds, ``SIMULATION_FROM=123`` starts elsewhere.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from harness.running import Rows, Way, run
from harness.simulator import Conditions, Simulation
from harness.sources import ColumnSource, TextSource, fields

from millstream import aggregates as ms
from millstream.expr import col
from millstream.flow import Flow
from millstream.planner import make_plan
from millstream.ranking import desc
from millstream.streams import Stream
from millstream.windows import hopping, tumbling

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "20"))
FIRST_SEED = int(os.environ.get("SIMULATION_FROM", "0"))
SCHEMA = fields(id=pa.int64(), t=pa.int64(), k=pa.string(), n=pa.int64(), list=pa.list_(pa.int64()))


def span(milliseconds: int) -> timedelta:
    return timedelta(milliseconds=milliseconds)


def source(seed: int) -> ColumnSource | TextSource:
    dice = random.Random(seed)
    partitions: list[list[dict[str, Any]]] = []
    for partition in range(dice.randint(1, 3)):
        jitter = dice.choice([0, 5, 60])
        partitions.append(
            [
                {
                    "id": 1000 * partition + row,
                    "t": 4 * row + dice.randint(-jitter, jitter),
                    "k": dice.choice(["a", "b", "c", "d", None]),
                    "n": dice.randrange(10),
                    "list": [row] * dice.randrange(3),
                }
                for row in range(dice.choice([0, 1, 25, 40]))
            ]
        )
    return ColumnSource(partitions, SCHEMA) if dice.random() < 0.5 else TextSource(partitions, SCHEMA)


def timed(stream: Stream) -> Stream:
    return stream.event_time("t", unit="ms", out_of_orderness=span(10))


def window(stream: Stream, name: str = "") -> None:
    panes = (
        stream.key_by("k")
        .window(hopping(span(30), span(20)), allowed_lateness=span(15))
        .agg(n=ms.count(), ids=ms.collect("id"), s=ms.sum("n"))
    )
    panes.collect(f"panes{name}")
    panes.late.collect(f"late{name}")


def windows(flow: Flow, seed: int) -> None:
    window(timed(flow.source(source(seed))))


def far_ahead(flow: Flow, seed: int) -> None:
    stream = flow.source(source(seed)).with_columns(t=col("t") + (col("id") % 7 == 3).cast(pa.int64()) * 10_000)
    window(stream.event_time("t", unit="ms", out_of_orderness=span(10), max_ahead=span(300)))


def mapped(flow: Flow, seed: int) -> None:
    """The first stage deals its batches on to the workers."""
    window(timed(flow.source(source(seed))).map(lambda e: e.with_(n=e.n + 1)))


def time_behind_map(flow: Flow, seed: int) -> None:
    window(timed(flow.source(source(seed)).map(lambda e: e.with_(t=e.t + 1))))


def several_batches_a_block(flow: Flow, seed: int) -> None:
    """A block that leaves as several messages of one number."""
    stream = timed(flow.source(source(seed)))
    fields = ("id", "t", "k", "n")
    moved = stream.filter(col("n") >= 4).with_columns(id=col("id") + 1_000_000)
    together = (
        stream.filter(col("n") < 7).select(*fields).union(moved.select(*fields), stream.explode("list").select(*fields))
    )
    window(together.map(lambda e: e))


def several_batches_dealt_before_time(flow: Flow, seed: int) -> None:
    """A block that is dealt on as several messages, whose rows have to be put in order before they get a time."""
    few, many = flow.source(source(seed)).select("id", "t", "k", "n").split(col("n") < 3)
    window(timed(few.map(lambda e: e).union(many.filter(lambda e: e.n != 5))))


def two_sources(flow: Flow, seed: int) -> None:
    one, other = (
        timed(flow.source(source(seed))),
        timed(flow.source(source(seed + 1)).map(lambda e: e.with_(id=-1 - e.id))),
    )
    window(one.union(other))


def two_windows(flow: Flow, seed: int) -> None:
    stream = timed(flow.source(source(seed)))
    window(stream, "1")
    window(stream.filter(col("n") > 2), "2")


def window_of_windows(flow: Flow, seed: int) -> None:
    stream = timed(flow.source(source(seed)))
    first = (
        stream.key_by("k", "n")
        .window(tumbling(span(20)), allowed_lateness=span(15), emit="final")
        .agg(events=ms.count())
    )
    first.late.collect("late")
    first.filter(col("events") > 0).key_by("k").window(hopping(span(40), span(20))).agg(
        events=ms.sum("events"), keys=ms.count()
    ).collect("panes")


def changelogs(flow: Flow, seed: int) -> None:
    stream = timed(flow.source(source(seed)))
    counts = stream.key_by("k", "n").agg(events=ms.count(), last=ms.last("id"))
    counts.key_by("k").top_n(2, [desc("events"), desc("n")], rank="rank").collect("changes of a ranking")
    counts.key_by("events").agg(keys=ms.count(), most=ms.max("last")).collect("changes of counts")


FLOWS: list[Callable[[Flow, int], None]] = [
    windows, far_ahead, mapped, time_behind_map, several_batches_a_block, several_batches_dealt_before_time, two_sources, two_windows,
    window_of_windows, changelogs,
]  # fmt: skip


def build(make: Callable[[Flow, int], None], seed: int) -> Flow:
    flow = Flow("simulated")
    make(flow, seed)
    return flow


def answer(rows: dict[str, Rows]) -> dict[str, list[Any]]:
    """Final panes and late rows, in an order of their own."""
    result: dict[str, list[Any]] = {}
    for name, table in rows.items():
        if name.startswith("late"):
            result[name] = sorted(r["id"] for r in table)
            continue
        if name.startswith("changes"):
            result[name] = _standing(table)
            continue
        last: dict[tuple[Any, Any], dict[str, Any]] = {}
        for row in table:
            at = (row["window_start"], row["k"])
            assert row["pane"] == (last[at]["pane"] + 1 if at in last else 0)
            last[at] = row
        result[name] = sorted(repr(sorted({**r, "pane": 0, "ids": _unordered(r)}.items())) for r in last.values())
    return result


def _standing(table: Rows) -> list[str]:
    """What is left of rows that are added and taken back."""
    left: Counter[str] = Counter()
    for row in table:
        said = repr({n: v for n, v in row.items() if n != "change"})
        left[said] += 1 if row["change"] == "+" else -1
        assert left[said] >= 0, f"{said} is taken back, and was not there"
    return sorted(left.elements())


def _unordered(row: dict[str, Any]) -> list[int]:
    # Several events of one source row are alike in time and position.
    return sorted(row.get("ids", []))


def simulate(make: Callable[[Flow, int], None], seed: int) -> Simulation:
    dice = random.Random(seed)
    plan = make_plan(
        build(make, seed),
        workers=dice.randint(1, 4),
        batch_rows=dice.choice([1, 2, 7, 50]),
        ingest=dice.choice(["coordinator", "workers"]),
    )
    conditions = Conditions(dice.choice([1, 1, 600, 16 * 2**20]), dice.choice([1, 3, 50]), dice.choice([0.0, 0.3, 0.8]))
    return Simulation(plan, seed, conditions)


@pytest.mark.parametrize("make", FLOWS, ids=lambda f: f.__name__)
def test_any_order_of_events_gives_one_answer_and_leaves_nothing_behind(make: Callable[[Flow, int], None]) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        simulation = simulate(make, seed)
        plain = run(build(make, seed), Way())
        try:
            rows = simulation.run()
            assert answer(rows) == answer(plain.rows)
            assert simulation.late == plain.late
            assert len(simulation.letters) == len(plain.dead)
        except Exception as error:
            error.add_note(
                f"seed {seed} of {make.__name__}: SIMULATION_FROM={seed} SIMULATION_SEEDS=1 pytest -k {make.__name__}"
            )
            raise


def test_a_seed_replays_exactly() -> None:
    first, second = simulate(two_sources, 7), simulate(two_sources, 7)
    assert first.run() == second.run()
    assert (first.turns, list(first.trace)) == (second.turns, list(second.trace))
    other = simulate(two_sources, 8)
    other.run()
    assert list(other.trace) != list(first.trace)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + max(4, SEEDS // 5)))
def test_workers_full_of_blocks_that_wait_for_another_do_not_wait_for_ever(seed: int) -> None:
    # Every block waits for the one before it in its partition, which another worker has. Had each source
    # a queue of its own in the workers, they could fill up with blocks that wait for one at a queue's end.
    def flow() -> Flow:
        made = Flow("full")
        schema = fields(t=pa.int64(), k=pa.int64())
        sources = [ColumnSource([[{"t": row, "k": row % 5} for row in range(30)]] * 2, schema) for _ in range(3)]
        streams = [timed(made.source(s)) for s in sources]
        streams[0].union(*streams[1:]).key_by("k").window(tumbling(span(7))).agg(n=ms.count()).collect("panes")
        return made

    plan = make_plan(flow(), workers=3, batch_rows=1, ingest="workers")
    simulation = Simulation(plan, seed, Conditions(budget_bytes=16 * 2**20, steps_at_once=1, quiet=0.0))
    assert answer(simulation.run()) == answer(run(flow()).rows)
