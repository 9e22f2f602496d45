"""Running a flow through crashes: everything dies at some step, and the next life goes on from the newest checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.collected import collected_tables, keeping_collected
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.errors import CheckpointError
from millstream.flow import Flow
from millstream.planner import Ingest, make_plan


class Crashes:
    """What happened on the way.

    Attributes:
        lives: how many there were; recoveries: how many of them went on from a checkpoint.
        tables: what was collected in the end.
    """

    def __init__(self) -> None:
        self.lives = self.recoveries = 0
        self.tables: dict[str, pa.Table] = {}


def run_through_crashes(
    make_flow: Callable[[], Flow],
    state: Path,
    seed: int,
    *,
    batch_rows: int = 7,
    workers: Sequence[int] = (1, 2, 3),
    ingests: Sequence[Ingest] = ("coordinator", "workers"),
    most_crashes: int = 8,
) -> Crashes:
    """Run to the end of the input, whatever it takes; each life has another number of workers, way of ingest and of grouping."""
    chance = random.Random(seed)
    story = Crashes()
    store = CheckpointStore(DirectoryDisk(state))
    while True:
        story.lives += 1
        plan = make_plan(
            make_flow(),
            workers=chance.choice(workers),
            batch_rows=batch_rows,
            ingest=chance.choice(ingests),
            two_phase=chance.choice(["always", "auto", "never"]),
        )
        plan = keeping_collected(plan, state / "collected")
        manifest = store.newest(plan.name, _unsound)
        recovery = None
        if manifest is not None:
            repeat_commits(plan, manifest)
            recovery = Recovery(manifest, store)
            story.recoveries += 1
        policy = CheckpointPolicy(interval_us=chance.choice([0, 0, 2_000]))
        run = LocalRun(plan, lambda letter: None, LocalCheckpoints(store, policy, story.lives, recovery))
        run.start()
        ends = story.lives > most_crashes or (manifest is not None and manifest.finished)
        steps = 1_000_000 if ends else chance.randint(1, 40)
        while steps and not run.done:
            run.step()
            steps -= 1
        if run.done:
            story.tables = collected_tables(plan, run.caller)
            return story


def _unsound(error: CheckpointError) -> None:
    raise error
