"""Snapshots that are written beside the worker's loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from weakref import ref

import numpy as np
import pyarrow as pa
import zmq

import millstream as ms
from millstream.batch import Keys, make_columns
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.part import Snapshot
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable
from millstream.planner import make_plan
from millstream.stage import StageSnapshot
from millstream.workers.snapshots import SnapshotWriter
from millstream.workers.task import Worker


def test_what_was_written_does_not_stay_in_memory_until_the_next_snapshot(tmp_path: Path) -> None:
    flow = ms.Flow("numbers")
    flow.generate({"n": ms.connectors.Counter()}, count=5).collect("out")
    plan = make_plan(flow, workers=1)
    runner = Worker(plan, 0, now_us=lambda: 0, dead_letter=lambda letter: None).runner
    codes = np.arange(3, dtype=np.int32)
    held = ref(codes)
    table = StateTable("rows", Keys(make_columns(["k"], [pa.array(["a", "b", "c"])]), codes), make_columns([], []))
    snapshot = Snapshot(1, False, [StageSnapshot(0, 1, {next(iter(plan.nodes)): [table]}, {}, {})])
    poller = zmq.Poller()
    writer = SnapshotWriter(runner, CheckpointStore(DirectoryDisk(tmp_path)), "worker-0", 1, poller)
    try:
        writer.submit(snapshot)
        del snapshot, table, codes
        assert poller.poll(10_000), "it is written"
        (written,) = writer.finished()
        assert [(file.table, file.rows) for file in written.tables] == [("rows", 3)]
        del written
        assert held() is None
    finally:
        writer.close()


class SlowDisk(DirectoryDisk):
    """One on which a write comes to its end when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def add(self, path: str, pieces: Iterable[bytes | memoryview | pa.Buffer]) -> None:
        self.begun.set()
        assert self.go_on.wait(20)
        super().add(path, pieces)


def test_a_snapshot_that_waits_behind_a_slow_disk_makes_room_for_that_of_a_later_checkpoint(tmp_path: Path) -> None:
    flow = ms.Flow("numbers")
    flow.generate({"n": ms.connectors.Counter()}, count=5).collect("out")
    plan = make_plan(flow, workers=1)
    runner = Worker(plan, 0, now_us=lambda: 0, dead_letter=lambda letter: None).runner
    keys = Keys(make_columns(["k"], [pa.array(["a"])]), np.zeros(1, np.int32))
    tables = {next(iter(plan.nodes)): [StateTable("rows", keys, make_columns([], []))]}
    disk = SlowDisk(tmp_path)
    poller = zmq.Poller()
    writer = SnapshotWriter(runner, CheckpointStore(disk), "worker-0", 1, poller)
    try:
        writer.submit(Snapshot(1, False, [StageSnapshot(0, 1, tables, {}, {})]))
        assert disk.begun.wait(20)
        for epoch in (2, 3, 4):
            writer.submit(Snapshot(epoch, False, [StageSnapshot(0, epoch, tables, {}, {})]))
        disk.go_on.set()
        epochs: list[int] = []
        while epochs[-1:] != [4]:
            assert poller.poll(10_000), f"only {epochs} were written"
            epochs += [written.snapshot.epoch for written in writer.finished()]
        assert epochs == [1, 4]
    finally:
        disk.go_on.set()
        writer.close()
