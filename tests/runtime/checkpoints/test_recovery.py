"""A checkpoint is taken up by the flow that made it, or refused by the name of what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import check_fits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.expr import col
from millstream.planner import make_plan

Make = Callable[[Path], ms.Flow]


def counting(folder: Path, *, keep: int = 0, size: str = "1s", file: str = "in-*.jsonl", out: str = "out") -> ms.Flow:
    flow = ms.Flow("counting")
    rows = flow.read_jsonl(str(folder / file), partitions="files").filter(col("n") >= keep)
    timed = rows.event_time("n", unit="ms")
    timed.key_by("k").window(ms.tumbling(size)).agg(rows=ms.count()).write_jsonl(f"{folder}/{out}/")
    return flow


def checkpoint_of(folder: Path) -> Manifest:
    """A checkpoint in the middle of the run."""
    for part in range(2):
        lines = [json.dumps({"k": f"k{n % 3}", "n": n}) for n in range(50)]
        (folder / f"in-{part}.jsonl").write_text("\n".join(lines) + "\n")
    store = CheckpointStore(DirectoryDisk(folder / "state"))
    plan = make_plan(counting(folder), workers=1, batch_rows=5)
    run = LocalRun(plan, lambda letter: None, LocalCheckpoints(store, CheckpointPolicy(0)))
    run.start()
    while len(store.epochs()) < 2:
        run.step()
    return store.manifest(store.epochs()[-1])


def test_what_has_no_state_may_change_and_folders_may_be_written_another_way(tmp_path: Path) -> None:
    manifest = checkpoint_of(tmp_path)
    assert manifest.tables
    check_fits(make_plan(counting(tmp_path), workers=3, batch_rows=7, ingest="workers"), manifest)
    check_fits(make_plan(counting(tmp_path, keep=3), workers=1, batch_rows=5), manifest)
    check_fits(make_plan(counting(tmp_path, out="elsewhere/out"), workers=1, batch_rows=5), manifest)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (
            lambda folder: counting(folder, size="2s"),
            r"agg \(window aggregate\): windows: tumbling\(1s\) then, tumbling\(2s\) now\.",
        ),
        (
            lambda folder: counting(folder, out="other"),
            r"write_jsonl .*: write_jsonl\('out/'\) then, write_jsonl\('other/'\) now",
        ),
        (
            lambda folder: counting(folder, file="in-1.jsonl"),
            r"read_jsonl \(partition '.*in-0.jsonl'\): was not read to its end, and is not there any more",
        ),
    ],
)
def test_what_has_state_and_has_changed_is_refused_by_name(tmp_path: Path, make: Make, what: str) -> None:
    manifest = checkpoint_of(tmp_path)
    with pytest.raises(ms.CheckpointError, match=what):
        check_fits(make_plan(make(tmp_path), workers=1, batch_rows=5), manifest)


def test_an_operator_with_state_that_is_gone_is_refused(tmp_path: Path) -> None:
    manifest = checkpoint_of(tmp_path)
    flow = ms.Flow("counting")
    flow.read_jsonl(str(tmp_path / "in-*.jsonl"), partitions="files").write_jsonl(f"{tmp_path}/out/")
    with pytest.raises(
        ms.CheckpointError, match=r"agg \(window aggregate\): is not in the flow any more.*--drop-state agg"
    ):
        check_fits(make_plan(flow, workers=1, batch_rows=5), manifest)
