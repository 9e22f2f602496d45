"""Of every operator with state: after a change of one per cent of its keys a checkpoint writes a small part of a full one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.expr import col
from millstream.operators.asynchronous import MapAsync
from millstream.operators.base import Operator
from millstream.operators.counting import CountWindow
from millstream.operators.dedupe import Dedupe, FirstInOrder
from millstream.operators.expiring import ExpiringAggregate
from millstream.operators.free_windows import CustomWindow, GlobalWindow
from millstream.operators.joins.as_of import AsOfJoin
from millstream.operators.joins.interval import IntervalJoin
from millstream.operators.joins.session import SessionJoin
from millstream.operators.joins.updating import UpdatingJoin
from millstream.operators.joins.window import WindowJoin
from millstream.operators.patterns import MatchPattern
from millstream.operators.previous import WithPrevious
from millstream.operators.process import ProcessOperator
from millstream.operators.running import RunningAggregate
from millstream.operators.scan import Scan
from millstream.operators.sliding import Sliding
from millstream.operators.top_n import TopN
from millstream.operators.windows.aligned import AlignedWindows
from millstream.operators.windows.sessions import SessionOperator
from millstream.planner import make_plan
from millstream.wire import Ask

KEYS, KEYS_CHANGED, BATCHES = 50_000, 500, 100
MOST_WRITTEN = 0.05
"""Of what a full checkpoint has."""
HISTORIES = (CountWindow, Sliding, WithPrevious)
"""They keep rows in levels that are merged now and then, so one per cent at a time is written about seven times in all."""
MOST_MERGED = 0.2


def events(flow: ms.Flow, offset: int = 0, out_of_orderness: str = "0s") -> ms.Stream:
    """One event of each of many keys, a millisecond apart; then again of the first of them, and so on."""
    number = np.arange(KEYS + 2 * KEYS_CHANGED)
    rows = pa.table({"k": number % KEYS, "t": number + offset, "n": number // KEYS, "id": number})
    return flow.read_arrow(rows).event_time("t", unit="ms", out_of_orderness=out_of_orderness)


Make = Callable[[ms.Flow], ms.Stream]


def keyed(make: Callable[[ms.KeyedStream], Any], out_of_orderness: str = "0s") -> Make:
    return lambda flow: make(events(flow, out_of_orderness=out_of_orderness).key_by("k"))


def joined(make: Callable[[ms.KeyedStream, ms.KeyedStream], Any]) -> Make:
    return lambda flow: make(events(flow).key_by("k"), events(flow).rename({"id": "other", "n": "m"}).key_by("k"))


def joined_to_all(flow: ms.Flow) -> ms.Stream:
    few = events(flow).filter(col("id") < 100).select("t", place=col("id"))
    return events(flow).key_by("k").join_broadcast(few, on={"id": "place"}, how="left", within=("-1h", "1h"))


class Summed(ms.Process):
    total = ms.value_state(0)

    def on_event(self, event: Any, ctx: Any) -> None:
        self.total.value += event.n + 1


def two_steps() -> ms.Pattern:
    return ms.pattern("a", col("n") == 0).then("b", col("n") == 1).then("c", col("n") == 2)


def counted(state: int, event: Any) -> tuple[int, dict[str, int]]:
    return state + event.n + 1, {"k": event.k, "sum": state}


def an_hour(row: Any) -> list[tuple[int, int]]:
    return [(0, 3_600_000_000)]


CASES: dict[type[Operator], list[Make]] = {
    AlignedWindows: [
        keyed(lambda s: s.window(ms.tumbling("1h")).agg(n=ms.count())),
        keyed(lambda s: s.window(ms.hopping("1h", "30m")).agg(n=ms.count())),
    ],
    SessionOperator: [keyed(lambda s: s.window(ms.session("1h")).agg(n=ms.count(), ids=ms.collect("id")))],
    GlobalWindow: [keyed(lambda s: s.window(ms.global_window()).agg(n=ms.count()))],
    CustomWindow: [keyed(lambda s: s.window(ms.custom_windows(an_hour)).agg(n=ms.count()))],
    CountWindow: [keyed(lambda s: s.window(ms.count_window(50)).agg(n=ms.sum("n")))],
    Sliding: [keyed(lambda s: s.window(ms.sliding("1h")).agg(total=ms.sum("n")))],
    WithPrevious: [keyed(lambda s: s.with_previous(before=ms.lag("n")))],
    RunningAggregate: [
        keyed(lambda s: s.agg(n=ms.count(), last=ms.max("t"))),
    ],
    ExpiringAggregate: [keyed(lambda s: s.agg(n=ms.count(), ttl="1h"))],
    TopN: [keyed(lambda s: s.top_n(2, ms.desc("t")))],
    Dedupe: [keyed(lambda s: s.dedupe("last", emit="final"))],
    FirstInOrder: [keyed(lambda s: s.dedupe(within="1h"))],
    Scan: [keyed(lambda s: s.scan(0, counted)), keyed(lambda s: s.scan(0, counted, order="event_time"), "1h")],
    ProcessOperator: [keyed(lambda s: s.process(Summed))],
    MatchPattern: [keyed(lambda s: s.match(two_steps())), keyed(lambda s: s.match(two_steps()), "1h")],
    IntervalJoin: [joined(lambda a, b: a.join(b, within=("-1h", "1h"))), joined_to_all],
    UpdatingJoin: [joined(lambda a, b: a.join(b))],
    WindowJoin: [joined(lambda a, b: a.window(ms.tumbling("1h")).join(b))],
    SessionJoin: [joined(lambda a, b: a.window(ms.session("1h")).join(b))],
    AsOfJoin: [joined(lambda a, b: a.join_as_of(b))],
}
"""By operator, flows in which it has state of every key."""


WITHOUT = {MapAsync}
"""They hold events on their way alone."""


def operators(base: type[Operator]) -> Iterator[type[Operator]]:
    for kind in base.__subclasses__():
        yield kind
        yield from operators(kind)


def full_and_next(make: Make, state: Path) -> tuple[set[type[Operator]], Manifest, Manifest]:
    """The operators of a flow; its checkpoint when every key had come, and that after some came again."""
    flow = ms.Flow("small_changes")
    result = make(flow)
    result.collect("rows")
    store = CheckpointStore(DirectoryDisk(state))
    plan = make_plan(flow, workers=1, batch_rows=KEYS_CHANGED)
    run = LocalRun(plan, lambda letter: None, LocalCheckpoints(store, CheckpointPolicy(10**15)))
    run.start()

    def checkpoint(blocks: int) -> Manifest:
        while any(p.blocks < blocks for p in run.coordinator.partitions):
            run.step()
        run.coordinator.receive(Ask(blocks, Ask.CHECKPOINT), run.clock())
        known = store.epochs()
        while store.epochs() == known:
            run.step()
        return store.manifest(store.epochs()[-1])

    first, second = checkpoint(BATCHES), checkpoint(BATCHES + 1)
    kinds = {type(o) for w in run.workers.values() for s in w.runner.stages.values() for o in s.operators.values()}
    return kinds, first, second


@pytest.mark.parametrize(
    ("kind", "make"), [pytest.param(k, m, id=f"{k.__name__}-{i}") for k, f in CASES.items() for i, m in enumerate(f)]
)
def test_a_change_of_one_per_cent_is_a_small_checkpoint(kind: type[Operator], make: Make, tmp_path: Path) -> None:
    kinds, first, second = full_and_next(make, tmp_path / "state")
    assert kind in kinds
    assert sum(t.rows for t in first.tables) >= KEYS
    known = {t.path for t in first.tables}
    written = [(t.table, t.change, t.rows, t.size_bytes) for t in second.tables if t.path not in known]
    most = MOST_MERGED if kind in HISTORIES else MOST_WRITTEN
    assert sum(size_bytes for *_, size_bytes in written) < most * first.size_bytes, written


def test_every_operator_that_keeps_something_is_among_these() -> None:
    seen = {base for kind in [*CASES, *WITHOUT] for base in kind.__mro__}
    assert {kind for kind in operators(Operator) if "snapshot" in vars(kind)} <= seen
