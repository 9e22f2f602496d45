"""process and scan go on from a snapshot as if nothing had happened, on any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.tables import as_file

import millstream as ms
from millstream.batch import Batch, Keys
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.tables import Part, PendingTable, StateTable, from_ipc, owned
from millstream.functions import UserFunction
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.operators.base import Context, Operator, Output
from millstream.operators.process import ProcessOperator
from millstream.operators.scan import Scan
from millstream.specs.keyed import ScanSpec
from millstream.specs.on_error import FAIL
from millstream.specs.process import CONTROL, EVENTS, ProcessSpec
from millstream.times import MAX_US

KEYS = 20
Rows = list[dict[str, Any]]


class Everything(ms.Process):
    count = ms.value_state(0)
    last = ms.value_state(None, ttl="100ms")
    recent = ms.list_state(ttl="1s")
    seen = ms.map_state(ttl="1s")
    times = ms.list_state()
    factor = ms.value_state(1, shared=True)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.count.value += self.factor.value
        if event.x % 2:
            self.last.value = event.x
        self.recent.append(event.x)
        self.seen[event.x % 5] = event.x
        if event.x % 7 == 0:
            self.times.append(ctx.time)
        ctx.set_timer(timedelta(milliseconds=event.x - 10), name="t")
        if event.x % 3 == 0:
            ctx.cancel_timer(name="t")
        self.show(ctx, event.x)

    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        self.show(ctx, timer.time)

    def on_control(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.factor.value = event.x

    def show(self, ctx: ms.ProcessContext, what: Any) -> None:
        state = [self.count.value, self.last.value, list(self.recent), dict(self.seen), list(self.times)]
        ctx.emit({"k": ctx.key, "what": str(what), "state": str(state)})


def process(ordered: bool) -> Callable[[int, int], Operator]:
    spec = ProcessSpec(UserFunction(Everything), (), None, (), FAIL, None, timed=True, by_event_time=ordered)
    return lambda worker, workers: ProcessOperator(spec, context(worker, workers), with_position=ordered)


def scan(ordered: bool) -> Callable[[int, int], Operator]:
    def step(state: tuple[int, ...], event: Any) -> tuple[tuple[int, ...], dict[str, Any]]:
        state = (*state[-3:], event.x)
        return state, {"k": event.k, "what": "", "state": str(state)}

    spec = ScanSpec(UserFunction(()), UserFunction(step), None, FAIL, ttl_us=100_000, timed=True, by_event_time=ordered)
    return lambda worker, workers: Scan(spec, context(worker, workers))


def context(worker: int, workers: int) -> Context:
    return Context("op", worker, workers, lambda: 0, print)


def batches() -> list[tuple[Batch, Batch]]:
    """Events out of order, and control events with each batch."""
    dice = np.random.default_rng(3)
    distinct = pa.RecordBatch.from_pydict({"k": [f"key{i}" for i in range(KEYS)]})
    result = []
    for number in range(6):
        rows = 200
        at = np.arange(rows) + number * rows
        events = Batch(
            pa.RecordBatch.from_pydict({"x": dice.integers(0, 100, rows)}),
            time_us=at * 10_000 + dice.integers(-50_000, 50_000, rows),
            position=at,
            keys=Keys(distinct, dice.integers(0, KEYS, rows).astype(np.int32)),
        )
        told = np.array([number * rows * 10_000 + 77, number * rows * 10_000 + 1_700_000])
        control = Batch(pa.RecordBatch.from_pydict({"x": [number, -number]}), time_us=told, position=told)
        result.append((events, control))
    return result


def of_worker(batch: Batch, worker: int, workers: int) -> Batch:
    assert batch.keys is not None
    owners = group_owners(workers)[key_groups(hash_keys(batch.keys.distinct.columns))]
    return batch.where(owners[batch.keys.codes] == worker)


class Stage:
    """The operators of so many workers; what they put out, by key."""

    def __init__(self, make: Callable[[int, int], Operator], workers: int) -> None:
        self.operators = [make(i, workers) for i in range(workers)]
        self.rows: Rows = []

    def take(self, outputs: Iterator[Output]) -> None:
        for output in outputs:
            if isinstance(output, tuple):
                self.rows += output[1].columns.to_pylist()

    def step(self, events: Batch, control: Batch | None, watermark_us: int) -> None:
        for number, operator in enumerate(self.operators):
            mine = of_worker(events, number, len(self.operators))
            if mine.num_rows:
                self.take(operator.on_batch(mine, EVENTS))
            if control is not None:
                self.take(operator.on_batch(control, CONTROL))
            self.take(operator.on_watermark(watermark_us))

    def end(self) -> None:
        for operator in self.operators:
            self.take(operator.on_watermark(MAX_US))
            self.take(operator.on_end())

    def snapshot(self) -> list[Part]:
        return [part for o in self.operators for part in o.snapshot()]


def on_disk(parts: list[Part]) -> list[StateTable]:
    """What is read of a snapshot that is written now."""
    made = [p.made() if isinstance(p, PendingTable) else p for p in parts]
    return [from_ipc(t.name, as_file(t)) for t in made if isinstance(t, StateTable)]


def by_key(rows: Rows) -> dict[str, Rows]:
    return {f"key{i}": [r for r in rows if r["k"] == f"key{i}"] for i in range(KEYS)}


@pytest.mark.parametrize("kind", [process, scan])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("before, after", [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("meanwhile", [0, 1, 3])
def test_a_restored_operator_goes_on_where_the_snapshot_was_whatever_is_done_before_it_is_written(
    kind: Callable[[bool], Callable[[int, int], Operator]], ordered: bool, before: int, after: int, meanwhile: int
) -> None:
    make = kind(ordered)
    undisturbed, stage = Stage(make, 1), Stage(make, before)
    for number, (events, control) in enumerate(batches()):
        assert events.time_us is not None
        watermark_us = int(events.time_us.max()) - 100_000
        if number == 3:
            parts, rows = stage.snapshot(), list(stage.rows)
            for later, later_control in batches()[3 : 3 + meanwhile]:
                assert later.time_us is not None
                at_us = int(later.time_us.max()) - 100_000
                stage.step(later, later_control if kind is process else None, at_us)
            if meanwhile == 3:
                stage.end()
            tables = on_disk(parts)
            stage = Stage(make, after)
            stage.rows = rows
            for worker, operator in enumerate(stage.operators):
                operator.restore([owned(t, worker, after) for t in tables])
        for each in (undisturbed, stage):
            each.step(events, control if kind is process else None, watermark_us)
    for each in (undisturbed, stage):
        each.end()
    assert by_key(stage.rows) == by_key(undisturbed.rows)
    assert len(stage.rows) > 1_000


def test_a_snapshot_has_the_keys_in_front() -> None:
    stage = Stage(process(False), 1)
    events, _ = batches()[0]
    stage.step(events, None, 0)
    records = next(t for t in on_disk(stage.snapshot()) if t.name == "records")
    assert records.keys is not None
    assert set(records.keys.distinct.column(0).to_pylist()) <= {f"key{i}" for i in range(KEYS)}
    assert records.columns.schema.field("record").type == pa.binary()


@pytest.mark.parametrize("kind", [process, scan])
def test_a_snapshot_after_a_complete_one_has_the_keys_that_changed(
    kind: Callable[[bool], Callable[[int, int], Operator]],
) -> None:
    stage = Stage(kind(False), 1)
    events, _ = batches()[0]
    stage.step(events, None, 0)
    for number, part in enumerate(stage.snapshot()):
        if isinstance(part, PendingTable):
            part.saved.written(TableFile("p", part.name, 0, 1, f"{number}", part.num_rows, 0, ""), 0)
    assert not [p for p in stage.snapshot() if isinstance(p, PendingTable)], "nothing has changed"
    one = events.slice(0, 1)
    assert one.keys is not None
    stage.step(one, None, 0)
    (table,) = [p.made() for p in stage.snapshot() if isinstance(p, PendingTable)]
    assert table.keys is not None and table.change == "replaces"
    assert table.keys.columns()[0].to_pylist() == one.keys.columns()[0].to_pylist()
