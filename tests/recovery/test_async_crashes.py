"""Calls that are under way at a checkpoint are made again by one worker each, also when there are more workers, or fewer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.errors import CheckpointError
from millstream.planner import make_plan

EVENTS = 400
WORKERS = (1, 3, 1, 3, 1, 3, 1)


async def answered(event: Any) -> dict[str, Any]:
    await asyncio.sleep(event.i * 7 % 5 / 1_000)
    return {"i": event.i, "square": event.i * event.i}


def asking(source: Path, out: Path, ordered: bool) -> ms.Flow:
    flow = ms.Flow("asking")
    rows = flow.read_jsonl(source).event_time("i", unit="s")
    answers = rows.map_async(answered, capacity=16, ordered=ordered, schema={"i": int, "square": int}, name="ask")
    answers.write_jsonl(f"{out}/")
    return flow


def calls_in(recovery: Recovery) -> int:
    """How many calls were under way at a checkpoint."""
    return sum(table.num_rows for table in recovery.tables("ask", 0, 1))


def unsound(error: CheckpointError) -> None:
    raise error


@pytest.mark.parametrize("ordered", [True, False])
def test_no_call_is_lost_or_doubled_from_one_worker_to_three_and_back(tmp_path: Path, ordered: bool) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"i": i}) + "\n" for i in range(EVENTS)))
    store = CheckpointStore(DirectoryDisk(tmp_path / "state"))
    moved: Counter[tuple[int, int]] = Counter()
    before = 0
    for life in count(1):
        workers = WORKERS[min(life, len(WORKERS)) - 1]
        plan = make_plan(asking(source, out, ordered), workers=workers, batch_rows=5)
        manifest, recovery, epoch = store.newest(plan.name, unsound), None, 0
        if manifest is not None:
            repeat_commits(plan, manifest)
            recovery, epoch = Recovery(manifest, store), manifest.epoch
            moved[before, workers] += calls_in(recovery)
        policy = CheckpointPolicy(interval_us=0)
        run = LocalRun(plan, lambda letter: None, LocalCheckpoints(store, policy, life, recovery))
        run.start()
        while not run.done:
            run.step()
            newest = store.newest(plan.name, unsound)
            if (
                life < len(WORKERS)
                and newest is not None
                and newest.epoch > epoch
                and calls_in(Recovery(newest, store))
            ):
                break
        before = workers
        if run.done:
            break
        for worker in run.workers.values():
            worker.runner.abort()
    assert moved[1, 3] > 0 and moved[3, 1] > 0
    lines = [json.loads(line) for file in out.glob("[!.]*") for line in file.read_text().splitlines()]
    assert sorted(line["i"] for line in lines) == list(range(EVENTS))
    assert all(line["square"] == line["i"] ** 2 for line in lines)
