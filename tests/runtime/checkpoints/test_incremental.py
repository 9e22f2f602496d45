"""A checkpoint writes what is new since the last one, and refers to earlier files for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.batch import Keys, make_columns
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import Saved, StateTable
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.planner import make_plan

ROWS, ROWS_A_BATCH = 40_000, 5_000


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(DirectoryDisk(tmp_path / "state"))


def table_of(rows: int) -> StateTable:
    keys = Keys(make_columns(["k"], [pa.array(np.arange(rows))]), np.arange(rows, dtype=np.int32))
    return StateTable("windows", keys, make_columns(["n"], [pa.array(np.arange(rows) * 2)]))


class Sums(ms.Process):
    total = ms.value_state(0)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.total.value += event.t
        ctx.emit({"k": event.k, "sum": self.total.value})


KINDS: dict[str, tuple[str, Callable[[ms.KeyedStream], ms.Stream]]] = {
    "windows": ("windows", lambda keyed: keyed.window(ms.tumbling("1h")).agg(n=ms.count())),
    "running": ("standing", lambda keyed: keyed.agg(n=ms.count(), last=ms.max("t"))),
    "expiring": ("standing", lambda keyed: keyed.agg(n=ms.count(), ttl="1h")),
    "lasts": ("standing", lambda keyed: keyed.dedupe("last", emit="final")),
    "first in a while": ("seen", lambda keyed: keyed.dedupe(within="1h")),
    "ranking": ("rows", lambda keyed: keyed.top_n(2, ms.desc("t"))),
    "scan": ("states", lambda keyed: keyed.scan(0, lambda state, e: (state + e.t, {"k": e.k, "sum": state + e.t}))),
    "process": ("records", lambda keyed: keyed.process(Sums)),
    "neighbours": ("history", lambda keyed: keyed.with_previous(before=ms.lag("t"))),
}
"""The name of the table that grows, and what is made of a keyed stream."""


def many_keys(kind: str = "windows") -> ms.Flow:
    flow = ms.Flow("many_keys")
    rows = pa.table({"k": np.arange(ROWS) * 7 % ROWS, "t": np.arange(ROWS)})
    KINDS[kind][1](flow.read_arrow(rows).event_time("t", unit="ms").key_by("k")).collect("rows")
    return flow


def run_of(
    store: CheckpointStore, attempt: int = 1, recovery: Recovery | None = None, workers: int = 1, kind: str = "windows"
) -> LocalRun:
    plan = make_plan(many_keys(kind), workers=workers, batch_rows=ROWS_A_BATCH)
    checkpoints = LocalCheckpoints(store, CheckpointPolicy(0), attempt, recovery)
    return LocalRun(plan, lambda letter: None, checkpoints)


def bytes_written(manifest: Manifest) -> int:
    return sum(t.size_bytes for t in manifest.tables if t.path.startswith(f"data/{manifest.epoch:08d}"))


def checkpoints_of(run: LocalRun, store: CheckpointStore, wanted: int) -> list[Manifest]:
    """So many checkpoints of a run, of which each counts some batch that those before it do not."""
    found: list[Manifest] = []
    before, rows = store.epochs(), 0
    run.start()
    while not run.done and len(found) < wanted:
        run.step()
        if store.epochs() != before:
            before = store.epochs()
            newest = store.manifest(before[-1])
            if sum(t.rows for t in newest.tables) > rows:
                rows = sum(t.rows for t in newest.tables)
                found.append(newest)
    return found


def test_what_has_not_changed_is_not_written_again(store: CheckpointStore) -> None:
    first, *others = checkpoints_of(run_of(store), store, 4)
    assert len(others) == 3
    for before, after in zip([first, *others], others, strict=False):
        assert {t.path for t in after.tables if t.table == "windows"} > {
            t.path for t in before.tables if t.table == "windows"
        }
    assert bytes_written(others[-1]) < 0.5 * others[-1].size_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_state_by_key_refers_to_what_was_written_before(store: CheckpointStore, kind: str) -> None:
    found = checkpoints_of(run_of(store, kind=kind), store, 7)
    assert sum(t.rows for t in found[-1].tables if t.table == KINDS[kind][0]) > ROWS_A_BATCH
    again = [
        t.rows
        for manifest in found
        for t in manifest.tables
        if t.table == KINDS[kind][0] and not t.path.startswith(f"data/{manifest.epoch:08d}")
    ]
    assert sum(again) >= 3 * ROWS_A_BATCH


@pytest.mark.parametrize("kind", ["windows", "running", "expiring", "lasts", "first in a while", "scan", "process"])
def test_a_life_that_goes_on_refers_to_what_the_one_before_wrote(store: CheckpointStore, kind: str) -> None:
    *_, last = checkpoints_of(run_of(store, kind=kind), store, 3)
    after, *_ = checkpoints_of(run_of(store, 2, Recovery(last, store), kind=kind), store, 1)
    old = {t.path for t in last.tables if t.table == KINDS[kind][0]}
    assert old <= {t.path for t in after.tables}


def test_other_workers_write_all_that_they_took_over(store: CheckpointStore) -> None:
    *_, last = checkpoints_of(run_of(store), store, 3)
    after, *_ = checkpoints_of(run_of(store, 2, Recovery(last, store), workers=2), store, 1)
    assert not {t.path for t in last.tables} & {t.path for t in after.tables}


def test_files_stay_as_long_as_a_kept_checkpoint_refers_to_them(store: CheckpointStore) -> None:
    *_, last = checkpoints_of(run_of(store), store, 6)
    assert len({t.path[:13] for t in last.tables}) > store.kept
    for epoch in store.epochs():
        store.verify(store.manifest(epoch))
    needed = {t.path for epoch in store.epochs() for t in store.manifest(epoch).tables}
    assert {f"data/{name}" for name in store.disk.names("data")} == needed


def test_part_of_a_file_comes_back(store: CheckpointStore) -> None:
    file = store.write_table("agg", table_of(100), worker=0, workers=1, name="0")
    saved = Saved()
    assert saved.part(0, 100) is None
    saved.written(file, 10)  # the first ten rows had gone before it was written
    part = saved.part(30, 5)
    assert part is not None
    assert store.load(part).columns.column("n").to_pylist() == [40, 42, 44, 46, 48]
    [loaded] = store.load_owned([part], 0, 1)
    again = loaded.slice(2, 3).on_disk
    assert again is not None
    assert store.load(again).columns.column("n").to_pylist() == [44, 46, 48]
    assert saved.part(5, 10) is None
    assert saved.part(100, 11) is None


def test_rows_that_a_file_does_not_have_are_missed_by_name(store: CheckpointStore) -> None:
    file = store.write_table("agg", table_of(100), worker=0, workers=1, name="0")
    with pytest.raises(ms.CheckpointError, match=r"data/0.arrow: has 100 rows, and the manifest counts on 105"):
        store.load(replace(file, first=95, rows=10))


def test_a_damaged_file_refuses_every_checkpoint_that_refers_to_it(store: CheckpointStore, tmp_path: Path) -> None:
    *_, last = checkpoints_of(run_of(store), store, 4)
    epochs = store.epochs()
    newest = store.manifest(epochs[-1])
    only_new = next(t for t in newest.tables if t.path.startswith(f"data/{last.epoch:08d}"))
    path = tmp_path / "state" / only_new.path
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    refused: list[str] = []
    found = store.newest("many_keys", lambda e: refused.append(str(e)))
    assert found is not None
    assert only_new.path not in {t.path for t in found.tables}
    assert refused == [
        f"manifest-{newest.epoch:08d}.json: its table {only_new.path}: damaged: its content is not what the manifest says"
    ]
